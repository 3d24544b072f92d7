//! The provider that the flags name, for whoever needs one.
//!
//! Owns: turning flags into a provider. Leaves to others: what is done with it.
//! Invariant: `run` and the subcommands reach the same load balancers by the same flags.

use anyhow::Context;
use portico_provider::{ClusterUid, LoadBalancerProvider};
use portico_provider_aws::AwsProvider;
use portico_provider_bare_metal::BareMetalProvider;
use portico_provider_gce::GceProvider;
use portico_provider_local::LocalProvider;

use crate::args::{AwsArgs, GceArgs, ProviderArgs, ProviderKind};

/// Something that works with any provider.
pub(crate) trait Client {
    /// What it comes to.
    type Output;

    /// Does it.
    fn with<P: LoadBalancerProvider>(
        self,
        provider: P,
    ) -> impl Future<Output = anyhow::Result<Self::Output>> + Send;
}

/// Connects to the provider for a class, and lets `client` work with it.
pub(crate) async fn connect<C: Client>(
    args: ProviderArgs,
    class: &str,
    cluster: ClusterUid,
    client: C,
) -> anyhow::Result<C::Output> {
    let ProviderArgs {
        provider,
        local_endpoint,
        local_token_file,
        bare_metal_publish_node_addresses: publish_node_addresses,
        aws,
        gce,
    } = args;
    match provider {
        ProviderKind::BareMetal => {
            let config = portico_provider_bare_metal::Config { publish_node_addresses };
            client.with(BareMetalProvider::new(config)).await
        }
        ProviderKind::Local => {
            let endpoint = local_endpoint.context("--local-endpoint is missing")?;
            let file = local_token_file.context("--local-token-file is missing")?;
            let read = tokio::fs::read_to_string(&file).await;
            let token =
                read.with_context(|| format!("--local-token-file {} cannot be read", file.display()))?;
            let config = portico_provider_local::Config { endpoint, token: token.trim().to_owned(), cluster };
            client.with(LocalProvider::new(config)?).await
        }
        ProviderKind::Aws => client.with(aws_provider(aws, cluster).await?).await,
        ProviderKind::Gce => {
            let config = gce_config(gce, class == GKE_INTERNAL_CLASS, cluster)?;
            client.with(GceProvider::connect(config).await?).await
        }
    }
}

async fn aws_provider(args: AwsArgs, cluster: ClusterUid) -> anyhow::Result<AwsProvider> {
    let AwsArgs { region, vpc_id, cluster_name, backend_security_group, endpoint_url } = args;
    let region = region.context("--aws-region is missing")?;
    let vpc = vpc_id.context("--aws-vpc-id is missing")?;
    let cloud = portico_provider_aws::cloud::Sdk::connect(region, endpoint_url, None).await;
    let config = portico_provider_aws::Config { vpc, backend_security_group, cluster_name, cluster };
    Ok(AwsProvider::new(cloud, config)?)
}

/// GKE's class for internal load balancers: `--load-balancer-class` takes it over.
const GKE_INTERNAL_CLASS: &str = "networking.gke.io/l4-regional-internal";

fn gce_config(
    args: GceArgs,
    internal: bool,
    cluster: ClusterUid,
) -> anyhow::Result<portico_provider_gce::Config> {
    let GceArgs { project, region, network, subnetwork, endpoint } = args;
    Ok(portico_provider_gce::Config {
        project: project.context("--gce-project is missing")?,
        region: region.context("--gce-region is missing")?,
        network,
        subnetwork,
        internal,
        endpoint,
        cluster,
    })
}
