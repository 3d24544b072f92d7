//! portico-netlink's lists and events, from the kernel itself: addresses of the node, changes of tables.

use std::net::IpAddr;

use portico_netlink::{
    addresses::{self, Scope},
    nftables,
};

use crate::netns::Namespace;

#[test]
fn addresses_are_listed_and_their_changes_are_heard() {
    let Some(namespace) = Namespace::new() else { return };
    let mut watch = namespace.run(addresses::Watch::open).expect("opens");
    namespace.sh("ip link add one type veth peer name two; ip link set one up; ip link set two up");
    namespace.sh("ip addr add 192.0.2.1/24 dev one; ip addr add 2001:db8::1/64 dev one nodad; ip addr add fe80::7/64 dev one nodad");
    assert!(watch.changed().expect("hears"));
    assert!(!watch.changed().expect("hears"), "nothing since");
    let all = namespace.run(addresses::list).expect("lists");
    let find = |text: &str| {
        let address: IpAddr = text.parse().expect("an address");
        all.iter().find(|found| found.address == address).map(|found| (found.prefix, found.scope))
    };
    assert_eq!(find("192.0.2.1"), Some((24, Scope::Global)));
    assert_eq!(find("2001:db8::1"), Some((64, Scope::Global)));
    assert_eq!(find("fe80::7"), Some((64, Scope::Link)));
    assert_eq!(find("127.0.0.1"), Some((8, Scope::Host)));
    namespace.sh("ip addr del 192.0.2.1/24 dev one");
    assert!(watch.changed().expect("hears"));
    let left = namespace.run(addresses::list).expect("lists");
    assert_eq!(left.len() + 1, all.len());
}

#[test]
fn a_watch_reports_the_tables_of_a_transaction_and_its_program() {
    let Some(namespace) = Namespace::new() else { return };
    let mut watch = namespace.run(nftables::Watch::open).expect("opens");
    namespace.sh("nft add table ip portico; nft add table ip6 other");
    let changes = watch.changes().expect("hears");
    let reported: Vec<_> = changes
        .iter()
        .map(|change| {
            (change.tables.iter().map(ToString::to_string).collect::<Vec<_>>(), change.program.as_deref())
        })
        .collect();
    assert_eq!(
        reported,
        [(vec!["ip portico".to_owned()], Some("nft")), (vec!["ip6 other".to_owned()], Some("nft"))]
    );
    assert!(changes.iter().all(|change| !change.lost));
}
