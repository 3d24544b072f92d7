//! The phases of a trial, in their order.

use std::fmt;

/// A phase of a controller's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Services made, until each has a status.
    Create,
    /// The same, under AWS's documented token buckets.
    CreateThrottled,
    /// The process started again, nothing changed; until its last call.
    Restart,
    /// A node more, until it is in the last target group.
    NodeJoins,
    /// A node less, until it is out of the last target group.
    NodeLeaves,
    /// All Services deleted, until none is there.
    Delete,
}

impl Phase {
    /// All phases, in the order in which a trial runs them.
    pub const ALL: [Self; 6] =
        [Self::Create, Self::CreateThrottled, Self::Restart, Self::NodeJoins, Self::NodeLeaves, Self::Delete];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::CreateThrottled => "throttled",
            Self::Restart => "restart",
            Self::NodeJoins => "node-joins",
            Self::NodeLeaves => "node-leaves",
            Self::Delete => "delete",
        })
    }
}
