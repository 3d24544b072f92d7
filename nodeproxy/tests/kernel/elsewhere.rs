//! A pod of another node that asks this node's NodePort, and endpoints on a third: all beyond the client's wire, where they
//! reach each other directly.
//!
//! ```text
//!   remote pod 10.244.1.5, endpoint 10.244.2.5 ── 192.0.2.10 ──── 192.0.2.1 node ──── pods 0 and 1
//! ```

use std::{collections::BTreeSet, net::SocketAddr};

use portico_proxy_core::{
    plan::State,
    table::{Backend, Frontend, Key, Protocol, Value, Verdict},
};

use crate::test_network::{
    Addresses, Got, LOCAL, PLAIN, POD_PORT, TestNetwork, addresses, dial, endpoints, serve,
};

/// How often is dialled: with two endpoints the bad one is missed once in 4096 runs.
const TRIES: usize = 12;
/// The number with which the endpoint elsewhere answers.
const ELSEWHERE: usize = 7;

/// Puts a pod and an endpoint into the client's namespace, as if it were the rest of the cluster. The client dials the node
/// as that pod.
fn extend(network: &TestNetwork, a: Addresses) -> (std::net::IpAddr, Backend) {
    let (ip, pod, third, length) = if a.v6 {
        ("ip -6", "fd01:0:0:1::5", "fd01:0:0:2::5", 128)
    } else {
        ("ip", "10.244.1.5", "10.244.2.5", 32)
    };
    let nodad = if a.v6 { "nodad" } else { "" };
    for address in [pod, third] {
        network.client.sh(&format!("ip addr add {address}/{length} dev lo {nodad}"));
        network.node.sh(&format!("{ip} route add {address} via {}", a.client));
    }
    // As on a real node's wire, where a packet from another node's pod is nothing odd.
    network.client.sh("for i in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$i/accept_local; done");
    network.client.sh(&format!("{ip} route add {}/{length} dev eth0 src {pod}", a.node));
    let third = Backend { address: third.parse().expect("an address"), port: POD_PORT };
    let at = SocketAddr::new(third.address, third.port);
    network.client.run(move || serve(ELSEWHERE, at));
    (pod.parse().expect("an address"), third)
}

/// A NodePort with `externalTrafficPolicy: Local` over these endpoints, `local` of which are here.
fn mk_local(a: Addresses, all: &[Backend], local: &[Backend]) -> (Frontend, State) {
    let f = Frontend { address: a.node, protocol: Protocol::Tcp, port: 30_080 };
    let mut state = a.base();
    state.insert(Key::Service(f), Value::Verdict(Verdict::External));
    let short = endpoints(&mut state, f, PLAIN, all);
    state.insert(Key::Short(f), short);
    if local.is_empty() {
        state.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Drop));
    } else {
        let verdict = endpoints(&mut state, f, LOCAL, local);
        state.insert(Key::Local(f), verdict);
    }
    (f, state)
}

#[test]
fn a_pod_of_another_node_is_answered_by_endpoints_that_could_answer_it_directly() {
    for v6 in [false, true] {
        let Some(mut network) = TestNetwork::new() else { return };
        let a = addresses(v6);
        let (_, third) = extend(&network, a);
        let (f, state) = mk_local(a, &[third], &[]);
        network.sync(&state);
        for _ in 0..TRIES {
            assert_eq!(
                dial(&network.client, f),
                Got::Pod(ELSEWHERE, a.node),
                "its answer comes back through the node"
            );
        }
        assert_eq!(
            dial(&network.pods[0], f),
            Got::Pod(ELSEWHERE, a.pods[0]),
            "a pod of this node is seen as itself"
        );
    }
}

#[test]
fn a_pod_of_another_node_is_seen_as_itself_by_the_endpoints_here() {
    for v6 in [false, true] {
        let Some(mut network) = TestNetwork::new() else { return };
        let a = addresses(v6);
        let (remote, third) = extend(&network, a);
        let (f, state) = mk_local(a, &[a.pod(0), third], &[a.pod(0)]);
        network.sync(&state);
        let got: BTreeSet<_> = (0..TRIES).map(|_| format!("{:?}", dial(&network.client, f))).collect();
        assert_eq!(got, BTreeSet::from([format!("{:?}", Got::Pod(0, remote))]));
    }
}
