//! Rules over several security groups: where each goes, and that none is closed before another is open.
//!
//! Owns: the properties of sharding. Leaves to others: whether AWS agrees (`contract`).
//! Invariant: every view is the last plan applied, so what is asserted holds along a whole life.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{Desired, Effect, IpFamily, LoadBalancer, Plan};
use proptest::prelude::*;

use super::mk_options;
use super::plans::{lines, mk_base, mk_site, mk_view, planned};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Id, Kind, Rule, SecurityGroup};
use crate::observed::{Observed, View};
use crate::plan::{PrefixLists, Site, plan};
use crate::step::{Action, Change, LoadBalancerChange, Mark, New, SecurityGroupChange, Step};

fn mk_ranged(ranges: impl Iterator<Item = u8>) -> LoadBalancer {
    let source_ranges = ranges.map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    LoadBalancer { source_ranges, ..mk_base() }
}

fn mk_listed(lists: &str) -> LoadBalancer {
    LoadBalancer { options: mk_options(&[(key::PREFIX_LISTS, lists)]), ..mk_base() }
}

/// What security groups become, with AWS's own limit asserted after each call.
fn apply(plan: &Plan<Step>, view: &mut View) {
    for planned in plan.steps() {
        match &planned.step.action {
            Action::Create(New::SecurityGroup { name, tags }) => {
                let id = Id(format!("sg-{name}"));
                let security_group = SecurityGroup {
                    id,
                    name: name.clone(),
                    rules: BTreeSet::new(),
                    foreign: BTreeSet::new(),
                    tags: tags.clone(),
                };
                view.security_groups.insert(name.clone(), security_group);
            }
            Action::Modify(Change::SecurityGroup(group, SecurityGroupChange::Authorize(rules))) => {
                let security_group = view.security_groups.get_mut(&group.name).unwrap();
                security_group.rules.extend(rules.iter().cloned());
                assert!(security_group.rules.len() <= Quotas::default().rules, "{group} overflows: {plan}");
            }
            Action::Modify(Change::SecurityGroup(group, SecurityGroupChange::Revoke(rules))) => {
                let security_group = view.security_groups.get_mut(&group.name).unwrap();
                security_group.rules.retain(|rule| !rules.contains(rule));
            }
            Action::Modify(Change::LoadBalancer(_, LoadBalancerChange::SecurityGroups(groups))) => {
                let ids = groups.iter().map(|group| view.security_groups[&group.name].id.clone()).collect();
                view.load_balancers.values_mut().next().unwrap().described.security_groups = ids;
            }
            Action::Delete { kind: Kind::SecurityGroup, named: group, shared: false } => {
                let gone = view.security_groups.remove(&group.name).unwrap();
                let balancer = view.load_balancers.values().next().unwrap();
                assert!(!balancer.described.security_groups.contains(&gone.id), "still in front: {plan}");
            }
            Action::Tag { mark: Mark::Dirty | Mark::Synced, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Who comes in through the groups in front of the load balancer.
fn let_in(view: &View) -> BTreeSet<Rule> {
    let described = &view.load_balancers.values().next().unwrap().described;
    let front = view.security_groups.values().filter(|it| described.security_groups.contains(&it.id));
    front.flat_map(|security_group| security_group.rules.iter().cloned()).collect()
}

proptest! {
    #[test]
    fn any_life_of_ranges_converges_without_shutting_anybody_out(
        steps in proptest::collection::vec(proptest::collection::btree_set(0u8..240, 1..110), 1..6),
    ) {
        let mut view = mk_view(&mk_ranged(0..1));
        for ranges in &steps {
            let desired = mk_ranged(ranges.iter().copied());
            let before = let_in(&view);
            let plan = planned(&desired, &view);
            prop_assert!(plan.blocked().is_empty() && plan.additive_first(), "{plan}");
            apply(&plan, &mut view);
            let after = let_in(&view);
            prop_assert_eq!(after.len(), ranges.len());
            let moved = planned(&desired, &view);
            let moved = moved.steps().iter().filter(|it| !matches!(it.step.action, Action::Tag { mark: Mark::Synced, .. }));
            prop_assert_eq!(moved.count(), 0);
            let kept = before.intersection(&after).count();
            let message = plan.to_string();
            let touched = before.intersection(&after).filter(|rule| message.contains(&format!("{rule},")));
            prop_assert_eq!(touched.count(), 0, "{} rules are kept where they are", kept);
        }
    }
}

#[test]
fn more_rules_than_one_group_takes_are_spread_over_several_and_gathered_again() {
    let many = mk_ranged(0..140);
    let mut view = mk_view(&mk_ranged(0..1));
    let plan = planned(&many, &view);
    let created = plan.steps().iter().filter(|it| it.effect == Effect::Additive);
    let created = created.filter(|it| matches!(it.step.action, Action::Create(New::SecurityGroup { .. })));
    assert_eq!(created.count(), 2, "{plan}");
    apply(&plan, &mut view);
    assert_eq!(view.security_groups.len(), 3);
    let plan = planned(&mk_ranged(0..1), &view);
    apply(&plan, &mut view);
    assert_eq!(view.security_groups.len(), 1, "{plan}");
}

#[test]
fn rules_that_never_fit_are_reported_with_the_numbers_before_anything_is_created() {
    let plan = plan(&mk_site(), Desired::Present(&mk_ranged(0..=240)), None);
    assert!(plan.steps().is_empty(), "{plan}");
    let message = &plan.blocked()[0].message;
    assert!(message.contains("needs 241 rules") && message.contains("quota 60 × 4"), "{message}");
}

fn with_lists(lists: &[(&str, usize)]) -> Site {
    let sizes: BTreeMap<_, _> =
        lists.iter().map(|(id, most)| ((*id).to_owned(), (IpFamily::IPv4, *most))).collect();
    Site { prefix_lists: PrefixLists::from_iter(sizes), ..mk_site() }
}

#[test]
fn prefix_lists_are_read_first_and_count_as_what_they_may_ever_hold() {
    let desired = mk_listed("pl-a,pl-b");
    let unread = plan(&mk_site(), Desired::Present(&desired), None);
    assert_eq!(lines(&unread)[0], "1. read prefix lists pl-a, pl-b: their sizes count against quotas");
    assert_eq!(unread.steps().len(), 1);

    let site = with_lists(&[("pl-a", 50), ("pl-b", 40)]);
    let message = plan(&site, Desired::Present(&desired), None).to_string();
    assert_eq!(message.matches("create security group").count(), 2, "{message}");
    assert!(!message.contains("0.0.0.0/0"), "lists are instead of everybody: {message}");

    let site = with_lists(&[("pl-a", 61), ("pl-b", 1)]);
    let refused = plan(&site, Desired::Present(&desired), None);
    assert!(refused.steps().is_empty(), "a load balancer without its rules would be open: {refused}");
    let message = &refused.blocked()[0].message;
    assert!(message.contains("pl-a counts as the 61 entries"), "{message}");
}

#[test]
fn rules_that_cannot_be_leave_the_groups_that_are() {
    let view = mk_view(&mk_base());
    let site = with_lists(&[("pl-a", 61)]);
    let plan = plan(&site, Desired::Present(&mk_listed("pl-a")), Some(&Observed::Full(view)));
    assert!(plan.steps().is_empty() && !plan.blocked().is_empty(), "{plan}");
}
