//! Crash at every call: the process stops before and after each single call to AWS, in turn; the next converges.
//!
//! Owns: the scenarios and the count. Leaves to others: stopping (`faulty`), the cloud (`emulator`).
//! Invariant: after each crash there is one load balancer with the right hostname, and after deletion, by boto3, the
//! account is as it was before.

use std::collections::BTreeSet;

use portico_provider::contract::{CloudFixture, tally};
use portico_provider::{
    Desired, GroupName, HealthCheck, IngressAddress, LoadBalancer, LoadBalancerProvider, Outcome, Owner,
    Plan, Protocol, ProviderError, ReadMode, Replacement, Scheme, ServiceName,
};

use super::contract::Aws;
use super::faulty::{Fault, Kind};
use super::{mk_listener, mk_nodes, mk_options, mk_pods};
use crate::AwsProvider;
use crate::observed::Observed;
use crate::step::{Action, Mark};

/// What is there, and what shall be.
struct Scenario {
    name: &'static str,
    from: Option<LoadBalancer>,
    to: Option<LoadBalancer>,
    /// Another Service of the group, which stays as it is.
    neighbour: Option<LoadBalancer>,
}

fn scenarios(fixture: &Aws, owner: &Owner) -> Vec<Scenario> {
    let base = fixture.base(owner.clone());
    let mut update = base.clone();
    update.listeners.insert(mk_listener(Protocol::Udp, 53));
    update.targets = mk_nodes(&fixture.emulator.instances[1..3]);
    update.source_ranges = ["192.0.2.0/24".parse().unwrap()].into();
    let mut pods = base.clone();
    pods.targets = mk_pods(&["10.0.0.7"], &pods.listeners);
    pods.health_check = Some(HealthCheck::tcp_traffic());
    let replaced =
        LoadBalancer { scheme: Scheme::Internal, replacement: Replacement::Allowed, ..base.clone() };
    let mut certificates = base.clone();
    certificates.options = mk_options(&super::listeners::EXTRAS);
    let scenario = |name, from: Option<&LoadBalancer>, to: Option<LoadBalancer>| Scenario {
        name,
        from: from.cloned(),
        to,
        neighbour: None,
    };
    vec![
        scenario("create", None, Some(base.clone())),
        scenario("update", Some(&base), Some(update)),
        scenario("target kind", Some(&base), Some(pods)),
        scenario("certificates", Some(&base), Some(certificates)),
        scenario("replacement", Some(&base), Some(replaced)),
        scenario("delete", Some(&base), None),
    ]
}

/// The life of a member, alone and beside another.
fn of_a_group(fixture: &Aws, base: &LoadBalancer) -> Vec<Scenario> {
    let alone = LoadBalancer { replacement: Replacement::Allowed, ..base.clone() };
    let member = LoadBalancer { group: GroupName::new("contract", "edge"), ..alone.clone() };
    let mut moved = member.clone();
    moved.listeners = [mk_listener(Protocol::Udp, 53), mk_listener(Protocol::Tcp, 8080)].into();
    moved.source_ranges = ["192.0.2.0/24".parse().unwrap()].into();
    let name = ServiceName::new("contract", "neighbour").unwrap();
    let owner = Owner { service: "uid-neighbour".parse().unwrap(), name, ..base.owner.clone() };
    let neighbour = LoadBalancer {
        listeners: [mk_listener(Protocol::Tcp, 443)].into(),
        ..LoadBalancer { owner, group: member.group.clone(), ..fixture.base(base.owner.clone()) }
    };
    let mut all = Vec::new();
    for beside in [None, Some(&neighbour)] {
        let mut add = |name, from: Option<&LoadBalancer>, to: Option<&LoadBalancer>| {
            all.push(Scenario { name, from: from.cloned(), to: to.cloned(), neighbour: beside.cloned() });
        };
        add("a member is made", None, Some(&member));
        add("a member changes its ports", Some(&member), Some(&moved));
        add("a Service joins a group", Some(&alone), Some(&member));
        add("a member leaves", Some(&member), Some(&alone));
        add("a member is deleted", Some(&member), None);
    }
    all
}

/// What a Service's status shows, which outlives processes.
pub(super) type Status = BTreeSet<IngressAddress>;

fn message(error: &ProviderError) -> String {
    format!("{error:?}")
}

/// One process, from its first listing until it settles or dies.
async fn process(
    fixture: &Aws,
    owner: &Owner,
    to: Option<&LoadBalancer>,
    status: &mut Status,
) -> Result<(), String> {
    let provider = fixture.provider(&owner.cluster);
    let listed = provider.inventory().await.map_err(|error| message(&error))?;
    let mut observed = listed.services.get(&owner.service).map(|owned| owned.observed.clone());
    attempt(&provider, owner, to, &mut observed, status).await
}

/// As an operator would drive it: it plans, reads as closely as the plan needs, caches its own steps, and publishes
/// what is reported. What has to be done by hand ends it with these words.
pub(super) async fn attempt(
    provider: &AwsProvider,
    owner: &Owner,
    to: Option<&LoadBalancer>,
    observed: &mut Option<Observed>,
    status: &mut Status,
) -> Result<(), String> {
    let mut desired = to.cloned();
    let mut mode = None;
    for _ in 0..120 {
        if let Some(desired) = &mut desired {
            desired.published.clone_from(status);
            let report = provider.report(desired, observed.as_ref());
            if !report.ingress.is_empty() {
                *status = report.ingress.into_iter().map(|ingress| ingress.address).collect();
            }
            desired.published.clone_from(status);
        }
        let wanted = desired.as_ref().map_or(Desired::Absent(owner), Desired::Present);
        let seen = desired.as_ref().zip(observed.as_ref());
        let targets = seen.map(|(desired, observed)| provider.plan_targets(&desired.backends(), observed));
        let targets = targets.filter(|plan| !plan.steps().is_empty());
        let plan = targets.unwrap_or_else(|| provider.plan(wanted, observed.as_ref()));
        assert!(plan.blocked().is_empty() && plan.additive_first(), "{plan}");
        if let Some(waiting) = plan.waiting().filter(|waiting| waiting.what.contains("by hand")) {
            return Err(waiting.what.clone());
        }
        let absent_unproved = desired.is_none() && mode.is_none();
        let next = match mode {
            None if plan.is_settled() && !absent_unproved => return Ok(()),
            None => ReadMode::first(wanted, &plan),
            Some(mode) => match ReadMode::before(mode, wanted, observed.is_some(), &plan) {
                Some(closer) => closer,
                None if plan.is_settled() => {
                    if desired.is_none() {
                        status.clear();
                    }
                    return Ok(());
                }
                None if carry_out(provider, &plan).await? => ReadMode::after(wanted),
                None => ReadMode::Pending,
            },
        };
        *observed = provider.observe_for(wanted, next).await.map_err(|error| message(&error))?;
        mode = Some(next);
    }
    Err("it does not settle".to_owned())
}

/// Whether all was done; else something is waited for.
async fn carry_out<P: LoadBalancerProvider>(provider: &P, plan: &Plan<P::Step>) -> Result<bool, String> {
    for planned in plan.steps() {
        let outcome = provider.execute(&planned.step).await;
        match outcome.map_err(|error| format!("{}: {error:?}", planned.step))? {
            Outcome::Done | Outcome::Unchanged => {}
            Outcome::InProgress { .. } => return Ok(false),
        }
    }
    Ok(!plan.steps().is_empty())
}

async fn settle(fixture: &Aws, owner: &Owner, to: Option<&LoadBalancer>, status: &mut Status, message: &str) {
    fixture.faults.arm(None);
    process(fixture, owner, to, status).await.unwrap_or_else(|error| panic!("{message}: {error}"));
}

/// One load balancer, and its own hostname in the report.
async fn check(fixture: &Aws, to: &LoadBalancer, message: &str) {
    let provider = fixture.provider(&to.owner.cluster);
    let observed = provider.observe_for(Desired::Present(to), ReadMode::Full).await.unwrap();
    let report = provider.report(to, observed.as_ref());
    assert_eq!(observed.map(|observed| observed.load_balancers()), Some(1), "{message}");
    assert!(report.ready && report.ingress.len() == 1, "{message}: {report:?}");
}

async fn crash(fixture: &Aws, owner: &Owner, scenario: &Scenario, fault: Fault) -> bool {
    let Scenario { name, from, to, neighbour } = scenario;
    let mut status = Status::new();
    let beside = if neighbour.is_some() { " beside another" } else { "" };
    let message = format!("{name}{beside}, {fault:?}");
    if let Some(from) = from {
        settle(fixture, owner, Some(from), &mut status, &message).await;
    }
    fixture.faults.arm(Some(fault));
    let ended = process(fixture, owner, to.as_ref(), &mut status).await;
    let died = fixture.faults.is_dead();
    assert_eq!(ended.is_err(), died, "{message}: {ended:?}");
    settle(fixture, owner, to.as_ref(), &mut status, &message).await;
    if let Some(neighbour) = neighbour {
        undisturbed(fixture, neighbour, &message).await;
    }
    if let Some(to) = to {
        check(fixture, to, &message).await;
        settle(fixture, owner, None, &mut status, &message).await;
    }
    let left = fixture.emulator.sdk.tagged(&crate::tags::of_any(std::slice::from_ref(owner))).await.unwrap();
    assert!(left.is_empty(), "{message}: left {left:?}");
    if let Some(group) =
        to.as_ref().or(from.as_ref()).and_then(|it| it.group.clone()).filter(|_| neighbour.is_none())
    {
        let left = fixture.emulator.sdk.tagged(&crate::tags::of_group(&owner.cluster, &group)).await.unwrap();
        assert!(left.is_empty(), "{message}: left of its group {left:?}");
    }
    died
}

/// Whatever became of the other one: this one has nothing to do, and its listener is where it was.
async fn undisturbed(fixture: &Aws, neighbour: &LoadBalancer, message: &str) {
    let provider = fixture.provider(&neighbour.owner.cluster);
    let wanted = Desired::Present(neighbour);
    let observed = provider.observe_for(wanted, ReadMode::Full).await.unwrap();
    let report = provider.report(neighbour, observed.as_ref());
    assert!(report.ready && report.ingress.len() == 1, "{message}: {report:?}");
    let changing = |action: &Action| !matches!(action, Action::Tag { mark: Mark::Note, .. });
    let plan = provider.plan(wanted, observed.as_ref());
    let disturbed = plan.steps().iter().any(|planned| changing(&planned.step.action));
    assert!(!disturbed && plan.blocked().is_empty(), "{message}: {plan}");
}

/// The calls of a run that nothing stops.
async fn calls(fixture: &Aws, owner: &Owner, scenario: &Scenario) -> Vec<(String, Kind)> {
    let mut status = Status::new();
    if let Some(from) = &scenario.from {
        settle(fixture, owner, Some(from), &mut status, scenario.name).await;
    }
    settle(fixture, owner, scenario.to.as_ref(), &mut status, scenario.name).await;
    let log = fixture.faults.log();
    settle(fixture, owner, None, &mut status, scenario.name).await;
    log
}

fn mk_owner() -> Owner {
    Owner {
        cluster: "crash-a".parse().unwrap(),
        service: "uid-crash".parse().unwrap(),
        name: ServiceName::new("contract", "created").unwrap(),
    }
}

/// Crashes at every call of these kinds of every scenario, in turn: points, and those survived.
async fn crash_everywhere(
    fixture: &Aws,
    owner: &Owner,
    scenarios: Vec<Scenario>,
    kinds: &[Kind],
) -> (usize, usize) {
    let (mut points, mut survived) = (0, 0);
    for scenario in scenarios {
        let mut theirs = Status::new();
        if let Some(neighbour) = &scenario.neighbour {
            settle(fixture, &neighbour.owner, Some(neighbour), &mut theirs, scenario.name).await;
        }
        let log = calls(fixture, owner, &scenario).await;
        let writes = log.iter().filter(|(_, kind)| *kind == Kind::Write).count();
        println!("{}: {} calls, {writes} of them writes", scenario.name, log.len());
        for (index, (_, kind)) in log.iter().enumerate().filter(|(_, (_, kind))| kinds.contains(kind)) {
            // After a read the cloud is as before it: one stop covers both.
            let after = (*kind == Kind::Write).then_some(Fault::After(index + 1));
            for fault in std::iter::once(Fault::Before(index + 1)).chain(after) {
                points += 1;
                survived += usize::from(crash(fixture, owner, &scenario, fault).await);
            }
        }
        if let Some(neighbour) = &scenario.neighbour {
            settle(fixture, &neighbour.owner, None, &mut theirs, scenario.name).await;
        }
    }
    (points, survived)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_or_after_any_call_converges_and_leaks_nothing() {
    let Some(fixture) = Aws::start().await else { return };
    let (before, owner) = (fixture.emulator.account("list"), mk_owner());
    let (points, survived) =
        Box::pin(crash_everywhere(&fixture, &owner, scenarios(&fixture, &owner), &[Kind::Read, Kind::Write]))
            .await;
    assert_eq!(fixture.emulator.account("list"), before, "an empty account, but for what was there");
    assert_eq!(survived, points);
    tally("aws", "services", survived, points).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_a_member_converges_leaks_nothing_and_disturbs_no_other() {
    let Some(fixture) = Aws::start().await else { return };
    let (before, owner) = (fixture.emulator.account("list"), mk_owner());
    let scenarios = of_a_group(&fixture, &fixture.base(owner.clone()));
    // Before a read the cloud is as after the write before it.
    let (points, survived) = Box::pin(crash_everywhere(&fixture, &owner, scenarios, &[Kind::Write])).await;
    assert_eq!(fixture.emulator.account("list"), before, "an empty account, but for what was there");
    assert_eq!(survived, points);
    tally("aws", "groups", survived, points).unwrap();
}

/// Reads that are advice, and no guard: without them AWS's refusal reports a quota.
const ADVICE: [&str; 2] = ["DescribeAccountLimits", "DescribeManagedPrefixLists"];

fn destroys(call: &str) -> bool {
    let taking = ["DeregisterTargets", "RevokeSecurityGroupIngress", "RemoveListenerCertificates"];
    call.starts_with("Delete") || taking.contains(&call)
}

/// Whatever a read would have returned, the steps that depend on it are not done: a guard fails closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_read_that_failed_nothing_is_taken_away() {
    let Some(fixture) = Aws::start().await else { return };
    let owner = mk_owner();
    let base = fixture.base(owner.clone());
    let all = scenarios(&fixture, &owner).into_iter().chain(of_a_group(&fixture, &base));
    let taking = ["update", "replacement", "delete", "a member leaves", "a member is deleted"];
    let mut failed = 0;
    for scenario in all.filter(|scenario| taking.contains(&scenario.name)) {
        let (Scenario { name, from, to, neighbour }, mut theirs) = (&scenario, Status::new());
        if let Some(neighbour) = neighbour {
            settle(&fixture, &neighbour.owner, Some(neighbour), &mut theirs, name).await;
        }
        let reads = calls(&fixture, &owner, &scenario).await;
        for k in (1..=reads.len()).filter(|k| reads[k - 1].1 == Kind::Read) {
            let mut status = Status::new();
            settle(&fixture, &owner, from.as_ref(), &mut status, name).await;
            fixture.faults.arm(Some(Fault::Fail(k)));
            let ended = Box::pin(process(&fixture, &owner, to.as_ref(), &mut status)).await;
            let log = fixture.faults.log();
            let Some((read, Kind::Read)) = log.get(k - 1) else { continue };
            if !ADVICE.contains(&read.as_str()) {
                failed += 1;
                let after: Vec<&str> =
                    log[k..].iter().map(|(call, _)| call.as_str()).filter(|call| destroys(call)).collect();
                assert!(after.is_empty(), "{name}: {read} failed, and then {after:?}");
                assert!(ended.is_err(), "{name}: {read} failed, and nobody minds");
            }
            settle(&fixture, &owner, None, &mut status, name).await;
        }
        if let Some(neighbour) = neighbour {
            settle(&fixture, &neighbour.owner, None, &mut theirs, name).await;
        }
    }
    assert!(failed > 50, "{failed} reads");
}
