//! The next steps: create, change in place, move to another address with consent, or delete.
//!
//! Owns: the plan. Leaves to others: translating fields, calling the API.
//! Invariant: pure and total. A requested address that differs from the present one is made first; the old one
//! serves on until the Service's status no longer shows it (law 7).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use portico_provider::{
    Backends, Desired, Effect, Field, IpFamily, LoadBalancer, Obstacle, Plan, Replacement,
};

use crate::api::{Put, Spec, State, Targets, View};
use crate::step::Step;
use crate::wanted::{behind, translate};

/// How soon to look again at something that takes a while.
pub(crate) const POLL_AFTER: Duration = Duration::from_millis(500);

pub(crate) fn plan(desired: Desired<'_>, observed: Option<&View>) -> Plan<Step> {
    match (desired, observed) {
        (Desired::Absent(_), None) => Plan::nothing("there is no load balancer to delete"),
        (Desired::Absent(owner), Some(_view)) => Plan::nothing("").step(
            Step::Delete { owner: owner.clone() },
            Effect::Destructive,
            "the Service wants none any more",
        ),
        (Desired::Present(desired), observed) => present(desired, observed),
    }
}

fn present(desired: &LoadBalancer, observed: Option<&View>) -> Plan<Step> {
    let plan = Plan::nothing("the load balancer is as the Service asks");
    let mut spec = match translate(desired) {
        Ok(spec) => spec,
        Err(obstacles) => {
            return obstacles
                .into_iter()
                .fold(plan, |plan, (field, message)| plan.block(field, Obstacle::Unsupported, message));
        }
    };
    let Some(view) = observed else {
        return plan.step(put(desired, spec), Effect::Additive, "the Service wants one and there is none");
    };
    let plan = match requested(desired, view) {
        Ok(()) => plan,
        Err(message) => {
            spec.requested.clone_from(&view.spec.requested);
            plan.block(Field::RequestedAddresses, Obstacle::ReplacementRequired, message)
        }
    };
    spec.retain = retain(desired, &spec, view);
    let plan = waits(plan, &spec, view);
    if spec == view.spec {
        return plan;
    }
    let reason = format!("{} differ", differing(&view.spec, &spec).join(", "));
    let effect = if only_adds(&view.spec, &spec) { Effect::Additive } else { Effect::Destructive };
    plan.step(put(desired, spec), effect, reason)
}

/// Where what exists sends, from the kind of targets that it has. One call puts the new beside what stays and takes the
/// rest away, so there is no moment without any.
pub(crate) fn plan_targets(backends: &Backends, view: &View) -> Plan<Step> {
    let plan = Plan::nothing("the targets are those that the cluster offers");
    let targets = behind(backends, view);
    if targets == view.spec.listeners {
        return plan;
    }
    let effect = if keeps(&view.spec.listeners, &targets) { Effect::Additive } else { Effect::Destructive };
    let step = Step::PutTargets { owner: backends.owner.clone(), targets };
    plan.step(step, effect, "nodes, pods or their ports changed")
}

fn put(desired: &LoadBalancer, spec: Spec) -> Step {
    let put = Put { name: desired.owner.name.clone(), spec, claim: desired.published_ips() };
    Step::Put { owner: desired.owner.clone(), put: Box::new(put) }
}

/// Whether the requested addresses may be taken: they are there, or the user consents.
fn requested(desired: &LoadBalancer, view: &View) -> Result<(), String> {
    let has = |address: &&IpAddr| view.addresses.contains(address) || view.spec.requested.contains(address);
    let replaces = |address: &&IpAddr| {
        view.addresses.iter().any(|current| IpFamily::of(*current) == IpFamily::of(**address))
    };
    let new = desired.requested_addresses.iter().find(|address| !has(address) && replaces(address));
    match (new, desired.replacement) {
        (None, _) | (Some(_), Replacement::Allowed) => Ok(()),
        (Some(address), Replacement::NeedsConsent) => Err(format!(
            "{address} was requested, but clients use {}: to move, set annotation portico.dev/allow-replacement \
             to \"true\"; the new address serves before the old one goes",
            shown(&view.addresses)
        )),
    }
}

/// Addresses it holds, will not have any more, and that the Service's status still shows.
fn retain(desired: &LoadBalancer, spec: &Spec, view: &View) -> BTreeSet<IpAddr> {
    let held = view.addresses.union(&view.retained);
    let leaves = |address: &&IpAddr| {
        let family = IpFamily::of(**address);
        let asked = spec.requested.iter().find(|asked| IpFamily::of(**asked) == family);
        let stays = asked.map_or_else(|| view.addresses.contains(address), |asked| asked == *address);
        !(stays && spec.ip_families.contains(&family))
    };
    let published = desired.published_ips();
    held.filter(leaves).filter(|address| published.contains(address)).copied().collect()
}

fn waits(plan: Plan<Step>, spec: &Spec, view: &View) -> Plan<Step> {
    if view.state == State::Provisioning {
        return plan.wait("the load balancer to be provisioned", POLL_AFTER);
    }
    if spec.retain.is_empty() {
        return plan;
    }
    let what = format!("the Service's status to show the new addresses instead of {}", shown(&spec.retain));
    plan.wait(what, POLL_AFTER)
}

/// The parts that are not the same, by their names in the API.
fn differing(old: &Spec, new: &Spec) -> Vec<&'static str> {
    let Spec {
        listeners,
        target_kind,
        health_check,
        source_ranges,
        session_affinity,
        proxy_protocol,
        ip_families,
        requested,
        retain,
        provisioning_delay,
    } = new;
    let parts = [
        ("listeners or targets", *listeners != old.listeners),
        ("kind of targets", *target_kind != old.target_kind),
        ("health check", *health_check != old.health_check),
        ("source ranges", *source_ranges != old.source_ranges),
        ("session affinity", *session_affinity != old.session_affinity),
        ("PROXY protocol", *proxy_protocol != old.proxy_protocol),
        ("IP families", *ip_families != old.ip_families),
        ("requested addresses", *requested != old.requested),
        ("retained addresses", *retain != old.retain),
        ("provisioning delay", *provisioning_delay != old.provisioning_delay),
    ];
    parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// The same in the words of the operator; empty where nothing exists, or cannot.
pub(crate) fn fields(desired: &LoadBalancer, observed: Option<&View>) -> BTreeSet<Field> {
    let (Ok(spec), Some(View { spec: old, .. })) = (translate(desired), observed) else {
        return BTreeSet::new();
    };
    let same_listeners = spec.listeners.keys().eq(old.listeners.keys());
    let parts = [
        (Field::Listeners, !same_listeners),
        (Field::Targets, same_listeners && spec.listeners != old.listeners),
        (Field::TargetKind, spec.target_kind != old.target_kind),
        (Field::HealthCheck, spec.health_check != old.health_check),
        (Field::SourceRanges, spec.source_ranges != old.source_ranges),
        (Field::SessionAffinity, spec.session_affinity != old.session_affinity),
        (Field::ProxyProtocol, spec.proxy_protocol != old.proxy_protocol),
        (Field::IpFamilies, spec.ip_families != old.ip_families),
        (Field::RequestedAddresses, spec.requested != old.requested),
        (Field::Options, spec.provisioning_delay != old.provisioning_delay),
    ];
    parts.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

/// Whether the change is more listeners or targets and nothing else.
fn only_adds(old: &Spec, new: &Spec) -> bool {
    let rest_is_equal = Spec { listeners: old.listeners.clone(), ..new.clone() } == *old;
    rest_is_equal && keeps(&old.listeners, &new.listeners)
}

/// Whether every listener and every target is still there.
fn keeps(old: &Targets, new: &Targets) -> bool {
    old.iter().all(|(key, targets)| new.get(key).is_some_and(|now| targets.is_subset(now)))
}

fn shown(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
