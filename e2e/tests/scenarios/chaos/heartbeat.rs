//! Nodes without kubelets: their objects, and the leases by which the control plane takes them for ready.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Node},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

/// The heartbeat of some nodes. It ends when it is dropped.
pub(crate) struct Heartbeat(JoinHandle<()>);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Heartbeat {
    /// Creates nodes by name, provider ID and address, and keeps them ready.
    pub(crate) async fn start(client: Client, nodes: Vec<(String, String, String)>) -> anyhow::Result<Self> {
        let (api, leases) =
            (Api::<Node>::all(client.clone()), Api::<Lease>::namespaced(client, "kube-node-lease"));
        let names: Vec<String> = nodes.iter().map(|(name, ..)| name.clone()).collect();
        let spaces = Api::<Namespace>::all(api.clone().into_client());
        let end = Instant::now() + Duration::from_secs(30);
        while spaces.get_opt("kube-node-lease").await?.is_none() {
            ensure!(Instant::now() < end, "the API server has created no Namespace kube-node-lease");
            sleep(Duration::from_millis(100)).await;
        }
        beat(&leases, &names).await?;
        for (name, provider_id, address) in nodes {
            let node = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name},
                "spec": {"providerID": provider_id},
            });
            api.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
            let status = json!({"status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "Heartbeat", "message": ""}],
                "addresses": [{"type": "InternalIP", "address": address}],
            }});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        }
        Ok(Self(tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(4)).await;
                if let Err(error) = beat(&leases, &names).await {
                    tracing::warn!(%error, "a heartbeat was not written");
                }
            }
        })))
    }
}

async fn beat(leases: &Api<Lease>, names: &[String]) -> anyhow::Result<()> {
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(k8s_openapi::jiff::Timestamp::now());
    let beats = names.iter().map(|name| {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
        });
        async move { leases.patch(name, &PatchParams::apply("chaos").force(), &Patch::Apply(lease)).await }
    });
    try_join_all(beats).await.context("renewing the nodes' leases")?;
    Ok(())
}
