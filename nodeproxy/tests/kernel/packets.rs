//! Outcomes of real packets, from a pod, from the node, from outside.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
};

use portico_netlink::{conntrack::Conntrack, nftables::Family as KernelFamily};
use portico_proxy_core::{
    plan::State,
    table::{Balance, Frontend, Key, Protocol, Recall, Value, Verdict},
};

use crate::test_network::{
    Addresses, Got, LOCAL, PLAIN, POD_PORT, STICKY, TestNetwork, addresses, alias_of, ask, dial, endpoints,
    id_of, sticky,
};

/// Runs a test in a network of its own, once for each family.
fn in_both_families(test: impl Fn(&mut TestNetwork, Addresses)) {
    for v6 in [false, true] {
        let Some(mut network) = TestNetwork::new() else { return };
        test(&mut network, addresses(v6));
    }
}

/// A `ClusterIP` over both pods.
fn mk_cluster_ip(a: Addresses, f: Frontend) -> State {
    let mut state = a.base();
    let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(0), a.pod(1)]);
    state.insert(Key::Service(f), verdict);
    state.insert(Key::ClusterIp(f.address), Value::Present);
    for number in 0..2 {
        state.insert(Key::Hairpin(a.pods[number], f.protocol, POD_PORT), Value::Present);
    }
    state
}

#[test]
fn a_cluster_ip_reaches_all_pods_and_only_outsiders_are_masqueraded() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        network.sync(&mk_cluster_ip(a, f));
        let from_pod: BTreeSet<_> = (0..40).map(|_| pod_of(dial(&network.pods[0], f))).collect();
        assert_eq!(from_pod, BTreeSet::from([0, 1]), "both are picked");
        let seen: BTreeSet<_> =
            (0..40).map(|_| dial(&network.pods[0], f)).filter(|got| pod_of(*got) == 1).collect_seen();
        assert_eq!(seen, BTreeSet::from([a.pods[0]]), "pods keep their address");
        for outsider in [&network.client, &network.node] {
            let seen: BTreeSet<_> = (0..10).map(|_| dial(outsider, f)).collect_seen();
            assert_eq!(seen, BTreeSet::from([a.node]));
        }
    });
}

#[test]
fn udp_works_as_well() {
    in_both_families(|network, a| {
        let f = Frontend { protocol: Protocol::Udp, port: 53, ..a.frontend(1) };
        network.sync(&mk_cluster_ip(a, f));
        assert!(matches!(dial(&network.client, f), Got::Pod(_, seen) if seen == a.node));
        assert!(matches!(dial(&network.pods[1], f), Got::Pod(..)));
    });
}

#[test]
fn a_pod_that_reaches_itself_through_a_vip_is_answered() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        let mut state = a.base();
        let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(0)]);
        state.insert(Key::Service(f), verdict);
        state.insert(Key::ClusterIp(f.address), Value::Present);
        network.sync(&state);
        assert_eq!(
            dial(&network.pods[0], f),
            Got::Silence,
            "without masquerade the answer takes a short cut"
        );
        let pod = a.pod(0);
        state.insert(Key::Hairpin(pod.address, Protocol::Tcp, pod.port), Value::Present);
        network.sync(&state);
        assert_eq!(dial(&network.pods[0], f), Got::Pod(0, a.node));
        assert_eq!(dial(&network.pods[1], f), Got::Pod(0, a.pods[1]), "other pods keep their address");
    });
}

#[test]
fn a_node_port_masquerades_under_the_cluster_policy_and_keeps_the_client_under_local() {
    in_both_families(|network, a| {
        let cluster = Frontend { address: a.node, protocol: Protocol::Tcp, port: 30_080 };
        let local = Frontend { port: 30_081, ..cluster };
        let mut state = a.base();
        let masquerade = Balance { masquerade: true, ..PLAIN };
        let verdict = endpoints(&mut state, cluster, masquerade, &[a.pod(0), a.pod(1)]);
        state.insert(Key::Service(cluster), verdict);
        state.insert(Key::Service(local), Value::Verdict(Verdict::External));
        let verdict = endpoints(&mut state, local, LOCAL, &[a.pod(0)]);
        state.insert(Key::Local(local), verdict);
        let verdict = endpoints(&mut state, local, PLAIN, &[a.pod(1)]);
        state.insert(Key::Short(local), verdict);
        network.sync(&state);
        for from in [&network.client, &network.node, &network.pods[0]] {
            assert!(matches!(dial(from, cluster), Got::Pod(_, seen) if seen == a.node));
        }
        assert_eq!(dial(&network.client, local), Got::Pod(0, a.client));
        assert_eq!(dial(&network.pods[0], local), Got::Pod(1, a.pods[0]), "pods use all endpoints");
        assert_eq!(dial(&network.node, local), Got::Pod(1, a.node), "and so does the node");
    });
}

#[test]
fn a_local_policy_without_local_endpoints_is_silent_outside_and_works_inside() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        let mut state = a.base();
        state.insert(Key::Service(f), Value::Verdict(Verdict::External));
        let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(1)]);
        state.insert(Key::Short(f), verdict);
        state.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Drop));
        network.sync(&state);
        assert_eq!(dial(&network.client, f), Got::Silence);
        assert_eq!(dial(&network.pods[0], f), Got::Pod(1, a.pods[0]));
    });
}

#[test]
fn without_endpoints_a_client_is_refused_wherever_it_is() {
    in_both_families(|network, a| {
        let on_node = Frontend { address: a.node, protocol: Protocol::Tcp, port: 30_080 };
        let mut state = a.base();
        for f in [a.frontend(1), on_node, Frontend { protocol: Protocol::Udp, ..a.frontend(1) }] {
            state.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Reject));
            network.sync(&state);
            for (name, from) in
                [("client", &network.client), ("node", &network.node), ("pod", &network.pods[0])]
            {
                assert_eq!(dial(from, f), Got::Refused, "{f} from the {name}");
            }
        }
        state.insert(Key::NoEndpoints(a.frontend(1)), Value::Verdict(Verdict::Drop));
        network.sync(&state);
        for from in [&network.client, &network.node, &network.pods[0]] {
            assert_eq!(dial(from, a.frontend(1)), Got::Silence);
        }
    });
}

#[test]
fn a_port_that_the_service_lacks_is_refused_and_an_unallocated_cluster_ip_is_silent() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        network.sync(&mk_cluster_ip(a, f));
        for (name, from) in [("client", &network.client), ("node", &network.node), ("pod", &network.pods[0])]
        {
            assert_eq!(dial(from, Frontend { port: 81, ..f }), Got::Refused, "{name}, {a:?}");
            assert_eq!(dial(from, a.frontend(99)), Got::Silence, "{name}");
        }
    });
}

#[test]
fn only_those_in_the_source_ranges_may_come() {
    in_both_families(|network, a| {
        let mut state = a.base();
        let (mine, others) = (a.frontend(1), a.frontend(2));
        for f in [mine, others] {
            let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(0)]);
            state.insert(Key::Service(f), verdict);
            state.insert(Key::Firewalled(f), Value::Present);
        }
        let net = |text: &str| text.parse().expect("a network");
        state.insert(
            Key::SourceRange(mine, net(if a.v6 { "2001:db8::/64" } else { "192.0.2.0/24" })),
            Value::Present,
        );
        state.insert(
            Key::SourceRange(others, net(if a.v6 { "fd01::/64" } else { "10.244.0.0/24" })),
            Value::Present,
        );
        network.sync(&state);
        assert_eq!(dial(&network.client, mine), Got::Pod(0, a.client));
        assert_eq!(dial(&network.client, others), Got::Silence);
        assert_eq!(dial(&network.pods[1], mine), Got::Silence);
        assert_eq!(dial(&network.pods[1], others), Got::Pod(0, a.pods[1]));
        assert!(
            matches!(dial(&network.node, mine), Got::Pod(..)),
            "the node itself is in the client's network"
        );
        assert_eq!(dial(&network.node, others), Got::Silence);
    });
}

/// A `ClusterIP` with session affinity over both pods.
fn mk_sticky(a: Addresses, pods: &[usize]) -> State {
    let f = a.frontend(1);
    let mut state = a.base();
    let backends: Vec<_> = pods.iter().map(|number| a.pod(*number)).collect();
    let verdict = sticky(&mut state, f, alias_of(f), STICKY, &backends);
    state.insert(Key::Service(f), verdict);
    state.insert(Key::ClusterIp(f.address), Value::Present);
    state
}

#[test]
fn a_client_keeps_its_pod_until_the_pod_goes_and_then_keeps_the_next() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        network.sync(&mk_sticky(a, &[0, 1]));
        spy(network);
        let first = dial(&network.client, f);
        assert!(
            matches!(first, Got::Pod(_, seen) if seen == a.node),
            "masqueraded although its id is on its way: {first:?}"
        );
        for _ in 0..30 {
            assert_eq!(dial(&network.client, f), first);
        }
        let (stays, goes) = (1 - pod_of(first), pod_of(first));
        network.sync(&mk_sticky(a, &[stays]));
        assert_eq!(pod_of(dial(&network.client, f)), stays, "the pod is gone");
        network.sync(&mk_sticky(a, &[goes, stays]));
        for _ in 0..30 {
            assert_eq!(pod_of(dial(&network.client, f)), stays, "the new choice has an entry");
        }
        assert_eq!(spied(network), 0, "no affinity id and no masquerade bit leaves our hooks");
    });
}

#[test]
fn clients_have_affinity_one_by_one_and_a_restart_keeps_it() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        let state = mk_sticky(a, &[0, 1]);
        network.sync(&state);
        let chosen: Vec<_> = [&network.client, &network.node, &network.pods[0], &network.pods[1]]
            .map(|from| dial(from, f))
            .into();
        network.sync(&state); // reads everything back, changes nothing
        let again: Vec<_> = [&network.client, &network.node, &network.pods[0], &network.pods[1]]
            .map(|from| dial(from, f))
            .into();
        // A pod that reaches itself gets no answer without a hairpin element, and that, too, stays so.
        assert_eq!(chosen, again);
        let family = if a.v6 { "ip6" } else { "ip" };
        let map = network.node.sh(&format!("nft list map {family} portico affinity-3600-00000007"));
        assert_eq!(map.matches(" : a500:").count(), 4, "{map}");
    });
}

#[test]
fn each_connection_renews_the_time_of_its_client() {
    in_both_families(|network, a| {
        let f = a.frontend(1);
        network.sync(&mk_sticky(a, &[0, 1]));
        let first = dial(&network.client, f);
        // Milliseconds of the entry that are left once it is 1,100 ms older; the wait is for the kernel's clock.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let aged = expires(network, a);
        assert_eq!(dial(&network.client, f), first);
        let renewed = expires(network, a);
        assert!(aged < 3600 && renewed > aged, "{aged} s, then {renewed} s");
    });
}

/// Seconds until the one entry of the affinity map expires.
fn expires(network: &TestNetwork, a: Addresses) -> u64 {
    let family = if a.v6 { "ip6" } else { "ip" };
    let json = network.node.sh(&format!("nft -j list map {family} portico affinity-3600-00000007"));
    let json: serde_json::Value = serde_json::from_str(&json).expect("json");
    let map =
        json["nftables"].as_array().and_then(|all| all.iter().find_map(|o| o.get("map"))).expect("a map");
    let expires = &map["elem"][0][0]["elem"]["expires"];
    expires.as_u64().expect("an expiry")
}

#[test]
fn a_masquerading_frontend_with_affinity_is_both() {
    in_both_families(|network, a| {
        let f = Frontend { address: a.node, protocol: Protocol::Tcp, port: 30_080 };
        let mut state = a.base();
        let both = Recall { masquerade: true, ..STICKY };
        let verdict = sticky(&mut state, f, alias_of(f), both, &[a.pod(0), a.pod(1)]);
        state.insert(Key::Service(f), verdict);
        network.sync(&state);
        spy(network);
        let first = dial(&network.client, f);
        assert!(matches!(first, Got::Pod(_, seen) if seen == a.node), "{first:?}");
        for _ in 0..20 {
            assert_eq!(dial(&network.client, f), first);
        }
        assert_eq!(spied(network), 0);
        let ids: BTreeSet<_> = (0..2).map(|number| id_of(&a.pod(number))).collect();
        assert_eq!(ids.len(), 2, "the pods have different ids");
    });
}

#[test]
fn a_udp_flow_stays_with_its_pod_until_it_is_forgotten() {
    in_both_families(|network, a| {
        let f = Frontend { protocol: Protocol::Udp, port: 53, ..a.frontend(1) };
        let one = |number| {
            let mut state = a.base();
            let verdict = endpoints(&mut state, f, PLAIN, &[a.pod(number)]);
            state.insert(Key::Service(f), verdict);
            state
        };
        network.sync(&one(0));
        let socket = network
            .client
            .run(move || UdpSocket::bind((if a.v6 { "::" } else { "0.0.0.0" }, 0)))
            .expect("binds");
        assert_eq!(pod_of(ask(&socket, f)), 0);
        network.sync(&one(1));
        assert_eq!(pod_of(ask(&socket, f)), 0, "the kernel tracks the flow");
        let family = if a.v6 { KernelFamily::Ip6 } else { KernelFamily::Ip };
        let (before, stale, others) = network.node.run(move || {
            let mut conntrack = Conntrack::open().expect("opens");
            let before = conntrack.count().expect("counts");
            let to = move |ip: IpAddr| {
                move |flow: &portico_netlink::conntrack::Flow| {
                    flow.original.destination.ip() == f.address && flow.reply.source.ip() == ip
                }
            };
            let others = conntrack.delete_matching(family, 17, to(a.pods[1])).expect("none");
            (before, conntrack.delete_matching(family, 17, to(a.pods[0])).expect("deletes"), others)
        });
        assert!(before >= 1);
        assert_eq!((stale, others), (1, 0));
        assert_eq!(pod_of(ask(&socket, f)), 1);
    });
}

fn pod_of(got: Got) -> usize {
    match got {
        Got::Pod(number, _) => number,
        other => unreachable!("a pod should have answered: {other:?}"),
    }
}

/// Counts packets that leave the node with something of ours still on them.
fn spy(network: &TestNetwork) {
    network.node.sh("nft -f - <<'END'
        table inet spy {
          chain spy { type filter hook postrouting priority 300;
            meta priority & fe00:0 == a400:0 counter
            meta mark & 0x4000 == 0x4000 counter
          }
        }
END");
}

fn spied(network: &TestNetwork) -> u64 {
    let text = network.node.sh("nft list chain inet spy spy");
    let packets =
        text.split("packets ").skip(1).map(|rest| rest.split(' ').next().unwrap_or_default().parse::<u64>());
    packets.collect::<Result<Vec<_>, _>>().expect("counters").into_iter().sum()
}

/// The addresses that pods saw.
trait CollectSeen {
    fn collect_seen(self) -> BTreeSet<IpAddr>;
}

impl<I: Iterator<Item = Got>> CollectSeen for I {
    fn collect_seen(self) -> BTreeSet<IpAddr> {
        self.filter_map(|got| if let Got::Pod(_, seen) = got { Some(seen) } else { None }).collect()
    }
}
