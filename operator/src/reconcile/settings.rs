//! The settings and parts that a [`Reconciler`](super::Reconciler) is made of.
//!
//! Owns: [`Settings`], [`Parts`]. Leaves to others: the flags they come from (`args`).

use std::sync::Arc;

use portico_provider::{Capabilities, ClusterUid, TargetKind};

use super::queue::Queue;
use crate::cache::node_removal::NodeRemovalLimits;
use crate::cache::service::ClassRule;
use crate::cache::store::Cache;
use crate::desired::admission::EndpointScope;
use crate::desired::spec::GroupScope;
use crate::metrics::Metrics;
use crate::process::fence::Fence;
use crate::provision::Policy;

/// The Services that are ours, and what they may use.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// The Services that are ours.
    pub(crate) classes: ClassRule,
    pub(crate) cluster: ClusterUid,
    /// The groups that a Service may name.
    pub(crate) groups: GroupScope,
    /// The endpoints that may be pod targets.
    pub(crate) endpoints: EndpointScope,
}

impl Scope {
    /// Whether pods have to be watched: only where a load balancer may send to them.
    pub(crate) fn follows_pods(&self, capabilities: &Capabilities) -> bool {
        self.endpoints == EndpointScope::Pods && capabilities.target_kinds.contains(&TargetKind::Pod)
    }
}

/// All settings of a process.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) scope: Scope,
    pub(crate) policy: Policy,
    /// How fast nodes may be removed from load balancers.
    pub(crate) nodes: NodeRemovalLimits,
}

/// The parts that a `Reconciler` and its `Provisioner` are made of.
pub(crate) struct Parts<P, C> {
    pub(crate) provider: P,
    pub(crate) api: C,
    pub(crate) cache: Arc<Cache>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) fence: Fence,
    pub(crate) metrics: Metrics,
}
