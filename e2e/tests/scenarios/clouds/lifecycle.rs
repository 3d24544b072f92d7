//! A Service's way up and down, from class to class, and its end, on both clouds at once.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::{Cloud, Targets},
    scenario::{
        objects::{Workload, mk_service},
        traffic::By,
    },
};
use serde_json::json;

use super::{Fixture, Scenario, balanced, mk_balanced, published, setup::PATIENCE};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("each class gets a load balancer of its cloud, with the nodes of that cloud", |s| {
            Box::pin(each_its_own(s))
        }),
        Scenario::new("a service goes up to LoadBalancer and back on both clouds", |s| {
            Box::pin(up_and_down(s))
        }),
        Scenario::new("a service changes its class and the old cloud releases it", |s| {
            Box::pin(changes_class(s))
        }),
        Scenario::new("a namespace with load balancers of both clouds is deleted", |s| {
            Box::pin(namespace_deleted(s))
        }),
    ]
}

async fn each_its_own(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.deploy(&Workload::web("web").replicas(2)).await?;
    for cloud in Cloud::BOTH {
        fixture.create(&mk_balanced(cloud.as_str(), cloud)?).await?;
    }
    for cloud in Cloud::BOTH {
        let (_, address) = published::served(fixture, cloud.as_str(), cloud).await?;
        let nodes: [u8; 2] = if cloud == Cloud::Aws { [1, 3] } else { [2, 4] };
        let wanted = nodes.map(|number| fixture.shared.sites.target(number));
        let wanted = wanted.into_iter().collect::<anyhow::Result<_>>()?;
        let service = format!("{}/{}", fixture.namespace, cloud.as_str());
        fixture
            .eventually("the cloud's own nodes are the targets", async || {
                let targets = Targets::replay(&fixture.shared.sites.proxy(cloud).log(), &service)?;
                let now = targets.now();
                ensure!(now == wanted, "{now:?} instead of {wanted:?}");
                Ok(())
            })
            .await?;
        if cloud == Cloud::Gce {
            // The nodes themselves serve Google's address: from them and from pods, no cloud is needed.
            let to: SocketAddr = format!("{address}:80").parse().context("the address in the status")?;
            fixture.answered(&fixture.insiders(), By::Http, to).await?;
        }
    }
    Ok(())
}

async fn up_and_down(fixture: &Fixture) -> anyhow::Result<()> {
    let ports = json!([{"name": "http", "port": 80}]);
    for cloud in Cloud::BOTH {
        fixture.create(&mk_service(cloud.as_str(), json!({"type": "ClusterIP", "ports": ports}))?).await?;
        let _up: Service = fixture.patch(cloud.as_str(), &json!({"spec": {"type": "NodePort"}})).await?;
        let _up: Service = fixture.patch(cloud.as_str(), &json!({"spec": balanced(cloud)})).await?;
    }
    for cloud in Cloud::BOTH {
        published::served(fixture, cloud.as_str(), cloud).await?;
        let down = json!({"spec": {"type": "NodePort", "loadBalancerClass": null}});
        let _down: Service = fixture.patch(cloud.as_str(), &down).await?;
    }
    for cloud in Cloud::BOTH {
        published::released(fixture, cloud.as_str(), cloud).await?;
        let _down: Service = fixture.patch(cloud.as_str(), &json!({"spec": {"type": "ClusterIP"}})).await?;
        let _up: Service = fixture.patch(cloud.as_str(), &json!({"spec": balanced(cloud)})).await?;
    }
    for cloud in Cloud::BOTH {
        let (service, _) = published::served(fixture, cloud.as_str(), cloud).await?;
        fixture.delete::<Service>(cloud.as_str()).await?;
        published::gone(fixture, &service, cloud).await?;
    }
    Ok(())
}

/// The API server lets a class change only by way of another type; that takes a moment, and no operator may be confused.
async fn changes_class(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.create(&mk_balanced("web", Cloud::Aws)?).await?;
    let (old, _) = published::served(fixture, "web", Cloud::Aws).await?;
    for (from, to) in [(Cloud::Aws, Cloud::Gce), (Cloud::Gce, Cloud::Aws)] {
        let down = json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}});
        let _between: Service = fixture.patch("web", &down).await?;
        let _other: Service = fixture.patch("web", &json!({"spec": balanced(to)})).await?;
        published::served(fixture, "web", to).await?;
        fixture
            .within(PATIENCE, "the other cloud releases it", async || {
                fixture.shared.sites.nothing_of(from, &old).await
            })
            .await?;
    }
    fixture.delete::<Service>("web").await?;
    published::gone(fixture, &old, Cloud::Aws).await
}

async fn namespace_deleted(fixture: &Fixture) -> anyhow::Result<()> {
    let namespace = format!("{}-inner", fixture.namespace);
    let cluster = &fixture.shared.cluster;
    cluster.kubectl(&["create", "namespace", &namespace]).await?;
    let inner = Fixture { shared: fixture.shared.clone(), namespace };
    for cloud in Cloud::BOTH {
        inner.create(&mk_balanced(cloud.as_str(), cloud)?).await?;
    }
    let mut services = Vec::new();
    for cloud in Cloud::BOTH {
        services.push((cloud, published::served(&inner, cloud.as_str(), cloud).await?.0));
    }
    let args = ["delete", "namespace", &inner.namespace, "--timeout=90s"];
    cluster.kubectl(&args).await.context("a finalizer stays")?;
    for (cloud, service) in services {
        fixture.shared.sites.nothing_of(cloud, &service).await?;
    }
    Ok(())
}
