//! Input events of the sync loop, from all sources.
//!
//! Owns the message and the marks of completeness. Invariant: a source sends [`InputEvent::Listed`] once all objects
//! of its first list were sent, and [`InputEvent::First`] before that.

use std::net::IpAddr;

use jiff::Timestamp;
use portico_proxy_core::input::Event;
use tokio::time::Instant;

use crate::node::NodeState;

/// Sources of input events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The watch of Services.
    Services,
    /// The watch of `EndpointSlice`s.
    EndpointSlices,
    /// The watch of this node's Node object.
    Node,
    /// The watch of `ServiceCIDR`s.
    ServiceCidrs,
    /// Addresses in this network namespace.
    Addresses,
}

/// Every source: the first sync waits for all of them.
pub const SOURCES: [Source; 5] =
    [Source::Services, Source::EndpointSlices, Source::Node, Source::ServiceCidrs, Source::Addresses];

/// Sources that the first Services wait for. Without the node the local endpoints are not known.
pub const FIRST_SOURCES: [Source; 4] =
    [Source::Services, Source::EndpointSlices, Source::Node, Source::Addresses];

/// Times of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Time of its cause (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
    pub trigger: Option<Timestamp>,
    /// Time when its watch received it.
    pub received: Option<Instant>,
}

impl Times {
    /// A change that a watch has just received.
    pub fn received_now(trigger: Option<Timestamp>) -> Self {
        Self { trigger, received: Some(Instant::now()) }
    }
}

/// One message to the sync loop.
#[derive(Clone, Debug, PartialEq)]
pub enum InputEvent {
    /// A change of a Service, an `EndpointSlice` or the `ServiceCIDR`s.
    Change(Box<Event>, Times),
    /// The Node object; `None` when there is none.
    Node(Option<NodeState>),
    /// Addresses in this network namespace that NodePorts could answer on.
    Addresses(Vec<IpAddr>),
    /// The source has sent the first objects: the Services and slices of the API server and of DNS.
    First(Source),
    /// The source has sent its whole first list.
    Listed(Source),
}
