//! Reporters of the loop's progress: metrics, health, health check node ports, the startup taint, the log.
//!
//! Owns the changes that the kernel does not have yet, their age, and the last report to each receiver, so that
//! none is repeated. Leaves the progress itself to the loop.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use portico_proxy_core::{
    input::Event,
    model::{Model, Problem},
    table::Family,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    conntrack::FlowsError, health::Health, health_check::Published, input_event::Times, metrics::Metrics,
    node::Node,
};

/// All receivers of reports.
pub(super) struct Reporters {
    health: Health,
    metrics: Metrics,
    health_checks: watch::Sender<Published>,
    /// Receives whether the node's startup taint can be removed.
    pub(super) untaint: Option<watch::Sender<bool>>,
    families: Vec<Family>,
    /// Trigger times of changes that the kernel does not have, and when each came in.
    triggers: Vec<Timestamp>,
    received: Vec<Instant>,
    problems: BTreeSet<Problem>,
    /// Versions of the problems and health checks in the last report.
    reported: (Option<u64>, Option<u64>),
}

impl Reporters {
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
            reported: (None, None),
        }
    }

    /// Records an event of a watch. Before the first sync its age is not measured: older triggers are those of
    /// a predecessor, and the first sync has its own metric.
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

    /// Records a change of the Node object.
    pub(super) fn node(&self, node: &Node) {
        self.health.set_eligible(node.is_eligible());
        self.publish_taint(node);
    }

    /// Records a pending change. With `complete` it waits only for the kernel.
    pub(super) fn queued(&self, complete: bool) {
        self.metrics.queued(&self.families);
        if complete {
            self.health.queued();
        }
    }

    /// Records a failed call to the dataplane.
    pub(super) fn failed(&self, reason: &'static str, complete: bool) {
        self.metrics.failed(&self.families, reason);
        if complete {
            self.health.queued();
        }
    }

    /// Whether the kernel had every object at least once.
    pub(super) fn has_synced(&self) -> bool {
        self.health.has_synced()
    }

    /// Records that rules of a predecessor exist.
    pub(super) fn inherited(&self) {
        self.health.inherited();
    }

    /// Records that an implausible answer of the API server is not applied.
    pub(super) fn implausible(&self) {
        self.health.waits_for_others();
    }

    /// Records a committed transaction.
    pub(super) fn programmed(&self, changes: usize, took: Duration, full: bool) {
        self.metrics.changes.inc_by(changes as u64);
        self.metrics.synced(&self.families, took, full);
    }

    /// Records deleted UDP flows, or a failure.
    pub(super) fn flows_deleted(&self, family: Family, deleted: Result<usize, FlowsError>) {
        match deleted {
            Ok(count) => self.metrics.deleted_flows(family, count),
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(error = %portico_runtime::chain(&error), reason, "stale UDP flows stay for now");
            }
        }
    }

    /// Records that the kernel has all input.
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
        self.metrics.elements.set(gauge(model.shadow().desired().elements.len()));
        self.health.updated();
        self.metrics.has_synced.set(1);
        self.publish_taint(node);
        self.publish_checks(model);
        self.report_problems(model);
    }

    fn publish_checks(&mut self, model: &Model) {
        let changes = Some(model.health_changes());
        let addresses = &model.node_info().node_port_addresses;
        let same_addresses = |published: &Published| published.addresses.iter().eq(addresses.iter());
        if self.reported.1 == changes && same_addresses(&self.health_checks.borrow()) {
            return;
        }
        self.reported.1 = changes;
        self.health_checks.send_if_modified(|published| {
            let same = published.checks == *model.health_checks() && same_addresses(published);
            if !same {
                let checks = model.health_checks().clone();
                *published = Published { checks, addresses: addresses.iter().copied().collect() };
            }
            !same
        });
    }

    /// Removes the taint once everything is programmed, and again if it comes back.
    fn publish_taint(&self, node: &Node) {
        if let Some(untaint) = &self.untaint {
            let wanted = node.is_held_back() && self.health.has_synced();
            untaint.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
        }
    }

    fn report_problems(&mut self, model: &Model) {
        let changes = Some(model.problem_changes());
        if std::mem::replace(&mut self.reported.0, changes) == changes {
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
