//! Kubernetes Events (`events.k8s.io/v1`) within the API's limits.
//!
//! Owns: the form of an Event. Leaves to others: when to report what, and sending it.
//! Invariant: whatever the texts, the API server takes the Event.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Longest `note`, in bytes.
pub const LONGEST_NOTE: usize = 1_024;
/// Longest `reason`, `action` and `reportingInstance`, in bytes.
pub const LONGEST_WORD: usize = 128;
/// The namespace of Events about objects that have none.
const CLUSTER_SCOPED: &str = "default";

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// A user should act.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The texts of an Event; longer ones are cut to the API's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `type`.
    pub severity: Severity,
    /// `reason`: a CamelCase word.
    pub reason: String,
    /// `action`: what the reporter was doing.
    pub action: String,
    /// `note`: a sentence.
    pub note: String,
}

/// The process that reports.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// `reportingController`, such as `portico.dev/operator`.
    pub controller: &'a str,
    /// `reportingInstance`: the pod or node.
    pub instance: &'a str,
}

/// The name of an Event, as client-go names them: unique by time, found by the object's name. Names end at 253 bytes.
pub fn name(about: &ObjectReference, now: Timestamp) -> String {
    let subject = about.name.clone().unwrap_or_default();
    format!("{}.{:x}", cut(subject, 200), now.as_nanosecond())
}

/// The namespace that an Event about `about` is created in.
pub fn namespace(about: &ObjectReference) -> &str {
    about.namespace.as_deref().unwrap_or(CLUSTER_SCOPED)
}

/// An Event that is new: count 1, both times now.
pub fn event(
    about: ObjectReference,
    notice: Notice,
    name: String,
    reporter: Reporter<'_>,
    now: Timestamp,
) -> Event {
    let Notice { severity, reason, action, note } = notice;
    Event {
        action: Some(cut(action, LONGEST_WORD)),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace(&about).to_owned()),
            ..ObjectMeta::default()
        },
        note: Some(cut(note, LONGEST_NOTE)),
        reason: Some(cut(reason, LONGEST_WORD)),
        regarding: Some(about),
        reporting_controller: Some(reporter.controller.to_owned()),
        reporting_instance: Some(cut(reporter.instance.to_owned(), LONGEST_WORD)),
        type_: Some(severity.as_str().to_owned()),
        ..Event::default()
    }
}

fn cut(mut text: String, longest: usize) -> String {
    text.truncate(text.floor_char_boundary(longest));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_within_the_limits_of_the_api() {
        let about = ObjectReference { name: Some("web".to_owned()), ..ObjectReference::default() };
        let notice = Notice {
            severity: Severity::Warning,
            reason: "r".repeat(200),
            action: "a".repeat(200),
            note: "ü".repeat(2_000),
        };
        let (name, instance) = (name(&about, Timestamp::UNIX_EPOCH), "n".repeat(200));
        let reporter = Reporter { controller: "portico.dev/test", instance: &instance };
        let event = event(about, notice, name, reporter, Timestamp::UNIX_EPOCH);
        assert_eq!(event.note.map(|note| note.len()), Some(LONGEST_NOTE));
        for word in [event.reason, event.action, event.reporting_instance] {
            assert_eq!(word.map(|word| word.len()), Some(LONGEST_WORD));
        }
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert!(event.metadata.name.is_some_and(|name| name.starts_with("web.")));
    }
}
