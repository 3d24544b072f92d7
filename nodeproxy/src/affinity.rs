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
pub struct Room {
    /// Pool of the map ([`portico_proxy_core::affinity::pool`]).
    pub pool: u32,
    /// Name of the map, or of the process that has it.
    pub place: String,
    /// Entries in the map.
    pub clients: usize,
}

/// Counts clients, on a connection of its own; blocks.
pub type CountClients = Arc<dyn Fn() -> Result<Vec<Room>, DataplaneError> + Send + Sync>;

/// Maps that were reported as nearly full, by pool and place.
#[derive(Debug, Default)]
struct Reported(BTreeSet<(u32, String)>);

impl Reported {
    /// The maps that have just become nearly full: four fifths. Below three fifths a map may be reported again.
    fn look<'a>(&mut self, rooms: &'a [Room]) -> Vec<&'a Room> {
        let holds = |fifths: usize, room: &Room| room.clients * 5 >= MOST * fifths;
        let key = |room: &Room| (room.pool, room.place.clone());
        let still: BTreeSet<_> = rooms.iter().filter(|room| holds(3, room)).map(key).collect();
        self.0.retain(|reported| still.contains(reported));
        rooms.iter().filter(|room| holds(4, room) && self.0.insert(key(room))).collect()
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
        let rooms = match counted {
            Ok(rooms) => rooms,
            Err(error) => {
                tracing::debug!(
                    error = portico_runtime::chain(&error),
                    "remembered clients cannot be counted"
                );
                continue;
            }
        };
        metrics.remembered(rooms.iter().map(|room| room.clients));
        for room in reported.look(&rooms) {
            if inquiries.send(report(room.clone(), notices.clone())).await.is_err() {
                return;
            }
        }
    }
}

/// Work for the loop that reports a nearly full map, with the namespaces that only the model knows.
fn report(room: Room, notices: mpsc::Sender<Notice>) -> Inquiry {
    Box::new(move |known| {
        let namespaces: Vec<_> = known.model.namespaces_of(room.pool).into_iter().collect();
        let note = text(&room, &namespaces.join(", "));
        tracing::warn!("{note}");
        let notice = Notice { about: About::Node, reason: "AffinityNearlyFull", action: "Remember", note };
        if notices.try_send(notice).is_err() {
            tracing::debug!(room.place, "no room for an Event");
        }
    })
}

fn text(room: &Room, namespaces: &str) -> String {
    let Room { pool: _, place, clients } = room;
    format!(
        "sessionAffinity: ClientIP in namespace {namespaces}: {clients} of at most {MOST} clients are remembered on this node \
         ({place}); once it is full, new clients of its Services are balanced without being remembered. Many clients that come once \
         may be a flood with forged sources; a shorter spec.sessionAffinityConfig.clientIP.timeoutSeconds makes room sooner. Other \
         namespaces are not concerned"
    )
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::{input::Config, model::Model, packets};

    use super::*;
    use crate::diagnose::Known;

    fn mk_room(place: &str, clients: usize) -> Room {
        Room { pool: portico_proxy_core::affinity::pool("table"), place: place.to_owned(), clients }
    }

    #[test]
    fn a_room_is_told_once_before_it_is_full_and_again_after_it_had_emptied() {
        let mut reported = Reported::default();
        let mut is_reported = |clients| !reported.look(&[mk_room("a", clients), mk_room("b", 7)]).is_empty();
        let looks = [10_000, 52_428, 65_535, 45_000, 60_000, 30_000, 60_000];
        assert_eq!(looks.map(&mut is_reported), [false, true, false, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_fills_is_an_event_a_gauge_and_names_its_namespace() {
        let (inquiries, mut asked) = mpsc::channel::<Inquiry>(1);
        let (notices, mut notified) = mpsc::channel(1);
        let count: CountClients = Arc::new(|| Ok(vec![mk_room("affinity-10800-1", 60_000), mk_room("b", 1)]));
        let metrics = Metrics::default();
        let watching = tokio::spawn(watch(count, metrics.clone(), inquiries, notices));
        let inquiry = asked.recv().await.expect("asks");
        let mut model = Model::new(Config::default());
        for event in packets::world() {
            model.apply(event);
        }
        inquiry(Known { model: &model, local_addresses: &[], complete: true });
        let notice = notified.recv().await.expect("a report");
        assert_eq!((notice.about, notice.reason), (About::Node, "AffinityNearlyFull"));
        for part in ["namespace table:", "60000 of at most 65535", "affinity-10800-1"] {
            assert!(notice.note.contains(part), "{part:?} is not in {}", notice.note);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &crate::metrics::registry(&metrics))
            .expect("text");
        for line in
            ["portico_nodeproxy_affinity_clients 60001", "portico_nodeproxy_affinity_clients_most 60000"]
        {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        watching.abort();
    }
}
