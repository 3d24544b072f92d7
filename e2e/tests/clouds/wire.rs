//! What went over the wire, in its order: the targets of a Service as the calls made them, and whether new ones came before
//! old ones went. Pure.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use portico_e2e::cloud::{faults::Fate, record::Logged};

/// The targets of one Service, call by call: instances, machines, or pods' addresses.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// Registered now.
    pub(crate) now: BTreeSet<String>,
    /// Registered, and their health not yet read since.
    unread: BTreeSet<String>,
    /// Everything that ever was registered.
    pub(crate) ever: BTreeSet<String>,
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
                "RegisterTargets" => targets.come(named(call, ".Id")),
                "DescribeTargetHealth" => targets.unread.clear(),
                "DeregisterTargets" => targets.go(call, &named(call, ".Id"))?,
                "networkEndpointGroups.attachNetworkEndpoints" => targets.come(named(call, "instance")),
                "networkEndpointGroups.listNetworkEndpoints" => targets.unread.clear(),
                "networkEndpointGroups.detachNetworkEndpoints" => {
                    targets.go(call, &named(call, "instance"))?;
                }
                "DeleteLoadBalancer" | "forwardingRules.delete" => targets = Self::default(),
                _ => {}
            }
        }
        Ok(targets)
    }

    fn come(&mut self, new: BTreeSet<String>) {
        self.now.extend(new.iter().cloned());
        self.ever.extend(new.iter().cloned());
        self.unread.extend(new);
    }

    fn go(&mut self, call: &Logged, old: &BTreeSet<String>) -> anyhow::Result<()> {
        let number = call.number;
        let unread: Vec<&String> = self.unread.difference(old).collect();
        ensure!(unread.is_empty(), "call {number} takes {old:?} away, and nobody has looked at {unread:?} yet");
        self.now.retain(|target| !old.contains(target));
        if self.now.is_empty() {
            bail!("call {number} takes the last targets away: {old:?}");
        }
        Ok(())
    }
}

/// The last parts of the values whose names end so.
fn named(call: &Logged, end: &str) -> BTreeSet<String> {
    let words = call.words.iter().filter(|(name, _)| name.ends_with(end));
    words.map(|(_, value)| value.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}
