//! The provider that the flags name, for whoever needs one.
//!
//! Owns: turning flags into a provider. Leaves to others: what is done with it.
//! Invariant: `run` and the subcommands reach the same load balancers by the same flags.

use std::sync::Arc;

use anyhow::Context;
use portico_limits::{Limiter, Pace};
use portico_provider::{ClusterUid, LoadBalancerProvider};
use portico_provider_aws::{AwsProvider, Quotas};
use portico_provider_bare_metal::BareMetalProvider;
use portico_provider_gce::GceProvider;
use portico_provider_local::LocalProvider;

use crate::args::{AwsArgs, GceArgs, GceBackends, ProviderArgs, ProviderKind};

/// Something that works with any provider.
pub(crate) trait Client {
    /// The result of the work.
    type Output;

    /// Does it. `limiters`: how fast the cloud is called, by API; for metrics.
    fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
        limiters: Vec<Arc<Limiter>>,
    ) -> impl Future<Output = anyhow::Result<Self::Output>> + Send;
}

/// Connects to the provider, and lets `client` work with it.
pub(crate) async fn connect<C: Client>(
    args: ProviderArgs,
    cluster: ClusterUid,
    client: C,
) -> anyhow::Result<C::Output> {
    let ProviderArgs {
        provider,
        local_endpoint,
        local_token_file,
        bare_metal_publish_node_addresses: publish_node_addresses,
        api_rate,
        aws,
        gce,
    } = args;
    match provider {
        ProviderKind::BareMetal => {
            let config = portico_provider_bare_metal::Config { publish_node_addresses };
            client.with(BareMetalProvider::new(config), Vec::new()).await
        }
        ProviderKind::Local => {
            let endpoint = local_endpoint.context("--local-endpoint is missing")?;
            let file = local_token_file.context("--local-token-file is missing")?;
            let read = tokio::fs::read_to_string(&file).await;
            let token =
                read.with_context(|| format!("--local-token-file {} cannot be read", file.display()))?;
            let config = portico_provider_local::Config { endpoint, token: token.trim().to_owned(), cluster };
            client.with(LocalProvider::new(config)?, Vec::new()).await
        }
        ProviderKind::Aws => {
            let (provider, limiters) = aws_provider(aws, cluster, api_rate).await?;
            client.with(provider, limiters).await
        }
        ProviderKind::Gce => {
            let config = gce_config(gce, cluster)?;
            let provider = GceProvider::connect(config, api_rate).await?;
            let limiters = provider.limiters();
            client.with(provider, limiters).await
        }
    }
}

async fn aws_provider(
    args: AwsArgs,
    cluster: ClusterUid,
    pace: Pace,
) -> anyhow::Result<(AwsProvider, Vec<Arc<Limiter>>)> {
    let AwsArgs { region, vpc_id, cluster_name, backend_security_group, quotas, poll, endpoint_url } = args;
    let region = region.context("--aws-region is missing")?;
    let vpc = vpc_id.context("--aws-vpc-id is missing")?;
    let quotas = Quotas::with(&quotas).context("--aws-quota")?;
    let cloud = portico_provider_aws::Sdk::connect(region, endpoint_url, None, pace).await;
    let limiters = cloud.limiters();
    let config = portico_provider_aws::Config {
        vpc,
        backend_security_group,
        cluster_name,
        cluster,
        quotas,
        pace: poll,
    };
    Ok((AwsProvider::new(cloud, config)?, limiters))
}

fn gce_config(args: GceArgs, cluster: ClusterUid) -> anyhow::Result<portico_provider_gce::Config> {
    let GceArgs { project, region, network_project, network, subnetwork, backends, endpoint } = args;
    Ok(portico_provider_gce::Config {
        project: project.context("--gce-project is missing")?,
        network_project: network_project.filter(|project| !project.is_empty()),
        region: region.context("--gce-region is missing")?,
        network,
        subnetwork,
        backends: match backends {
            GceBackends::Neg => portico_provider_gce::Backends::EndpointGroups,
            GceBackends::InstanceGroups => portico_provider_gce::Backends::InstanceGroups,
        },
        endpoint,
        cluster,
    })
}
