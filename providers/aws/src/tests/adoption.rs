//! Adoption on the emulator: the AWS Load Balancer Controller's load balancer becomes ours, or is left alone.
//!
//! Owns: what it takes to be adopted, and what becomes of its parts. Leaves to others: the account (`account.py`).
//! Invariant: what is not adopted is, by boto3, as it was.

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Outcome, Owner, Protocol, ProviderError, ReadMode,
    ServiceName,
};

use super::emulator::Emulator;
use super::{mk_listener, mk_load_balancer, mk_options};
use crate::capabilities as key;
use crate::cloud::resources::Id;
use crate::{AwsProvider, Config};

fn mk_owner() -> Owner {
    mk_owner_of("web")
}

fn mk_owner_of(name: &str) -> Owner {
    Owner {
        cluster: "cluster".parse().unwrap(),
        service: "uid".parse().unwrap(),
        name: ServiceName::new("shop", name).unwrap(),
    }
}

fn mk_provider(emulator: &Emulator, cluster_name: Option<&str>) -> AwsProvider {
    let owner = mk_owner();
    let config = Config { cluster_name: cluster_name.map(str::to_owned), ..emulator.config(&owner.cluster) };
    AwsProvider::new(emulator.sdk.clone(), config).unwrap()
}

fn mk_asking(emulator: &Emulator, asked: &str) -> LoadBalancer {
    LoadBalancer {
        options: mk_options(&[(key::ADOPT, asked)]),
        ..mk_load_balancer(mk_owner(), &emulator.instances[..2])
    }
}

/// Until there is nothing to do, each round a new process; the hostname in the end.
async fn drive(
    provider: impl Fn() -> AwsProvider,
    desired: Desired<'_>,
) -> Result<Option<String>, ProviderError> {
    for _ in 0..30 {
        let provider = provider();
        let observed = provider.observe(desired.owner(), ReadMode::Full).await?;
        let plan = provider.plan(desired, observed.as_ref());
        assert!(plan.blocked().is_empty(), "{plan}");
        if plan.steps().is_empty() && plan.waiting().is_none() {
            let Desired::Present(present) = desired else { return Ok(None) };
            let shown = provider.report(present, observed.as_ref()).ingress.pop();
            return Ok(shown.map(|ingress| ingress.address.to_string()));
        }
        for planned in plan.steps() {
            if let Outcome::InProgress { .. } = provider.execute(&planned.step).await? {
                break;
            }
        }
    }
    panic!("it does not converge");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controllers_load_balancer_is_adopted_with_its_hostname_and_deleted_without_a_trace() {
    let Some(emulator) = Emulator::start().await else { return };
    let before = emulator.account("list");
    let made = emulator.account("controllers");
    let mine = |account: &serde_json::Value| account.to_string().matches("shop/web").count();
    assert!(mine(&emulator.account("list")) > 0);
    let desired = mk_asking(&emulator, made["web"]["arn"].as_str().unwrap());
    let provider = || mk_provider(&emulator, Some("blue"));
    let hostname = drive(provider, Desired::Present(&desired)).await.unwrap();
    assert_eq!(hostname.as_deref(), made["web"]["hostname"].as_str(), "clients need not move");

    let message = emulator.account("list").to_string();
    assert!(
        !message.contains("targetgroup/k8s-shop-web"),
        "its target group was replaced and is gone: {message}"
    );
    assert!(message.contains("targetgroup/k8s-shop-other"), "another owner's is not");
    let kept = mk_load_balancer(mk_owner(), &emulator.instances[..2]);
    let hostname = drive(provider, Desired::Present(&kept)).await.unwrap();
    assert_eq!(hostname.as_deref(), made["web"]["hostname"].as_str(), "the annotation may go afterwards");

    drive(provider, Desired::Absent(&desired.owner)).await.unwrap();
    let after = emulator.account("list");
    assert_eq!(mine(&after), 0, "{after}");
    assert!(before.as_object().unwrap().keys().all(|id| after.get(id).is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_made_for_this_service_is_left_alone() {
    let Some(emulator) = Emulator::start().await else { return };
    let made = emulator.account("controllers");
    let before = emulator.account("list");
    let web = made["web"]["name"].as_str().unwrap();
    let cases = [
        (
            Some("blue"),
            made["other"]["name"].as_str().unwrap(),
            "must be \"shop/web\", and it says \"shop/other\"",
        ),
        (Some("green"), web, "must be \"green\", and it says \"blue\""),
        (Some("blue"), "p-contr-created-0", "is of contract/created"),
        (Some("blue"), "nobodys", "there is no load balancer nobodys"),
        (None, web, "set --aws-cluster-name"),
    ];
    for (cluster, asked, expected) in cases {
        let desired = mk_asking(&emulator, asked);
        let refused =
            drive(|| mk_provider(&emulator, cluster), Desired::Present(&desired)).await.unwrap_err();
        let message = refused.to_string();
        assert!(message.contains(expected), "{asked}: {message}");
    }
    assert_eq!(emulator.account("list"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_changes_nothing_that_nobody_asked_for() {
    let Some(emulator) = Emulator::start().await else { return };
    let made = emulator.account("controllers");
    let arn = Id(made["tls"]["arn"].as_str().unwrap().to_owned());
    let read = async || {
        let balancer = emulator.sdk.load_balancers(std::slice::from_ref(&arn)).await.unwrap().remove(0);
        let listener = emulator.sdk.listeners(&arn).await.unwrap().remove(0);
        let group = listener.group.clone().unwrap();
        let health = emulator.sdk.target_groups(std::slice::from_ref(&group)).await.unwrap().remove(0).health;
        let attributes = [
            emulator.sdk.load_balancer_attributes(&arn).await.unwrap().unwrap(),
            emulator.sdk.target_group_attributes(&group).await.unwrap().unwrap(),
            emulator.sdk.listener_attributes(&listener.id).await.unwrap(),
        ];
        (listener.spec, health, attributes, balancer.security_groups, group)
    };
    let before = read().await;
    let mut desired = LoadBalancer {
        owner: mk_owner_of("tls"),
        listeners: [mk_listener(Protocol::Tcp, 443)].into(),
        options: mk_options(&[
            (key::ADOPT, &arn.0),
            (key::CERTIFICATE, "arn:aws:iam::123456789012:server-certificate/blue"),
        ]),
        ..mk_asking(&emulator, "")
    };
    let provider = || mk_provider(&emulator, Some("blue"));
    drive(provider, Desired::Present(&desired)).await.unwrap();
    let after = read().await;
    assert_eq!(after.0, before.0, "its TLS policy");
    assert_eq!(after.1, before.1, "its health check");
    assert_eq!(after.2, before.2, "attributes of it, its target group and its listener");
    assert!(after.4 != before.4, "its targets are ours from now on");
    let kept = before.3.intersection(&after.3).count();
    assert_eq!((kept, after.3.len()), (1, 2), "the shared group, which nodes let in, and one of ours");

    // What the Service asks for then is done.
    desired.options = mk_options(&[
        (key::ADOPT, &arn.0),
        (key::CERTIFICATE, "arn:aws:iam::123456789012:server-certificate/blue"),
        (key::TLS_POLICY, "ELBSecurityPolicy-TLS13-1-2-2021-06"),
        (key::CHECK_PATH, "/ready"),
        (key::CHECK_PROTOCOL, "HTTP"),
        (key::CROSS_ZONE, "false"),
    ]);
    drive(provider, Desired::Present(&desired)).await.unwrap();
    let asked = read().await;
    assert_eq!(asked.0.tls.unwrap().policy, "ELBSecurityPolicy-TLS13-1-2-2021-06");
    assert_eq!(asked.1.path.as_deref(), Some("/ready"));
    assert_eq!(asked.2[0]["load_balancing.cross_zone.enabled"], "false");
    assert_eq!(asked.2[1], after.2[1], "the rest stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_splits_its_traffic_is_left_as_it_is() {
    let Some(emulator) = Emulator::start().await else { return };
    let made = emulator.account("controllers");
    let name = made["web"]["name"].as_str().unwrap();
    emulator.run(&["split", name]);
    let before = emulator.account("list");
    let desired = mk_asking(&emulator, name);
    let refused =
        drive(|| mk_provider(&emulator, Some("blue")), Desired::Present(&desired)).await.unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("listener 80") && message.contains("splits its traffic"), "{message}");
    assert_eq!(emulator.account("list"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_load_balancer_that_lost_its_tags_is_restored_as_adopted() {
    let Some(emulator) = Emulator::start().await else { return };
    let made = emulator.account("controllers");
    let arn = Id(made["web"]["arn"].as_str().unwrap().to_owned());
    let adopting = mk_asking(&emulator, &arn.0);
    let kept = mk_load_balancer(mk_owner(), &emulator.instances[..2]);
    let attributes = async || emulator.sdk.load_balancer_attributes(&arn).await.unwrap().unwrap();
    let before = attributes().await;
    let is_adopted = || {
        let all = emulator.account("list");
        all[&arn.0].to_string().contains("portico.dev/adopted")
            && all[&arn.0].to_string().contains("listener-extras")
    };
    let provider = || mk_provider(&emulator, Some("blue"));
    drive(provider, Desired::Present(&adopting)).await.unwrap();
    assert!(is_adopted());

    emulator.untag([&arn], "portico.dev/");
    let hostname = drive(provider, Desired::Present(&kept)).await.unwrap();
    assert_eq!(hostname.as_deref(), made["web"]["hostname"].as_str(), "it is the same one");
    assert!(is_adopted(), "{}", emulator.account("list"));
    assert_eq!(attributes().await, before, "what nobody asks for stays");

    emulator.untag([&arn], "portico.dev/");
    let other = [("portico.dev/cluster-uid".to_owned(), "another".to_owned())].into();
    emulator.sdk.add_tags(std::slice::from_ref(&arn), &other).await.unwrap();
    let refused = drive(provider, Desired::Present(&kept)).await.unwrap_err().to_string();
    assert!(refused.contains("its tag portico.dev/cluster-uid says \"another\""), "{refused}");

    // Where the cluster's name proves nothing, somebody can paste what is missing.
    emulator.untag([&arn], "portico.dev/");
    let refused = drive(|| mk_provider(&emulator, Some("green")), Desired::Present(&kept))
        .await
        .unwrap_err()
        .to_string();
    for part in ["Key=portico.dev/adopted,Value=true", "Key=portico.dev/listener-extras,Value=compared"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(!is_adopted());
    drive(provider, Desired::Absent(&kept.owner)).await.unwrap();
    assert!(emulator.account("list").get(&arn.0).is_none(), "and it is deleted");
}
