//! Nodes that join and leave, and nodes that are to get no traffic: the targets at both clouds follow, and are never none.

use std::collections::BTreeSet;

use anyhow::ensure;
use portico_e2e::cloud::{Cloud, Targets};

use super::{Fixture, Scenario, mk_balanced, published, setup::PATIENCE};

/// The node of each cloud that joins and leaves, and those that were there before.
const GUESTS: [(Cloud, u8, [u8; 2]); 2] = [(Cloud::Aws, 5, [1, 3]), (Cloud::Gce, 6, [2, 4])];

/// By this label a node's owner keeps it out of load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// With this taint the autoscaler announces that it will delete a node.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::exclusive("nodes join, are kept out, and leave, and targets follow", |s| {
        Box::pin(join_and_leave(s))
    })]
}

async fn join_and_leave(fixture: &Fixture) -> anyhow::Result<()> {
    for (cloud, ..) in GUESTS {
        fixture.create(&mk_balanced(cloud.as_str(), cloud)?).await?;
    }
    for (cloud, ..) in GUESTS {
        published::served(fixture, cloud.as_str(), cloud).await?;
    }
    targets(fixture, false).await?;
    let cluster = &fixture.shared.cluster;
    for (_, number, _) in GUESTS {
        let (_, member) = fixture.shared.sites.member(number)?;
        cluster.join(&member).await?;
    }
    targets(fixture, true).await?;
    let nodes = GUESTS.map(|(_, number, _)| format!("node-{number}"));
    let [first, second] = [nodes[0].as_str(), nodes[1].as_str()];
    let label = |value: &str| format!("{EXCLUDED}{value}");
    let taint = |value: &str| format!("{LEAVING}{value}");

    cluster.kubectl(&["label", "node", first, second, &label("=")]).await?;
    targets(fixture, false).await?;
    cluster.kubectl(&["label", "node", first, second, &label("-")]).await?;
    targets(fixture, true).await?;
    cluster.kubectl(&["taint", "node", first, second, &taint("=:NoSchedule")]).await?;
    targets(fixture, false).await?;
    cluster.kubectl(&["taint", "node", first, second, &taint("-")]).await?;
    targets(fixture, true).await?;

    cluster.kubectl(&["delete", "node", first, second, "--timeout=30s"]).await?;
    targets(fixture, false).await?;
    for node in [first, second] {
        cluster.leave(node).await?;
    }
    Ok(())
}

/// Waits until the targets at both clouds are the nodes that were always there, and the guest if it is wanted.
async fn targets(fixture: &Fixture, with_guest: bool) -> anyhow::Result<()> {
    for (cloud, guest, always) in GUESTS {
        let numbers = always.into_iter().chain(with_guest.then_some(guest));
        let wanted: anyhow::Result<BTreeSet<String>> =
            numbers.map(|number| fixture.shared.sites.target(number)).collect();
        let wanted = wanted?;
        let service = format!("{}/{}", fixture.namespace, cloud.as_str());
        let what = format!("the targets at {cloud:?} follow the nodes");
        fixture
            .within(PATIENCE, &what, async || {
                let targets = Targets::replay(&fixture.shared.sites.proxy(cloud).log(), &service)?;
                let now = targets.now();
                ensure!(now == wanted, "{now:?} instead of {wanted:?}");
                Ok(())
            })
            .await?;
    }
    Ok(())
}
