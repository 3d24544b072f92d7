//! Which nodes and pods are chosen.

use k8s_openapi::api::core::v1::{NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::testing::{mk_node, mk_slice};

fn states(nodes: &[Node]) -> Vec<NodeTarget> {
    nodes.iter().filter_map(|node| NodeState::of(node).map(|(_, state)| state.target)).collect()
}

pub(in crate::cache) fn tainted(mut node: Node) -> Node {
    let taint =
        Taint { key: AUTOSCALER_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    node.spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
    node
}

#[test]
fn a_node_says_by_itself_whether_it_may_be_a_target() {
    let of = |node: &Node| NodeState::of(node).unwrap().1.eligibility;
    let ready = mk_node("a", "10.0.0.1", true);
    assert_eq!(of(&ready), Eligibility::Ready);
    let mut excluded = ready.clone();
    excluded.metadata.labels.get_or_insert_default().insert(EXCLUDE_LABEL.to_owned(), "false".to_owned());
    assert_eq!(of(&excluded), Eligibility::Excluded, "the label counts, not its value");
    assert_eq!(of(&tainted(ready.clone())), Eligibility::Leaving);
    assert_eq!(of(&tainted(excluded)), Eligibility::Leaving, "who leaves is drained, not held");
    let mut deleted = ready.clone();
    deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(of(&deleted), Eligibility::Leaving);
    assert_eq!(of(&mk_node("a", "10.0.0.1", false)), Eligibility::NotReady { since: None });
    assert_eq!(of(&Node { status: None, ..ready }), Eligibility::NotReady { since: None });
}

#[test]
fn moving_a_pod_changes_targets_under_local_only() {
    let all = states(&[mk_node("a", "10.0.0.1", true), mk_node("b", "10.0.0.2", true)]);
    let on = |node: &str| SliceState::of(&mk_slice("web", "web-1", &[("10.1.0.1", node, true)])).unwrap().1;
    let (first, second) = ([on("a")], [on("b")]);
    let cluster = |slices| nodes(&all, slices, ExternalTrafficPolicy::Cluster);
    let local = |slices| nodes(&all, slices, ExternalTrafficPolicy::Local);
    assert_eq!(cluster(&first), cluster(&second));
    assert_ne!(local(&first), local(&second));
    assert_eq!(local(&first).iter().map(|node| node.has_ready_endpoints).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn pods_that_are_not_ready_or_lack_every_port_are_no_targets() {
    let listener = |name: &str| Listener {
        protocol: Protocol::Tcp,
        port: 80i32.try_into().unwrap(),
        name: name.to_owned(),
        node_port: None,
    };
    let slice = mk_slice("web", "web-1", &[("10.1.0.1", "a", true), ("10.1.0.2", "a", false)]);
    let slices = [SliceState::of(&slice).unwrap().1];
    let none = BTreeSet::new();
    let found = pods(&slices, &BTreeSet::from([listener("http")]), &none);
    assert_eq!(found.iter().map(|pod| pod.address.to_string()).collect::<Vec<_>>(), ["10.1.0.1"]);
    assert!(pods(&slices, &BTreeSet::from([listener("other")]), &none).is_empty());
}
