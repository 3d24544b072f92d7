//! The targets of a Service as the calls made them, in the order of the wire, and whether new ones came before old ones went.
//!
//! Owns: replaying a proxy's log. Leaves to others: keeping it (`record`). Pure. Reading targets from the account instead would
//! change them: the emulator's targets become healthy when their health is read.

use std::collections::{BTreeMap, BTreeSet};

use super::{faults::Fate, record::Logged};
use anyhow::ensure;

/// The targets of one Service, call by call: instances, machines, or pods' addresses.
#[derive(Debug, Default)]
pub struct Targets {
    /// Registered now, each with its group: a target group, or an endpoint group of a zone.
    groups: BTreeMap<String, String>,
    /// Registered, and their health not yet read since.
    unread: BTreeSet<String>,
}

impl Targets {
    /// The targets of Service `namespace/name` by the log. An error names the call that broke the order: it removed a target
    /// before the health of a new one was read, or the last target of a served Service.
    pub fn replay(log: &[Logged], service: &str) -> anyhow::Result<Self> {
        let mut targets = Self::default();
        let happened = |call: &&Logged| {
            matches!(call.fate, Fate::Passed | Fate::DroppedAfter)
                && call.status.is_none_or(|status| status < 300)
                && call.service.as_deref() == Some(service)
        };
        for call in log.iter().filter(happened) {
            match call.kind.name.as_str() {
                "RegisterTargets" => targets.come(call, named(call, ".Id")),
                "networkEndpointGroups.attachNetworkEndpoints" => targets.come(call, named(call, "instance")),
                "DescribeTargetHealth" | "networkEndpointGroups.listNetworkEndpoints" => {
                    targets.unread.clear();
                }
                "DeregisterTargets" => targets.remove(call, &named(call, ".Id"))?,
                "networkEndpointGroups.detachNetworkEndpoints" => {
                    targets.remove(call, &named(call, "instance"))?;
                }
                // With a zone's last node its group is deleted, and the node with it.
                "networkEndpointGroups.delete" => targets.remove(call, &targets.of(&group(call)))?,
                "DeleteLoadBalancer" | "forwardingRules.delete" => targets = Self::default(),
                _ => {}
            }
        }
        Ok(targets)
    }

    /// Those that are registered now.
    pub fn now(&self) -> BTreeSet<String> {
        self.groups.keys().cloned().collect()
    }

    fn of(&self, group: &str) -> BTreeSet<String> {
        let members = self.groups.iter().filter(|(_, its)| *its == group);
        members.map(|(target, _)| target.clone()).collect()
    }

    fn come(&mut self, call: &Logged, new: BTreeSet<String>) {
        let group = group(call);
        self.groups.extend(new.iter().map(|target| (target.clone(), group.clone())));
        self.unread.extend(new);
    }

    fn remove(&mut self, call: &Logged, old: &BTreeSet<String>) -> anyhow::Result<()> {
        if !self.groups.keys().any(|target| old.contains(target)) {
            return Ok(()); // nobody was there: the end of a Service that is no longer served
        }
        let number = call.number;
        let unread: Vec<&String> = self.unread.difference(old).collect();
        ensure!(
            unread.is_empty(),
            "call {number} takes {old:?} away, and nobody has looked at {unread:?} yet"
        );
        self.groups.retain(|target, _| !old.contains(target));
        ensure!(!self.groups.is_empty(), "call {number} takes the last targets away: {old:?}");
        Ok(())
    }
}

/// The group that a call is about: an ARN, or zone and name.
fn group(call: &Logged) -> String {
    let arn = call.words.iter().find(|(name, _)| name == "TargetGroupArn").map(|(_, arn)| arn.clone());
    let path = || {
        let parts = call.words.iter().filter(|(name, _)| name == "path").map(|(_, part)| part.as_str());
        parts.take(5).collect::<Vec<&str>>().join("/")
    };
    arn.unwrap_or_else(path)
}

/// The last parts of the values whose names end so.
fn named(call: &Logged, end: &str) -> BTreeSet<String> {
    let words = call.words.iter().filter(|(name, _)| name.ends_with(end));
    words.map(|(_, value)| value.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cloud::call::{Api, Effect, Kind};

    const GROUP: (&str, &str) = ("TargetGroupArn", "arn:g");

    type Words<'a> = &'a [(&'a str, &'a str)];

    fn mk_log(calls: &[(&str, Words<'_>)]) -> Vec<Logged> {
        let logged = |(number, (name, words)): (u64, &(&str, Words<'_>))| Logged {
            number,
            at: Duration::ZERO,
            kind: Kind { api: Api::Elb, name: (*name).to_owned(), effect: Effect::Write },
            service: Some("shop/web".to_owned()),
            words: words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            fate: Fate::Passed,
            status: Some(200),
        };
        (1..).zip(calls).map(logged).collect()
    }

    fn id(id: &str) -> (&str, &str) {
        ("Targets.member.1.Id", id)
    }

    #[test]
    fn new_ones_that_were_looked_at_let_old_ones_go() {
        let (one, two) = ([GROUP, id("i-1")], [GROUP, id("i-2")]);
        let calls: [(&str, &[_]); 5] = [
            ("RegisterTargets", &one),
            ("DescribeTargetHealth", &[]),
            ("RegisterTargets", &two),
            ("DescribeTargetHealth", &[]),
            ("DeregisterTargets", &one),
        ];
        let targets = Targets::replay(&mk_log(&calls), "shop/web").expect("the right order");
        assert_eq!(targets.now(), BTreeSet::from(["i-2".to_owned()]));
        assert!(Targets::replay(&mk_log(&calls), "shop/other").expect("nothing").now().is_empty());
    }

    #[test]
    fn old_ones_that_go_too_early_and_the_last_one_are_told_by_the_call() {
        let (one, two) = ([GROUP, id("i-1")], [GROUP, id("i-2")]);
        let early: [(&str, &[_]); 4] = [
            ("RegisterTargets", &one),
            ("DescribeTargetHealth", &[]),
            ("RegisterTargets", &two),
            ("DeregisterTargets", &one),
        ];
        let error = Targets::replay(&mk_log(&early), "shop/web").unwrap_err().to_string();
        assert!(error.contains("call 4") && error.contains("i-2"), "{error}");
        let last: [(&str, &[_]); 3] =
            [("RegisterTargets", &one), ("DescribeTargetHealth", &[]), ("DeregisterTargets", &one)];
        let error = Targets::replay(&mk_log(&last), "shop/web").unwrap_err().to_string();
        assert!(error.contains("the last targets"), "{error}");
    }

    #[test]
    fn on_compute_engine_a_zones_group_takes_its_nodes_along() {
        let path = |zone| ["p", "zones", zone, "networkEndpointGroups", "n"].map(|part| ("path", part));
        let attach = |zone, machine| [path(zone).as_slice(), &[("instance", machine)]].concat();
        let (b, c, gone) = (attach("b", "zones/b/instances/m-1"), attach("c", "m-2"), path("c"));
        let calls: [(&str, &[_]); 4] = [
            ("networkEndpointGroups.attachNetworkEndpoints", &b),
            ("networkEndpointGroups.attachNetworkEndpoints", &c),
            ("networkEndpointGroups.listNetworkEndpoints", &[]),
            ("networkEndpointGroups.delete", &gone),
        ];
        let targets = Targets::replay(&mk_log(&calls), "shop/web").expect("the right order");
        assert_eq!(targets.now(), BTreeSet::from(["m-1".to_owned()]));
    }
}
