//! The owner of a frontend when several Services claim it.
//!
//! Owns precedence and succession. Addresses that the API server allocates (`ClusterIP`s, NodePorts) cannot
//! collide among themselves. A load balancer's VIP or an external IP can, and may not take over an address that
//! was allocated to another Service. So the kind decides first, then age, then name: the same winner on every
//! node and after every restart. A `ClusterIP` belongs to one Service on every port, even on ports that the
//! Service lacks; the model keeps other Services from claiming any of them.
//!
//! Invariants: a frontend that has a claim has a holder; no waiting claim precedes the holder's.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{input::ServiceName, table::Frontend};

/// How a Service has a frontend, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClaimKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// A node address with `spec.ports[].nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

/// A Service's claim to a frontend. The smaller one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// How the Service has the address.
    pub kind: ClaimKind,
    /// Age of the Service: its creation in seconds since 1970.
    pub created: i64,
    /// The Service that claims it.
    pub service: ServiceName,
    /// Index of its port.
    pub port: usize,
}

/// Two Services that want the same frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The frontend that both claim.
    pub frontend: Frontend,
    /// The Service that has it.
    pub holder: ServiceName,
    /// The Service that waits for it.
    pub waiting: ServiceName,
}

/// Claims to all frontends.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    holders: HashMap<Frontend, Claim>,
    waiting: HashMap<Frontend, BTreeSet<Claim>>,
    /// Number of times that a claim began or ceased to wait.
    changes: u64,
}

impl Claims {
    /// A number that grows with every change of [`Claims::conflicts`].
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The claim that holds the frontend.
    pub(crate) fn holder(&self, frontend: &Frontend) -> Option<&Claim> {
        self.holders.get(frontend)
    }

    /// Every frontend that has a holder.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Frontend> {
        self.holders.keys()
    }

    /// Enters a claim and returns the Service that loses the frontend by it, if any.
    pub(crate) fn claim(&mut self, frontend: Frontend, claim: Claim) -> Option<ServiceName> {
        let Some(holder) = self.holders.get_mut(&frontend) else {
            self.holders.insert(frontend, claim);
            return None;
        };
        let wins = claim < *holder;
        let waiting = if wins { std::mem::replace(holder, claim) } else { claim };
        let displaced = wins.then(|| waiting.service.clone());
        self.waiting.entry(frontend).or_default().insert(waiting);
        self.changes += 1;
        displaced
    }

    /// Takes a Service's claim back and returns the Service that gains the frontend by it, if any.
    pub(crate) fn release(&mut self, frontend: &Frontend, service: &ServiceName) -> Option<ServiceName> {
        let mut heir = None;
        self.changes += u64::from(self.waiting.contains_key(frontend));
        if self.holders.get(frontend).is_some_and(|holder| holder.service == *service) {
            self.holders.remove(frontend);
            if let Some(next) = self.waiting.get_mut(frontend).and_then(BTreeSet::pop_first) {
                heir = Some(next.service.clone());
                self.holders.insert(*frontend, next);
            }
        } else if let Some(waiting) = self.waiting.get_mut(frontend) {
            waiting.retain(|claim| claim.service != *service);
        }
        if self.waiting.get(frontend).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(frontend);
        }
        heir
    }

    /// The claims that wait for the frontend, the next heir first.
    pub(crate) fn waiting(&self, frontend: &Frontend) -> impl Iterator<Item = &Claim> {
        self.waiting.get(frontend).into_iter().flatten()
    }

    /// Every waiting claim, sorted.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        let mut conflicts = BTreeSet::new();
        for (frontend, waiting) in &self.waiting {
            if let Some(holder) = self.holders.get(frontend) {
                conflicts.extend(waiting.iter().map(|claim| Conflict {
                    frontend: *frontend,
                    holder: holder.service.clone(),
                    waiting: claim.service.clone(),
                }));
            }
        }
        conflicts.into_iter()
    }
}

impl fmt::Display for ClaimKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "load balancer's VIP",
            Self::ExternalIp => "external IP",
        })
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, holder, waiting } = self;
        write!(
            f,
            "Services {holder} and {waiting} both claim {frontend}: {holder} keeps it, and {waiting} is not reachable \
             there until {holder} is deleted; give one of them another address or port"
        )
    }
}
