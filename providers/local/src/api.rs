//! The API of `portico-lb`: JSON over HTTP, the same types on both sides.
//!
//! ```text
//! GET    /v1/load-balancers?cluster=UID          → [View]
//! GET    /v1/load-balancers/{cluster}/{service}  → View | 404
//! PUT    /v1/load-balancers/{cluster}/{service}  Put → View (idempotent: the owner is the key)
//! PUT    /v1/load-balancers/{cluster}/{service}/targets  Targets → View | 404
//! DELETE /v1/load-balancers/{cluster}/{service}  → 204, absent or not
//! ```
//! Owns: the wire types. Leaves to others: serving and calling. All but `/healthz` and `/metrics` need
//! `Authorization: Bearer TOKEN`. An answer that is not 2xx carries a [`Failure`].
//! Invariant: a spec is complete; what it does not say has a default that is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use portico_provider::{
    HealthCheck, IpFamily, ListenerKey, Owner, ProxyProtocol, ServiceName, SessionAffinity, TargetKind,
};
use serde::{Deserialize, Serialize};

/// Where each listener's traffic goes. As the body of a PUT: of the listeners that are there, and of nothing else; one that
/// it does not name has no target from then on.
pub type Targets = BTreeMap<ListenerKey, BTreeSet<SocketAddr>>;

/// The specification of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The targets of each listener; at least one listener, TCP or UDP.
    pub listeners: Targets,
    /// What these targets are: kept for the caller, who changes them later. `null`: nobody said.
    #[serde(default)]
    pub target_kind: Option<TargetKind>,
    /// How a target shows that it can take traffic; `null`: every target counts as healthy.
    pub health_check: Option<HealthCheck>,
    /// The allowed sources; empty: everybody.
    pub source_ranges: BTreeSet<IpNet>,
    /// Whether a client stays with its target.
    pub session_affinity: SessionAffinity,
    /// Whether TCP targets get a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Of which families it has addresses, one each.
    pub ip_families: BTreeSet<IpFamily>,
    /// Addresses that it must have, at most one of a family.
    pub requested: BTreeSet<IpAddr>,
    /// Addresses that it had and that go on serving beside the new ones.
    pub retain: BTreeSet<IpAddr>,
    /// How long a new one stays `provisioning`; `null`: as the daemon was told.
    pub provisioning_delay: Option<Duration>,
}

#[cfg(test)]
impl Spec {
    /// IPv4 from anywhere, to targets that nobody asks for their health.
    pub(crate) fn plain(listeners: Targets) -> Self {
        Self {
            listeners,
            target_kind: None,
            health_check: None,
            source_ranges: BTreeSet::new(),
            session_affinity: SessionAffinity::None,
            proxy_protocol: ProxyProtocol::Off,
            ip_families: [IpFamily::IPv4].into(),
            requested: BTreeSet::new(),
            retain: BTreeSet::new(),
            provisioning_delay: None,
        }
    }
}

/// The body of a PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The Service, for people.
    pub name: ServiceName,
    /// The load balancer as it should be.
    pub spec: Spec,
    /// Addresses to take, if they are free, before any other: what the Service's status already shows.
    pub claim: BTreeSet<IpAddr>,
}

/// A load balancer as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The Service that it was created for.
    pub owner: Owner,
    /// The last accepted specification.
    pub spec: Spec,
    /// Whether it serves yet.
    pub state: State,
    /// Its addresses; none while provisioning.
    pub addresses: BTreeSet<IpAddr>,
    /// Earlier addresses that still serve, as `spec.retain` asked.
    pub retained: BTreeSet<IpAddr>,
    /// Listeners that could not be opened, and why.
    pub listener_errors: BTreeMap<ListenerKey, String>,
    /// Targets that are healthy.
    pub healthy_targets: BTreeSet<SocketAddr>,
    /// Targets that have not answered often enough to tell.
    pub unknown_targets: BTreeSet<SocketAddr>,
}

/// Whether a load balancer serves yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Being made; look again later.
    Provisioning,
    /// It has its addresses and serves.
    Active,
}

/// Which load balancers to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only this cluster's.
    pub cluster: Option<portico_provider::ClusterUid>,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What a client should do about it.
    pub reason: FailureReason,
    /// Which field, what is wrong, what to do.
    pub message: String,
}

/// The kinds of failure, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// 400: the request can never succeed.
    Invalid,
    /// 401: no or a wrong token.
    Unauthorized,
    /// 404: there is no such load balancer.
    NotFound,
    /// 409: the address belongs to another load balancer.
    Conflict,
    /// 507: no address is free.
    Exhausted,
    /// 500: this machine failed; the same request may succeed later.
    Internal,
}
