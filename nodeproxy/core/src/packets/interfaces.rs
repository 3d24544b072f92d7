//! The packet table where pods are recognised by interface (`--detect-local-mode=BridgeInterface` and
//! `InterfaceNamePrefix`), and not by their addresses.
//!
//! Owns the rows that differ: pods of other nodes arrive on no interface of a pod, so they are clients like any
//! other, and addresses do not matter. All other rows are those of [`CASES`].

use super::{
    BOTH_MASQUERADED, CASES, Case, Client, Expect, FarPod, NODE, case, case6, cluster_events, invalid, vip,
};
use crate::{
    input::{Event, NodeInfo},
    interface::{InterfaceName, PodInterfaces},
    oracle::Packet,
};

/// The bridge of this node's pods, where there is one.
pub const BRIDGE: &str = "br0";
/// Prefix of the interfaces of this node's pods, without a bridge.
pub const PREFIX: &str = "p";

/// Rows that stand in place of those of [`CASES`] about the same packet.
const INSTEAD: &[Case] = &[
    case("a pod of another node reaches a ClusterIP, masqueraded", FarPod, (vip(1), 80), BOTH_MASQUERADED),
    case(
        "externalTrafficPolicy Local drops another node's pod when there is no endpoint here",
        FarPod,
        (NODE, 30086),
        Expect::Dropped,
    ),
    case6("the same over IPv6", FarPod, (NODE, 30101), Expect::Dropped),
];

/// Both ways to recognise pods by interface.
pub fn detectors() -> Vec<PodInterfaces> {
    let bridge = BRIDGE.parse().ok().map(PodInterfaces::Named);
    let prefix = PREFIX.parse().ok().map(PodInterfaces::Prefixed);
    bridge.into_iter().chain(prefix).collect()
}

/// The table's cluster on a node without ranges of pods.
pub fn cluster_events_by_interfaces() -> Vec<Event> {
    let forget = |event| match event {
        Event::Node(node) => {
            Event::Node(NodeInfo { pod_cidrs: Vec::new(), node_pod_cidrs: Vec::new(), ..node })
        }
        other => other,
    };
    cluster_events().into_iter().map(forget).collect()
}

/// The cases of pods known by their interface.
pub fn cases() -> Vec<Case> {
    let instead = |case: &Case| INSTEAD.iter().find(|other| is_about_same(case, other)).copied();
    CASES.iter().map(|case| instead(case).unwrap_or(*case)).collect()
}

fn is_about_same(case: &Case, other: &Case) -> bool {
    (case.from, case.to) == (other.from, other.to)
}

/// Interface of this node on which a client's packets arrive.
pub fn interface(client: Client, detector: &PodInterfaces) -> Option<InterfaceName> {
    match (client, detector) {
        (Client::Pod | Client::Endpoint, PodInterfaces::Named(bridge)) => Some(*bridge),
        _ => client.interface(),
    }
}

/// The first packet of a row's connection.
pub fn packet(case: &Case, detector: &PodInterfaces) -> Packet {
    Packet { interface: interface(case.from, detector), ..case.packet() }
}

/// Whether an invalid packet arrives. Those of another node's pod do, like any other client's.
pub fn arrives(row: &invalid::InvalidPacket) -> bool {
    row.arrives || row.from == FarPod
}

#[cfg(test)]
mod tests {
    use super::{super::invalid::INVALID_PACKETS, *};
    use crate::{input::Config, model::Model, oracle, trace, walk};

    fn mk_model(detector: PodInterfaces, events: Vec<Event>) -> Model {
        let mut model = Model::new(Config { pod_interfaces: Some(detector), ..Config::default() });
        for event in events {
            model.apply(event);
        }
        model
    }

    #[test]
    fn the_oracle_the_tracer_and_the_ruleset_say_what_the_rows_say() {
        for detector in detectors() {
            let model = mk_model(detector, cluster_events_by_interfaces());
            for case in cases() {
                let (packet, expected) = (packet(&case, &detector), case.outcome());
                let about = format!("{detector}: {}", case.name);
                assert_eq!(oracle::outcome(&model, &packet), expected, "{about}");
                assert_eq!(trace::trace(&model, &packet).outcome(), expected, "{about}");
                let walked = walk::walk(model.shadow().desired(), walk::PacketContext::of(&model), &packet);
                assert_eq!(walked, expected, "{about}");
            }
        }
    }

    #[test]
    fn addresses_count_for_nothing() {
        for detector in detectors() {
            let model = mk_model(detector, cluster_events());
            for case in cases() {
                let packet = packet(&case, &detector);
                assert_eq!(oracle::outcome(&model, &packet), case.outcome(), "{}", case.name);
                let walked = walk::walk(model.shadow().desired(), walk::PacketContext::of(&model), &packet);
                assert_eq!(walked, case.outcome(), "{}", case.name);
            }
        }
    }

    #[test]
    fn invalid_packets_of_pods_are_recognised_by_interface() {
        for detector in detectors() {
            let model = mk_model(detector, cluster_events_by_interfaces());
            for row in INVALID_PACKETS {
                let ((source, _), interface) = (row.addresses(false), interface(row.from, &detector));
                let said = oracle::lets_invalid_pass(&model, source, interface);
                let state = model.shadow().desired();
                let does = walk::lets_invalid_pass(state, model.config(), source, interface);
                assert_eq!((said, does), (arrives(row), arrives(row)), "{}", row.name);
            }
        }
    }

    #[test]
    fn each_row_that_stands_in_place_of_another_differs_in_what_becomes_of_the_packet() {
        for row in INSTEAD {
            let replaced: Vec<_> = CASES.iter().filter(|case| is_about_same(case, row)).collect();
            assert!(matches!(replaced[..], [one] if one.expect != row.expect), "{}", row.name);
        }
    }
}
