//! A problem of a Service, in words for its author.
//!
//! Owns: [`Problem`]. Leaves to others: finding them, reporting them (conditions and Events).
//! Invariant: each names a field or annotation, what is wrong with it, and what to do.

use portico_provider::{Blocked, Field, Obstacle};

/// Something a user has to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub(crate) struct Problem {
    kind: ProblemKind,
    field: String,
    message: String,
}

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    /// An annotation's value does not parse.
    InvalidAnnotation,
    /// An annotation under our domain that nobody reads.
    UnknownAnnotation,
    /// Endpoints that are no pods of the Service's namespace.
    EndpointsRefused,
    /// A value that the class does not allow.
    NotAllowed,
    /// A value that does not count, since the class forces another.
    ForcedByClass,
    /// A value that the class forces and that cannot be.
    ClassParameters,
    /// Another object was first.
    Conflict,
    /// A field of `spec` that cannot be, or contradicts another.
    InvalidField,
    /// Targets need node ports, and the Service has none.
    NodePortsRequired,
    /// The provider cannot do it.
    Unsupported,
    /// It needs another load balancer, and so the user's consent.
    ReplacementRequired,
    /// Another Service of the group has that listener.
    ListenerConflict,
    /// Another Service of the group decides.
    GroupConflict,
}

impl Problem {
    /// `message` follows the field's name and a colon.
    pub(crate) fn new(kind: ProblemKind, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, field: field.into(), message: message.into() }
    }

    /// The obstacle of a plan.
    pub(crate) fn of(Blocked { field, obstacle, message }: &Blocked) -> Self {
        let kind = match obstacle {
            Obstacle::Unsupported => ProblemKind::Unsupported,
            Obstacle::ReplacementRequired => ProblemKind::ReplacementRequired,
            Obstacle::ListenerConflict => ProblemKind::ListenerConflict,
            Obstacle::GroupConflict => ProblemKind::GroupConflict,
        };
        Self::new(kind, field.to_string(), message.clone())
    }

    /// The same of another field.
    pub(crate) fn at(self, field: &str) -> Self {
        Self { field: field.to_owned(), ..self }
    }

    /// Whether it is about an annotation, by its name or by the field that it sets.
    pub(crate) fn is_about(&self, key: &str, sets: Option<Field>) -> bool {
        let name = key.rsplit('/').next().unwrap_or(key);
        sets.is_some_and(|field| field.to_string() == self.field)
            || self.field.ends_with(key)
            || self.message.contains(name)
    }

    /// Adds to what is wrong.
    pub(crate) fn add(&mut self, what: &str) {
        self.message.extend(["; ", what]);
    }

    /// Condition reason, Event reason and metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self.kind {
            ProblemKind::InvalidAnnotation => "InvalidAnnotation",
            ProblemKind::UnknownAnnotation => "UnknownAnnotation",
            ProblemKind::EndpointsRefused => "EndpointsRefused",
            ProblemKind::NotAllowed => "NotAllowed",
            ProblemKind::ForcedByClass => "ForcedByClass",
            ProblemKind::ClassParameters => "ClassParametersRejected",
            ProblemKind::Conflict => "Conflict",
            ProblemKind::InvalidField => "InvalidField",
            ProblemKind::NodePortsRequired => "NodePortsRequired",
            ProblemKind::Unsupported => "Unsupported",
            ProblemKind::ReplacementRequired => "ReplacementRequired",
            ProblemKind::ListenerConflict => "ListenerConflict",
            ProblemKind::GroupConflict => "GroupConflict",
        }
    }
}

/// All of them in one message.
pub(crate) fn sentence(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
