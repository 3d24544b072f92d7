//! Compute Engine on this machine: `emulators/gce`, and a project in it.
//!
//! Owns: the process, and seeding and reading the project past any proxy. Leaves to others: what it answers
//! (`emulators/gce`), faults (`proxy`). Invariant: it listens on 127.0.0.1 and nowhere else, as the operator demands.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{process::Process, tools::Tools};

use super::{Place, http_client, listens};

/// The emulator's only project.
pub const PROJECT: &str = "project";
/// Its region; zones `-b`, `-c`, `-d`.
pub const REGION: &str = "europe-west1";

/// A running emulator, with network and subnetwork `default`.
#[derive(Debug)]
pub struct Gce {
    process: Process,
    address: SocketAddr,
    client: reqwest::Client,
}

/// A machine in the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Name of the instance.
    pub name: String,
    /// Zone, such as `europe-west1-b`.
    pub zone: String,
    /// Its address in the subnetwork.
    pub address: Ipv4Addr,
}

impl Instance {
    /// The `spec.providerID` of its Node.
    pub fn provider_id(&self) -> String {
        format!("gce://{PROJECT}/{}/{}", self.zone, self.name)
    }
}

impl Gce {
    /// Starts it. Of `place.address` only the port counts. `None`: it is not installed here; say so and skip.
    pub async fn start(tools: &Tools, place: &Place<'_>) -> anyhow::Result<Option<Self>> {
        let Some(python) = tools.gce_python() else { return Ok(None) };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.address()?.port()));
        let work_tree: PathBuf = tools.emulators().join("..");
        let mut serve = Command::new(&python);
        serve.arg("-B").arg("emulators/gce/server.py").arg(address.port().to_string());
        serve.current_dir(work_tree).stdout(Stdio::null());
        let process = Process::start("gce", serve, place.logs, place.crashes)?;
        listens(address, place.crashes).await?;
        Ok(Some(Self { process, address, client: http_client()? }))
    }

    /// Endpoint URL, `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Instances `<prefix>-1` … in the three zones in turn, from 10.128.0.`first`.
    pub async fn add_instances(&self, prefix: &str, first: u8, count: u8) -> anyhow::Result<Vec<Instance>> {
        let zones = ["b", "c", "d"].into_iter().cycle();
        let mut made = Vec::new();
        for (number, zone) in (0..count).zip(zones) {
            let address = Ipv4Addr::new(10, 128, 0, first.saturating_add(number));
            let zone = format!("{REGION}-{zone}");
            let instance = Instance { name: format!("{prefix}-{}", number + 1), zone, address };
            self.add_instance(&instance).await?;
            made.push(instance);
        }
        Ok(made)
    }

    /// One instance, with an address of the caller's.
    pub async fn add_instance(&self, instance: &Instance) -> anyhow::Result<()> {
        let Instance { name, zone, address } = instance;
        let body = json!({
            "name": name,
            "machineType": format!("zones/{zone}/machineTypes/e2-small"),
            "networkInterfaces": [{"network": "global/networks/default", "networkIP": address.to_string()}],
        });
        self.insert(&format!("zones/{zone}/instances"), &body).await?;
        self.settle().await
    }

    /// Resources of others with names and descriptions like those of Services `<namespace>/s000` …
    pub async fn add_strangers(&self, namespace: &str, count: usize) -> anyhow::Result<()> {
        for number in 0..count {
            let service = format!("{namespace}/s{number:03}");
            // GKE's mark, and ours but for another cluster.
            let mark = if number % 2 == 0 {
                json!({"networking.gke.io/service-name": service})
            } else {
                json!({
                    "networking.gke.io/service-name": service,
                    "portico.dev/cluster-uid": "00000000-0000-4000-8000-000000000000",
                    "portico.dev/service-uid": format!("00000000-0000-4000-8000-{number:012}"),
                })
            };
            let named =
                |part: &str| format!("portico-{number:08x}-{namespace}-s{number:03}-{number:010x}-{part}");
            let address = json!({"name": named("1a2b3c-ip"), "description": mark.to_string()});
            self.insert(&format!("regions/{REGION}/addresses"), &address).await?;
            let check = json!({"name": named("hc"), "description": mark.to_string(), "type": "TCP",
                "tcpHealthCheck": {"port": 80}});
            self.insert(&format!("regions/{REGION}/healthChecks"), &check).await?;
            let firewall = json!({"name": named("fw"), "description": mark.to_string(),
                "allowed": [{"IPProtocol": "tcp"}]});
            self.insert("global/firewalls", &firewall).await?;
        }
        self.settle().await
    }

    /// Every resource, by path, as the emulator keeps it.
    pub async fn things(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let state = self.hook("state").await?;
        serde_json::from_value(state["resources"].clone()).context("reading the project")
    }

    /// Violations of Google's discovery document in all messages so far.
    pub async fn violations(&self) -> anyhow::Result<Vec<String>> {
        serde_json::from_value(self.hook("violations").await?).context("reading violations")
    }

    /// The operator's flags; `endpoint` is this or a proxy's.
    pub fn operator_flags(&self, endpoint: &str) -> Vec<String> {
        vec![
            "--provider=gce".to_owned(),
            format!("--gce-project={PROJECT}"),
            format!("--gce-region={REGION}"),
            format!("--gce-endpoint={endpoint}"),
        ]
    }

    /// Ends the emulator's process.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    async fn hook(&self, name: &str) -> anyhow::Result<Value> {
        let url = format!("{}/_emulator/{name}", self.url());
        Ok(self.client.get(url).send().await?.json().await?)
    }

    async fn insert(&self, collection: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("{}/compute/v1/projects/{PROJECT}/{collection}", self.url());
        let answer: Value = self.client.post(url).json(body).send().await?.json().await?;
        ensure!(answer["kind"] == "compute#operation", "inserting into {collection}: {answer}");
        Ok(())
    }

    /// Lists all operations: the emulator ends an operation when it is read.
    async fn settle(&self) -> anyhow::Result<()> {
        let url = format!("{}/compute/v1/projects/{PROJECT}/aggregated/operations", self.url());
        self.client.get(url).send().await?.error_for_status()?;
        Ok(())
    }
}
