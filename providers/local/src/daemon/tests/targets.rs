//! Targets by themselves.

use portico_provider::{Backends, TargetKind};

use super::*;

fn mk_pod(address: &str, listeners: &BTreeSet<Listener>) -> PodTarget {
    PodTarget {
        address: address.parse().unwrap(),
        ports: listeners.iter().map(|listener| (listener.key(), mk_port(80))).collect(),
        node: None,
        zone: None,
    }
}

async fn retarget(provider: &LocalProvider, backends: &Backends, seen: &View) -> View {
    let plan = provider.plan_targets(backends, seen);
    for planned in plan.steps() {
        provider.execute(&planned.step).await.unwrap();
    }
    provider.observe(&backends.owner, ReadMode::Full).await.unwrap().unwrap()
}

/// The first fault of the list: pods are replaced while an annotation is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pods_follow_although_the_service_is_refused() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.209.0.0/24", &[]).await.unwrap();
    let mut desired = mk_load_balancer(mk_owner("c", "refused"));
    desired.targets = Targets::Pods([mk_pod("127.201.0.7", &desired.listeners)].into());
    let provider = daemon.provider(&desired.owner.cluster);
    create(&provider, &desired).await;
    desired.scheme = Scheme::Internal;
    desired.targets = Targets::Pods([mk_pod("127.201.0.8", &desired.listeners)].into());
    let seen = view(&provider, &desired).await;
    assert!(provider.plan(Desired::Present(&desired), Some(&seen)).steps().is_empty());
    let before = seen.spec.clone();
    let seen = retarget(&provider, &desired.backends(), &seen).await;
    let expected: SocketAddr = "127.201.0.8:80".parse().unwrap();
    assert!(seen.spec.listeners.values().all(|targets| *targets == [expected].into()), "{:?}", seen.spec);
    assert_eq!(crate::api::Spec { listeners: before.listeners.clone(), ..seen.spec.clone() }, before);
    assert!(provider.plan_targets(&desired.backends(), &seen).steps().is_empty());
    daemon.end().await;
}

/// A state of the time before the kind was kept.
#[test]
fn a_kind_that_nobody_said_is_that_of_what_is_there() {
    let desired = mk_load_balancer(mk_owner("c", "s"));
    let pods = [mk_pod("127.201.0.7", &desired.listeners)].into();
    let backends = Backends { pods, ..desired.backends() };
    let config = Config {
        endpoint: "http://192.0.2.1".into(),
        token: TOKEN.into(),
        cluster: desired.owner.cluster.clone(),
    };
    drop(rustls::crypto::ring::default_provider().install_default());
    let provider = LocalProvider::new(config).unwrap();
    for (target, expected) in [("127.201.0.1:30080", TargetKind::Node), ("127.201.0.9:80", TargetKind::Pod)] {
        let crate::Step::Put { owner, put } =
            provider.plan(Desired::Present(&desired), None).steps()[0].step.clone()
        else {
            panic!("not a PUT");
        };
        let mut spec = put.spec;
        spec.target_kind = None;
        for targets in spec.listeners.values_mut() {
            *targets = [target.parse().unwrap()].into();
        }
        let seen = View {
            owner,
            spec,
            state: crate::api::State::Active,
            addresses: BTreeSet::new(),
            retained: BTreeSet::new(),
            listener_errors: std::collections::BTreeMap::new(),
            healthy_targets: BTreeSet::new(),
            unknown_targets: BTreeSet::new(),
        };
        let ips: BTreeSet<IpAddr> = match &provider.plan_targets(&backends, &seen).steps()[0].step {
            crate::Step::PutTargets { targets, .. } => {
                targets.values().flatten().map(SocketAddr::ip).collect()
            }
            step => panic!("{step}"),
        };
        let wanted = match expected {
            TargetKind::Node => "127.201.0.1",
            TargetKind::Pod => "127.201.0.7",
        };
        assert_eq!(ips, [wanted.parse().unwrap()].into());
    }
}
