//! One change, as a plan has it.
//!
//! Owns: [`Step`], [`Call`], their words. Leaves to others: planning them (`plan`), doing them (`execute`).
//! Invariant: a call is about one resource.

use std::fmt;

use portico_provider::{Field, Owner};

use crate::cloud::CloudError;
use crate::resource::{Endpoint, Id, Kind, Resource};

/// One change, and what it is called for.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The Service that the change is for.
    pub owner: Owner,
    /// The API call that makes the change.
    pub call: Call,
    /// How an earlier operation on the same thing ended. It is told first, once: then it is tried again.
    pub after: Option<Failure>,
    /// Whether its operation is waited for before the next plan; the others of a plan run side by side with it.
    pub waits: bool,
}

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The operation's name.
    pub operation: String,
    /// The error that ended it.
    pub error: CloudError,
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Makes a resource, or if that one is refused, another in its place.
    Insert {
        /// The first choice.
        resource: Resource,
        /// What to create instead where the first choice is refused.
        otherwise: Option<Resource>,
    },
    /// Writes the fields that can change in place.
    Patch(Resource),
    /// Deletes a resource that nothing refers to.
    Delete(Id),
    /// Puts nodes into a group.
    Attach {
        /// An endpoint group or an instance group.
        group: Id,
        /// Nodes of that group's zone.
        endpoints: Vec<Endpoint>,
    },
    /// Takes nodes out of a group.
    Detach {
        /// An endpoint group or an instance group.
        group: Id,
        /// Nodes of that group's zone.
        endpoints: Vec<Endpoint>,
    },
}

impl Call {
    pub(crate) fn target(&self) -> Id {
        match self {
            Self::Insert { resource, otherwise: _ } | Self::Patch(resource) => resource.id(),
            Self::Delete(id) => id.clone(),
            Self::Attach { group, endpoints: _ } | Self::Detach { group, endpoints: _ } => group.clone(),
        }
    }

    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "insert",
            Self::Patch(_) => "patch",
            Self::Delete(_) => "delete",
            Self::Attach { .. } => "attach nodes to",
            Self::Detach { .. } => "detach nodes from",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner: _, call, after, waits: _ } = self;
        write!(f, "{} {}", call.operation(), call.target())?;
        match call {
            Call::Insert { resource: Resource::ForwardingRule(rule), .. } => {
                write!(f, " for {}", rule.forwards)?;
            }
            Call::Attach { endpoints, .. } | Call::Detach { endpoints, .. } => {
                let names: Vec<&str> = endpoints.iter().map(|it| it.instance.as_str()).collect();
                write!(f, ": {}", names.join(", "))?;
            }
            _ => {}
        }
        after.as_ref().map_or(Ok(()), |failure| write!(f, " (failed before: {})", failure.error))
    }
}

/// Which field a kind of resource stands for.
pub(crate) fn field(kind: Kind) -> Field {
    match kind {
        Kind::Address => Field::RequestedAddresses,
        Kind::ForwardingRule => Field::Listeners,
        Kind::BackendService => Field::SessionAffinity,
        Kind::HealthCheck => Field::HealthCheck,
        Kind::Firewall => Field::SourceRanges,
        Kind::EndpointGroup | Kind::InstanceGroup => Field::Targets,
    }
}
