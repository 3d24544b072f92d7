//! Plans, without a cloud: what is said, in which order, and what is not done.
//!
//! Owns: a view that is as a Service asks (`mk_view`), and departures from it. Leaves to others: whether AWS agrees.
//! Invariant: a view as asked has nothing to plan, so that each departure is the only cause of its plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portico_provider::{
    Desired, Field, IngressAddress, LoadBalancer, Obstacle, Owner, Plan, Protocol, Replacement, Scheme,
    ServiceName,
};

use super::{mk_listener, mk_load_balancer, mk_nodes, mk_options, mk_pods, mk_port};
use crate::Quotas;
use crate::cache::Cache;
use crate::capabilities as key;
use crate::cloud::resources::{
    Health, Id, LifeState, Listener, ListenerExtras, LoadBalancer as AwsLoadBalancer, SecurityGroup,
    SubnetMapping, Target, TargetGroup, Transport,
};
use crate::names;
use crate::observed::{Balancer, Group, Observed, Snapshot, SyncedHash, View};
use crate::plan::{Pace, PrefixLists, SecurityGroupNames, Site, plan, proven_targets};
use crate::step::Step;
use crate::tags;
use crate::wanted::Frontend;
use crate::wanted::{DELETION_PROTECTION, spec_digest, translate};

pub(super) fn mk_site() -> Site {
    Site {
        vpc: "vpc-1".to_owned(),
        backend_group: None,
        prefix_lists: PrefixLists::new(),
        security_groups: SecurityGroupNames::new(),
        quotas: Quotas::default(),
        pace: Pace(Duration::from_secs(10)),
        reached: None,
    }
}

pub(super) fn mk_base() -> LoadBalancer {
    let owner = Owner {
        cluster: "cluster".parse().unwrap(),
        service: "uid".parse().unwrap(),
        name: ServiceName::new("shop", "web").unwrap(),
    };
    mk_load_balancer(owner, &["i-1".to_owned(), "i-2".to_owned()])
}

pub(super) fn planned(desired: &LoadBalancer, view: &View) -> Plan<Step> {
    plan(&mk_site(), Desired::Present(desired), Some(&Observed::Full(view.clone())))
}

fn mk_hash(desired: &LoadBalancer) -> SyncedHash {
    SyncedHash {
        spec: spec_digest(desired),
        targets: Some(translate(desired, &Quotas::default()).unwrap().targets_digest()),
    }
}

/// Everything as `desired` asks, active, healthy and synced.
pub(super) fn mk_view(desired: &LoadBalancer) -> View {
    let wanted = translate(desired, &Quotas::default()).unwrap();
    let owner = &desired.owner;
    let name = names::load_balancer(owner, wanted.name.as_deref(), 0);
    let mut view = View::default();
    let mut security_groups = BTreeSet::new();
    if let Frontend::Own(rules) = &wanted.frontend {
        let name = names::security_group(owner, 0);
        let security_group = SecurityGroup {
            id: Id("sg-1".to_owned()),
            name: name.clone(),
            rules: rules.clone(),
            foreign: BTreeSet::new(),
            tags: tags::of(owner),
        };
        security_groups.insert(security_group.id.clone());
        view.security_groups.insert(name, security_group);
    }
    let mut listeners = BTreeMap::new();
    for (port, wanted) in &wanted.listeners {
        let group_name = names::target_group(owner, &name, *port, wanted.shape);
        let id = Id(format!("arn:aws:x:targetgroup/{group_name}"));
        let listener = Listener {
            id: Id(format!("listener-{port}")),
            spec: wanted.spec.clone(),
            group: Some(id.clone()),
            split: false,
        };
        listeners.insert(*port, listener);
        let kind = (wanted.shape.targets, wanted.shape.family);
        let described = TargetGroup {
            id,
            name: group_name.clone(),
            kind,
            port: *port,
            load_balancers: BTreeSet::new(),
            health: wanted.health.clone(),
        };
        let targets = wanted.targets.iter().map(|target| (target.clone(), Health::Healthy)).collect();
        let attributes = wanted.attributes.clone();
        view.target_groups.insert(group_name, Group { described, member_of: None, attributes, targets });
    }
    let hostname = format!("{name}.example");
    let described = AwsLoadBalancer {
        id: Id(format!("arn:aws:x:loadbalancer/net/{name}")),
        name: name.clone(),
        hostname,
        scheme: wanted.scheme,
        families: wanted.families,
        subnets: [SubnetMapping { subnet: "subnet-a".to_owned(), ..SubnetMapping::default() }].into(),
        security_groups,
        state: LifeState::Active,
    };
    let synced = Some(mk_hash(desired));
    let extras: BTreeMap<_, _> =
        wanted.listeners.iter().map(|(port, listener)| (*port, listener.extras.clone())).collect();
    let marked = extras.values().any(|extras| *extras != ListenerExtras::default());
    let balancer = Balancer {
        described,
        attributes: wanted.attributes.clone(),
        listeners,
        extras: marked.then_some(extras),
        taken: BTreeMap::new(),
        shared: None,
        adopted: false,
        synced,
        polls: 0,
    };
    view.load_balancers.insert(name, balancer);
    view
}

pub(super) fn lines(plan: &Plan<Step>) -> Vec<String> {
    plan.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn ipv6_that_aws_cannot_serve_is_refused_before_anything_is_made() {
    let dual = vec![portico_provider::IpFamily::IPv4, portico_provider::IpFamily::IPv6];
    let udp = LoadBalancer {
        ip_families: dual.clone(),
        listeners: [mk_listener(Protocol::Udp, 53)].into(),
        ..mk_base()
    };
    let wrong = translate(&udp, &Quotas::default()).unwrap_err();
    assert!(wrong[0].0 == Field::IpFamilies && wrong[0].1.contains("port 53 is UDP"), "{wrong:?}");
    let mut pods = LoadBalancer { ip_families: dual.into_iter().rev().collect(), ..mk_base() };
    pods.targets = mk_pods(&["2001:db8::7"], &pods.listeners);
    assert_eq!(translate(&pods, &Quotas::default()).unwrap().listeners[&80].targets.len(), 1);
    pods.options = mk_options(&[(key::ADDRESS_TYPE, "ipv4")]);
    assert!(translate(&pods, &Quotas::default()).unwrap_err()[0].1.contains("IPv6 pods need dualstack"));
}

#[test]
fn a_creation_reads_like_this() {
    let plan = plan(&mk_site(), Desired::Present(&mk_base()), None);
    assert_eq!(plan.to_string(), include_str!("golden/create.txt").trim_end());
}

#[test]
fn a_view_as_asked_has_nothing_to_plan() {
    let mut tls = mk_base();
    tls.options = mk_options(&[
        (key::CERTIFICATE, "arn:aws:acm:x,arn:aws:acm:y"),
        (&format!("{}TLS-80", key::LISTENER_ATTRIBUTES_OF), "tcp.idle_timeout.seconds=60"),
        (key::ALPN, "HTTP2Preferred"),
        (key::ATTRIBUTES, "load_balancing.cross_zone.enabled=true"),
        (key::GROUP_ATTRIBUTES, "deregistration_delay.timeout_seconds=30"),
    ]);
    let mut dns = mk_base();
    dns.listeners = [mk_listener(Protocol::Tcp, 53), mk_listener(Protocol::Udp, 53)].into();
    let mut pods = mk_base();
    pods.targets = mk_pods(&["10.0.0.7"], &pods.listeners);
    for desired in [mk_base(), tls, dns, pods] {
        let plan = planned(&desired, &mk_view(&desired));
        assert!(plan.is_settled(), "{plan}");
    }
}

#[test]
fn tcp_and_udp_on_one_port_are_one_listener_and_tls_ends_where_it_is_asked_to() {
    let mut dns = mk_base();
    dns.listeners = [mk_listener(Protocol::Tcp, 53), mk_listener(Protocol::Udp, 53)].into();
    assert_eq!(translate(&dns, &Quotas::default()).unwrap().listeners[&53].spec.protocol, Transport::TcpUdp);
    let mut other = mk_listener(Protocol::Udp, 53);
    other.node_port = Some(mk_port(31_111));
    dns.listeners = [mk_listener(Protocol::Tcp, 53), other].into();
    let wrong = translate(&dns, &Quotas::default()).unwrap_err();
    assert!(wrong[0].1.contains("give both the same nodePort"), "{wrong:?}");

    let mut web = mk_base();
    web.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Tcp, 443)].into();
    web.options = mk_options(&[(key::CERTIFICATE, "arn:aws:acm:x"), (key::TLS_PORTS, "443")]);
    let listeners = translate(&web, &Quotas::default()).unwrap().listeners;
    assert_eq!(listeners[&80].spec.protocol, Transport::Tcp);
    assert_eq!(listeners[&443].spec.protocol, Transport::Tls);
    assert_eq!(listeners[&443].shape.protocol, Transport::Tcp, "in the clear to the targets");
}

#[test]
fn old_targets_go_only_after_new_ones_were_asked_for_their_health() {
    let desired = LoadBalancer { targets: mk_nodes(&["i-2".to_owned(), "i-3".to_owned()]), ..mk_base() };
    let mut view = mk_view(&mk_base());
    let plan = planned(&desired, &view);
    let message = lines(&plan);
    assert!(
        message[1].starts_with("2. register 1 target in") && message[2].starts_with("wait for 1 new targets"),
        "{plan}"
    );
    assert_eq!(message.len(), 3, "nothing is deregistered or marked synced yet: {plan}");

    let group = view.target_groups.values_mut().next().unwrap();
    let new = Target { id: "i-3".to_owned(), port: 30_080 };
    group.targets.insert(new.clone(), Health::Initial);
    assert!(!planned(&desired, &view).is_destructive(), "still being asked");
    view.target_groups.values_mut().next().unwrap().targets.insert(new, Health::Unhealthy);
    let plan = planned(&desired, &view);
    assert!(lines(&plan)[1].starts_with("2. deregister 1 target from"), "{plan}");
}

#[test]
fn clients_are_let_in_before_others_are_shut_out() {
    let before = LoadBalancer { source_ranges: ["192.0.2.0/24".parse().unwrap()].into(), ..mk_base() };
    let after = LoadBalancer { source_ranges: ["198.51.100.0/24".parse().unwrap()].into(), ..mk_base() };
    let plan = planned(&after, &mk_view(&before));
    let message = lines(&plan);
    assert!(message[1].contains("allow tcp/80 from 198.51.100.0/24"), "{plan}");
    assert!(message[2].contains("no longer allow tcp/80 from 192.0.2.0/24"), "{plan}");
    assert!(plan.additive_first());
}

#[test]
fn a_replacement_is_new_first_and_needs_consent() {
    let desired = LoadBalancer { scheme: Scheme::Internal, ..mk_base() };
    let view = mk_view(&mk_base());
    let plan = planned(&desired, &view);
    assert!(plan.steps().is_empty(), "{plan}");
    assert_eq!(
        (plan.blocked()[0].field, plan.blocked()[0].obstacle),
        (Field::Scheme, Obstacle::ReplacementRequired)
    );

    let old = view.load_balancers.values().next().unwrap().described.hostname.clone();
    let consenting = LoadBalancer {
        replacement: Replacement::Allowed,
        published: [IngressAddress::Hostname(old)].into(),
        ..desired
    };
    let plan = planned(&consenting, &view);
    assert_eq!(plan.to_string(), include_str!("golden/replace.txt").trim_end());
    assert!(!plan.is_destructive(), "the old one serves until the status shows the new one");
}

#[test]
fn an_old_load_balancer_is_deleted_when_no_status_shows_it_and_not_before() {
    let mut view = mk_view(&mk_base());
    let old = view.load_balancers.values().next().unwrap().clone();
    let desired = LoadBalancer { scheme: Scheme::Internal, replacement: Replacement::Allowed, ..mk_base() };
    let name = names::load_balancer(&desired.owner, None, 1);
    let mut new = old.clone();
    new.described.name.clone_from(&name);
    new.described.hostname = "new.example".to_owned();
    new.described.scheme = Scheme::Internal;
    view.load_balancers.insert(name, new);
    let shown = |hostname: &str| LoadBalancer {
        published: [IngressAddress::Hostname(hostname.to_owned())].into(),
        ..desired.clone()
    };
    let delete = format!("delete load balancer {}", old.described.name);
    let early = planned(&shown(&old.described.hostname), &view).to_string();
    assert!(!early.contains(&delete) && early.contains("instead of"), "{early}");
    let late = planned(&shown("new.example"), &view).to_string();
    assert!(late.contains(&delete), "{late}");
}

#[test]
fn deletion_protection_is_never_switched_off() {
    let desired = mk_base();
    let mut view = mk_view(&desired);
    for balancer in view.load_balancers.values_mut() {
        balancer.attributes.insert(DELETION_PROTECTION.to_owned(), "true".to_owned());
    }
    let off = format!("{DELETION_PROTECTION}=false");
    let asked = LoadBalancer { options: mk_options(&[(key::ATTRIBUTES, &off)]), ..desired.clone() };
    let message = planned(&asked, &view).to_string();
    assert!(!message.contains(DELETION_PROTECTION), "{message}");
    let plan = plan(&mk_site(), Desired::Absent(&desired.owner), Some(&Observed::Full(view)));
    assert!(
        plan.steps().is_empty() && plan.waiting().is_some_and(|it| it.what.contains("by hand")),
        "{plan}"
    );
}

/// As a listing shows it after a restart, and what the status shows.
fn mk_snapshot(desired: &mut LoadBalancer) -> Snapshot {
    let view = mk_view(desired);
    let name = view.load_balancers.keys().next().unwrap();
    desired.published = [IngressAddress::Hostname(format!("{name}-0123.elb.example"))].into();
    view.snapshot()
}

#[test]
fn an_unchanged_service_needs_no_more_than_its_tags_and_its_status() {
    let mut desired = mk_base();
    let snapshot = mk_snapshot(&mut desired);
    let planned = |desired: &LoadBalancer, snapshot: &Snapshot| {
        plan(&mk_site(), Desired::Present(desired), Some(&Observed::Snapshot(snapshot.clone())))
    };
    let settled = planned(&desired, &snapshot);
    assert!(settled.is_settled(), "{settled}");
    let changed = LoadBalancer { scheme: Scheme::Internal, ..desired.clone() };
    let plan = planned(&changed, &snapshot);
    assert!(!plan.is_destructive() && plan.to_string().contains("the Service changed"), "{plan}");
    let unpublished = LoadBalancer { published: [].into(), ..desired.clone() };
    let plan = planned(&unpublished, &snapshot);
    assert!(plan.to_string().contains("in no status"), "{plan}");
    let mut begun = snapshot.clone();
    begun.synced.as_mut().unwrap().targets = None;
    let plan = planned(&desired, &begun);
    assert!(plan.to_string().contains("unfinished"), "{plan}");
}

fn learn(cache: &Cache, desired: &LoadBalancer, listed: &Observed) {
    let proven = proven_targets(&Quotas::default(), Desired::Present(desired), Some(listed));
    if let Some((hash, targets)) = proven {
        cache.targets_are(&desired.owner, &hash, targets);
    }
}

#[test]
fn after_a_restart_a_change_of_nodes_is_planned_without_a_read() {
    let mut desired = mk_base();
    let snapshot = mk_snapshot(&mut desired);
    let owner = desired.owner.clone();
    let cache = Cache::default();
    let listed = cache.listed_one(&owner, snapshot.clone());
    learn(&cache, &desired, &listed);
    let known = cache.cached(&owner);
    let joined = LoadBalancer {
        targets: mk_nodes(&["i-1".to_owned(), "i-2".to_owned(), "i-3".to_owned()]),
        ..desired.clone()
    };
    let wide = plan(&mk_site(), Desired::Present(&joined), known.as_ref());
    let message = lines(&wide);
    assert!(message[0].contains("a change begins") && message[1].contains("register 1 target"), "{wide}");
    assert!(message[2].contains("all is done") && message.len() == 3 && !wide.is_destructive(), "{wide}");
    let left = LoadBalancer { targets: mk_nodes(&["i-2".to_owned()]), ..desired.clone() };
    let destructive = plan(&mk_site(), Desired::Present(&left), known.as_ref());
    assert!(
        lines(&destructive)[1].contains("deregister 1 target") && destructive.is_destructive(),
        "{destructive}"
    );
    // Another owner's synced hash proves nothing.
    let other = Cache::default();
    let listed = other.listed_one(&owner, snapshot);
    learn(&other, &joined, &listed);
    assert!(matches!(other.cached(&owner), Some(Observed::Snapshot(Snapshot { targets: None, .. }))));
}

/// The new one comes first, and cannot have what the old one holds.
#[test]
fn a_replacement_that_needs_what_the_old_one_holds_is_blocked_with_the_remedy() {
    let mk = |options: &[(&str, &str)], replacement| LoadBalancer {
        options: mk_options(options),
        replacement,
        ..mk_base()
    };
    let eips = (key::EIPS, "eipalloc-1,eipalloc-2");
    let private = (key::PRIVATE_ADDRESSES, "10.0.0.5");
    let internal = (key::SCHEME, "internal");
    let subnet = (key::SUBNETS, "subnet-a");
    let table = [
        (vec![eips], vec![eips, (key::NAME, "shop")], "eipalloc-1"),
        (vec![internal, subnet, private], vec![internal, subnet, private, (key::NAME, "shop")], "10.0.0.5"),
    ];
    for (before, after, held) in table {
        for replacement in [Replacement::NeedsConsent, Replacement::Allowed] {
            let mut view = mk_view(&mk(&before, replacement));
            for balancer in view.load_balancers.values_mut() {
                balancer.described.subnets = [SubnetMapping {
                    subnet: "subnet-a".to_owned(),
                    allocation: before.contains(&eips).then(|| "eipalloc-1".to_owned()),
                    private_address: before.contains(&private).then(|| "10.0.0.5".parse().unwrap()),
                    ..SubnetMapping::default()
                }]
                .into();
            }
            let plan = planned(&mk(&after, replacement), &view);
            assert!(plan.steps().is_empty(), "{plan}");
            let [blocked] = plan.blocked() else { panic!("{plan}") };
            assert_eq!(blocked.obstacle, Obstacle::Unsupported, "consent does not help");
            let message = &blocked.message;
            assert!(message.contains(held) && message.contains("make it again"), "{message}");
            assert!(!message.contains("allow-replacement"), "{message}");
        }
    }
    let elsewhere = mk(&[(key::EIPS, "eipalloc-8,eipalloc-9")], Replacement::Allowed);
    assert!(planned(&elsewhere, &mk_view(&mk_base())).blocked().is_empty(), "others are free");
}
