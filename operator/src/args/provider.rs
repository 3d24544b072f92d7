//! The provider that is chosen, and the flags of each.
//!
//! Owns: their names and what each needs. Leaves to others: connecting (`process/connect`).
//! Invariant: a build without a provider has none of its flags.

#[cfg(not(any(feature = "aws", feature = "bare-metal", feature = "gce", feature = "local")))]
compile_error!("an operator needs a provider: build with one of the features aws, bare-metal, gce, local");

use clap::{Args as Group, ValueEnum};
use portico_limits::Pace;

/// The provider of load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderKind {
    /// No load balancers: Services are reached by NodePort.
    #[cfg(feature = "bare-metal")]
    BareMetal,
    /// A portico-lb process.
    #[cfg(feature = "local")]
    Local,
    /// Network Load Balancers.
    #[cfg(feature = "aws")]
    Aws,
    /// Google Cloud's passthrough load balancers.
    #[cfg(feature = "gce")]
    Gce,
}

impl ProviderKind {
    /// The class of its Services, unless the flags name another.
    pub(super) fn class(self) -> &'static str {
        match self {
            #[cfg(feature = "bare-metal")]
            Self::BareMetal => crate::cache::service::MAKES_NOTHING,
            #[cfg(feature = "local")]
            Self::Local => "portico.dev/local",
            #[cfg(feature = "aws")]
            Self::Aws => "portico.dev/aws-nlb",
            #[cfg(feature = "gce")]
            Self::Gce => "portico.dev/gce",
        }
    }
}

/// The provider and what it needs.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Provider")]
pub(crate) struct ProviderArgs {
    /// Provider of load balancers
    #[arg(long, value_enum)]
    pub(crate) provider: ProviderKind,
    /// How fast a cloud is called to begin with, in multiples of its documented limits; what it allows is then learnt
    #[arg(long, default_value = "1", value_name = "TIMES", value_parser = pace)]
    pub(crate) api_rate: Pace,
    #[cfg(feature = "bare-metal")]
    #[command(flatten)]
    pub(crate) bare_metal: BareMetalArgs,
    #[cfg(feature = "local")]
    #[command(flatten)]
    pub(crate) local: LocalArgs,
    #[cfg(feature = "aws")]
    #[command(flatten)]
    pub(crate) aws: AwsArgs,
    #[cfg(feature = "gce")]
    #[command(flatten)]
    pub(crate) gce: GceArgs,
}

fn pace(text: &str) -> Result<Pace, String> {
    let times = text.parse().ok().and_then(Pace::new);
    times.ok_or_else(|| format!("{text:?} is no number from 0.01 to 1000, such as 2 or 0.5"))
}

/// Flags of the bare-metal provider.
#[cfg(feature = "bare-metal")]
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Provider: bare-metal")]
pub(crate) struct BareMetalArgs {
    /// Write the addresses of ready nodes to status.loadBalancer.ingress (ipMode Proxy)
    #[arg(id = "bare-metal-publish-node-addresses", long)]
    pub(crate) publish_node_addresses: bool,
}

/// Flags of the local provider.
#[cfg(feature = "local")]
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Provider: local")]
pub(crate) struct LocalArgs {
    /// `portico-lb`'s address, such as <http://10.0.0.1:9440>
    #[arg(id = "local-endpoint", long, required_if_eq("provider", "local"))]
    pub(crate) endpoint: Option<String>,
    /// File with portico-lb's bearer token
    #[arg(id = "local-token-file", long, required_if_eq("provider", "local"))]
    pub(crate) token_file: Option<std::path::PathBuf>,
}

/// Flags of the AWS provider.
#[cfg(feature = "aws")]
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Provider: aws")]
pub(crate) struct AwsArgs {
    /// Region, such as eu-west-1
    #[arg(id = "aws-region", long, env = "AWS_REGION", required_if_eq("provider", "aws"))]
    pub(crate) region: Option<String>,
    /// VPC of the cluster's nodes and pods, such as vpc-0123456789abcdef0
    #[arg(id = "aws-vpc-id", long, required_if_eq("provider", "aws"))]
    pub(crate) vpc_id: Option<String>,
    /// Leave out subnets that are tagged kubernetes.io/cluster/<NAME> for other clusters only
    #[arg(id = "aws-cluster-name", long, value_name = "NAME")]
    pub(crate) cluster_name: Option<String>,
    /// A security group that the nodes let in, put in front of every load balancer
    #[arg(id = "aws-backend-security-group", long, value_name = "ID")]
    pub(crate) backend_security_group: Option<String>,
    /// A quota of the account that is not AWS's default, such as rules-per-security-group=120; may be repeated
    #[arg(id = "aws-quota", long, value_name = "NAME=NUMBER")]
    pub(crate) quotas: Vec<portico_provider_aws::Quota>,
    /// Pause before a load balancer that AWS is creating is read; the second and third pause are two and three times as
    /// long. One call reads 20
    #[arg(id = "aws-poll", long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    pub(crate) poll: std::time::Duration,
    /// Call this instead of AWS: for tests
    #[arg(id = "aws-endpoint-url", long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,
}

/// The backends of load balancers on Google Cloud.
#[cfg(feature = "gce")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GceBackends {
    /// Network endpoint groups of type `GCE_VM_IP`.
    #[default]
    Neg,
    /// Unmanaged instance groups.
    InstanceGroups,
}

/// Flags of the Google Cloud provider.
#[cfg(feature = "gce")]
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Provider: gce")]
pub(crate) struct GceArgs {
    /// ID of the project with the cluster's nodes
    #[arg(id = "gce-project", long, required_if_eq("provider", "gce"))]
    pub(crate) project: Option<String>,
    /// Region of the cluster's nodes, such as europe-west1
    #[arg(id = "gce-region", long, required_if_eq("provider", "gce"))]
    pub(crate) region: Option<String>,
    /// ID of the project of their network, subnetworks and firewalls, where that is another: the host of a Shared VPC
    #[arg(id = "gce-network-project", long)]
    pub(crate) network_project: Option<String>,
    /// VPC network of the cluster's nodes
    #[arg(id = "gce-network", long, default_value = "default")]
    pub(crate) network: String,
    /// Subnetwork of the cluster's nodes; internal addresses come from it unless an annotation names another
    #[arg(id = "gce-subnetwork", long, default_value = "default")]
    pub(crate) subnetwork: String,
    /// Backends of load balancers that are created now: endpoint groups of each, with a subset of the nodes, or instance
    /// groups that all share, with all nodes. One that exists keeps what it has
    #[arg(id = "gce-backends", long, value_enum, default_value_t)]
    pub(crate) backends: GceBackends,
    /// For tests: Compute Engine's counterpart, `http://IP:PORT` of a private network. It needs no credentials
    #[arg(id = "gce-endpoint", long)]
    pub(crate) endpoint: Option<String>,
}
