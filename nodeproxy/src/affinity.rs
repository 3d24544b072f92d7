//! Number of clients in each affinity map, with a Warning before a map is full.
//!
//! Owns the periodic count, the gauges and the Warning. Leaves the entries to the dataplane, and to
//! [`portico_proxy_core::affinity`] which namespaces share a map. Invariants: each time that a map fills, one
//! Warning. No failure here stops another task.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use portico_proxy_core::affinity::MOST;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    dataplane::DataplaneError,
    diagnose::Inquiry,
    events::{About, Notice},
    metrics::Metrics,
};

/// Interval of the counts.
const INTERVAL: Duration = Duration::from_secs(10);

/// Number of clients in one affinity map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Pool of the map ([`portico_proxy_core::affinity::pool`]).
    pub pool: u32,
    /// Name of the map, or of the process that has it.
    pub place: String,
    /// Entries in the map.
    pub clients: usize,
}

/// Counts clients, on a connection of its own; blocks.
pub type CountClients = Arc<dyn Fn() -> Result<Vec<MapUsage>, DataplaneError> + Send + Sync>;

/// Maps that were reported as nearly full, by pool and place.
#[derive(Debug, Default)]
struct Reported(BTreeSet<(u32, String)>);

impl Reported {
    /// The maps that have just become nearly full: four fifths. Below three fifths a map may be reported again.
    fn newly_full<'a>(&mut self, maps: &'a [MapUsage]) -> Vec<&'a MapUsage> {
        let holds = |fifths: usize, map: &MapUsage| map.clients * 5 >= MOST * fifths;
        let key = |map: &MapUsage| (map.pool, map.place.clone());
        let still: BTreeSet<_> = maps.iter().filter(|map| holds(3, map)).map(key).collect();
        self.0.retain(|reported| still.contains(reported));
        maps.iter().filter(|map| holds(4, map) && self.0.insert(key(map))).collect()
    }
}

/// Counts for as long as the process runs.
pub async fn watch(
    count: CountClients,
    metrics: Metrics,
    inquiries: mpsc::Sender<Inquiry>,
    notices: mpsc::Sender<Notice>,
) {
    let mut reported = Reported::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let count = count.clone();
        let Ok(counted) = tokio::task::spawn_blocking(move || count()).await else { continue };
        let maps = match counted {
            Ok(maps) => maps,
            Err(error) => {
                tracing::debug!(error = portico_runtime::chain(&error), "affinity entries cannot be counted");
                continue;
            }
        };
        metrics.set_affinity_clients(maps.iter().map(|map| map.clients));
        for map in reported.newly_full(&maps) {
            if inquiries.send(report(map.clone(), notices.clone())).await.is_err() {
                return;
            }
        }
    }
}

/// Work for the loop that reports a nearly full map, with the namespaces that only the model knows.
fn report(map: MapUsage, notices: mpsc::Sender<Notice>) -> Inquiry {
    Box::new(move |known| {
        let namespaces: Vec<_> = known.model.namespaces_of(map.pool).into_iter().collect();
        let note = text(&map, &namespaces.join(", "));
        tracing::warn!("{note}");
        let notice =
            Notice { about: About::Node, reason: "AffinityNearlyFull", action: "AddAffinityEntry", note };
        if notices.try_send(notice).is_err() {
            tracing::debug!(map.place, "no room for an Event");
        }
    })
}

fn text(map: &MapUsage, namespaces: &str) -> String {
    let MapUsage { pool: _, place, clients } = map;
    format!(
        "sessionAffinity: ClientIP in namespace {namespaces}: {clients} of at most {MOST} clients have an affinity entry on this node \
         ({place}); once the map is full, new clients of its Services are balanced without an entry. Many clients that connect once \
         may be a flood with forged sources; a shorter spec.sessionAffinityConfig.clientIP.timeoutSeconds makes room sooner. Other \
         namespaces are not concerned"
    )
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::{input::Config, model::Model, packets};

    use super::*;
    use crate::diagnose::InquiryContext;

    fn mk_usage(place: &str, clients: usize) -> MapUsage {
        MapUsage { pool: portico_proxy_core::affinity::pool("table"), place: place.to_owned(), clients }
    }

    #[test]
    fn a_map_is_reported_once_before_it_is_full_and_again_after_it_had_emptied() {
        let mut reported = Reported::default();
        let mut is_reported =
            |clients| !reported.newly_full(&[mk_usage("a", clients), mk_usage("b", 7)]).is_empty();
        let counts = [10_000, 52_428, 65_535, 45_000, 60_000, 30_000, 60_000];
        assert_eq!(counts.map(&mut is_reported), [false, true, false, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_map_that_fills_is_an_event_a_gauge_and_names_its_namespace() {
        let (inquiries, mut asked) = mpsc::channel::<Inquiry>(1);
        let (notices, mut notified) = mpsc::channel(1);
        let count: CountClients =
            Arc::new(|| Ok(vec![mk_usage("affinity-10800-1", 60_000), mk_usage("b", 1)]));
        let metrics = Metrics::default();
        let watching = tokio::spawn(watch(count, metrics.clone(), inquiries, notices));
        let inquiry = asked.recv().await.expect("asks");
        let mut model = Model::new(Config::default());
        for event in packets::cluster_events() {
            model.apply(event);
        }
        inquiry(InquiryContext { model: &model, local_addresses: &[], complete: true });
        let notice = notified.recv().await.expect("a report");
        assert_eq!((notice.about, notice.reason), (About::Node, "AffinityNearlyFull"));
        for part in ["namespace table:", "60000 of at most 65535", "affinity-10800-1"] {
            assert!(notice.note.contains(part), "{part:?} is not in {}", notice.note);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &crate::metrics::registry(&metrics))
            .expect("text");
        for line in
            ["portico_nodeproxy_affinity_clients 60001", "portico_nodeproxy_affinity_clients_max 60000"]
        {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        watching.abort();
    }
}
