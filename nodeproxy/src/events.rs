//! Events (`events.k8s.io/v1`) on Services and on this node, in the background.
//!
//! Owns their delivery. Leaves to others the choice of what to report. Invariant: reporting blocks nobody. A full channel or a
//! failing API server loses an Event, and the log has a line about it.

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service},
        events::v1::Event,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use portico_proxy_core::input::ServiceName;
use portico_runtime::event::{self, Reporter, Severity};
use tokio::sync::mpsc;

/// Notices that may wait for the API server.
pub const BACKLOG: usize = 64;

/// The object of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Namespace and name.
    Service(ServiceName),
    /// The node that the proxy runs on.
    Node,
}

/// A report to the owner of a Service, or of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Object of the report.
    pub about: About,
    /// The reason, one CamelCase word.
    pub reason: &'static str,
    /// The operation, one CamelCase word.
    pub action: &'static str,
    /// What happened and what to do about it, in one sentence.
    pub note: String,
}

/// Sends warnings until the channel closes; `node` is this node's name.
pub async fn send(mut notices: mpsc::Receiver<Notice>, client: Client, node: String) {
    while let Some(notice) = notices.recv().await {
        if let Err(error) = send_one(&client, &notice, &node).await {
            let (about, reason, error) = (&notice.about, notice.reason, portico_runtime::chain(&error));
            tracing::warn!(?about, reason, error, "an Event was not sent");
        }
    }
}

async fn send_one(client: &Client, notice: &Notice, node: &str) -> kube::Result<()> {
    let regarding = match &notice.about {
        About::Service(service) => regarding_service(client, service).await?,
        About::Node => regarding_node(node),
    };
    let namespace = event::namespace(&regarding).to_owned();
    let event = event(notice, regarding, node, Timestamp::now());
    Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await.map(drop)
}

async fn regarding_service(client: &Client, service: &ServiceName) -> kube::Result<ObjectReference> {
    let ServiceName { namespace, name } = service;
    // `kubectl describe` finds Events by the object's UID, which the model does not keep.
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let found = services.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await?;
    let uid = found.iter().find_map(ResourceExt::uid);
    Ok(ObjectReference { namespace: Some(namespace.to_string()), ..reference("Service", name, uid) })
}

/// By kubelets' custom a node's UID in Events is its name, and `kubectl describe node` looks for that.
fn regarding_node(node: &str) -> ObjectReference {
    reference("Node", node, Some(node.to_owned()))
}

fn reference(kind: &str, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

fn event(notice: &Notice, regarding: ObjectReference, instance: &str, now: Timestamp) -> Event {
    let Notice { about: _, reason, action, note } = notice;
    let texts = event::Notice {
        severity: Severity::Warning,
        reason: (*reason).to_owned(),
        action: (*action).to_owned(),
        note: note.clone(),
    };
    let name = event::name(&regarding, now);
    event::event(regarding, texts, name, Reporter { controller: "portico.dev/nodeproxy", instance }, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_notice(about: About) -> Notice {
        Notice {
            about,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: "ü".repeat(event::LONGEST_NOTE),
        }
    }

    #[test]
    fn an_event_is_about_the_service_and_keeps_the_apis_limits() {
        let notice = mk_notice(About::Service("shop/web".parse().expect("a name")));
        let namespace = Some("shop".to_owned());
        let regarding =
            ObjectReference { namespace, ..reference("Service", "web", Some("a-uid".to_owned())) };
        let event = event(&notice, regarding, &"n".repeat(200), Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.expect("about a Service");
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("a-uid")));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.note.map(|note| note.len()), Some(event::LONGEST_NOTE));
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(128));
    }

    #[test]
    fn an_event_about_the_node_is_found_by_its_name() {
        let regarding = regarding_node("here");
        let event = event(&mk_notice(About::Node), regarding, "here", Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.expect("about a Node");
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Node"), Some("here")));
        assert_eq!((regarding.namespace, event.metadata.namespace.as_deref()), (None, Some("default")));
    }
}
