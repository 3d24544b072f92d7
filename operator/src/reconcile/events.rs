//! Events (`events.k8s.io/v1`) on Services, in the background.
//!
//! Owns: sending them. Leaves to others: what is worth one (`status`, `reconcile`), and how many
//! of them are written (`correlator`).
//! Invariants: an Event costs a reconcile nothing. A full channel or a failing API server loses an Event, counts it, and delays
//! nothing. kube-runtime's Recorder is not used: it folds Events of one reason into a series that keeps the first note, and would
//! lose the second of two different steps.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use portico_runtime::event;
pub(crate) use portico_runtime::event::{Notice, Severity};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cache::service::FIELD_MANAGER;
use crate::metrics::Metrics;
use crate::process::fence::Fence;
use portico_runtime::chain;

mod correlator;

use correlator::{Correlated, Correlator};

const BACKLOG: usize = 1_024;

/// The entry for Events.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    channel: mpsc::Sender<(ObjectReference, Notice)>,
    metrics: Metrics,
}

/// The background task that sends them.
#[derive(Debug)]
pub(crate) struct Sender {
    channel: mpsc::Receiver<(ObjectReference, Notice)>,
    metrics: Metrics,
    instance: String,
    correlator: Correlator,
}

/// Both ends; `instance` is this process's identity.
pub(crate) fn reporter(instance: &str, metrics: &Metrics) -> (Reporter, Sender) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let instance = instance.to_owned();
    (
        Reporter { channel: sender, metrics: metrics.clone() },
        Sender { channel: receiver, metrics: metrics.clone(), instance, correlator: Correlator::default() },
    )
}

impl Reporter {
    /// Tells something, if there is room.
    pub(crate) fn report(&self, about: ObjectReference, notice: Notice) {
        if self.channel.try_send((about, notice)).is_err() {
            self.metrics.event_dropped();
        }
    }
}

impl Sender {
    /// Sends until nobody can hand in any more; what is still to be sent when `fence` closes is not.
    pub(crate) async fn run(mut self, client: Client, fence: Fence) {
        while let Some((about, notice)) = self.channel.recv().await {
            fence.opened().await;
            let (reason, now) = (notice.reason.clone(), Timestamp::now());
            let namespace = event::namespace(&about).to_owned();
            let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
            match self.send(&api, about, notice, now).await {
                Ok(()) => {}
                Err(error) if is_end_of_namespace(&error) => {
                    tracing::debug!(namespace, reason, "nobody left to tell");
                }
                Err(error) => {
                    self.metrics.event_dropped();
                    tracing::warn!(error = chain(&error), reason, "event not sent");
                }
            }
        }
    }

    fn reporter(&self) -> event::Reporter<'_> {
        event::Reporter { controller: "portico.dev/operator", instance: &self.instance }
    }

    async fn send(
        &mut self,
        api: &Api<Event>,
        about: ObjectReference,
        notice: Notice,
        now: Timestamp,
    ) -> kube::Result<()> {
        let new = event::name(&about, now);
        match self.correlator.correlate(&about, notice, new.clone(), Instant::now()) {
            Correlated::New(notice, name) => {
                create(api, &event::event(about, notice, name, self.reporter(), now)).await
            }
            Correlated::Again { name, count, notice } => {
                let series = json!({ "series": EventSeries { count, last_observed_time: MicroTime(now) } });
                let params =
                    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                match api.patch(&name, &params, &Patch::Merge(series)).await {
                    // API servers keep Events for an hour.
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        self.correlator.renamed(&name, &new);
                        create(api, &event::event(about, notice, new, self.reporter(), now)).await
                    }
                    answer => answer.map(drop),
                }
            }
            Correlated::Spam => {
                tracing::debug!(about = about.name, "too many Events about one object");
                Ok(())
            }
        }
    }
}

async fn create(api: &Api<Event>, event: &Event) -> kube::Result<()> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.create(&params, event).await.map(drop)
}

/// A namespace that is being deleted takes no more Events, and its Services say their last word in it: no fault.
fn is_end_of_namespace(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|it| it.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_namespace_excuses_an_event_that_is_not_sent() {
        // The answer of kube-apiserver 1.36 to an Event in a namespace that is being deleted.
        let answer = |reason: &str| {
            let status = serde_json::json!({
                "status": "Failure", "code": 403, "reason": "Forbidden", "message": "events is forbidden",
                "details": {"kind": "events", "causes": [{"reason": reason, "field": "metadata.namespace"}]},
            });
            kube::Error::Api(serde_json::from_value(status).unwrap())
        };
        assert!(is_end_of_namespace(&answer("NamespaceTerminating")));
        assert!(!is_end_of_namespace(&answer("FieldValueForbidden")));
    }
}
