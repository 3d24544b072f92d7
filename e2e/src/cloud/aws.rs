//! AWS on this machine: moto with the NLB overlay, and an account in it.
//!
//! Owns: the process, and the account as boto3 makes and sees it (`emulators/aws/account.py`), past any proxy. Leaves to
//! others: what it answers (`emulators/aws/nlb.py`), faults (`proxy`). Invariant: it knows no AWS but itself.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::{
    process::{Process, output},
    tools::Tools,
};

use super::{Place, listens};

/// The region of the account.
pub const REGION: &str = "us-east-1";

/// A running emulator.
#[derive(Debug)]
pub struct Aws {
    process: Process,
    address: SocketAddr,
    python: PathBuf,
    emulators: PathBuf,
    vpc: String,
}

/// A machine in the account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Instance {
    /// Instance ID, `i-…`.
    pub id: String,
    /// Availability zone, such as `us-east-1a`.
    pub zone: String,
    /// Its private IPv4 address.
    pub address: String,
    /// Its private DNS name, which AWS's own controllers take for the Node's.
    pub name: String,
}

impl Instance {
    /// The `spec.providerID` of its Node.
    pub fn provider_id(&self) -> String {
        format!("aws:///{}/{}", self.zone, self.id)
    }
}

impl Aws {
    /// Starts it, with a VPC of three subnets in three zones (two of them tagged for discovery), four instances and look-alikes
    /// of another owner. `None`: the emulator is not installed.
    pub async fn start(tools: &Tools, place: &Place<'_>) -> anyhow::Result<Option<Self>> {
        let Some(python) = tools.aws_python() else { return Ok(None) };
        let (address, emulators) = (place.address()?, tools.emulators().join("aws"));
        let mut serve = Command::new(&python);
        serve.arg("-B").arg(emulators.join("nlb.py"));
        serve.args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()]);
        serve.env("NLB_PROVISION_POLLS", "1");
        let process = Process::start("aws", serve, place.logs, place.crashes)?;
        listens(address, place.crashes).await?;
        let mut aws = Self { process, address, python, emulators, vpc: String::new() };
        let made = aws.account(&["make"]).await?;
        made["vpc"].as_str().context("the account has no VPC")?.clone_into(&mut aws.vpc);
        Ok(Some(aws))
    }

    /// Endpoint URL, `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `vpc-…` of the account.
    pub fn vpc(&self) -> &str {
        &self.vpc
    }

    /// More instances, in the three zones in turn.
    pub async fn add_instances(&self, count: usize) -> anyhow::Result<Vec<Instance>> {
        let made = self.account(&["nodes", &self.vpc, &count.to_string()]).await?;
        serde_json::from_value(made).context("reading the instances that were made")
    }

    /// Load balancers of others, with names and tags like those of Services `<namespace>/s000` …
    pub async fn add_strangers(&self, namespace: &str, count: usize) -> anyhow::Result<()> {
        self.account(&["strangers", &self.vpc, namespace, &count.to_string()]).await.map(drop)
    }

    /// Everything there is: load balancers (with their listeners), target groups and security groups, by ARN or ID.
    pub async fn things(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        serde_json::from_value(self.account(&["list"]).await?).context("reading the account")
    }

    /// The operator's flags; `endpoint` is this or a proxy's. It also needs [`CREDENTIALS`] in its environment.
    pub fn operator_flags(&self, endpoint: &str) -> Vec<String> {
        vec![
            "--provider=aws".to_owned(),
            format!("--aws-region={REGION}"),
            format!("--aws-vpc-id={}", self.vpc),
            format!("--aws-endpoint-url={endpoint}"),
        ]
    }

    /// Ends the emulator's process.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    async fn account(&self, command: &[&str]) -> anyhow::Result<Value> {
        let mut account = Command::new(&self.python);
        account.arg("-B").arg(self.emulators.join("account.py")).arg(self.url()).args(command);
        let text = output(&mut account).await?;
        serde_json::from_str(&text).with_context(|| format!("account.py answered {text:?}"))
    }
}

/// Environment of an AWS client, so that it reads credentials from nowhere else.
pub const CREDENTIALS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_EC2_METADATA_DISABLED", "true")];
