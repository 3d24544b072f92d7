//! An upgrade: load balancers of earlier releases have the names, tags and hashes that this release gives them.
//!
//! With other ones an upgrade would make, or write to, every load balancer again. The values are those of 2026-11-30.
//! Invariant: they do not change; a release that needs others migrates what there is.

use std::collections::BTreeSet;

use portico_provider::{GroupName, IpFamily, LoadBalancer, Owner, Protocol, ServiceName};

use super::{mk_listener, mk_load_balancer};
use crate::cloud::resources::{GroupShape, Tags, TargetType, Transport};
use crate::observed::SyncedHash;
use crate::quotas::Quotas;
use crate::wanted::spec_digest;
use crate::wanted::translate;
use crate::{names, tags};

fn mk_desired() -> LoadBalancer {
    let owner = Owner {
        cluster: "c0ffee00-0000-4000-8000-000000000001".parse().unwrap(),
        service: "c0ffee00-0000-4000-8000-000000000002".parse().unwrap(),
        name: ServiceName::new("shop", "web").unwrap(),
    };
    LoadBalancer {
        listeners: BTreeSet::from([mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 53)]),
        source_ranges: BTreeSet::from(["192.0.2.0/24".parse().unwrap()]),
        ..mk_load_balancer(owner, &["i-1".to_owned()])
    }
}

#[test]
fn names_of_earlier_releases_still_hold() {
    let owner = mk_desired().owner;
    let load_balancer = names::load_balancer(&owner, None, 0);
    let shape = |protocol, targets| GroupShape { protocol, targets, family: IpFamily::IPv4 };
    let names = [
        names::load_balancer(&owner, None, 1),
        names::security_group(&owner, 0),
        names::security_group(&owner, 1),
        names::target_group(&owner, &load_balancer, 80, shape(Transport::Tcp, TargetType::Instance)),
        names::target_group(&owner, &load_balancer, 53, shape(Transport::Udp, TargetType::Ip)),
        load_balancer,
    ];
    let recorded = [
        "p-shop-web-d0439e49a629237b",
        "p-shop-web-7c0fe5fa601d145f",
        "p-shop-web-9715618d56d33534",
        "p-shop-web-b63df642e995ec01",
        "p-shop-web-5770c2c95f3f1acb",
        "p-shop-web-d0439d49a62921c8",
    ];
    assert_eq!(names, recorded);
}

fn mk_group() -> GroupName {
    GroupName::new("shop", "front").unwrap()
}

fn pairs(tags: &Tags) -> Vec<(&str, &str)> {
    tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn tags_of_earlier_releases_still_hold() {
    let recorded = [
        ("portico.dev/cluster-uid", "c0ffee00-0000-4000-8000-000000000001"),
        ("portico.dev/service", "shop/web"),
        ("portico.dev/service-uid", "c0ffee00-0000-4000-8000-000000000002"),
    ];
    let tags = tags::of(&mk_desired().owner);
    assert_eq!(pairs(&tags), recorded);

    let hash = SyncedHash { spec: "a".to_owned(), targets: Some("b".to_owned()) };
    let group = mk_group();
    let recorded: [(Tags, &[(&str, &str)]); 7] = [
        (hash.beyond(None), &[("portico.dev/spec-hash", "a"), ("portico.dev/targets-hash", "b")]),
        (SyncedHash::unfinished("a"), &[("portico.dev/spec-hash", "a")]),
        (
            SyncedHash { targets: None, ..hash.clone() }.beyond(Some(&hash)),
            &[("portico.dev/targets-hash", "changing")],
        ),
        (tags::member(&group), &[("portico.dev/group", "shop/front")]),
        (
            tags::shared(&mk_desired().owner.cluster, &group),
            &[
                ("portico.dev/cluster-uid", "c0ffee00-0000-4000-8000-000000000001"),
                ("portico.dev/group", "shop/front"),
            ],
        ),
        (
            tags::lead(&mk_desired().owner),
            &[
                ("portico.dev/group-lead", "shop/web"),
                ("portico.dev/group-lead-uid", "c0ffee00-0000-4000-8000-000000000002"),
            ],
        ),
        (tags::adopted(), &[("portico.dev/adopted", "true"), ("portico.dev/listener-extras", "compared")]),
    ];
    for (tags, recorded) in recorded {
        assert_eq!(pairs(&tags), recorded);
    }
}

#[test]
fn what_a_group_shares_still_has_the_names_and_the_owner_of_earlier_releases() {
    let (cluster, group) = (mk_desired().owner.cluster, mk_group());
    let recorded = [
        names::shared_load_balancer(&cluster, &group, None, 0),
        names::shared_load_balancer(&cluster, &group, None, 1),
        names::shared_load_balancer(&cluster, &group, Some("front"), 1),
        names::shared_security_group(&cluster, &group, 0),
        names::shared_security_group(&cluster, &group, 1),
        tags::remains(&cluster, &group).unwrap().service.to_string(),
    ];
    let names = [
        "p-shop-front-6059cc7903eda32a",
        "p-shop-front-6059cd7903eda4dd",
        "front-1",
        "p-shop-front-37281b1248e46081",
        "p-shop-front-37281a1248e45ece",
        "group-201363653c38fa95",
    ];
    assert_eq!(recorded, names);
}

#[test]
fn hashes_of_earlier_releases_still_hold() {
    let desired = mk_desired();
    let wanted = translate(&desired, &Quotas::default()).unwrap();
    assert_eq!(spec_digest(&desired), "fd4a6a07794633bb5eb91f50e479f0ec-bef55d0bf3b2c865");
    assert_eq!(wanted.targets_digest(), "2ac33c192b19564e");
}
