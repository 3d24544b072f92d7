//! `loadBalancerClass`: ours and none are served (the chart makes us the default class), another controller's is ignored.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::scenario::{
    objects::{Workload, mk_service},
    observe,
    traffic::By,
};
use serde_json::json;

use super::endpoints::untouched;
use super::{Fixture, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("our class and no class are served", |s| Box::pin(ours(s))),
        Scenario::new("another controller's class is not touched", |s| Box::pin(others(s))),
        Scenario::new("a service that comes back with another controller's class is released", |s| {
            Box::pin(released(s))
        }),
    ]
}

async fn ours(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    for (name, class) in [("ours", json!("portico.dev/local")), ("none", json!(null))] {
        let selector = json!({"app": "web"});
        let spec = json!({
            "type": "LoadBalancer", "loadBalancerClass": class, "selector": selector, "ports": [{"port": 80}]
        });
        fixture.create(&mk_service(name, spec)?).await?;
    }
    for name in ["ours", "none"] {
        let address = fixture.provisioned(name).await.with_context(|| format!("class {name}"))?;
        fixture.answered(&fixture.everybody(), By::Http, address).await?;
    }
    Ok(())
}

async fn others(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    let spec = |class: Option<&str>| {
        json!({
            "type": "LoadBalancer", "loadBalancerClass": class, "selector": {"app": "web"}, "ports": [{"port": 80}]
        })
    };
    let theirs = fixture.create(&mk_service("theirs", spec(Some("example.com/other")))?).await?;
    // One of ours made after it: once that is there, the operator has seen the other, too.
    fixture.create(&mk_service("ours", spec(None))?).await?;
    fixture.provisioned("ours").await?;
    untouched(fixture, "theirs").await?;
    fixture.shared.lb.holds(fixture, 1).await?;
    // Its class is the business of its controller; its ClusterIP and node port are the node proxy's.
    let node_port = observe::node_port(&theirs, 0).context("no node port")?;
    let on_node = (fixture.shared.cluster.nodes()[0].address, node_port).into();
    fixture.answered(&fixture.insiders(), By::Http, observe::cluster_ip(&theirs, 0)?).await?;
    fixture.answered(&fixture.everybody(), By::Http, on_node).await?;
    untouched(fixture, "theirs").await
}

async fn released(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web")).await?;
    fixture.create(&mk_service("web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]}))?).await?;
    fixture.provisioned("web").await?;
    // The API server lets the class change only together with the type: down, and up again as another's.
    let _down: Service = fixture.patch("web", &json!({"spec": {"type": "NodePort"}})).await?;
    let theirs = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/other"}});
    let _up: Service = fixture.patch("web", &theirs).await?;
    fixture
        .eventually("what was ours is released", async || {
            let service = fixture.service("web").await?;
            observe::without_load_balancer(&service)?;
            ensure!(observe::conditions(&service).is_empty(), "conditions of ours stay");
            fixture.shared.lb.holds(fixture, 0).await
        })
        .await
}
