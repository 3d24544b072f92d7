//! The provider that the flags name, for whoever needs one.
//!
//! Owns: turning flags into a provider. Leaves to others: what is done with it.
//! Invariant: `run` and the subcommands reach the same load balancers by the same flags.

use std::sync::Arc;

use portico_limits::Limiter;
use portico_provider::{ClusterUid, LoadBalancerProvider};

use crate::args::{ProviderArgs, ProviderKind};

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
    match args.provider {
        #[cfg(feature = "bare-metal")]
        ProviderKind::BareMetal => {
            drop(cluster); // it creates nothing that would bear its UID
            client.with(bare_metal::provider(&args.bare_metal), Vec::new()).await
        }
        #[cfg(feature = "local")]
        ProviderKind::Local => client.with(local::provider(args.local, cluster).await?, Vec::new()).await,
        #[cfg(feature = "aws")]
        ProviderKind::Aws => {
            let (provider, limiters) = aws::provider(args.aws, cluster, args.api_rate).await?;
            client.with(provider, limiters).await
        }
        #[cfg(feature = "gce")]
        ProviderKind::Gce => {
            let provider = gce::provider(args.gce, cluster, args.api_rate).await?;
            let limiters = provider.limiters();
            client.with(provider, limiters).await
        }
    }
}

#[cfg(feature = "bare-metal")]
mod bare_metal {
    use portico_provider_bare_metal::{BareMetalProvider, Config};

    use crate::args::BareMetalArgs;

    pub(super) fn provider(args: &BareMetalArgs) -> BareMetalProvider {
        let BareMetalArgs { publish_node_addresses } = *args;
        BareMetalProvider::new(Config { publish_node_addresses })
    }
}

#[cfg(feature = "local")]
mod local {
    use anyhow::Context;
    use portico_provider::ClusterUid;
    use portico_provider_local::{Config, LocalProvider};

    use crate::args::LocalArgs;

    pub(super) async fn provider(args: LocalArgs, cluster: ClusterUid) -> anyhow::Result<LocalProvider> {
        let LocalArgs { endpoint, token_file } = args;
        let endpoint = endpoint.context("--local-endpoint is missing")?;
        let file = token_file.context("--local-token-file is missing")?;
        let read = tokio::fs::read_to_string(&file).await;
        let token = read.with_context(|| format!("--local-token-file {} cannot be read", file.display()))?;
        Ok(LocalProvider::new(Config { endpoint, token: token.trim().to_owned(), cluster })?)
    }
}

#[cfg(feature = "aws")]
mod aws {
    use std::sync::Arc;

    use anyhow::Context;
    use portico_limits::{Limiter, Pace};
    use portico_provider::ClusterUid;
    use portico_provider_aws::{AwsProvider, Config, Quotas, Sdk};

    use crate::args::AwsArgs;

    pub(super) async fn provider(
        args: AwsArgs,
        cluster: ClusterUid,
        pace: Pace,
    ) -> anyhow::Result<(AwsProvider, Vec<Arc<Limiter>>)> {
        let AwsArgs { region, vpc_id, cluster_name, backend_security_group, quotas, poll, endpoint_url } =
            args;
        let region = region.context("--aws-region is missing")?;
        let vpc = vpc_id.context("--aws-vpc-id is missing")?;
        let quotas = Quotas::with(&quotas).context("--aws-quota")?;
        let sdk = Sdk::connect(region, endpoint_url, None, pace).await;
        let limiters = sdk.limiters();
        let config = Config { vpc, backend_security_group, cluster_name, cluster, quotas, pace: poll };
        Ok((AwsProvider::new(sdk, config)?, limiters))
    }
}

#[cfg(feature = "gce")]
mod gce {
    use anyhow::Context;
    use portico_limits::Pace;
    use portico_provider::ClusterUid;
    use portico_provider_gce::{Backends, Config, GceProvider};

    use crate::args::{GceArgs, GceBackends};

    pub(super) async fn provider(
        args: GceArgs,
        cluster: ClusterUid,
        pace: Pace,
    ) -> anyhow::Result<GceProvider> {
        let GceArgs { project, region, network_project, network, subnetwork, backends, endpoint } = args;
        let config = Config {
            project: project.context("--gce-project is missing")?,
            network_project: network_project.filter(|project| !project.is_empty()),
            region: region.context("--gce-region is missing")?,
            network,
            subnetwork,
            backends: match backends {
                GceBackends::Neg => Backends::EndpointGroups,
                GceBackends::InstanceGroups => Backends::InstanceGroups,
            },
            endpoint,
            cluster,
        };
        Ok(GceProvider::connect(config, pace).await?)
    }
}
