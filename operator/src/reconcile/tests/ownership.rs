//! Services of this operator, of others, and load balancers that no Service claims.

use super::super::*;
use super::fixture::*;
use crate::cache::service::ClassRule;
use crate::metrics::Metrics;
use std::collections::BTreeMap;

use crate::testing::{mk_service, with};

#[tokio::test(start_paused = true)]
async fn another_controllers_class_is_not_touched() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    let foreign = with(mk_service("web"), |spec| spec.load_balancer_class = Some("other/nlb".to_owned()));
    fixture.cluster.apply(foreign);
    settle().await;
    assert_eq!(fixture.costs(), (1, 0, 0));
    assert!(fixture.reasons("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_another_portico_operator_holds_is_left_to_it() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    for type_ in ["LoadBalancer", "NodePort"] {
        let mut theirs = typed(type_, type_);
        theirs.metadata.finalizers = Some(vec![service::FINALIZER.to_owned()]);
        let held_by = (service::HELD_BY.to_owned(), "portico.dev/other".to_owned());
        theirs.metadata.annotations = Some(BTreeMap::from([held_by]));
        theirs.spec.as_mut().unwrap().load_balancer_class = Some("portico.dev/other".to_owned());
        fixture.cluster.apply(theirs);
        settle().await;
        fixture.cluster.delete(type_);
        settle().await;
        assert!(fixture.cluster.get(type_).is_some(), "only its holder lets it go");
    }
    assert_eq!(fixture.costs(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_became_ours_is_provided_when_its_former_operator_has_let_go() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    let mut moved = mk_service("web");
    moved.metadata.finalizers = Some(vec![service::FINALIZER.to_owned()]);
    let held_by = (service::HELD_BY.to_owned(), "portico.dev/other".to_owned());
    moved.metadata.annotations = Some(BTreeMap::from([held_by]));
    for _ in 0..2 {
        fixture.cluster.apply(moved.clone());
        settle().await;
    }
    assert!(
        fixture.existing().is_empty() && fixture.conditions("web").is_empty(),
        "the other still holds it"
    );
    assert_eq!(fixture.reasons("web"), ["WaitingForRelease"], "said once");
    // The fake keeps the annotation on apply, as a user's kubectl does; the other operator takes both off.
    let seen = fixture.cluster.get("web").unwrap();
    Cluster::set_finalizer(&fixture.cluster, &seen, None).await.unwrap();
    settle().await;
    assert_eq!(fixture.existing().len(), 1);
    assert_eq!(fixture.conditions("web")["LoadBalancerProvisioned"], "True/Provisioned");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_no_longer_ours_is_released_to_whose_it_is() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture
        .cluster
        .apply(with(mk_service("web"), |spec| spec.load_balancer_class = Some("other/nlb".to_owned())));
    settle().await;
    let service = fixture.cluster.get("web").unwrap();
    assert!(fixture.existing().is_empty() && !service::has_finalizer(&service));
    assert!(service::ingress(&service).is_empty() && fixture.conditions("web").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_force_deleted_service_left_is_collected_and_nothing_else() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("kept"));
    fixture.cluster.apply(mk_service("lost"));
    settle().await;
    fixture.cluster.delete_by_force("lost");
    settle().await;
    let mut collector = running.collector(MANY);
    collector.collect_once().await;
    settle().await;
    assert_eq!(fixture.existing().len(), 2, "one look is not enough");
    collector.collect_once().await;
    settle().await;
    assert_eq!(fixture.existing(), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_made_again_under_its_name_gets_its_own() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cluster.delete("web");
    settle().await;
    let mut again = mk_service("web");
    again.metadata.uid = Some("uid-other".to_owned());
    fixture.cluster.apply(again);
    settle().await;
    let owners = fixture.cloud.with(|cloud| {
        cloud.existing.values().map(|(spec, _)| spec.owner.service.to_string()).collect::<Vec<_>>()
    });
    assert_eq!(owners, ["uid-other"]);
    assert_eq!(fixture.addresses("web"), ["192.0.2.2"]);
}

#[tokio::test(start_paused = true)]
async fn what_another_portico_operator_of_this_cluster_holds_is_claimed_and_not_collected() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("theirs"));
    settle().await;
    // The same account, the same cluster, another class: each sees what both own.
    let mut service = fixture.cluster.get("theirs").unwrap();
    service.spec.as_mut().unwrap().load_balancer_class = Some("portico.dev/other".to_owned());
    let held_by = (service::HELD_BY.to_owned(), "portico.dev/other".to_owned());
    service.metadata.annotations = Some(BTreeMap::from([held_by]));
    service.metadata.managed_fields = None;
    fixture.cluster.with(|cluster| cluster.put(service));
    let mut collector = running.collector(MANY);
    for _ in 0..4 {
        collector.collect_once().await;
        settle().await;
    }
    assert_eq!(fixture.existing(), ["theirs"]);
    assert!(running.metric("orphans").is_empty());
}

/// A fixture of an operator of another class, in the same cluster, of another account.
fn beside(fixture: &Fixture, class: &str) -> Fixture {
    let mut other = Fixture { cluster: fixture.cluster.clone(), ..Fixture::new() };
    other.settings.scope.classes = ClassRule::one(class, false);
    other
}

/// Service "web" with a load balancer of another operator, which has ended.
async fn made_by_another(fixture: &Fixture) {
    let other = beside(fixture, "portico.dev/other");
    let _ends_here = other.start().await;
    fixture.cluster.apply(with(mk_service("web"), |spec| {
        spec.load_balancer_class = Some("portico.dev/other".to_owned());
    }));
    settle().await;
    assert_eq!(other.existing(), ["web"]);
}

/// Classes that a user may write there: none, one that does not exist, the other's, its own.
const SAID: [Option<&str>; 4] = [None, Some("foo"), Some("portico.dev/other"), Some("portico.dev/fake")];

#[tokio::test(start_paused = true)]
async fn an_operator_whose_class_it_is_not_writes_nothing_whatever_annotations_say() {
    for said in SAID {
        let fixture = Fixture::new();
        let first = fixture.start().await;
        fixture.cluster.apply(mk_service("web"));
        settle().await;
        drop(first);
        let other = beside(&fixture, "portico.dev/other");
        let _second = other.start().await;
        fixture.cluster.annotate_by_hand("web", service::HELD_BY, said);
        let before = (fixture.cluster.get("web").unwrap(), fixture.costs().2);
        settle().await;
        fixture.cluster.delete("web");
        settle().await;
        let mut after = fixture.cluster.get("web").unwrap();
        assert_eq!(fixture.costs().2, before.1, "{said:?}");
        after.metadata.deletion_timestamp = None;
        after.metadata.resource_version.clone_from(&before.0.metadata.resource_version);
        assert_eq!(after, before.0, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_annotation_keeps_the_operator_whose_service_it_is_from_it() {
    for said in SAID {
        let fixture = Fixture::new();
        let _running = fixture.start().await;
        fixture.cluster.apply(mk_service("web"));
        settle().await;
        fixture.cluster.annotate_by_hand("web", service::HELD_BY, said);
        fixture.cluster.apply(with(mk_service("web"), |spec| spec.ports.as_mut().unwrap()[0].port = 81));
        settle().await;
        let ports: Vec<u16> = fixture.cloud.with(|cloud| {
            let listeners = cloud.existing.values().flat_map(|(spec, _)| &spec.listeners);
            listeners.map(|listener| listener.port.get()).collect()
        });
        assert_eq!(ports, [81], "{said:?}");
        fixture.cluster.annotate_by_hand("web", service::HELD_BY, said);
        fixture.cluster.delete("web");
        settle().await;
        assert!(fixture.cluster.get("web").is_none() && fixture.existing().is_empty(), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_another_operator_holds_for_ever_says_so_and_what_to_do_and_ends_then() {
    let fixture = Fixture::new();
    made_by_another(&fixture).await;
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    fixture.cluster.delete("web");
    settle().await;
    let service = fixture.cluster.get("web").unwrap();
    assert!(service::waits_for_release(&service).is_some(), "{:?}", service.status);
    assert_eq!(
        fixture.conditions("web")["LoadBalancerProvisioned"],
        "True/Provisioned",
        "the other's word stays"
    );
    assert_eq!(fixture.reasons("web").iter().filter(|reason| *reason == "WaitingForRelease").count(), 1);
    fixture.cluster.annotate_by_hand("web", service::HELD_BY, None);
    settle().await;
    assert!(fixture.cluster.get("web").is_none(), "as it says");
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_over_is_held_by_its_new_operator_whatever_is_written_there_then() {
    let fixture = Fixture::new();
    made_by_another(&fixture).await;
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert!(fixture.existing().is_empty());
    fixture.cluster.annotate_by_hand("web", service::HELD_BY, None);
    settle().await;
    assert_eq!(fixture.existing(), ["web"]);
    assert!(service::waits_for_release(&fixture.cluster.get("web").unwrap()).is_none());
    fixture.cluster.annotate_by_hand("web", service::HELD_BY, Some("foo"));
    settle().await;
    let annotations = fixture.cluster.get("web").unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations[service::HELD_BY], "portico.dev/fake");
}

type Sign = (&'static str, fn(&mut Service));

/// Signs of another controller on a Service without a class.
const SIGNS: [Sign; 4] = [
    ("the cloud controller manager's finalizer", |it| {
        it.metadata.finalizers = Some(vec!["service.kubernetes.io/load-balancer-cleanup".to_owned()]);
    }),
    ("the AWS Load Balancer Controller's", |it| {
        it.metadata.finalizers = Some(vec!["service.k8s.aws/resources".to_owned()]);
    }),
    ("an address", |it| publish(it, Some("198.51.100.7"), None)),
    ("a host name", |it| publish(it, None, Some("theirs.example"))),
];

fn publish(service: &mut Service, ip: Option<&str>, hostname: Option<&str>) {
    use k8s_openapi::api::core::v1::LoadBalancerIngress;
    let entry = LoadBalancerIngress {
        ip: ip.map(str::to_owned),
        hostname: hostname.map(str::to_owned),
        ..LoadBalancerIngress::default()
    };
    let status = service.status.get_or_insert_default();
    status.load_balancer.get_or_insert_default().ingress = Some(vec![entry]);
}

#[tokio::test(start_paused = true)]
async fn a_service_of_another_controller_is_left_to_it_until_it_is_annotated() {
    for (what, sign) in SIGNS {
        for (how, says) in [
            ("annotation", Some(("portico.dev/take-over", "true"))),
            ("adoption", Some(("portico.dev/adopt", "theirs"))),
            ("release", None),
        ] {
            let fixture = Fixture::new();
            let running = fixture.start().await;
            let mut theirs = mk_service("web");
            sign(&mut theirs);
            fixture.cluster.with(|cluster| cluster.put(theirs.clone()));
            settle().await;
            drop(running);
            let _running = fixture.start().await;
            settle().await;
            let left = fixture.cluster.get("web").unwrap();
            assert!(fixture.existing().is_empty(), "{what}");
            assert_eq!(left.metadata.finalizers, theirs.metadata.finalizers, "{what}");
            assert_eq!(service::ingress(&left), service::ingress(&theirs), "{what}");
            assert!(fixture.conditions("web").is_empty(), "{what}");
            assert_eq!(service::waits_for_release(&left).unwrap().reason, "ServedByAnother", "{what}");
            assert_eq!(fixture.reasons("web"), ["ServedByAnother"], "{what}: said once");
            let message = service::waits_for_release(&left).unwrap().message.clone();
            assert!(message.contains("portico.dev/take-over: \"true\""), "{message}");
            let mut asked = left;
            if let Some((key, value)) = says {
                let annotations = asked.metadata.annotations.get_or_insert_default();
                annotations.insert(key.to_owned(), value.to_owned());
            } else {
                asked.metadata.finalizers = None;
                asked.status.get_or_insert_default().load_balancer = None;
            }
            fixture.cluster.with(|cluster| cluster.put(asked));
            settle().await;
            assert_eq!(fixture.existing(), ["web"], "{what}, {how}");
            assert!(
                service::waits_for_release(&fixture.cluster.get("web").unwrap()).is_none(),
                "{what}, {how}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_names_our_class_is_served_and_what_we_made_is_never_taken_for_anothers() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let mut named =
        with(mk_service("named"), |spec| spec.load_balancer_class = Some("portico.dev/fake".to_owned()));
    publish(&mut named, Some("198.51.100.7"), None);
    fixture.cluster.with(|cluster| cluster.put(named));
    fixture.cluster.apply(mk_service("ours"));
    settle().await;
    assert_eq!(fixture.existing().len(), 2);
    drop(running);
    // A script takes off our finalizer and all conditions; the address stays, and so does the load balancer.
    let mut stripped = fixture.cluster.get("ours").unwrap();
    stripped.metadata.finalizers = None;
    stripped.status.as_mut().unwrap().conditions = None;
    fixture.cluster.with(|cluster| cluster.put(stripped));
    let _running = fixture.start().await;
    settle().await;
    assert_eq!(fixture.existing().len(), 2);
    assert_eq!(fixture.conditions("ours")["LoadBalancerProvisioned"], "True/Provisioned");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_no_longer_the_default_keeps_what_it_made_and_makes_nothing_new() {
    let mut fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("old"));
    settle().await;
    drop(running);
    fixture.settings.scope.classes.default = false;
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("new"));
    settle().await;
    assert_eq!(fixture.existing(), ["old"]);
    assert!(fixture.conditions("new").is_empty());
    let plans = plan::known(&running.reconciler);
    assert!(plans.iter().all(|plan| !plan.to_string().contains("delete")), "{plans:?}");
    fixture.cluster.delete("old");
    settle().await;
    assert!(fixture.existing().is_empty() && fixture.cluster.get("old").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_makes_nothing_holds_nothing_and_its_successor_begins_at_once() {
    use portico_provider_bare_metal::{BareMetalProvider, Config};
    let fixture = Fixture::new();
    let held = |name: &str| {
        let mut service = mk_service(name);
        service.metadata.finalizers = Some(vec![service::FINALIZER.to_owned()]);
        let held_by = (service::HELD_BY.to_owned(), service::MAKES_NOTHING.to_owned());
        service.metadata.annotations = Some(BTreeMap::from([held_by]));
        service
    };
    for name in ["old", "later", "gone"] {
        fixture.cluster.with(|cluster| cluster.put(held(name)));
    }
    fixture.cluster.apply(mk_service("new"));
    let (keeper, fence) = crate::process::fence::fence();
    keeper.open(Instant::now() + Duration::from_secs(1_000_000));
    let (cache, queue, router) = fixture.cluster.watch();
    let node = crate::testing::mk_node("a", "10.0.0.1", true);
    router.take(crate::cache::store::Change::Put(node), Duration::ZERO);
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let provider = BareMetalProvider::new(Config { publish_node_addresses: false });
    let parts = Parts { provider, api: fixture.cluster.clone(), cache, queue, fence, metrics };
    let classes = ClassRule::one(service::MAKES_NOTHING, true);
    let mut settings = fixture.settings.clone();
    settings.scope.classes = classes;
    let reconciler = Reconciler::new(parts, settings);
    assert!(reconciler.provisioner.list().await);
    for name in ["new", "old", "new", "old"] {
        let key = ServiceKey { namespace: "default".to_owned(), name: name.to_owned() };
        reconciler.reconcile(&key).await.unwrap();
        settle().await;
        let service = fixture.cluster.get(name).unwrap();
        assert!(!service::has_finalizer(&service), "{name}");
        assert!(service.metadata.annotations.unwrap_or_default().is_empty(), "{name}");
        assert!(fixture.conditions(name)["LoadBalancerProvisioned"].ends_with("NodePortOnly"), "{name}");
    }
    drop(reconciler);
    // Another provider by the same chart: both what was held for nothing and what was not is taken up.
    let _running = fixture.start().await;
    fixture.cluster.delete("gone");
    settle().await;
    assert!(fixture.cluster.get("gone").is_none(), "nothing keeps it");
    assert_eq!(fixture.existing().len(), 3);
    for name in ["new", "old", "later"] {
        assert_eq!(fixture.conditions(name)["LoadBalancerProvisioned"], "True/Provisioned", "{name}");
        let annotations = fixture.cluster.get(name).unwrap().metadata.annotations.unwrap();
        assert_eq!(annotations[service::HELD_BY], "portico.dev/fake", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_no_target_is_called_healthy() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let slice = |ready| crate::testing::mk_slice("web", "web-1", &[("10.1.0.1", "a", ready)]);
    running.router.take(crate::cache::store::Change::Put(slice(false)), Duration::ZERO);
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(fixture.conditions("web")["TargetsHealthy"], "False/NoEndpoints");
    running.router.take(crate::cache::store::Change::Put(slice(true)), Duration::ZERO);
    settle().await;
    assert_eq!(fixture.conditions("web")["TargetsHealthy"], "True/Checked");
}
