//! A controller of load balancers as a plain process, with its command line. Pure, apart from writing the
//! configuration file that the peer reads.

use std::{fmt, fs, path::Path};

use anyhow::Context as _;
use tokio::process::Command;

use crate::{
    cloud::{
        Aws,
        aws::{CREDENTIALS, REGION},
    },
    tools::Tools,
};

/// The peer's name for the cluster, by which it finds subnets.
pub const CLUSTER: &str = "bench";

/// A controller of load balancers that a bench can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Controller {
    /// portico-operator, of the same build profile as the bench.
    Portico,
    /// The Service controller of Kubernetes' cloud provider for AWS.
    CloudProviderAws,
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portico => "portico",
            Self::CloudProviderAws => "cloud-provider-aws",
        })
    }
}

/// The account that a controller works in.
#[derive(Clone, Copy, Debug)]
pub struct Whereabouts<'a> {
    /// The emulator with it.
    pub aws: &'a Aws,
    /// One of its subnets.
    pub subnet: &'a str,
    /// Endpoint of AWS for the controller, `http://HOST:PORT`.
    pub endpoint: &'a str,
}

impl Controller {
    /// Why it cannot run here, with the remedy.
    pub fn obstacle(self, tools: &Tools) -> Option<String> {
        let (program, remedy) = match self {
            Self::Portico => (tools.operator(), "`cargo build --release -p portico-operator` builds it"),
            Self::CloudProviderAws => (tools.aws_controller(), "`make bench BENCH=cloud` builds it"),
        };
        (!program.is_file()).then(|| format!("{} is missing: {remedy}", program.display()))
    }

    /// Its process, that serves Services without a class. `dir` is for its files.
    pub fn command(
        self,
        tools: &Tools,
        kubeconfig: &Path,
        whereabouts: &Whereabouts<'_>,
        dir: &Path,
    ) -> anyhow::Result<Command> {
        let Whereabouts { aws, subnet, endpoint } = *whereabouts;
        let mut command = match self {
            Self::Portico => {
                let mut command = Command::new(tools.operator());
                command.env("KUBECONFIG", kubeconfig).args(aws.operator_flags(endpoint)).args([
                    "--default-class",
                    // The bench has endpoints, and nodes, but no pods.
                    "--allow-endpoints-without-pods",
                    "--leader-elect=false",
                    "--admin-address=127.0.0.1:0",
                ]);
                command
            }
            Self::CloudProviderAws => {
                let config = dir.join("cloud.conf");
                fs::write(&config, cloud_conf(aws.vpc(), subnet, endpoint))
                    .with_context(|| format!("writing {}", config.display()))?;
                let mut command = Command::new(tools.aws_controller());
                command
                    .args(["--cloud-provider=aws", "--leader-elect=false", "--configure-cloud-routes=false"])
                    .args(["--controllers=service-lb-controller", "--concurrent-service-syncs=5"])
                    .args(["--secure-port=0", &format!("--cluster-name={CLUSTER}")])
                    .arg(format!("--cloud-config={}", config.display()))
                    .arg(format!("--kubeconfig={}", kubeconfig.display()));
                command
            }
        };
        command.envs(CREDENTIALS).env("HOME", dir).env("AWS_REGION", REGION);
        Ok(command)
    }
}

/// Every service name that this provider has had for the APIs, sent to `endpoint`.
fn cloud_conf(vpc: &str, subnet: &str, endpoint: &str) -> String {
    let services = [
        ("EC2", "ec2"),
        ("ec2", "ec2"),
        ("Elastic Load Balancing", "elasticloadbalancing"),
        ("Elastic Load Balancing v2", "elasticloadbalancing"),
        ("elasticloadbalancing", "elasticloadbalancing"),
        ("elasticloadbalancingv2", "elasticloadbalancing"),
    ];
    let overrides = services.iter().enumerate().map(|(number, (service, signing))| {
        format!(
            "[ServiceOverride \"{number}\"]\nService={service}\nRegion={REGION}\nURL={endpoint}\n\
             SigningRegion={REGION}\nSigningMethod=v4\nSigningName={signing}\n"
        )
    });
    // With VPC and subnet it does not ask the machine it runs on which instance that is.
    let global = format!(
        "[Global]\nZone={REGION}a\nRegion={REGION}\nVPC={vpc}\nSubnetID={subnet}\nKubernetesClusterID={CLUSTER}\n"
    );
    global + &overrides.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_api_of_the_peer_is_left_at_aws_itself() {
        let text = cloud_conf("vpc-1", "subnet-1", "http://127.0.0.1:1");
        assert_eq!(text.matches("URL=http://127.0.0.1:1\n").count(), 6, "{text}");
        assert!(text.contains("VPC=vpc-1\n"), "{text}");
    }
}
