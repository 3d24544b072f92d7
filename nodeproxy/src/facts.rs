//! What the sync loop is told, from wherever it comes.
//!
//! Owns the message and the marks of completeness. Invariant: a source says [`Fact::Listed`] once everything that existed
//! when it began has been told, and [`Fact::First`] before that.

use std::net::IpAddr;

use jiff::Timestamp;
use portico_proxy_core::input::Event;
use tokio::time::Instant;

use crate::node::NodeState;

/// Where facts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Services.
    Services,
    /// `EndpointSlice`s.
    EndpointSlices,
    /// This node's Node object.
    Node,
    /// `ServiceCIDR`s.
    ServiceCidrs,
    /// Addresses in this network namespace.
    Addresses,
}

/// Every source: the first sync waits for all of them.
pub const SOURCES: [Source; 5] =
    [Source::Services, Source::EndpointSlices, Source::Node, Source::ServiceCidrs, Source::Addresses];

/// Whom the first Services wait for: without the node it is not known which endpoints are here.
pub const FIRST_SOURCES: [Source; 4] =
    [Source::Services, Source::EndpointSlices, Source::Node, Source::Addresses];

/// When a change began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When what led to it happened (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
    pub trigger: Option<Timestamp>,
    /// When its watch had it.
    pub received: Option<Instant>,
}

impl Times {
    /// Of a change that a watch has just had.
    pub fn received_now(trigger: Option<Timestamp>) -> Self {
        Self { trigger, received: Some(Instant::now()) }
    }
}

/// One thing to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A change of a Service, an `EndpointSlice` or the `ServiceCIDR`s.
    Event(Box<Event>, Times),
    /// The Node object; `None` when there is none.
    Node(Option<NodeState>),
    /// Addresses in this network namespace that NodePorts could answer on.
    Addresses(Vec<IpAddr>),
    /// A source has told what must work before all else: the API server's and DNS's Services and slices.
    First(Source),
    /// A source has told everything that it began with.
    Listed(Source),
}
