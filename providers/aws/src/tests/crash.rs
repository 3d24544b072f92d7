//! Crash at every call: the process stops before and after each single call to AWS, in turn; the next converges.
//!
//! Owns: the scenarios and the count. Leaves to others: stopping (`faulty`), the cloud (`emulator`).
//! Invariant: after each crash there is one load balancer with the right hostname, and after deletion, by boto3, the
//! account is as it was before.

use std::collections::BTreeSet;

use portico_provider::contract::World;
use portico_provider::{
    Desired, HealthCheck, IngressAddress, LoadBalancer, LoadBalancerProvider, Look, Outcome, Owner, Plan,
    Protocol, ProviderError, Replacement, Scheme, ServiceName,
};

use super::contract::Aws;
use super::emulator::Emulator;
use super::faulty::{Fault, Faults, Kind};
use super::{mk_listener, mk_nodes, mk_options, mk_pods};
use crate::cloud::Cloud;

/// What is there, and what shall be.
struct Scenario {
    name: &'static str,
    from: Option<LoadBalancer>,
    to: Option<LoadBalancer>,
}

fn scenarios(world: &Aws, owner: &Owner) -> Vec<Scenario> {
    let base = world.base(owner.clone());
    let mut update = base.clone();
    update.listeners.insert(mk_listener(Protocol::Udp, 53));
    update.targets = mk_nodes(&world.emulator.instances[1..3]);
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

/// What a Service's status shows, which outlives processes.
type Status = BTreeSet<IngressAddress>;

fn told(error: &ProviderError) -> String {
    format!("{error:?}")
}

/// One process, as an operator would drive it, until it settles or dies: it lists, plans, looks as closely as the plan
/// needs, believes its own steps, and publishes what is reported.
async fn process(
    world: &Aws,
    owner: &Owner,
    to: Option<&LoadBalancer>,
    status: &mut Status,
) -> Result<(), String> {
    let provider = world.provider(&owner.cluster);
    let listed = provider.inventory().await.map_err(|error| told(&error))?;
    let mut observed = listed.services.get(&owner.service).map(|owned| owned.observed.clone());
    let mut desired = to.cloned();
    let mut look = None;
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
        let plan = provider.plan(wanted, observed.as_ref());
        assert!(plan.blocked().is_empty() && plan.widens_first(), "{plan}");
        let absent_unproved = desired.is_none() && look.is_none();
        let next = match look {
            None if plan.is_settled() && !absent_unproved => return Ok(()),
            None => Look::first(wanted, &plan),
            Some(look) => match Look::before(look, wanted, observed.is_some(), &plan) {
                Some(closer) => closer,
                None if plan.is_settled() => {
                    if desired.is_none() {
                        status.clear();
                    }
                    return Ok(());
                }
                None if carry_out(&provider, &plan).await? => Look::after(wanted),
                None => Look::Poll,
            },
        };
        observed = provider.observe(owner, next).await.map_err(|error| told(&error))?;
        look = Some(next);
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

async fn settle(world: &Aws, owner: &Owner, to: Option<&LoadBalancer>, status: &mut Status, told: &str) {
    world.faults.arm(None);
    process(world, owner, to, status).await.unwrap_or_else(|error| panic!("{told}: {error}"));
}

/// One load balancer, and its own hostname in the report.
async fn check(world: &Aws, owner: &Owner, to: &LoadBalancer, told: &str) {
    let provider = world.provider(&owner.cluster);
    let observed = provider.observe(owner, Look::Fresh).await.unwrap();
    let report = provider.report(to, observed.as_ref());
    assert_eq!(observed.map(|observed| observed.load_balancers()), Some(1), "{told}");
    assert!(report.ready && report.ingress.len() == 1, "{told}: {report:?}");
}

async fn crash(world: &Aws, owner: &Owner, scenario: &Scenario, fault: Fault) -> bool {
    let Scenario { name, from, to } = scenario;
    let mut status = Status::new();
    let told = format!("{name}, {fault:?}");
    if let Some(from) = from {
        settle(world, owner, Some(from), &mut status, &told).await;
    }
    world.faults.arm(Some(fault));
    let ended = process(world, owner, to.as_ref(), &mut status).await;
    let died = world.faults.is_dead();
    assert_eq!(ended.is_err(), died, "{told}: {ended:?}");
    settle(world, owner, to.as_ref(), &mut status, &told).await;
    if let Some(to) = to {
        check(world, owner, to, &told).await;
        settle(world, owner, None, &mut status, &told).await;
    }
    let left = world.emulator.sdk.tagged(&crate::tags::of_any(std::slice::from_ref(owner))).await.unwrap();
    assert!(left.is_empty(), "{told}: left {left:?}");
    died
}

/// The calls of a run that nothing stops.
async fn calls(world: &Aws, owner: &Owner, scenario: &Scenario) -> Vec<(&'static str, Kind)> {
    let mut status = Status::new();
    if let Some(from) = &scenario.from {
        settle(world, owner, Some(from), &mut status, scenario.name).await;
    }
    settle(world, owner, scenario.to.as_ref(), &mut status, scenario.name).await;
    let log = world.faults.log();
    settle(world, owner, None, &mut status, scenario.name).await;
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_or_after_any_call_converges_and_leaks_nothing() {
    let Some(emulator) = Emulator::start().await else { return };
    let before = emulator.account("list");
    let world = Aws { emulator, faults: Faults::default() };
    let owner = Owner {
        cluster: "crash-a".parse().unwrap(),
        service: "uid-crash".parse().unwrap(),
        name: ServiceName::new("contract", "created").unwrap(),
    };
    let (mut points, mut survived) = (0, 0);
    for scenario in scenarios(&world, &owner) {
        let log = calls(&world, &owner, &scenario).await;
        let writes = log.iter().filter(|(_, kind)| *kind == Kind::Write).count();
        println!("{}: {} calls, {writes} of them writes", scenario.name, log.len());
        for (index, (_, kind)) in log.iter().enumerate() {
            // After a read the cloud is as before it: one stop tells both.
            let after = (*kind == Kind::Write).then_some(Fault::After(index + 1));
            for fault in std::iter::once(Fault::Before(index + 1)).chain(after) {
                points += 1;
                survived += usize::from(crash(&world, &owner, &scenario, fault).await);
            }
        }
    }
    assert_eq!(world.emulator.account("list"), before, "an empty account, but for what was there");
    assert_eq!(survived, points);
    println!("crash points survived: aws {survived} of {points}");
}
