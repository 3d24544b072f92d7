//! Health of the node proxy, and whether load balancers should use this node: state for /healthz, /livez and
//! health check node ports.
//!
//! Owns the decision and the JSON, which are kube-proxy's (`pkg/proxy/healthcheck/proxy_health.go`), with one
//! difference. Until the first sync /healthz answers 503 on a node without rules, and 200 where a predecessor's
//! rules serve. The path /livez answers 200, so the kubelet does not kill a proxy that waits for the API server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use portico_proxy_core::table::Family;
use serde::Serialize;
use tokio::time::Instant;

/// A change that has waited this long without reaching the kernel makes the proxy unhealthy (kube-proxy: twice its sync
/// period of 30 s).
const TIMEOUT: Duration = Duration::from_mins(1);

/// Health, shared by the sync loop that writes it and the servers that read it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<HealthState>>);

#[derive(Debug, Default)]
struct HealthState {
    oldest_pending: Option<Instant>,
    updated: Option<Timestamp>,
    /// Whether a predecessor's rules serve.
    inherited: bool,
    leaving: bool,
    families: Vec<Family>,
    degraded: Vec<(Family, String)>,
}

/// The answer of /healthz or /livez.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    /// Whether the answer is 200.
    pub healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: Timestamp,
    healthy: bool,
    /// Missing features of this kernel, in sentences. They do not change the health.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<String>,
}

/// kube-proxy's name of a family.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Families that the dataplane serves.
    pub fn set_families(&self, families: Vec<Family>) {
        self.state().families = families;
    }

    /// Missing features of this kernel, by family, in sentences.
    pub fn set_degraded(&self, degraded: Vec<(Family, String)>) {
        self.state().degraded = degraded;
    }

    /// Whether load balancers may use the node.
    pub fn set_eligible(&self, eligible: bool) {
        self.state().leaving = !eligible;
    }

    /// Records that rules of a predecessor exist. They serve until the first sync.
    pub fn inherited(&self) {
        self.state().inherited = true;
    }

    /// Records that pending changes wait for something else than the kernel.
    pub fn waits_for_others(&self) {
        self.state().oldest_pending = None;
    }

    /// Records a change that the kernel does not have yet.
    pub fn queued(&self) {
        self.state().oldest_pending.get_or_insert_with(Instant::now);
    }

    /// Records that the kernel has every change.
    pub fn updated(&self) {
        let mut state = self.state();
        state.oldest_pending = None;
        state.updated = Some(Timestamp::now());
    }

    /// Whether the kernel has had everything at least once.
    pub fn has_synced(&self) -> bool {
        self.state().updated.is_some()
    }

    /// Whether changes reach the kernel in time.
    pub fn is_live(&self) -> bool {
        self.state().oldest_pending.is_none_or(|since| since.elapsed() < TIMEOUT)
    }

    /// The answer of /livez.
    pub fn livez(&self) -> Report {
        self.report(self.is_live(), None)
    }

    /// The answer of /healthz.
    pub fn healthz(&self) -> Report {
        let live = self.is_live();
        let (eligible, serves) = {
            let state = self.state();
            (!state.leaving, state.inherited || state.updated.is_some())
        };
        self.report(live && eligible && serves, Some(eligible))
    }

    fn report(&self, healthy: bool, node_eligible: Option<bool>) -> Report {
        let live = self.is_live();
        let state = self.state();
        let now = Timestamp::now();
        let updated = state.updated.unwrap_or(Timestamp::UNIX_EPOCH);
        let families = state.families.iter().filter(|_| state.updated.is_some());
        let degraded = |family: Family| {
            let of_family = state.degraded.iter().filter(move |(of, _)| *of == family);
            of_family.map(|(_, what)| what.clone()).collect()
        };
        let report =
            |family| FamilyReport { last_updated: updated, healthy: live, degraded: degraded(family) };
        let status = families.map(|family| (family_name(*family), report(*family))).collect();
        // kube-proxy: a healthy proxy is always up to date, so old monitors see a recent time.
        let last_updated = if healthy { now } else { updated };
        Report { last_updated, current_time: now, node_eligible, healthy, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_does_not_reach_the_kernel_in_time_is_unhealthy() {
        let health = Health::default();
        health.set_eligible(true);
        assert!(!health.healthz().healthy, "no rules yet");
        assert!(health.livez().healthy, "a slow start is no reason to be killed");
        health.updated();
        assert!(health.healthz().healthy);
        health.queued();
        tokio::time::advance(TIMEOUT / 2).await;
        health.queued();
        assert!(health.healthz().healthy);
        tokio::time::advance(TIMEOUT / 2).await;
        assert!(!health.healthz().healthy && !health.livez().healthy);
        health.updated();
        assert!(health.healthz().healthy && health.livez().healthy);
    }

    #[tokio::test]
    async fn a_leaving_node_is_live_but_not_healthy() {
        let health = Health::default();
        health.set_families(vec![Family::V4]);
        health.set_degraded(vec![(Family::V4, "something does not work".to_owned())]);
        health.set_eligible(false);
        health.updated();
        assert!(!health.healthz().healthy);
        assert!(health.livez().healthy);
        let json = serde_json::to_value(health.healthz()).expect("JSON");
        assert_eq!(json["nodeEligible"], false);
        assert_eq!(json["status"]["IPv4"]["healthy"], true);
        assert_eq!(json["status"]["IPv4"]["degraded"][0], "something does not work");
        assert!(serde_json::to_value(health.livez()).expect("JSON").get("nodeEligible").is_none());
    }
}
