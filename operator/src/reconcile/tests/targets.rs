//! Targets of what serves follow nodes and pods, whatever else of their Service is refused, waits or fails.

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portico_provider::{Port, Targets};

use super::super::*;
use super::fixture::*;
use crate::cache::store::Change;
use crate::testing::{Refused, mk_node, mk_pod, mk_service, mk_slice, with};

type Break = (&'static str, fn(&Fixture, Service) -> Service);

fn annotated(mut service: Service, key: &str, value: &str) -> Service {
    let annotations = service.metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value.to_owned());
    service
}

/// Everything that keeps a changed Service from being provided.
const BREAKS: [Break; 12] = [
    ("a value that does not parse", |_, it| annotated(it, "portico.dev/scheme", "sideways")),
    ("a kind of targets that there is not", |_, it| annotated(it, "portico.dev/target-kind", "vm")),
    ("a group of another namespace", |_, it| annotated(it, "portico.dev/group", "other/edge")),
    ("an option that the provider refuses", |fixture, it| {
        fixture.cloud.with(|cloud| cloud.refused = Some(Refused::Updates));
        annotated(it, "portico.dev/test-option", "nonsense")
    }),
    ("a source range that is none", |_, it| {
        with(it, |spec| spec.load_balancer_source_ranges = Some(vec!["everywhere".to_owned()]))
    }),
    ("an address that is none", |_, it| with(it, |spec| spec.load_balancer_ip = Some("here".to_owned()))),
    ("an affinity that is none", |_, it| {
        with(it, |spec| spec.session_affinity = Some("Sometimes".to_owned()))
    }),
    ("a family that is none", |_, it| {
        with(it, |spec| spec.ip_families.get_or_insert_default().push("IPX".to_owned()))
    }),
    ("a new port without its node port yet", |_, it| {
        let port = ServicePort { port: 81, name: Some("more".to_owned()), ..ServicePort::default() };
        with(it, |spec| spec.ports.get_or_insert_default().push(port))
    }),
    ("an update that fails for ever", |fixture, it| {
        fixture.cloud.with(|cloud| cloud.refused = Some(Refused::Updates));
        with(it, |spec| spec.load_balancer_source_ranges = Some(vec!["10.0.0.0/8".to_owned()]))
    }),
    ("another class, while deletion is refused", |fixture, it| {
        fixture.cloud.with(|cloud| cloud.refused = Some(Refused::Deletions));
        with(it, |spec| spec.load_balancer_class = Some("other/class".to_owned()))
    }),
    ("another type, while deletion is refused", |fixture, it| {
        fixture.cloud.with(|cloud| cloud.refused = Some(Refused::Deletions));
        with(it, |spec| spec.type_ = Some("NodePort".to_owned()))
    }),
];

/// Machines or addresses with the ports behind `web`, as the cloud has them.
fn registered(fixture: &Fixture) -> Vec<String> {
    fixture.cloud.with(|cloud| {
        let (spec, _) = cloud.existing.values().find(|(spec, _)| spec.owner.name.name() == "web").unwrap();
        let node_port = spec.listeners.first().and_then(|listener| listener.node_port).map(Port::get);
        match &spec.targets {
            Targets::Nodes(nodes) => {
                nodes.iter().map(|node| format!("{}:{node_port:?}", node.name)).collect()
            }
            Targets::Pods(pods) => pods.iter().map(|pod| pod.address.to_string()).collect(),
        }
    })
}

fn slice(running: &Running, slice: EndpointSlice) {
    running.router.take(Change::Put(slice), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nodes_reach_what_serves_whatever_keeps_the_rest_back() {
    for (what, breaks) in BREAKS {
        let fixture = Fixture::new();
        let running = fixture.start().await;
        running.node(mk_node("a", "10.0.0.1", true));
        fixture.cluster.apply(mk_service("web"));
        settle().await;
        assert_eq!(registered(&fixture), ["a:Some(30080)"], "{what}");
        let broken = breaks(&fixture, mk_service("web"));
        fixture.cluster.apply(broken);
        settle().await;
        running.node(mk_node("b", "10.0.0.2", true));
        running.node_gone(&mk_node("a", "10.0.0.1", true));
        settle().await;
        assert_eq!(registered(&fixture), ["b:Some(30080)"], "{what}");
        let reported = fixture.reasons("web").len();
        settle().await;
        assert_eq!(fixture.reasons("web").len(), reported, "{what}: told once");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_reach_what_serves_whatever_keeps_the_rest_back() {
    let pods = |service| annotated(service, "portico.dev/target-kind", "pod");
    for (what, breaks) in BREAKS {
        let fixture = Fixture::new();
        let running = fixture.start().await;
        for address in ["10.1.0.1", "10.1.0.2"] {
            running
                .router
                .take(Change::Put(mk_pod("default", address, &[address], "Running")), Duration::ZERO);
        }
        slice(&running, mk_slice("web", "web-1", &[("10.1.0.1", "a", true)]));
        fixture.cluster.apply(pods(mk_service("web")));
        settle().await;
        assert_eq!(registered(&fixture), ["10.1.0.1"], "{what}");
        let broken = breaks(&fixture, pods(mk_service("web")));
        fixture.cluster.apply(broken);
        settle().await;
        slice(&running, mk_slice("web", "web-1", &[("10.1.0.2", "a", true)]));
        settle().await;
        assert_eq!(registered(&fixture), ["10.1.0.2"], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_a_refused_service_still_brings_targets() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    running.node(mk_node("a", "10.0.0.1", true));
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cluster.apply(annotated(mk_service("web"), "portico.dev/scheme", "sideways"));
    settle().await;
    drop(running);
    fixture.cluster.remove_node("a");
    let running = fixture.start().await;
    running.node(mk_node("b", "10.0.0.2", true));
    settle().await;
    assert_eq!(registered(&fixture), ["b:Some(30080)"]);
    assert_eq!(fixture.addresses("web"), ["192.0.2.1"], "and clients keep their address");
}

#[tokio::test(start_paused = true)]
async fn targets_that_fail_hold_nothing_else_back_and_are_reported() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    running.node(mk_node("a", "10.0.0.1", true));
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    fixture.cloud.with(|cloud| cloud.refused = Some(Refused::Targets));
    fixture.cluster.apply(with(mk_service("web"), |spec| {
        spec.load_balancer_source_ranges = Some(vec!["10.0.0.0/8".to_owned()]);
    }));
    running.node(mk_node("b", "10.0.0.2", true));
    settle().await;
    let ranges = fixture.cloud.with(|cloud| cloud.existing.values().next().unwrap().0.source_ranges.len());
    assert_eq!(ranges, 1, "a restriction does not wait for targets");
}
