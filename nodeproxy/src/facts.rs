//! What the sync loop is told, from wherever it comes.
//!
//! Owns the message and the marks of completeness. Invariant: a source says [`Fact::Listed`] once everything that existed
//! when it began has been told.

use std::net::IpAddr;

use jiff::Timestamp;
use portico_proxy_core::input::Event;

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

/// One thing to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A change of a Service, an `EndpointSlice` or the `ServiceCIDR`s, with the moment at which what led to it happened
    /// (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
    Event(Box<Event>, Option<Timestamp>),
    /// The Node object; `None` when there is none.
    Node(Option<NodeState>),
    /// Addresses in this network namespace that NodePorts could answer on.
    Addresses(Vec<IpAddr>),
    /// A source has told everything that it began with.
    Listed(Source),
}
