//! What is said of Services that share a load balancer, word by word: joining, leaving, conflicts, the end.
//!
//! Owns: the stories (`golden/group-*.txt`). Leaves to others: what holds of every plan of a group (`groups`).
//! Invariant: a story has every plan from one rest to the next, so that every step is in the story.

use std::fmt::Write as _;

use super::*;

/// A shared cloud, and every plan in it.
#[derive(Default)]
struct Story {
    shared: SharedCloud,
    text: String,
}

impl Story {
    /// Until there is nothing to do for this one.
    fn wants(&mut self, what: &str, service: &LoadBalancer) {
        self.headline(&service.owner, what);
        for _ in 0..12 {
            let plan = self.shared.plan(service);
            writeln!(self.text, "{plan}").unwrap();
            if plan.steps().is_empty() && plan.waiting().is_none() {
                return;
            }
            self.carry_out(&plan);
        }
        panic!("it does not converge:\n{}", self.text);
    }

    /// Until nothing of this one is left.
    fn deletes(&mut self, owner: &Owner) {
        self.headline(owner, "is deleted");
        for _ in 0..12 {
            let view = self.shared.view(owner, None);
            if view.is_empty() {
                return;
            }
            let plan = plan(&mk_site(), Desired::Absent(owner), Some(&Observed::Full(view)));
            writeln!(self.text, "{plan}").unwrap();
            self.carry_out(&plan);
        }
        panic!("it does not go:\n{}", self.text);
    }

    fn headline(&mut self, owner: &Owner, what: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        writeln!(self.text, "{gap}# {} {what}", owner.name).unwrap();
    }

    fn carry_out(&mut self, plan: &Plan<Step>) {
        for planned in plan.steps() {
            self.shared.apply(&planned.step);
        }
        self.shared.cloud.tick();
    }

    fn is(&self, golden: &str) {
        assert!(self.text == golden, "instead of\n{golden}\nthe story is:\n{}", self.text);
    }
}

fn asking_first(service: &LoadBalancer) -> LoadBalancer {
    LoadBalancer { replacement: Replacement::NeedsConsent, ..service.clone() }
}

#[test]
fn joining_reads_like_this() {
    let mut story = Story::default();
    story.wants("is the first of its group", &mk_member("a", &[80]));
    story.wants("is made as another member", &mk_member("b", &[443]));
    story.wants("has one of its own", &mk_service("c", &[8080]));
    story.wants("names the group, and does not consent", &asking_first(&mk_member("c", &[8080])));
    story.wants("consents", &mk_member("c", &[8080]));
    story.is(include_str!("../golden/group-join.txt"));
}

#[test]
fn leaving_reads_like_this() {
    let mut story = Story::default();
    story.shared.drive(&mk_member("a", &[80]), &[]);
    story.shared.drive(&mk_member("b", &[443]), &[]);
    story.wants("names the group no more, and does not consent", &asking_first(&mk_service("b", &[443])));
    story.wants("consents", &mk_service("b", &[443]));
    story.is(include_str!("../golden/group-leave.txt"));
}

#[test]
fn a_conflict_reads_like_this() {
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[80, 443]));
    let mut story = Story::default();
    story.shared.drive(&a, &[]);
    story.wants("is made, and wants port 80 as well", &b);
    story.deletes(&a.owner);
    story.wants("is reconciled again", &b);
    story.is(include_str!("../golden/group-conflict.txt"));
}

#[test]
fn the_end_of_a_group_reads_like_this() {
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[443]));
    let mut story = Story::default();
    story.shared.drive(&a, &[]);
    story.shared.drive(&b, &[]);
    story.deletes(&a.owner);
    story.deletes(&b.owner);
    story.is(include_str!("../golden/group-end.txt"));
}

#[test]
fn settings_that_disagree_read_like_this() {
    let cross_zone = |value: &str| {
        let pair = format!("load_balancing.cross_zone.enabled={value}");
        mk_options(&[(key::ATTRIBUTES, pair.as_str())])
    };
    let (a, b) = (mk_member("a", &[80]), mk_member("b", &[443]));
    let asking =
        |service: &LoadBalancer, value: &str| LoadBalancer { options: cross_zone(value), ..service.clone() };
    let mut story = Story::default();
    story.shared.drive(&asking(&a, "true"), &[]);
    story.shared.drive(&b, &[]);
    story.wants("asks for another attribute than the one who leads", &asking(&b, "false"));
    story.wants("asks for another scheme", &LoadBalancer { scheme: Scheme::Internal, ..b.clone() });
    story.wants("is made, and asks for what is not the lead's", &asking(&mk_member("c", &[8080]), "false"));
    story.deletes(&a.owner);
    story.wants("is reconciled again", &asking(&b, "false"));
    story.is(include_str!("../golden/group-settings.txt"));
}
