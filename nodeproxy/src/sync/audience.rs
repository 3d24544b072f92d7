//! Whoever is told what the loop does: metrics, health, health check node ports, the owner of the startup taint, the log.
//!
//! Owns which changes the kernel does not have yet, since when, and what each listener was told last, so that nobody is told the same
//! twice. Leaves what happens, and when, to the loop.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use portico_proxy_core::{
    input::Event,
    model::{Model, Problem},
    table::Family,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    conntrack::FlowsError, facts::Times, health::Health, health_check::Published, metrics::Metrics,
    node::Node,
};

/// See the file's head.
pub(super) struct Audience {
    health: Health,
    metrics: Metrics,
    health_checks: watch::Sender<Published>,
    /// Who takes the node's startup taint away, where that is wanted.
    pub(super) untaint: Option<watch::Sender<bool>>,
    families: Vec<Family>,
    /// What led to changes that the kernel does not have, and when each came in.
    triggers: Vec<Timestamp>,
    received: Vec<Instant>,
    problems: BTreeSet<Problem>,
    /// Numbers of the last problems and health checks that were told.
    told: (Option<u64>, Option<u64>),
}

impl Audience {
    pub(super) fn new(
        health: Health,
        metrics: Metrics,
        health_checks: watch::Sender<Published>,
        families: Vec<Family>,
    ) -> Self {
        health.set_families(families.clone());
        Self {
            health,
            metrics,
            health_checks,
            untaint: None,
            families,
            triggers: Vec::new(),
            received: Vec::new(),
            problems: BTreeSet::new(),
            told: (None, None),
        }
    }

    /// A watch had an event. Before the first sync its age is not measured: older triggers are those of a predecessor, and the
    /// first sync has a measure of its own.
    pub(super) fn came(&mut self, event: &Event, times: Times, synced: bool) {
        match event {
            Event::Slice(_) | Event::SliceGone { .. } => self.metrics.endpoint_changes.came(),
            Event::Service(_) | Event::ServiceGone(_) => self.metrics.service_changes.came(),
            Event::Node(_) | Event::ServiceCidrs(_) => {}
        }
        if synced {
            let Times { trigger, received } = times;
            self.triggers.extend(trigger);
            self.received.extend(received);
        }
    }

    /// The Node object changed.
    pub(super) fn node(&self, node: &Node) {
        self.health.set_eligible(node.is_eligible());
        self.publish_taint(node);
    }

    /// Something waits; for the kernel alone, if everything else is known (`complete`).
    pub(super) fn queued(&self, complete: bool) {
        self.metrics.queued(&self.families);
        if complete {
            self.health.queued();
        }
    }

    /// The kernel did not do what it was told.
    pub(super) fn failed(&self, reason: &'static str, complete: bool) {
        self.metrics.failed(&self.families, reason);
        if complete {
            self.health.queued();
        }
    }

    /// Whether the kernel had everything at least once.
    pub(super) fn has_synced(&self) -> bool {
        self.health.has_synced()
    }

    /// A predecessor's rules stand.
    pub(super) fn inherited(&self) {
        self.health.inherited();
    }

    /// What the API server says is not believed yet, and what stands stays.
    pub(super) fn doubted(&self) {
        self.health.waits_for_others();
    }

    /// A transaction went through.
    pub(super) fn programmed(&self, changes: usize, took: Duration, full: bool) {
        self.metrics.changes.inc_by(changes as u64);
        self.metrics.synced(&self.families, took, full);
    }

    /// UDP flows were deleted, or could not be.
    pub(super) fn flows_deleted(&self, family: Family, deleted: Result<usize, FlowsError>) {
        match deleted {
            Ok(count) => self.metrics.deleted_flows(family, count),
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(error = %portico_runtime::chain(&error), reason, "stale UDP flows stay for now");
            }
        }
    }

    /// The kernel has all that is known.
    pub(super) fn settled(&mut self, model: &Model, node: &Node) {
        for trigger in self.triggers.drain(..) {
            self.metrics.programmed(&self.families, trigger);
        }
        for received in self.received.drain(..) {
            self.metrics.own_share.observe(received.elapsed().as_secs_f64());
        }
        self.metrics.endpoint_changes.done();
        self.metrics.service_changes.done();
        self.metrics.set_no_local_endpoints(model.without_local_endpoints());
        self.metrics.services.set(gauge(model.services()));
        self.metrics.elements.set(gauge(model.ledger().desired().elements.len()));
        self.health.updated();
        self.metrics.has_synced.set(1);
        self.publish_taint(node);
        self.publish_checks(model);
        self.report_problems(model);
    }

    fn publish_checks(&mut self, model: &Model) {
        let changes = Some(model.health_changes());
        let addresses = &model.node_facts().node_port_addresses;
        let same_addresses = |published: &Published| published.addresses.iter().eq(addresses.iter());
        if self.told.1 == changes && same_addresses(&self.health_checks.borrow()) {
            return;
        }
        self.told.1 = changes;
        self.health_checks.send_if_modified(|published| {
            let same = published.checks == *model.health_checks() && same_addresses(published);
            if !same {
                let checks = model.health_checks().clone();
                *published = Published { checks, addresses: addresses.iter().copied().collect() };
            }
            !same
        });
    }

    /// The taint may go once everything stands, and must go again if it comes back.
    fn publish_taint(&self, node: &Node) {
        if let Some(untaint) = &self.untaint {
            let wanted = node.is_held_back() && self.health.has_synced();
            untaint.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
        }
    }

    fn report_problems(&mut self, model: &Model) {
        let changes = Some(model.problem_changes());
        if std::mem::replace(&mut self.told.0, changes) == changes {
            return;
        }
        let problems: BTreeSet<_> = model.problems().into_iter().collect();
        for problem in problems.difference(&self.problems) {
            tracing::warn!(%problem, "not served as its owner may expect");
        }
        self.metrics.problems.set(gauge(problems.len()));
        self.problems = problems;
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
