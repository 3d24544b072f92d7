//! How fast nodes may be taken from load balancers (law 2: a limit on how much one pass may remove).
//!
//! ```text
//! Ready ─────────────────────────────────────────────▶ admitted
//! NotReady, for less than the grace ─────────────────▶ admitted     the load balancer's own health check is faster
//! nobody Ready or just unready: all NotReady ────────▶ admitted     a control plane without kubelets takes nothing away
//! Leaving (deletion, autoscaler's taint) ────────────▶ out at once  somebody means this node, and wants it drained
//! gone, Excluded, NotReady for long: few ────────────▶ out at once
//!                                    many at once ───▶ held for a while, then out
//! ```
//! Owns: [`NodeRemovalLimiter`], the memory of which nodes were admitted, and the decision. Leaves to others: what a node is
//! (`targets`), telling anybody.
//! Invariants: a node is held only if it was admitted before. A hold ends by itself, or when the nodes are back. The clock is an
//! argument: equal histories give equal answers. The memory is the process's: after a restart only the nodes' conditions count
//! (since when they are not ready).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use portico_provider::{NodeName, NodeTarget};
use tokio::time::Instant;

use crate::cache::targets::{Eligibility, NodeState};

/// Fewer than this many nodes are never held: in a cluster of three, the loss of one or two is no accident of the control plane.
const FEWEST: usize = 3;

/// When and for how long nodes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRemovalLimits {
    /// How long a node that was ready may be unready before it counts as gone.
    pub(crate) unready: Duration,
    /// More than this share of all targets, in percent, is not taken away at once.
    pub(crate) share: u8,
    /// But held for so long; zero: never held.
    pub(crate) hold: Duration,
}

/// Nodes that may be targets at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmittedNodes {
    /// All of them, in the order of their names.
    pub(crate) nodes: Arc<[NodeTarget]>,
    /// How many of them are there only because too many vanished at once.
    pub(crate) held: usize,
    /// When the answer changes by itself.
    pub(crate) again: Option<Instant>,
}

/// The limiter's memory: nodes that were admitted, and nodes that are held.
#[derive(Debug)]
pub(crate) struct NodeRemovalLimiter {
    limits: NodeRemovalLimits,
    admitted: BTreeMap<NodeName, NodeTarget>,
    /// Nodes that are not ready: since when, by their own word, and until when they are borne with by this process's clock.
    unready: BTreeMap<NodeName, (Timestamp, Instant)>,
    held_until: Option<Instant>,
    /// The last answer, and the version of the cache it was made from.
    last: Option<(u64, AdmittedNodes)>,
}

impl NodeRemovalLimiter {
    /// One that has seen nothing yet.
    pub(crate) fn new(limits: NodeRemovalLimits) -> Self {
        Self { limits, admitted: BTreeMap::new(), unready: BTreeMap::new(), held_until: None, last: None }
    }

    /// The nodes of a version of the cache; asked again for the same version, it answers from memory.
    pub(crate) fn admit(
        &mut self,
        version: u64,
        nodes: impl FnOnce() -> Vec<NodeState>,
        now: Instant,
        wall: Timestamp,
    ) -> AdmittedNodes {
        if let Some((known, last)) = &self.last
            && *known == version
            && last.again.is_none_or(|again| now < again)
        {
            return last.clone();
        }
        let admitted = self.decide(&nodes(), now, wall);
        self.last = Some((version, admitted.clone()));
        admitted
    }

    fn decide(&mut self, nodes: &[NodeState], now: Instant, wall: Timestamp) -> AdmittedNodes {
        self.unready = self.patience(nodes, now, wall);
        let Eligible { mut targets, again } = eligible(nodes, &self.unready, now);
        let leaving: BTreeSet<&NodeName> = nodes
            .iter()
            .filter(|node| node.eligibility == Eligibility::Leaving)
            .map(|node| &node.target.name)
            .collect();
        let gone: BTreeMap<NodeName, NodeTarget> = std::mem::take(&mut self.admitted)
            .into_iter()
            .filter(|(name, _)| !targets.contains_key(name) && !leaving.contains(name))
            .collect();
        let all = targets.len() + gone.len();
        self.held_until = self.held_until(gone.len(), all, now);
        let held = if self.held_until.is_some() { gone.len() } else { 0 };
        if held > 0 {
            targets.extend(gone);
        }
        let again = [again, self.held_until].into_iter().flatten().min();
        self.admitted = targets;
        AdmittedNodes { nodes: self.admitted.values().cloned().collect(), held, again }
    }

    /// Until when nodes that are not ready are borne with. The wall's clock is asked once for each time that a node ceases to be
    /// ready, and never gives more than the grace: it may jump, and be another machine's.
    fn patience(
        &self,
        nodes: &[NodeState],
        now: Instant,
        wall: Timestamp,
    ) -> BTreeMap<NodeName, (Timestamp, Instant)> {
        let grace = self.limits.unready;
        let unready = nodes.iter().filter_map(|node| {
            let Eligibility::NotReady { since: Some(since) } = node.eligibility else { return None };
            let name = node.target.name.clone();
            let known = self.unready.get(&name).filter(|(known, _)| *known == since);
            let spent = Duration::try_from(wall.duration_since(since)).unwrap_or_default();
            let until = known.map_or_else(|| now + grace.saturating_sub(spent), |(_, until)| *until);
            Some((name, (since, until)))
        });
        unready.collect()
    }

    /// Until when nodes that are gone stay targets; `None`: they are removed.
    fn held_until(&self, gone: usize, all: usize, now: Instant) -> Option<Instant> {
        let NodeRemovalLimits { unready: _, share, hold } = self.limits;
        let many = gone >= FEWEST && gone * 100 > usize::from(share) * all;
        if !many || hold.is_zero() {
            return None;
        }
        match self.held_until {
            Some(until) if until <= now => {
                tracing::warn!(gone, of = all, "nodes that vanished together are no targets any more");
                None
            }
            Some(until) => Some(until),
            None => {
                tracing::warn!(
                    gone,
                    of = all,
                    ?hold,
                    "too many nodes vanished at once; they stay targets for now"
                );
                Some(now + hold)
            }
        }
    }
}

struct Eligible {
    targets: BTreeMap<NodeName, NodeTarget>,
    /// When the first of them has been unready for too long.
    again: Option<Instant>,
}

fn eligible(
    nodes: &[NodeState],
    unready: &BTreeMap<NodeName, (Timestamp, Instant)>,
    now: Instant,
) -> Eligible {
    let mut again: Option<Instant> = None;
    let mut fit = |node: &&NodeState| match node.eligibility {
        Eligibility::Ready => true,
        Eligibility::NotReady { .. } => {
            let until = unready.get(&node.target.name).map(|(_, until)| *until).filter(|until| *until > now);
            again = [again, until].into_iter().flatten().min();
            until.is_some()
        }
        Eligibility::Excluded | Eligibility::Leaving => false,
    };
    let named = |node: &NodeState| (node.target.name.clone(), node.target.clone());
    let mut targets: BTreeMap<NodeName, NodeTarget> = nodes.iter().filter(&mut fit).map(named).collect();
    if targets.is_empty() {
        let unready = |node: &&NodeState| matches!(node.eligibility, Eligibility::NotReady { .. });
        targets = nodes.iter().filter(unready).map(named).collect();
    }
    Eligible { targets, again }
}

#[cfg(test)]
mod tests;
