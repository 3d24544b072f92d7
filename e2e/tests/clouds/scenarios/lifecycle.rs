//! A Service's way up and down, from class to class, and its end, on both clouds at once.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::cloud::Targets;
use serde_json::json;

use super::{balanced, mk_balanced};
use crate::clouds::{
    harness::Scenario,
    objects::{Workload, mk_service},
    published,
    scene::Scene,
    site::Cloud,
    stage::PATIENCE,
    traffic::By,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("each class gets a load balancer of its cloud, with the nodes of that cloud", |s| {
            Box::pin(each_its_own(s))
        }),
        Scenario::new("a service goes up to LoadBalancer and back on both clouds", |s| {
            Box::pin(up_and_down(s))
        }),
        Scenario::new("a service changes its class and the old cloud forgets it", |s| {
            Box::pin(changes_class(s))
        }),
        Scenario::new("a namespace with load balancers of both clouds goes", |s| Box::pin(namespace_goes(s))),
    ]
}

/// Services `aws` and `gce`.
fn name(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Aws => "aws",
        Cloud::Gce => "gce",
    }
}

async fn each_its_own(scene: &Scene) -> anyhow::Result<()> {
    scene.deploy(&Workload::web("web").replicas(2)).await?;
    for cloud in Cloud::BOTH {
        scene.create(&mk_balanced(name(cloud), cloud)?).await?;
    }
    for cloud in Cloud::BOTH {
        let (_, address) = published::served(scene, name(cloud), cloud).await?;
        let nodes: [u8; 2] = if cloud == Cloud::Aws { [1, 3] } else { [2, 4] };
        let wanted = nodes.map(|number| scene.stage.sites.target(number));
        let wanted = wanted.into_iter().collect::<anyhow::Result<_>>()?;
        let service = format!("{}/{}", scene.namespace, name(cloud));
        scene
            .eventually("the cloud's own nodes are the targets", async || {
                let targets = Targets::replay(&scene.stage.sites.proxy(cloud).log(), &service)?;
                let now = targets.now();
                ensure!(now == wanted, "{now:?} instead of {wanted:?}");
                Ok(())
            })
            .await?;
        if cloud == Cloud::Gce {
            // The nodes themselves serve Google's address: from them and from pods, no cloud is needed.
            let to: SocketAddr = format!("{address}:80").parse().context("the address in the status")?;
            scene.answered(&scene.insiders(), By::Http, to).await?;
        }
    }
    Ok(())
}

async fn up_and_down(scene: &Scene) -> anyhow::Result<()> {
    let ports = json!([{"name": "http", "port": 80}]);
    for cloud in Cloud::BOTH {
        scene.create(&mk_service(name(cloud), json!({"type": "ClusterIP", "ports": ports}))?).await?;
        let _up: Service = scene.patch(name(cloud), &json!({"spec": {"type": "NodePort"}})).await?;
        let _up: Service = scene.patch(name(cloud), &json!({"spec": balanced(cloud)})).await?;
    }
    for cloud in Cloud::BOTH {
        published::served(scene, name(cloud), cloud).await?;
        let down = json!({"spec": {"type": "NodePort", "loadBalancerClass": null}});
        let _down: Service = scene.patch(name(cloud), &down).await?;
    }
    for cloud in Cloud::BOTH {
        published::released(scene, name(cloud), cloud).await?;
        let _down: Service = scene.patch(name(cloud), &json!({"spec": {"type": "ClusterIP"}})).await?;
        let _up: Service = scene.patch(name(cloud), &json!({"spec": balanced(cloud)})).await?;
    }
    for cloud in Cloud::BOTH {
        let (service, _) = published::served(scene, name(cloud), cloud).await?;
        scene.delete::<Service>(name(cloud)).await?;
        published::gone(scene, &service, cloud).await?;
    }
    Ok(())
}

/// The API server lets a class change only by way of another type; that takes a moment, and no operator may be confused.
async fn changes_class(scene: &Scene) -> anyhow::Result<()> {
    scene.create(&mk_balanced("web", Cloud::Aws)?).await?;
    let (old, _) = published::served(scene, "web", Cloud::Aws).await?;
    for (from, to) in [(Cloud::Aws, Cloud::Gce), (Cloud::Gce, Cloud::Aws)] {
        let down = json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}});
        let _between: Service = scene.patch("web", &down).await?;
        let _other: Service = scene.patch("web", &json!({"spec": balanced(to)})).await?;
        published::served(scene, "web", to).await?;
        scene
            .within(PATIENCE, "the other cloud forgets it", async || {
                scene.stage.sites.nothing_of(from, &old).await
            })
            .await?;
    }
    scene.delete::<Service>("web").await?;
    published::gone(scene, &old, Cloud::Aws).await
}

async fn namespace_goes(scene: &Scene) -> anyhow::Result<()> {
    let namespace = format!("{}-inner", scene.namespace);
    let cluster = &scene.stage.cluster;
    cluster.kubectl(&["create", "namespace", &namespace]).await?;
    let inner = Scene { stage: scene.stage.clone(), namespace };
    for cloud in Cloud::BOTH {
        inner.create(&mk_balanced(name(cloud), cloud)?).await?;
    }
    let mut services = Vec::new();
    for cloud in Cloud::BOTH {
        services.push((cloud, published::served(&inner, name(cloud), cloud).await?.0));
    }
    let args = ["delete", "namespace", &inner.namespace, "--timeout=90s"];
    cluster.kubectl(&args).await.context("a finalizer stays")?;
    for (cloud, service) in services {
        scene.stage.sites.nothing_of(cloud, &service).await?;
    }
    Ok(())
}
