//! Targets that AWS refuses: the others are registered, an Event and a condition report it, and the refused ones are offered again later.
//!
//! Owns: plans with refused targets, and a Service's life with some on the emulator. Leaves to others: sorting them out
//! (`execute/targets`), the back-off (`cache/refused`). Invariant: a refused target never fails a step.

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Outcome, Owner, Plan, ReadMode, ServiceName, Topic, Truth,
};

use super::emulator::Emulator;
use super::plans::{lines, mk_base, mk_view, planned};
use super::{mk_load_balancer, mk_nodes, mk_pods};
use crate::AwsProvider;
use crate::Quotas;
use crate::cloud::refusal::{Refusal, Unfit};
use crate::cloud::resources::{Health, Target};
use crate::observed::{Observed, View};
use crate::report::report;
use crate::step::Step;

fn mk_refused(view: &mut View, id: &str) {
    let words = "The following targets are not in a running state and cannot be registered".to_owned();
    let refusal = Refusal { why: Unfit::NotRunning, words, tries: 1 };
    let targets = &mut view.target_groups.values_mut().next().unwrap().targets;
    targets.insert(Target { id: id.to_owned(), port: 30_080 }, Health::Refused(refusal));
}

fn with_nodes(ids: &[&str]) -> LoadBalancer {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    LoadBalancer { targets: mk_nodes(&ids), ..mk_base() }
}

#[test]
fn a_refused_target_is_waited_for_and_reported_and_not_registered_again_at_once() {
    let mut view = mk_view(&mk_base());
    mk_refused(&mut view, "i-3");
    let desired = with_nodes(&["i-1", "i-2", "i-3"]);
    let plan = planned(&desired, &view);
    assert!(plan.steps().is_empty(), "{plan}");
    let message = plan.waiting().unwrap();
    assert!(message.what.contains("i-3") && message.what.contains("running state"), "{plan}");
    assert_eq!(message.retry.as_secs(), 30);
    let facts = report(&Quotas::default(), &desired, Some(&Observed::Full(view))).facts;
    let fact = facts.iter().find(|fact| fact.topic == Topic::TargetsAccepted).unwrap();
    assert!(fact.message.contains("1 of 3") && fact.message.contains("start the instance"), "{fact:?}");
    assert!(facts.iter().any(|fact| fact.topic == Topic::TargetsHealthy && fact.holds == Truth::True));
}

#[test]
fn old_targets_go_when_some_new_one_is_there_and_stay_while_all_are_refused() {
    let mut view = mk_view(&with_nodes(&["i-1"]));
    mk_refused(&mut view, "i-3");
    let plan = planned(&with_nodes(&["i-3"]), &view);
    assert!(plan.steps().is_empty() && plan.waiting().is_some(), "nobody else serves: {plan}");
    let mut view = mk_view(&mk_base());
    mk_refused(&mut view, "i-3");
    let plan = planned(&with_nodes(&["i-2", "i-3"]), &view);
    assert!(lines(&plan).iter().any(|line| line.contains("deregister 1 target")), "{plan}");
    let plan = planned(&with_nodes(&["i-2"]), &view);
    let message = plan.to_string();
    assert!(
        message.contains("deregister 1 target") && plan.waiting().is_none(),
        "one is nobody's wish: {message}"
    );
    let plan = planned(&mk_base(), &view);
    assert!(plan.is_settled(), "a refused one is no target: {plan}");
}

/// Goes until there is nothing to do or something is waited for that is not AWS's own work; the plan then.
async fn attempt(
    provider: &AwsProvider,
    desired: &LoadBalancer,
    mut mode: ReadMode,
) -> (Plan<Step>, LoadBalancer) {
    let mut desired = desired.clone();
    for _ in 0..40 {
        let observed = provider.observe(&desired.owner, mode).await.unwrap();
        let report = provider.report(&desired, observed.as_ref());
        desired.published = report.ingress.iter().map(|ingress| ingress.address.clone()).collect();
        let plan = provider.plan(Desired::Present(&desired), observed.as_ref());
        assert!(plan.blocked().is_empty(), "{plan}");
        if let Some(closer) = mode.before(Desired::Present(&desired), observed.is_some(), &plan) {
            mode = closer;
            continue;
        }
        let refused = plan.waiting().is_some_and(|waiting| waiting.what.contains("AWS refuses"));
        if plan.steps().is_empty() && (refused || plan.is_settled()) && report.ready {
            return (plan, desired);
        }
        mode = if plan.steps().is_empty() { ReadMode::Pending } else { ReadMode::Cached };
        for planned in plan.steps() {
            if let Outcome::InProgress { .. } = provider.execute(&planned.step).await.unwrap() {
                break;
            }
        }
    }
    panic!("it does not come to rest");
}

fn mk_owner(name: &str) -> Owner {
    Owner {
        cluster: "refused".parse().unwrap(),
        service: format!("uid-{name}").parse().unwrap(),
        name: ServiceName::new("refused", name).unwrap(),
    }
}

fn fact_of(provider: &AwsProvider, desired: &LoadBalancer, observed: Option<&Observed>) -> Option<String> {
    let facts = provider.report(desired, observed).facts;
    facts.into_iter().find(|fact| fact.topic == Topic::TargetsAccepted).map(|fact| fact.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_are_stopped_or_gone_keep_no_other_out() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes = emulator.instances.clone();
    let provider = AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner("web").cluster)).unwrap();
    emulator.instance("stop", &nodes[1]);
    let gone = "i-00000000000000bad".to_owned();
    let all = [nodes[0].clone(), nodes[1].clone(), nodes[2].clone(), gone.clone()];
    let wanted = mk_load_balancer(mk_owner("web"), &all);
    drop(emulator.calls());
    let (plan, wanted) = attempt(&provider, &wanted, ReadMode::Cached).await;
    let what = &plan.waiting().unwrap().what;
    assert!(what.contains(&nodes[1]) && what.contains(&gone), "{plan}");
    assert!(emulator.calls()["RegisterTargets"] <= 4);
    let observed = provider.observe(&wanted.owner, ReadMode::Full).await.unwrap();
    let message = fact_of(&provider, &wanted, observed.as_ref()).unwrap();
    for part in ["2 of 4", &nodes[1], "start the instance", &gone, "spec.providerID"] {
        assert!(message.contains(part), "{part}: {message}");
    }

    // Neither another read nor a full one offers them again before it is time.
    drop(emulator.calls());
    let (_, wanted) = attempt(&provider, &wanted, ReadMode::Full).await;
    assert!(!emulator.calls().contains_key("RegisterTargets"));

    // The one starts, the other's Node goes.
    emulator.instance("start", &nodes[1]);
    let fresh = AwsProvider::new(emulator.sdk.clone(), emulator.config(&wanted.owner.cluster)).unwrap();
    let fixed = LoadBalancer { targets: mk_nodes(&nodes[..3]), ..wanted };
    let (plan, fixed) = attempt(&fresh, &fixed, ReadMode::Full).await;
    assert!(plan.is_settled(), "{plan}");
    let observed = fresh.observe(&fixed.owner, ReadMode::Full).await.unwrap();
    assert_eq!(fact_of(&fresh, &fixed, observed.as_ref()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outside_the_vpc_keep_no_other_out_and_a_retry_in_vain_changes_nothing() {
    let Some(emulator) = Emulator::start().await else { return };
    let mut config = emulator.config(&mk_owner("pods").cluster);
    config.pace = std::time::Duration::from_millis(1);
    let provider = AwsProvider::new(emulator.sdk.clone(), config).unwrap();
    let base = mk_load_balancer(mk_owner("pods"), &[]);
    let wanted = LoadBalancer {
        targets: mk_pods(&["10.0.0.7", "10.99.0.7", "10.0.1.7", "203.0.113.7"], &base.listeners),
        health_check: Some(portico_provider::HealthCheck::tcp_traffic()),
        ..base
    };
    let mut outcomes = Vec::new();
    let mut observed = provider.observe(&wanted.owner, ReadMode::Cached).await.unwrap();
    for _ in 0..200 {
        let plan = provider.plan(Desired::Present(&wanted), observed.as_ref());
        for planned in plan.steps() {
            outcomes.push(provider.execute(&planned.step).await.unwrap());
        }
        observed = provider.observe(&wanted.owner, ReadMode::Pending).await.unwrap();
        if outcomes.contains(&Outcome::Unchanged) && fact_of(&provider, &wanted, observed.as_ref()).is_some()
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let message = fact_of(&provider, &wanted, observed.as_ref()).unwrap();
    assert!(outcomes.contains(&Outcome::Unchanged), "offered again, in vain: {outcomes:?}");
    for part in ["2 of 4", "10.99.0.7", "203.0.113.7", "--aws-vpc-id"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let Some(Observed::Full(view)) = observed else { panic!("{observed:?}") };
    let targets = &view.target_groups.values().next().unwrap().targets;
    let serving = targets.values().filter(|health| !matches!(health, Health::Refused(_))).count();
    assert_eq!(serving, 2, "{targets:?}");
}
