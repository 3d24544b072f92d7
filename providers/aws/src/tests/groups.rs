//! Services of one group, on a cloud without a wire: who joins, who is refused, who stays undisturbed, what is left.
//!
//! Owns: [`SharedCloud`], a cloud that several Services share, and what each of them sees of it. Leaves to others: what AWS
//! refuses (`simulated`), crashes (`crash`). Invariant: after every single step of one Service each other's listeners
//! send to its own targets, and whoever it lets in is let in.

mod plans;

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{
    Desired, Field, GroupName, LoadBalancer, Obstacle, Owner, Plan, Protocol, Replacement, Scheme,
    ServiceName,
};

use super::plans::{mk_base, mk_site};
use super::simulated::Simulated;
use super::{mk_listener, mk_options};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Id, Listener, Rule, Tags};
use crate::observed::{Balancer, Observed, Share, SyncedHash, View};
use crate::plan::plan;
use crate::report::report;
use crate::step::{Action, Mark, New, Step};
use crate::tags;
use crate::wanted::Frontend;
use crate::wanted::translate;

/// What each thing's tags say.
#[derive(Clone, Debug, Default)]
struct SharedCloud {
    cloud: Simulated,
    listeners: BTreeMap<Id, Owner>,
    groups: BTreeMap<String, Owner>,
    balancers: BTreeMap<String, Owner>,
    hashes: BTreeMap<String, Option<SyncedHash>>,
    leads: BTreeMap<String, Owner>,
}

fn mk_group() -> GroupName {
    GroupName::new("shop", "edge").unwrap()
}

fn mk_service(name: &str, ports: &[u16]) -> LoadBalancer {
    let owner = Owner {
        service: format!("uid-{name}").parse().unwrap(),
        name: ServiceName::new("shop", name).unwrap(),
        ..mk_base().owner
    };
    LoadBalancer {
        owner,
        listeners: ports.iter().map(|port| mk_listener(Protocol::Tcp, *port)).collect(),
        replacement: Replacement::Allowed,
        ..mk_base()
    }
}

fn mk_member(name: &str, ports: &[u16]) -> LoadBalancer {
    LoadBalancer { group: Some(mk_group()), ..mk_service(name, ports) }
}

impl SharedCloud {
    fn apply(&mut self, step: &Step) {
        let Step { owner, group, action } = step;
        match action {
            Action::Create(New::TargetGroup(new)) => {
                self.groups.insert(new.name.clone(), owner.clone());
                self.hashes.insert(new.name.clone(), SyncedHash::of(&new.tags));
            }
            Action::Create(New::Listener { load_balancer, spec, .. }) => {
                let id = Id(format!("{load_balancer}/{}", spec.port));
                self.listeners.insert(id, owner.clone());
            }
            Action::Create(New::LoadBalancer(new)) if group.is_none() => {
                self.balancers.insert(new.name.clone(), owner.clone());
            }
            Action::Create(New::LoadBalancer(new)) => {
                self.leads.insert(new.name.clone(), tags::leader(&new.tags).unwrap());
            }
            Action::Tag { mark: Mark::Note, load_balancer, tags, .. }
                if tags::leader(&lead_of(tags)).is_some() =>
            {
                self.leads.insert(load_balancer.name.clone(), tags::leader(&lead_of(tags)).unwrap());
                return;
            }
            Action::Tag { mark: Mark::Dirty | Mark::Synced, target_groups, tags, .. }
                if !target_groups.is_empty() =>
            {
                for group in target_groups {
                    let hash = self.hashes.get_mut(&group.name).unwrap();
                    *hash = SyncedHash::after(hash.as_ref(), tags);
                }
                return;
            }
            _ => {}
        }
        assert_eq!(self.cloud.apply(action), Ok(()), "{step}");
    }

    /// What this one would read.
    fn view(&self, owner: &Owner, asked: Option<&GroupName>) -> View {
        let all = &self.cloud.view;
        let own = all.target_groups.iter().filter(|(name, _)| self.groups[*name].service == owner.service);
        let mut view = View {
            target_groups: own.map(|(name, it)| (name.clone(), it.clone())).collect(),
            ..View::default()
        };
        let mut in_groups: BTreeSet<GroupName> = asked.into_iter().cloned().collect();
        in_groups.extend(view.target_groups.values().filter_map(|it| it.member_of.clone()));
        in_groups.extend(tags::remains_of(owner));
        for (name, found) in &all.load_balancers {
            let mut found = found.clone();
            match found.shared.clone() {
                None if self.balancers[name].service == owner.service => {}
                Some(Share { group, .. }) if in_groups.contains(&group) => {
                    let is_own = |listener: &Listener| self.listeners[&listener.id].service == owner.service;
                    let (mine, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                        found.listeners.into_iter().partition(|(_, listener)| is_own(listener));
                    let holder =
                        |(port, it): (&u16, &Listener)| (*port, Some(self.listeners[&it.id].clone()));
                    let taken = others.iter().map(holder).collect();
                    found.listeners = mine;
                    let behind =
                        view.target_groups.iter().filter(|(_, it)| it.member_of.as_ref() == Some(&group));
                    found.synced = tags::common_hash(behind.map(|(name, _)| self.hashes[name].clone()));
                    found.taken = taken;
                    found.shared = Some(Share { group, lead: self.leads.get(name).cloned() });
                }
                _ => continue,
            }
            view.load_balancers.insert(name.clone(), found);
        }
        let is_ours = |tags: &_| match tags::group(tags) {
            Some(group) => in_groups.contains(&group),
            None => tags::are_of(tags, owner),
        };
        let security_groups = all.security_groups.iter().filter(|(_, it)| is_ours(&it.tags));
        view.security_groups = security_groups.map(|(name, it)| (name.clone(), it.clone())).collect();
        for group in in_groups {
            let members = all.target_groups.iter().filter(|(_, it)| it.member_of.as_ref() == Some(&group));
            let others =
                members.map(|(name, _)| self.groups[name].clone()).filter(|it| it.service != owner.service);
            let others = others.collect();
            view.memberships.insert(group, others);
        }
        view
    }

    fn plan(&self, service: &LoadBalancer) -> Plan<Step> {
        let view = Observed::Full(self.view(&service.owner, service.group.as_ref()));
        let shown = report(&Quotas::default(), service, Some(&view))
            .ingress
            .into_iter()
            .map(|it| it.address)
            .collect();
        let desired = LoadBalancer { published: shown, ..service.clone() };
        plan(&mk_site(), Desired::Present(&desired), Some(&view))
    }

    /// Until there is nothing to do, and nobody of `others` is ever disturbed; what stands in the way.
    fn drive(&mut self, service: &LoadBalancer, others: &[&LoadBalancer]) -> Vec<(Field, Obstacle, String)> {
        for _ in 0..12 {
            let plan = self.plan(service);
            assert!(plan.additive_first(), "{plan}");
            if plan.steps().is_empty() && plan.waiting().is_none() {
                return plan.blocked().iter().map(|it| (it.field, it.obstacle, it.message.clone())).collect();
            }
            for planned in plan.steps() {
                self.apply(&planned.step);
                for other in others {
                    self.serves(other, &format!("{} in {plan}", planned.step));
                }
            }
            self.cloud.tick();
        }
        panic!("it does not converge: {}", self.plan(service));
    }

    fn remove(&mut self, owner: &Owner, others: &[&LoadBalancer]) {
        for _ in 0..12 {
            let view = self.view(owner, None);
            if view.is_empty() {
                return;
            }
            let plan = plan(&mk_site(), Desired::Absent(owner), Some(&Observed::Full(view)));
            for planned in plan.steps() {
                self.apply(&planned.step);
                for other in others {
                    self.serves(other, &format!("{} in {plan}", planned.step));
                }
            }
        }
        panic!("it does not go");
    }

    fn hostname(&self, service: &LoadBalancer) -> String {
        let view = Observed::Full(self.view(&service.owner, service.group.as_ref()));
        let shown = report(&Quotas::default(), service, Some(&view));
        assert!(shown.ready, "{shown:?}");
        shown.ingress[0].address.to_string()
    }

    /// Each of its ports leads to targets of its own, and its clients are let in.
    fn serves(&self, service: &LoadBalancer, message: &str) {
        let hostname = self.hostname(service);
        let let_in = self.cloud.let_in(&hostname);
        for listener in &service.listeners {
            assert!(self.cloud.serves(&hostname, listener.port.get()), "{message}: {}", listener.key());
        }
        assert!(rules(service).is_subset(&let_in), "{message}: {let_in:?}");
        assert!(self.plan(service).steps().is_empty(), "{message}: {}", self.plan(service));
    }

    fn is_empty(&self) -> bool {
        self.cloud.view.is_empty()
    }
}

/// `leader` reads the cluster, too.
fn lead_of(found: &Tags) -> Tags {
    let cluster = tags::shared(&mk_base().owner.cluster, &mk_group());
    found.clone().into_iter().chain(cluster).collect()
}

fn rules(service: &LoadBalancer) -> BTreeSet<Rule> {
    match translate(service, &Quotas::default()).unwrap().frontend {
        Frontend::Own(rules) => rules,
        Frontend::Given { .. } => BTreeSet::new(),
    }
}

#[test]
fn two_services_share_one_and_the_last_one_takes_it_away() {
    let (a, b) = (mk_member("a", &[80, 81]), mk_member("b", &[443]));
    let mut shared = SharedCloud::default();
    assert_eq!(shared.drive(&a, &[]), []);
    assert_eq!(shared.drive(&b, &[&a]), []);
    assert_eq!(shared.hostname(&a), shared.hostname(&b));
    assert_eq!(shared.cloud.view.load_balancers.len(), 1);
    assert_eq!(shared.cloud.let_in(&shared.hostname(&a)), &rules(&a) | &rules(&b));
    shared.remove(&a.owner, &[&b]);
    assert_eq!(shared.cloud.let_in(&shared.hostname(&b)), rules(&b), "its rules are gone, and no other");
    assert_eq!((shared.cloud.view.target_groups.len(), shared.cloud.view.security_groups.len()), (1, 1));
    shared.remove(&b.owner, &[]);
    assert!(shared.is_empty(), "{:?}", shared.cloud.view);
}

#[test]
fn the_second_claim_to_a_listener_names_its_owner_and_succeeds_when_that_is_deleted() {
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[80, 443]));
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    let blocked = shared.drive(&b, &[&a]);
    let [(Field::Listeners, Obstacle::ListenerConflict, message)] = blocked.as_slice() else {
        panic!("{blocked:?}")
    };
    assert!(message.contains("TCP/80") && message.contains("Service shop/a"), "{message}");
    let view = Observed::Full(shared.view(&b.owner, b.group.as_ref()));
    let ports = &report(&Quotas::default(), &b, Some(&view)).ingress[0].ports;
    let errors: Vec<Option<&str>> = ports.iter().map(|port| port.error.as_deref()).collect();
    assert_eq!(errors, [Some("portico.dev/ListenerConflict"), None]);
    shared.remove(&a.owner, &[]);
    assert_eq!(shared.drive(&b, &[]), []);
    shared.serves(&b, "the listener is free");
}

#[test]
fn what_is_of_the_whole_load_balancer_the_lead_decides_and_after_it_another() {
    let cross = mk_options(&[(key::ATTRIBUTES, "load_balancing.cross_zone.enabled=true")]);
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[443]));
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    shared.drive(&b, &[&a]);
    let asking = LoadBalancer { options: cross.clone(), ..b.clone() };
    let blocked = shared.drive(&asking, &[&a]);
    let [(Field::Options, Obstacle::GroupConflict, message)] = blocked.as_slice() else {
        panic!("{blocked:?}")
    };
    assert!(message.contains("cross_zone") && message.contains("Service shop/a decides"), "{message}");
    // Who says nothing follows.
    assert_eq!(shared.drive(&LoadBalancer { options: cross, ..a.clone() }, &[&b]), []);
    assert_eq!(shared.drive(&asking, &[]), []);
    shared.remove(&a.owner, &[&asking]);
    assert_eq!(shared.drive(&b, &[]), []);
    let kept = |it: &Balancer| it.attributes["load_balancing.cross_zone.enabled"] == "true";
    let followed = shared.cloud.view.load_balancers.values().all(kept);
    assert!(followed && shared.leads.values().all(|lead| *lead == a.owner), "who says nothing follows");
    let off = mk_options(&[(key::ATTRIBUTES, "load_balancing.cross_zone.enabled=false")]);
    let (off, c) = (LoadBalancer { options: off, ..b.clone() }, mk_member("c", &[80]));
    assert_eq!(shared.drive(&c, &[&b]), []);
    assert_eq!(shared.drive(&off, &[&c]), [], "it takes the lead");
    let blocked = shared.drive(&LoadBalancer { options: asking.options, ..c }, &[&off]);
    assert!(blocked[0].2.contains("Service shop/b decides"), "{blocked:?}");
}

#[test]
fn another_scheme_is_a_conflict_before_and_after_joining_and_makes_no_second_load_balancer() {
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[443]));
    let internal = LoadBalancer { scheme: Scheme::Internal, ..b.clone() };
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    let refused = |blocked: &[(Field, Obstacle, String)]| matches!(blocked, [(Field::Scheme, Obstacle::GroupConflict, message)] if message.contains("is internet-facing"));
    let blocked = shared.drive(&internal, &[&a]);
    assert!(refused(&blocked) && shared.cloud.view.target_groups.len() == 1, "{blocked:?}");
    shared.drive(&b, &[&a]);
    assert!(refused(&shared.drive(&internal, &[&a])));
    let lead = LoadBalancer { scheme: Scheme::Internal, ..a.clone() };
    assert!(refused(&shared.drive(&lead, &[&b])), "nor does the lead replace it under others");
    assert_eq!(shared.cloud.view.load_balancers.len(), 1);
    // Alone it may.
    shared.remove(&b.owner, &[&a]);
    assert_eq!(shared.drive(&lead, &[]), []);
    assert_eq!(shared.cloud.view.load_balancers.len(), 1);
}

#[test]
fn joining_and_leaving_need_consent_and_serve_all_the_way() {
    let neighbour = mk_member("n", &[443]);
    for beside in [vec![], vec![&neighbour]] {
        for (from, to) in
            [(mk_service("a", &[80]), mk_member("a", &[80])), (mk_member("a", &[80]), mk_service("a", &[80]))]
        {
            let mut shared = SharedCloud::default();
            for it in &beside {
                shared.drive(it, &[]);
            }
            shared.drive(&from, &beside);
            let before = shared.hostname(&from);
            let asking = LoadBalancer { replacement: Replacement::NeedsConsent, ..to.clone() };
            let blocked = shared.drive(&asking, &beside);
            assert!(
                matches!(blocked.as_slice(), [(Field::Group, Obstacle::ReplacementRequired, _)]),
                "{blocked:?}"
            );
            assert_eq!(shared.hostname(&asking), before);
            assert_eq!(shared.drive(&to, &beside), []);
            assert_ne!(shared.hostname(&to), before);
            shared.remove(&to.owner, &beside);
            for it in &beside {
                shared.remove(&it.owner, &[]);
            }
            assert!(shared.is_empty(), "{:?}", shared.cloud.view);
        }
    }
}

#[test]
fn whoever_would_lose_a_listener_by_joining_stays_where_it_is() {
    let (a, alone) = (mk_member("a", &[80]), mk_service("b", &[80, 443]));
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    shared.drive(&alone, &[&a]);
    let before = shared.hostname(&alone);
    let blocked = shared.drive(&mk_member("b", &[80, 443]), &[&a]);
    assert!(matches!(blocked.as_slice(), [(Field::Listeners, Obstacle::ListenerConflict, _)]), "{blocked:?}");
    assert_eq!(shared.hostname(&alone), before);
}

#[test]
fn members_come_change_and_go_in_any_order_and_nobody_else_notices() {
    let forms = |name: &str, port: u16| {
        vec![
            None,
            Some(mk_service(name, &[port])),
            Some(mk_member(name, &[port])),
            Some(mk_member(name, &[port + 1, port + 2])),
        ]
    };
    let neighbour = mk_member("n", &[443]);
    for a_first in forms("a", 80) {
        for a_then in forms("a", 80) {
            for b in forms("b", 90) {
                let mut shared = SharedCloud::default();
                shared.drive(&neighbour, &[]);
                let mut others = vec![&neighbour];
                if let Some(a) = &a_first {
                    assert_eq!(shared.drive(a, &others), []);
                }
                if let Some(b) = &b {
                    assert_eq!(shared.drive(b, &others), []);
                    others.push(b);
                }
                match &a_then {
                    Some(a) => assert_eq!(shared.drive(a, &others), []),
                    None => shared.remove(&mk_service("a", &[]).owner, &others),
                }
                for service in [a_then.as_ref(), b.as_ref(), Some(&neighbour)].into_iter().flatten() {
                    shared.remove(&service.owner, &[]);
                }
                assert!(shared.is_empty(), "{:?}", shared.cloud.view);
            }
        }
    }
}

#[test]
fn more_listeners_and_rules_than_fit_are_refused_with_the_numbers_of_the_whole_group() {
    let ports: Vec<u16> = (1..=30).collect();
    let more: Vec<u16> = (101..=125).collect();
    let mut shared = SharedCloud::default();
    let a = LoadBalancer {
        source_ranges: (0..7).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect(),
        ..mk_member("a", &ports)
    };
    shared.drive(&a, &[]);
    let ranged = LoadBalancer {
        source_ranges: (0..60).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect(),
        ..mk_member("c", &[4_000])
    };
    let blocked = shared.drive(&ranged, &[&a]);
    assert!(
        blocked.iter().any(|(field, _, message)| *field == Field::SourceRanges && message.contains("rules")),
        "{blocked:?}"
    );
    let blocked = shared.drive(&mk_member("b", &more), &[&a]);
    let [(Field::Listeners, Obstacle::Unsupported, message)] = blocked.as_slice() else {
        panic!("{blocked:?}")
    };
    assert!(message.contains("needs 25 listeners beside the 30 that others"), "{message}");
}

#[test]
fn what_an_empty_group_shares_has_an_owner_for_garbage_collection() {
    let a = mk_member("a", &[80]);
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    let whole = shared.clone();
    shared.cloud.view.target_groups.clear();
    shared.cloud.view.load_balancers.values_mut().for_each(|it| it.listeners.clear());
    let remains = tags::remains(&a.owner.cluster, &mk_group()).unwrap();
    assert_eq!(tags::remains_of(&remains), Some(mk_group()));
    assert_eq!(tags::remains_of(&a.owner), None);
    shared.remove(&remains, &[]);
    assert!(shared.is_empty(), "{:?}", shared.cloud.view);
    let view = whole.view(&remains, None);
    assert!(
        !view.memberships[&mk_group()].is_empty(),
        "what has members is theirs: the observer shows nothing of it"
    );
}

#[test]
fn a_member_whose_hash_is_synced_needs_no_read() {
    let a = mk_member("a", &[80, 81]);
    let mut shared = SharedCloud::default();
    shared.drive(&a, &[]);
    let view = shared.view(&a.owner, a.group.as_ref());
    let synced = view.snapshot().synced.unwrap();
    assert!(synced.targets.is_some(), "{synced:?}");
    let published =
        [portico_provider::IngressAddress::Hostname(shared.hostname(&a).replace(".example", "-1.example"))];
    let desired = LoadBalancer { published: published.into(), ..a };
    let snapshot = Observed::Snapshot(view.snapshot());
    let plan = plan(&mk_site(), Desired::Present(&desired), Some(&snapshot));
    assert!(plan.is_settled(), "{plan}");
}
