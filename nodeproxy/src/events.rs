//! Events (`events.k8s.io/v1`) on Services, in the background.
//!
//! Owns what an Event looks like and sending it. Leaves to others what is worth one. Invariant: telling costs nothing: a full
//! channel or a failing API server loses an Event, says so in the log, and stops nobody.

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use portico_proxy_core::input::ServiceName;
use tokio::sync::mpsc;

/// Notices that may wait for the API server.
pub const BACKLOG: usize = 64;
/// Limit of the API for `note`, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Something that the owner of a Service should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose it is.
    pub service: ServiceName,
    /// A CamelCase word: why.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
}

/// Sends warnings until nobody can hand in any more; `node` is the node whose proxy tells.
pub async fn send(mut notices: mpsc::Receiver<Notice>, client: Client, node: String) {
    while let Some(notice) = notices.recv().await {
        if let Err(error) = send_one(&client, &notice, &node).await {
            let reason = notice.reason;
            tracing::warn!(service = %notice.service, reason, error = crate::run::chain(&error), "an Event was not sent");
        }
    }
}

async fn send_one(client: &Client, notice: &Notice, node: &str) -> kube::Result<()> {
    let ServiceName { namespace, name } = &notice.service;
    // `kubectl describe` finds Events by the object's UID, which the model does not keep.
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let found = services.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await?;
    let uid = found.iter().find_map(ResourceExt::uid);
    let event = event(notice, uid, node, Timestamp::now());
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
}

fn event(notice: &Notice, uid: Option<String>, instance: &str, now: Timestamp) -> Event {
    let Notice { service: ServiceName { namespace, name }, reason, action, note } = notice;
    let mut note = note.clone();
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    Event {
        action: Some((*action).to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            // As client-go names them: unique by time, found by the object's name.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        note: Some(note),
        reason: Some((*reason).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some("portico.dev/nodeproxy".to_owned()),
        reporting_instance: Some(instance.chars().take(128).collect()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_service_and_keeps_the_apis_limits() {
        let notice = Notice {
            service: "shop/web".parse().expect("a name"),
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: "ü".repeat(LONGEST_NOTE),
        };
        let event = event(&notice, Some("a-uid".to_owned()), &"n".repeat(200), Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.expect("about a Service");
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("a-uid")));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.note.map(|note| note.len()), Some(LONGEST_NOTE));
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(128));
    }
}
