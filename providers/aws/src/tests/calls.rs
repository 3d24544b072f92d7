//! How many calls things cost, counted by the emulator: at most so many.
//!
//! Owns: driving several Services side by side, as an operator's goes are, and the table. Leaves to others: whether it
//! ends right (`contract`, `crash`). Invariant: Services move in step, so that which calls are shared depends on no
//! clock: all read, then all do their first step, their second …

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use futures::future::join_all;
use portico_provider::{
    ClusterUid, Desired, Inventory, LoadBalancer, LoadBalancerProvider, Outcome, Owner, Plan, Protocol,
    ReadMode, ServiceName,
};
use serde_json::json;

use super::emulator::Emulator;
use super::{mk_listener, mk_load_balancer, mk_nodes};
use crate::Quotas;
use crate::cloud::resources::Health;
use crate::observed::Observed;
use crate::step::Step;
use crate::tags::{self, SyncedHash};
use crate::wanted::spec_digest;
use crate::wanted::translate;
use crate::{AwsProvider, names};

const SERVICES: usize = 25;
/// What one call takes at most.
const SHARED: usize = 20;

/// One Service, as an operator knows it.
struct Ours {
    desired: LoadBalancer,
    gone: bool,
    observed: Option<Observed>,
    mode: Option<ReadMode>,
}

impl Ours {
    fn new(desired: LoadBalancer) -> Self {
        Self { desired, gone: false, observed: None, mode: None }
    }

    fn wanted(&self) -> Desired<'_> {
        if self.gone { Desired::Absent(&self.desired.owner) } else { Desired::Present(&self.desired) }
    }

    /// Targets first, and by themselves.
    fn plan(&self, provider: &AwsProvider) -> Plan<Step> {
        let seen = self.observed.as_ref().filter(|_| !self.gone);
        let targets = seen.map(|seen| provider.plan_targets(&self.desired.backends(), seen));
        let targets = targets.filter(|plan| !plan.steps().is_empty());
        targets.unwrap_or_else(|| provider.plan(self.wanted(), self.observed.as_ref()))
    }

    fn publish(&mut self, provider: &AwsProvider) {
        let report = provider.report(&self.desired, self.observed.as_ref());
        if !report.ingress.is_empty() {
            self.desired.published = report.ingress.into_iter().map(|ingress| ingress.address).collect();
        }
    }
}

struct Run {
    emulator: Emulator,
    provider: AwsProvider,
    services: Vec<Ours>,
    table: Vec<(String, usize, BTreeMap<String, usize>)>,
}

fn mk_cluster() -> ClusterUid {
    "calls".parse().unwrap()
}

fn mk_owner(n: usize) -> Owner {
    Owner {
        cluster: mk_cluster(),
        service: format!("uid-calls-{n}").parse().unwrap(),
        name: ServiceName::new("calls", &format!("s{n}")).unwrap(),
    }
}

impl Run {
    fn new(emulator: Emulator, services: Vec<Ours>) -> Self {
        Self { provider: new_provider(&emulator), emulator, services, table: Vec::new() }
    }

    /// As after a start: the listing is read, and every Service is planned from it.
    async fn list(&mut self) {
        let Inventory { services } = self.provider.inventory().await.unwrap();
        for ours in &mut self.services {
            ours.observed = services.get(&ours.desired.owner.service).map(|owned| owned.observed.clone());
            ours.mode = None;
            ours.publish(&self.provider);
        }
    }

    /// Until nobody has anything to do.
    async fn settle(&mut self) {
        for _ in 0..60 {
            if !self.round().await {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// One read for all Services that need one, and the steps of those whose read was close enough; whether there was anything.
    async fn round(&mut self) -> bool {
        let mut plans: Vec<(usize, Plan<Step>)> = Vec::new();
        let mut reads: Vec<(usize, ReadMode)> = Vec::new();
        for (n, ours) in self.services.iter_mut().enumerate() {
            ours.publish(&self.provider);
            let plan = ours.plan(&self.provider);
            assert!(plan.additive_first() && plan.blocked().is_empty(), "{plan}");
            match ours.mode {
                None if plan.is_settled() && !ours.gone => {}
                None => reads.push((n, ReadMode::first(ours.wanted(), &plan))),
                Some(mode) => match mode.before(ours.wanted(), ours.observed.is_some(), &plan) {
                    Some(closer) => reads.push((n, closer)),
                    None if plan.is_settled() => {}
                    None if plan.steps().is_empty() => reads.push((n, ReadMode::Pending)),
                    None => plans.push((n, plan)),
                },
            }
        }
        reads.extend(self.carry_out(&plans).await);
        let provider = &self.provider;
        let wanted = |n: usize| self.services[n].wanted();
        let seen = join_all(reads.iter().map(|(n, mode)| provider.observe_for(wanted(*n), *mode))).await;
        for ((n, mode), seen) in reads.iter().zip(seen) {
            self.services[*n].observed = seen.unwrap();
            self.services[*n].mode = Some(*mode);
        }
        !reads.is_empty()
    }

    /// The first steps of all, the second ones of all, … and the reads that follow.
    async fn carry_out(&self, plans: &[(usize, Plan<Step>)]) -> Vec<(usize, ReadMode)> {
        let mut waiting = BTreeSet::new();
        for step in 0.. {
            let open = plans.iter().filter(|(n, _)| !waiting.contains(n));
            let due: Vec<_> = open.filter_map(|(n, plan)| Some((*n, plan.steps().get(step)?))).collect();
            if due.is_empty() {
                break;
            }
            let done = join_all(due.iter().map(|(_, planned)| self.provider.execute(&planned.step))).await;
            for ((n, _), outcome) in due.iter().zip(done) {
                if outcome.unwrap() != Outcome::Done {
                    waiting.insert(*n);
                }
            }
        }
        let after = |n: &usize| {
            let wanted = self.services[*n].wanted();
            if waiting.contains(n) { ReadMode::Verify } else { ReadMode::after(wanted) }
        };
        plans.iter().map(|(n, _)| (*n, after(n))).collect()
    }

    /// Reads targets that AWS has not asked yet, as an operator does from time to time.
    async fn watch_health(&mut self) {
        for _ in 0..10 {
            let sick = |ours: &&Ours| match &ours.observed {
                Some(Observed::Full(view)) => {
                    let mut groups = view.target_groups.values();
                    groups.any(|group| group.targets.values().any(|it| *it != Health::Healthy))
                }
                _ => false,
            };
            if !self.services.iter().any(|ours| sick(&ours)) {
                return;
            }
            for ours in self.services.iter_mut().filter(|ours| sick(&&**ours)) {
                let seen = self.provider.observe(&ours.desired.owner, ReadMode::Pending).await;
                ours.observed = seen.unwrap();
            }
        }
        panic!("targets do not get healthy");
    }

    /// Notes what was called since the last note.
    fn note(&mut self, what: &str) -> BTreeMap<String, usize> {
        let calls = self.emulator.calls();
        self.table.push((what.to_owned(), calls.values().sum(), calls.clone()));
        calls
    }

    fn print(&self) {
        println!("calls for {} Services of one port", self.services.len());
        for (what, all, calls) in &self.table {
            let kinds: Vec<String> = calls.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let each = f64::from(u32::try_from(*all).unwrap()) / f64::from(u32::try_from(SERVICES).unwrap());
            println!("{what:<22} {all:>5}  {each:>5.2} a Service: {}", kinds.join(", "));
        }
    }

    fn nodes(&mut self, instances: &[&str]) {
        let instances: Vec<String> = instances.iter().map(|id| (*id).to_owned()).collect();
        for ours in &mut self.services {
            ours.desired.targets = mk_nodes(&instances);
        }
    }
}

fn count(calls: &BTreeMap<String, usize>, kind: &str) -> usize {
    calls.get(kind).copied().unwrap_or_default()
}

fn all(calls: &BTreeMap<String, usize>) -> usize {
    calls.values().sum()
}

/// Exactly so many calls that are made for one target group, no more of the shared ones than so many, and nothing else.
fn change_of_nodes(calls: &BTreeMap<String, usize>, own: &str, shared: &[(&str, usize)]) {
    let mut rest = calls.clone();
    assert_eq!(rest.remove(own), Some(SERVICES), "{calls:?}");
    for (kind, most) in shared {
        assert!(rest.remove(*kind).unwrap_or_default() <= *most, "{calls:?}");
    }
    assert!(rest.is_empty(), "{calls:?}");
}

/// Only these, and nothing else.
fn only(calls: &BTreeMap<String, usize>, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(*calls, expected);
}

fn new_provider(emulator: &Emulator) -> AwsProvider {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_cluster())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_costs_no_more_calls_than_it_must() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes: Vec<String> = emulator.instances.clone();
    let node = |n: usize| nodes[n].as_str();
    let mk = |n| mk_load_balancer(mk_owner(n), &nodes[..2]);
    let mut run = Run::new(emulator, (0..SERVICES).map(|n| Ours::new(mk(n))).collect());
    drop(run.emulator.calls());
    let pages = |things: usize| things.div_ceil(100).max(1);
    let shared = SERVICES.div_ceil(SHARED);

    run.list().await;
    run.note("list, empty");
    run.settle().await;
    let calls = run.note("create");
    assert!(all(&calls) <= 7 * SERVICES, "{calls:?}");
    assert!(run.services.iter().all(|ours| ours.desired.published.len() == 1));
    run.watch_health().await;
    let calls = run.note("until healthy");
    assert_eq!(all(&calls), count(&calls, "DescribeTargetHealth"), "{calls:?}");
    assert!(all(&calls) <= 2 * SERVICES, "{calls:?}");

    run.list().await;
    run.settle().await;
    only(&run.note("resync"), &[("GetResources", pages(3 * SERVICES))]);
    run.provider = new_provider(&run.emulator);
    run.list().await;
    run.settle().await;
    only(&run.note("restart"), &[("GetResources", pages(3 * SERVICES))]);

    // Twice what is seen: who shares a call depends on who is asked first.
    let marks = ("AddTags", 2 * 2 * shared);
    run.nodes(&[node(1)]);
    run.settle().await;
    let confirms = ("DescribeTags", 2 * (2 * SERVICES).div_ceil(SHARED));
    change_of_nodes(&run.note("node leaves"), "DeregisterTargets", &[marks, confirms]);
    run.nodes(&[node(1), node(2)]);
    run.settle().await;
    change_of_nodes(&run.note("node joins"), "RegisterTargets", &[marks]);
    run.nodes(&[node(2)]);
    run.settle().await;
    let calls = run.note("leaves right after");
    assert_eq!(count(&calls, "DeregisterTargets"), SERVICES, "{calls:?}");
    assert!(
        count(&calls, "DescribeTargetHealth") <= 2 * SERVICES,
        "its successor was just registered: {calls:?}"
    );

    for ours in &mut run.services {
        ours.desired.listeners.insert(mk_listener(Protocol::Tcp, 443));
    }
    run.settle().await;
    let calls = run.note("port added, unread");
    assert!(all(&calls) <= 11 * SERVICES, "{calls:?}");
    for ours in &mut run.services {
        ours.desired.listeners.remove(&mk_listener(Protocol::Tcp, 443));
    }
    run.settle().await;
    let calls = run.note("port removed");
    assert!(all(&calls) <= 6 * SERVICES, "{calls:?}");

    for ours in &mut run.services {
        (ours.gone, ours.mode) = (true, None);
    }
    run.settle().await;
    let calls = run.note("delete");
    assert!(all(&calls) <= 5 * SERVICES, "{calls:?}");
    assert_eq!(run.provider.inventory().await.unwrap().services.len(), 0);
    run.print();
}

/// What one Service's targets say of its synced hash holds for all Services with the same targets: one read for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_went_while_nobody_ran_costs_one_write_a_target_group() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes: Vec<String> = emulator.instances.clone();
    let mk = |n| Ours::new(mk_load_balancer(mk_owner(n), &nodes[..3]));
    let mut run = Run::new(emulator, (0..SERVICES).map(mk).collect());
    run.list().await;
    run.settle().await;
    run.watch_health().await;

    run.provider = new_provider(&run.emulator);
    run.nodes(&[&nodes[0], &nodes[2]]);
    drop(run.emulator.calls());
    run.list().await;
    drop(run.note("list"));
    run.settle().await;
    let calls = run.note("node gone while down");
    assert_eq!(count(&calls, "DescribeTargetHealth"), 1, "{calls:?}");
    let marks = ("AddTags", 2 * 2 * SERVICES.div_ceil(SHARED));
    let confirms = ("DescribeTags", 2 * (2 * SERVICES).div_ceil(SHARED));
    change_of_nodes(&calls, "DeregisterTargets", &[("DescribeTargetHealth", 1), marks, confirms]);
    let groups = |ours: &Ours| match &ours.observed {
        Some(Observed::Snapshot(snapshot)) => snapshot.target_groups.values().cloned().collect::<Vec<_>>(),
        other => panic!("all else was cached: {other:?}"),
    };
    for group in run.services.iter().flat_map(groups) {
        let health = run.emulator.sdk.target_health(&group).await.unwrap();
        let serving = health.iter().filter(|(_, health)| **health != Health::Draining);
        let serving: BTreeSet<&str> = serving.map(|(target, _)| target.id.as_str()).collect();
        assert_eq!(serving, [nodes[0].as_str(), nodes[2].as_str()].into());
    }
    run.print();
}

/// Tags are enough to delete by: three writes, and reads that all share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_after_a_restart_costs_no_more_than_before_it() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes: Vec<String> = emulator.instances.clone();
    let mk = |n| Ours::new(mk_load_balancer(mk_owner(n), &nodes[..2]));
    let mut run = Run::new(emulator, (0..SERVICES).map(mk).collect());
    run.list().await;
    run.settle().await;

    run.provider = new_provider(&run.emulator);
    run.list().await;
    run.settle().await;
    drop(run.emulator.calls());
    for ours in &mut run.services {
        (ours.gone, ours.mode) = (true, None);
    }
    run.settle().await;
    let calls = run.note("delete after a restart");
    let reads = ["DescribeTags", "DescribeSecurityGroups", "GetResources"];
    let shared: usize = reads.iter().map(|read| count(&calls, read)).sum();
    let writes = ["DeleteLoadBalancer", "DeleteTargetGroup", "DeleteSecurityGroup"];
    let written: usize = writes.iter().map(|write| count(&calls, write)).sum();
    assert_eq!(all(&calls), shared + written, "{calls:?}");
    assert!(written <= 4 * SERVICES && shared <= SERVICES / 2, "{calls:?}");
    assert_eq!(run.provider.inventory().await.unwrap().services.len(), 0);
    run.print();
}

/// A Service that nobody shares calls with. Six writes create it. The synced hash takes a call
/// of its own, `active` a read, and the subnets a read: eight, and a read for each time that AWS is not done yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_service_has_ceilings_of_its_own() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes: Vec<String> = emulator.instances.clone();
    let mk = |n| Ours::new(mk_load_balancer(mk_owner(n), &nodes[..2]));
    let mut run = Run::new(emulator, vec![mk(0)]);
    run.list().await;
    drop(run.emulator.calls());

    run.settle().await;
    let calls = run.note("create");
    let reads = count(&calls, "DescribeLoadBalancers");
    assert!(all(&calls) - reads <= 8 && reads <= 2, "{calls:?}");
    assert!(!calls.contains_key("DescribeTargetHealth"), "it is too early to ask: {calls:?}");
    run.watch_health().await;
    assert!(all(&run.note("until healthy")) <= 2);

    run.nodes(&[&nodes[1], &nodes[2]]);
    run.settle().await;
    let calls = run.note("a node for another");
    assert!(all(&calls) <= 7, "{calls:?}");
    run.services[0].desired.listeners.insert(mk_listener(Protocol::Tcp, 443));
    run.settle().await;
    let calls = run.note("port added");
    assert!(all(&calls) <= 8, "{calls:?}");
    run.services[0].desired.listeners.remove(&mk_listener(Protocol::Tcp, 443));
    run.settle().await;
    let calls = run.note("port removed");
    assert!(all(&calls) <= 7, "{calls:?}");

    // Subnets were read within the minute: a second one needs no more than seven, and its reads.
    run.services.push(mk(1));
    run.settle().await;
    let calls = run.note("create, the second");
    assert!(all(&calls) - count(&calls, "DescribeLoadBalancers") <= 7, "{calls:?}");

    run.watch_health().await;
    drop(run.emulator.calls());

    (run.services[1].gone, run.services[1].mode) = (true, None);
    run.settle().await;
    let calls = run.note("delete");
    assert!(all(&calls) <= 6, "{calls:?}");
    run.print();
}

/// What the tagging API shows of a finished Service.
fn things(desired: &LoadBalancer) -> [serde_json::Value; 4] {
    let owner = &desired.owner;
    let name = names::load_balancer(owner, None, 0);
    let wanted = translate(desired, &Quotas::default()).unwrap();
    let (port, listener) = wanted.listeners.first_key_value().unwrap();
    let group = names::target_group(owner, &name, *port, listener.shape);
    let hash = SyncedHash { spec: spec_digest(desired), targets: Some(wanted.targets_digest()) };
    let mut synced = tags::of(owner);
    synced.extend(hash.beyond(None));
    let elb = "arn:aws:elasticloadbalancing:us-east-1:123456789012";
    let ec2 = "arn:aws:ec2:us-east-1:123456789012";
    let thing = |arn: String, kind: &str, tags| json!({ "arn": arn, "type": kind, "tags": tags });
    [
        thing(format!("{elb}:loadbalancer/net/{name}/0123"), "elasticloadbalancing:loadbalancer", synced),
        thing(format!("{elb}:listener/net/{name}/0123/4"), "elasticloadbalancing:listener", tags::of(owner)),
        thing(format!("{elb}:targetgroup/{group}/0123"), "elasticloadbalancing:targetgroup", tags::of(owner)),
        thing(format!("{ec2}:security-group/sg-{}", owner.service), "ec2:security-group", tags::of(owner)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_thousand_unchanged_services_reads_forty_pages_and_writes_nothing() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes: Vec<String> = emulator.instances.clone();
    let mut services = Vec::new();
    let mut tagged_only = Vec::new();
    for n in 0..1000 {
        let mut desired = mk_load_balancer(mk_owner(n), &nodes[..2]);
        tagged_only.extend(things(&desired));
        let name = names::load_balancer(&desired.owner, None, 0);
        let hostname = format!("{name}-0123.elb.us-east-1.amazonaws.com");
        desired.published = [portico_provider::IngressAddress::Hostname(hostname)].into();
        services.push(Ours::new(desired));
    }
    emulator.tagged_only(&json!(tagged_only));
    let mut run = Run::new(emulator, services);
    drop(run.emulator.calls());
    for what in ["restart", "resync"] {
        run.list().await;
        run.settle().await;
        let calls = run.note(what);
        println!("{what} of 1000 unchanged Services: {calls:?}");
        only(&calls, &[("GetResources", 40)]);
    }
    let plan = |ours: &Ours| run.provider.plan(ours.wanted(), ours.observed.as_ref()).is_settled();
    assert!(run.services.iter().all(plan));
    let first = run.services[0].desired.owner.clone();
    let found = run.emulator.sdk.tagged(&tags::of_any(slice::from_ref(&first))).await.unwrap();
    assert_eq!(found.len(), 4);
}
