//! Takes the startup taint ([`NOT_READY`]) off this node's Node object once its Services work.
//!
//! Owns the change of the object. Leaves the time of it to the sync loop. Invariants: other taints stay,
//! because a change by another program in the meantime is a conflict, and conflicts are retried. A missing
//! taint is success.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use crate::node::NOT_READY;

/// Removes the taint whenever `due` is true, until the sender is gone.
pub async fn follow(mut due: watch::Receiver<bool>, client: Client, node: String) {
    let nodes: Api<Node> = Api::all(client);
    while due.wait_for(|due| *due).await.is_ok() {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(30))
            .without_max_times()
            .with_jitter()
            .build();
        while let Err(error) = lift(&nodes, &node).await {
            let (pause, error) =
                (pauses.next().unwrap_or(Duration::from_secs(30)), portico_runtime::chain(&error));
            tracing::warn!(taint = NOT_READY, error, ?pause, "the startup taint stays for now; pods wait");
            sleep(pause).await;
        }
        // The loop learns of it from the watch of the Node, and sets `due` again.
        if due.wait_for(|due| !*due).await.is_err() {
            return;
        }
    }
}

async fn lift(nodes: &Api<Node>, name: &str) -> kube::Result<()> {
    let object = nodes.get(name).await?;
    if let Some(patch) = patch(&object) {
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        tracing::info!(taint = NOT_READY, "Services work on this node; its startup taint is gone");
    }
    Ok(())
}

/// The patch, for exactly the version of the object that was read.
fn patch(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_deref()?;
    let kept: Vec<&Taint> = taints.iter().filter(|taint| taint.key != NOT_READY).collect();
    let version = &node.metadata.resource_version;
    (kept.len() < taints.len())
        .then(|| json!({"metadata": {"resourceVersion": version}, "spec": {"taints": kept}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_node(keys: &[&str]) -> Node {
        let taints: Vec<_> = keys.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        serde_json::from_value(
            json!({"metadata": {"name": "here", "resourceVersion": "7"}, "spec": {"taints": taints}}),
        )
        .expect("a Node")
    }

    #[test]
    fn only_our_taint_goes_and_only_from_the_version_that_was_read() {
        let patch = patch(&mk_node(&["mine", NOT_READY])).expect("something to do");
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let kept: Vec<_> = patch["spec"]["taints"].as_array().into_iter().flatten().collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0]["key"], "mine");
    }

    #[test]
    fn a_node_without_it_is_left_alone() {
        assert_eq!(patch(&mk_node(&["mine"])), None);
        assert_eq!(patch(&Node::default()), None);
    }
}
