//! The tracer against the packet table, and what it says in words.

use super::*;
use crate::{
    check::Wanted,
    input::Config,
    packets::{self, CASES, Case, interfaces},
    plan::State,
    snapshot::Snapshot,
    table::{Key, Value},
};

fn mk_model() -> Model {
    let mut model = Model::new(Config::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    model
}

fn mk_case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("a case of this name")
}

#[test]
fn chances_add_up_to_one_wherever_something_is_forwarded() {
    let model = mk_model();
    for case in CASES {
        let trace = trace(&model, &case.packet());
        let sum: f64 = trace.endpoints.iter().map(|target| target.probability).sum();
        let expected = if trace.result == End::Forwarded { 1.0 } else { 0.0 };
        assert!((sum - expected).abs() < 1e-9, "{}: {sum}", case.name);
    }
}

#[test]
fn an_answer_and_a_snapshot_read_back_equal() {
    let model = mk_model();
    let json = serde_json::to_string(&Snapshot::of(&model)).expect("JSON");
    let snapshot: Snapshot = serde_json::from_str(&json).expect("its own JSON");
    assert_eq!(snapshot, Snapshot::of(&model));
    let again = snapshot.model();
    assert_eq!(again.shadow().desired(), model.shadow().desired());
    for case in CASES {
        let trace = trace(&model, &case.packet());
        let json = serde_json::to_string(&trace).expect("JSON");
        assert_eq!(serde_json::from_str::<Trace>(&json).expect("its own JSON"), trace, "{}", case.name);
    }
}

#[test]
fn words_name_the_service_the_chances_and_whom_the_endpoints_see() {
    let model = mk_model();
    let text = trace(&model, &mk_case("a NodePort from outside is masqueraded").packet()).to_string();
    for part in [
        "10.200.0.9 (neither a pod nor this node) to 10.200.0.1:30080/tcp, on node here",
        "table/service-1, port 80, by its NodePort",
        "50.00 %  10.201.0.2:8080",
        "on node there, sees this node (10.200.0.1)",
        "services { 10.200.0.1:30080/tcp }: lb-2-masq",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn the_documented_answer_is_the_real_one() {
    let model = mk_model();
    let text = trace(&model, &mk_case("a NodePort from outside is masqueraded").packet()).to_string();
    let page = include_str!("../../../../docs/trace.md");
    assert!(page.contains(&format!("```\n{text}```")), "docs/trace.md should show:\n{text}");
}

#[test]
fn the_text_names_the_interface_where_pods_are_recognised_by_it_and_only_there() {
    let case =
        |from| CASES.iter().find(|case| case.from == from && case.name.contains("ClusterIP")).expect("a row");
    for detector in interfaces::detectors() {
        let mut model = Model::new(Config { pod_interfaces: Some(detector), ..Config::default() });
        for event in interfaces::cluster_events_by_interfaces() {
            model.apply(event);
        }
        let text = |from| trace(&model, &interfaces::packet(case(from), &detector)).to_string();
        let name = interfaces::interface(packets::Client::Pod, &detector).expect("an interface");
        for (from, part) in [
            (
                packets::Client::Pod,
                format!("10.201.0.3 on interface {name} (a pod of this node) to 10.96.0."),
            ),
            (packets::Client::Pod, format!("iifname {{ {name} }}: {detector}")),
            (
                packets::Client::FarPod,
                "10.201.1.3 on interface far3 (neither a pod of this node nor this node)".to_owned(),
            ),
            (packets::Client::FarPod, format!("iifname {{ far3 }}: not {detector}")),
            (packets::Client::FarPod, "the client of a ClusterIP is no pod of this node".to_owned()),
            (packets::Client::Node, "10.200.0.1 (this node itself)".to_owned()),
            (packets::Client::Node, format!("iifname {{ none }}: not {detector}")),
        ] {
            assert!(text(from).contains(&part), "{part:?} is not in\n{}", text(from));
        }
    }
    let text = trace(&mk_model(), &case(packets::Client::Pod).packet()).to_string();
    assert!(!text.contains("interface") && !text.contains("iifname"), "{text}");
}

#[test]
fn the_text_names_the_reason_of_a_refusal_and_of_a_drop() {
    let model = mk_model();
    let text = |case: &str| trace(&model, &mk_case(case).packet()).to_string();
    for (case, part) in [
        ("a port that the Service lacks is refused", "ClusterIP of Service table/service-1"),
        ("an unallocated ClusterIP is dropped", "range 10.96.0.0/24"),
        ("loadBalancerSourceRanges keep out", "in none of spec.loadBalancerSourceRanges"),
        ("only unready endpoints refuse", "not ready"),
        ("internalTrafficPolicy Local without endpoint here drops", "not on this node"),
        ("hints keep traffic in the zone", "hinted to other zones"),
        ("only a terminating endpoint that still serves", "still serving"),
    ] {
        assert!(text(case).contains(part), "{part:?} is not in\n{}", text(case));
    }
}

/// The kernel's answer, but for one change.
fn differing(model: &Model, packet: &Packet, change: impl Fn(&mut State)) -> Check {
    let mut found = model.shadow().desired().clone();
    change(&mut found);
    Wanted::by_packet(model, packet).check(&found, None).walked(
        &found,
        PacketContext::of(model),
        packet,
        &oracle::outcome(model, packet),
    )
}

#[test]
fn the_kernel_agrees_with_the_model_on_every_row_and_a_changed_element_is_named() {
    let model = mk_model();
    for case in CASES {
        let check = differing(&model, &case.packet(), |_| ());
        assert!(check.agrees(), "{}: {check}", case.name);
    }
    let packet = mk_case("a pod reaches a ClusterIP and is seen as itself").packet();
    let stolen = Backend { address: packets::OTHER_POD.into(), port: 1 };
    let check = differing(&model, &packet, |state| {
        state.elements.insert(Key::Endpoint(packet.to, 1), Value::Backend(stolen));
        state.elements.insert(Key::Endpoint(packet.to, 7), Value::Backend(stolen));
        state.elements.remove(&Key::ClusterIp(packet.to.address));
        state.elements.remove(&Key::Service(Frontend { port: 81, ..packet.to }));
    });
    let text = check.to_string();
    assert_eq!(check.differences.len(), 3, "the other port is another question: {text}");
    for part in [
        "ip endpoints { 10.96.0.1:80/tcp slot 0x1 }: should be 10.201.1.2:8080, is 10.201.0.3:1",
        "ip endpoints { 10.96.0.1:80/tcp slot 0x7 }: should not be there, is 10.201.0.3:1",
        "ip cluster-ips { 10.96.0.1 }: should be present, is missing",
        "the kernel now gives this packet: 10.201.0.2:8080 (sees the client) or 10.201.0.3:1",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}
