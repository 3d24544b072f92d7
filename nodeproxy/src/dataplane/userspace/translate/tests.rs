//! The model's frontends in the kernel and in the proxy, row by row.

use std::collections::BTreeMap;

use portico_proxy_core::table::Protocol;

use super::*;

/// Sockets by pool, and the only address they are on.
#[derive(Default)]
struct Fake(BTreeMap<PoolKey, SocketAddr>);

impl Listening for Fake {
    fn address(&self, key: &PoolKey) -> Option<SocketAddr> {
        self.0.get(key).copied()
    }

    fn is_socket(&self, frontend: &Frontend) -> bool {
        self.0.values().any(|address| (address.ip(), address.port()) == (frontend.address, frontend.port))
    }
}

fn mk_frontend() -> Frontend {
    Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 }
}

fn mk_backend(number: u8) -> Backend {
    Backend { address: [10, 244, 0, number].into(), port: 8080 }
}

fn mk_balance(endpoints: u32, list: List) -> Value {
    Value::Verdict(Verdict::Balance(Balance { endpoints, list, masquerade: true }))
}

fn put(state: &mut State, list: List, numbers: &[u8]) {
    for (slot, number) in (slot(list)..).zip(numbers) {
        state.insert(Key::Endpoint(mk_frontend(), slot), Value::Backend(mk_backend(*number)));
    }
}

fn rules(desired: &State, list: List) -> Option<PoolUse> {
    let (_, wanted) = pools(desired, mk_frontend()).into_iter().find(|(key, _)| key.list == list)?;
    Some(wanted)
}

fn serves(numbers: &[u8]) -> PoolUse {
    let backends = numbers.iter().map(|number| mk_backend(*number)).collect();
    PoolUse::Serve(Rules { backends, affinity: None })
}

/// `externalTrafficPolicy: Local` with endpoints here and there.
fn mk_external() -> (State, Fake) {
    let f = mk_frontend();
    let mut desired = State::default();
    desired.insert(Key::Service(f), Value::Verdict(Verdict::External));
    desired.insert(Key::Short(f), mk_balance(2, List::Cluster));
    desired.insert(Key::Local(f), mk_balance(1, List::Local));
    put(&mut desired, List::Cluster, &[1, 2]);
    put(&mut desired, List::Local, &[1]);
    let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let key = |list| PoolKey { frontend: f, list };
    (desired, Fake([(key(List::Cluster), at(4001)), (key(List::Local), at(4002))].into()))
}

#[test]
fn a_pool_has_the_slots_that_its_verdict_counts_and_not_those_that_are_about_to_go() {
    let mut desired = State::default();
    put(&mut desired, List::Cluster, &[1, 2, 3]);
    desired.insert(Key::Service(mk_frontend()), mk_balance(2, List::Cluster));
    assert_eq!(rules(&desired, List::Cluster), Some(serves(&[1, 2])));
    desired.elements.remove(&Key::Service(mk_frontend()));
    assert_eq!(rules(&desired, List::Cluster), Some(PoolUse::Linger));
    assert_eq!(rules(&State::default(), List::Cluster), None);
}

#[test]
fn each_list_has_a_pool_and_the_kernel_separates_the_clients() {
    let (desired, sockets) = mk_external();
    let f = mk_frontend();
    assert_eq!(rules(&desired, List::Cluster), Some(serves(&[1, 2])));
    assert_eq!(rules(&desired, List::Local), Some(serves(&[1])));
    let said = |key| element(&desired, &sockets, &key);
    let to = |port| Some(Value::Backend(Backend { address: [192, 0, 2, 1].into(), port }));
    // The kernel masquerades nothing and has no affinity entries: the proxy opens the connections.
    let only = |list| Balance { endpoints: 1, list, masquerade: false };
    let lead = |list| Some(Value::Verdict(Verdict::Balance(only(list))));
    assert_eq!(said(Key::Service(f)), Some(Value::Verdict(Verdict::External)));
    assert_eq!((said(Key::Short(f)), said(Key::Local(f))), (lead(List::Cluster), lead(List::Local)));
    assert_eq!(said(Key::Endpoint(f, 0)), to(4001));
    assert_eq!(said(Key::Endpoint(f, 1)), None, "the second endpoint is the proxy's business");
    assert_eq!(said(Key::Endpoint(f, slot(List::Local))), to(4002));
    assert_eq!(said(Key::NoEndpoints(f)), None);
}

#[test]
fn on_localhost_every_client_is_this_node_and_the_kernel_knows_nothing() {
    let (external, _) = mk_external();
    let here = Frontend { address: [127, 0, 0, 1].into(), ..mk_frontend() };
    let mut desired = State::default();
    for (key, value) in external.elements {
        desired.insert(
            match key {
                Key::Service(_) => Key::Service(here),
                Key::Short(_) => Key::Short(here),
                Key::Local(_) => Key::Local(here),
                Key::Endpoint(_, slot) => Key::Endpoint(here, slot),
                other => other,
            },
            value,
        );
    }
    let pools = pools(&desired, here);
    assert_eq!(pools.len(), 1);
    assert_eq!(pools[0].1, serves(&[1, 2]));
    for key in keys(here) {
        assert_eq!(element(&desired, &Fake::default(), &key), None, "{key}");
    }
}

#[test]
fn what_has_no_socket_is_refused() {
    let (desired, _) = mk_external();
    let f = mk_frontend();
    let said = |key| element(&desired, &Fake::default(), &key);
    assert_eq!(said(Key::NoEndpoints(f)), Some(Value::Verdict(Verdict::Reject)));
    assert_eq!((said(Key::Short(f)), said(Key::Endpoint(f, 0))), (None, None));
}

#[test]
fn a_socket_is_closed_to_packets_that_were_not_redirected_unless_it_is_a_node_port_too() {
    let (mut desired, sockets) = mk_external();
    let socket = Frontend { address: [192, 0, 2, 1].into(), protocol: Protocol::Tcp, port: 4001 };
    assert_eq!(element(&desired, &sockets, &Key::Firewalled(socket)), Some(Value::Present));
    desired.insert(Key::Service(socket), mk_balance(1, List::Cluster));
    assert_eq!(element(&desired, &sockets, &Key::Firewalled(socket)), None);
}
