//! What went over the wire, in its order: the targets of a Service as the calls made them, and whether new ones came before
//! old ones went. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use portico_e2e::cloud::{faults::Fate, record::Logged};

/// The targets of one Service, call by call: instances, machines, or pods' addresses.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// Registered now, each with its group: a target group, or an endpoint group of a zone.
    groups: BTreeMap<String, String>,
    /// Registered, and their health not yet read since.
    unread: BTreeSet<String>,
}

impl Targets {
    /// As the log has it for Service `namespace/name`. An error says which call broke the order: a target went while one
    /// that had come for it was not yet asked for its health, or the last one went while the Service was served.
    pub(crate) fn replay(log: &[Logged], service: &str) -> anyhow::Result<Self> {
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
                "DescribeTargetHealth" | "networkEndpointGroups.listNetworkEndpoints" => targets.unread.clear(),
                "DeregisterTargets" => targets.go(call, &named(call, ".Id"))?,
                "networkEndpointGroups.detachNetworkEndpoints" => {
                    targets.go(call, &named(call, "instance"))?;
                }
                // With a zone's last node its group goes, and the node with it.
                "networkEndpointGroups.delete" => targets.go(call, &targets.of(&group(call)))?,
                "DeleteLoadBalancer" | "forwardingRules.delete" => targets = Self::default(),
                _ => {}
            }
        }
        Ok(targets)
    }

    /// Those that are registered now.
    pub(crate) fn now(&self) -> BTreeSet<String> {
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

    fn go(&mut self, call: &Logged, old: &BTreeSet<String>) -> anyhow::Result<()> {
        if !self.groups.keys().any(|target| old.contains(target)) {
            return Ok(()); // nobody was there: the end of a Service that is no longer served
        }
        let number = call.number;
        let unread: Vec<&String> = self.unread.difference(old).collect();
        ensure!(unread.is_empty(), "call {number} takes {old:?} away, and nobody has looked at {unread:?} yet");
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
