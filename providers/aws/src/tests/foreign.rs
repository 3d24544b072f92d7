//! What others put on what is ours, and what they take off it, on the emulator and without one.
//!
//! Owns: listeners and rules that Terraform or a person made or deleted. Leaves to others: things of ours that lost their
//! tags (`lost`). Invariant: what is somebody else's is there afterwards, and a condition names it.

use portico_provider::{
    Desired, Fact, LoadBalancer, LoadBalancerProvider, Obstacle, Owner, Protocol, ReadMode, ServiceName,
    Topic,
};

use super::crash::{Status, attempt};
use super::emulator::Emulator;
use super::plans::{mk_base, mk_view, planned};
use super::{mk_listener, mk_load_balancer};
use crate::cloud::Sdk;
use crate::cloud::resources::{ForeignRule, Id, Kind, ListenerSpec, Tags, Transport};
use crate::observed::{Observed, View};
use crate::report::report;
use crate::{AwsProvider, Quotas, tags};

fn mk_owner() -> Owner {
    Owner {
        cluster: "foreign".parse().unwrap(),
        service: "uid-foreign".parse().unwrap(),
        name: ServiceName::new("foreign", "web").unwrap(),
    }
}

fn mk_provider(emulator: &Emulator) -> AwsProvider {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner().cluster)).unwrap()
}

/// As an operator goes that has just read the listing; what it saw last.
async fn settle(provider: &AwsProvider, to: &LoadBalancer, status: &mut Status) -> Option<Observed> {
    let mut services = provider.inventory().await.unwrap().services;
    let mut observed = services.remove(&to.owner.service).map(|owned| owned.observed);
    Box::pin(attempt(provider, &to.owner, Some(to), &mut observed, status)).await.unwrap();
    observed
}

async fn ids(sdk: &Sdk, kind: Kind) -> Vec<Id> {
    let found = sdk.tagged(&tags::of_cluster(&mk_owner().cluster)).await.unwrap();
    found.into_iter().map(|(id, _)| id).filter(|id| id.kind() == Some(kind)).collect()
}

fn foreign(desired: &LoadBalancer, view: &View) -> Option<Fact> {
    let facts = report(&Quotas::default(), desired, Some(&Observed::Full(view.clone()))).facts;
    facts.into_iter().find(|fact| fact.topic == Topic::NothingForeign)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_owners_listener_stays_and_a_deleted_one_is_missed_by_the_next_listing() {
    let Some(emulator) = Emulator::start().await else { return };
    let sdk = &emulator.sdk;
    let (provider, mut status) = (mk_provider(&emulator), Status::new());
    let other = Owner { service: "uid-other".parse().unwrap(), ..mk_owner() };
    let other = mk_load_balancer(other, &emulator.instances[..1]);
    settle(&provider, &other, &mut Status::new()).await;
    let others = ids(sdk, Kind::Listener).await;
    let desired = mk_load_balancer(mk_owner(), &emulator.instances[..1]);
    settle(&provider, &desired, &mut status).await;
    let listed = sdk.tagged(&tags::of_any(&[mk_owner()])).await.unwrap();
    let own = |kind| listed.iter().map(|(id, _)| id.clone()).find(|id| id.kind() == Some(kind)).unwrap();
    let (balancer, group) = (own(Kind::LoadBalancer), own(Kind::TargetGroup));
    let spec = ListenerSpec { port: 8443, protocol: Transport::Tcp, tls: None };
    let terraform = Tags::from([("managed-by".to_owned(), "terraform".to_owned())]);
    let theirs = sdk.create_listener(&balancer, &spec, &group, &terraform).await.unwrap();

    // As the audit does: everything is read, and what is wanted is compared.
    let wanted = Desired::Present(&desired);
    let observed = mk_provider(&emulator).observe_for(wanted, ReadMode::Full).await.unwrap();
    let plan = provider.plan(wanted, observed.as_ref());
    assert!(plan.steps().iter().all(|it| !it.step.to_string().contains("delete")), "{plan}");
    let Some(Observed::Full(view)) = &observed else { panic!("{observed:?}") };
    let fact = foreign(&desired, view).unwrap();
    assert!(fact.reason == "ForeignListener" && fact.message.contains("port 8443"), "{fact:?}");

    // The Service asks for that port: it is reported, and left.
    let both = LoadBalancer {
        listeners: [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Tcp, 8443)].into(),
        ..desired.clone()
    };
    let plan = provider.plan(Desired::Present(&both), observed.as_ref());
    let [blocked] = plan.blocked() else { panic!("{plan}") };
    assert!(
        blocked.obstacle == Obstacle::ListenerConflict && blocked.message.contains("delete that listener"),
        "{plan}"
    );
    let ingress = &provider.report(&both, observed.as_ref()).ingress[0];
    let errors: Vec<Option<&str>> = ingress.ports.iter().map(|port| port.error.as_deref()).collect();
    assert_eq!(errors, [None, Some("portico.dev/ListenerConflict")]);

    // Ours is deleted by hand: the next listing misses it, in this process and in the next.
    for restarted in [false, true] {
        let all = ids(sdk, Kind::Listener).await;
        sdk.delete_listener(all.iter().find(|id| !others.contains(id)).unwrap()).await.unwrap();
        let process = if restarted { &mk_provider(&emulator) } else { &provider };
        let seen = settle(process, &desired, &mut status).await;
        assert_eq!(ids(sdk, Kind::Listener).await.len(), 2, "it is there again");
        assert!(provider.report(&desired, seen.as_ref()).ready);
    }
    let left = sdk.listeners(&balancer).await.unwrap();
    assert!(left.iter().any(|listener| listener.id == theirs.id), "{left:?}");
}

#[test]
fn a_rule_that_admits_clients_is_distinguished_from_one_that_does_not() {
    let open = mk_base();
    let closed = LoadBalancer { source_ranges: ["192.0.2.0/24".parse().unwrap()].into(), ..mk_base() };
    let rule = |protocol: &str, ports, source: &str| ForeignRule {
        protocol: protocol.to_owned(),
        ports,
        source: source.to_owned(),
    };
    let table = [
        (&closed, rule("-1", None, "0.0.0.0/0"), "ForeignRuleOpens"),
        (&closed, rule("-1", None, "::/0"), "ForeignRuleOpens"),
        (&closed, rule("tcp", Some((1, 65_535)), "10.0.0.0/8"), "ForeignRuleOpens"),
        (&closed, rule("tcp", Some((80, 80)), "sg-other"), "ForeignRuleOpens"),
        (&closed, rule("6", Some((80, 81)), "198.51.100.7/32"), "ForeignRuleOpens"),
        (&closed, rule("tcp", Some((79, 81)), "192.0.2.7/32"), "ForeignRule"),
        (&closed, rule("tcp", Some((22, 23)), "0.0.0.0/0"), "ForeignRule"),
        (&closed, rule("udp", Some((1, 100)), "0.0.0.0/0"), "ForeignRule"),
        (&closed, rule("icmp", None, "0.0.0.0/0"), "ForeignRule"),
        (&open, rule("-1", None, "0.0.0.0/0"), "ForeignRule"),
        (&open, rule("tcp", Some((80, 80)), "sg-other"), "ForeignRule"),
        (&open, rule("-1", None, "::/0"), "ForeignRuleOpens"),
    ];
    for (desired, rule, reason) in table {
        let mut view = mk_view(desired);
        assert_eq!(foreign(desired, &view), None);
        view.security_groups.values_mut().next().unwrap().foreign.insert(rule.clone());
        let fact = foreign(desired, &view).unwrap();
        assert_eq!(fact.reason, reason, "{rule}: {fact:?}");
        assert!(fact.message.contains(&rule.to_string()) && fact.message.contains("sg-1"), "{fact:?}");
        let plan = planned(desired, &view);
        assert!(plan.is_settled(), "it is left: {plan}");
    }
}

/// Foreign rules need room, too.
#[test]
fn others_rules_count_against_the_quota() {
    let ranges = (0..59).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    let desired = LoadBalancer { source_ranges: ranges, ..mk_base() };
    let mut view = mk_view(&mk_base());
    let plan = planned(&desired, &view).to_string();
    assert!(!plan.contains("create security group"), "{plan}");
    let any =
        |n: u16| ForeignRule { protocol: "tcp".to_owned(), ports: Some((1, n)), source: "sg-x".to_owned() };
    view.security_groups.values_mut().next().unwrap().foreign = (2..4).map(any).collect();
    let plan = planned(&desired, &view).to_string();
    assert!(plan.contains("create security group"), "{plan}");
}

/// The listing shows other listeners than there are ports.
#[test]
fn a_listing_that_lacks_a_listener_causes_a_full_read() {
    let mut desired = mk_base();
    desired.listeners.insert(mk_listener(Protocol::Tcp, 443));
    let view = mk_view(&desired);
    let name = view.load_balancers.keys().next().unwrap();
    desired.published = [portico_provider::IngressAddress::Hostname(format!("{name}-0.elb.example"))].into();
    let mut snapshot = view.snapshot();
    let planned = |snapshot: &crate::observed::Snapshot| {
        let observed = Observed::Snapshot(snapshot.clone());
        crate::plan::plan(&super::plans::mk_site(), Desired::Present(&desired), Some(&observed)).to_string()
    };
    assert!(planned(&snapshot).starts_with("nothing to do"), "{}", planned(&snapshot));
    snapshot.listeners.as_mut().unwrap().pop_first();
    assert!(planned(&snapshot).contains("more listeners than ports, or fewer"), "{}", planned(&snapshot));
    snapshot.listeners = None;
    assert!(planned(&snapshot).starts_with("nothing to do"), "a listing without any proves nothing");
}
