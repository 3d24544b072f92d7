//! Elections between candidates that share a Lease in memory, on a paused clock.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::store::LeaseError;
use super::*;
use crate::process::fence::{Fence, fence};

#[derive(Clone, Default)]
struct FakeStore {
    state: Arc<Mutex<(Option<Record>, u64)>>,
    down: Arc<Mutex<bool>>,
}

fn failed(message: &str) -> LeaseError {
    LeaseError { operation: "fake", message: message.to_owned() }
}

impl FakeStore {
    fn holder(&self) -> Option<String> {
        self.state.lock().unwrap().0.as_ref().and_then(|record| record.holder.clone())
    }

    fn transitions(&self) -> i32 {
        self.state.lock().unwrap().0.as_ref().map_or(0, |record| record.transitions)
    }

    fn set_down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }

    fn check(&self) -> Result<(), LeaseError> {
        if *self.down.lock().unwrap() { Err(failed("down")) } else { Ok(()) }
    }
}

impl LeaseStore for FakeStore {
    async fn read(&self) -> Result<Option<Stored>, LeaseError> {
        self.check()?;
        let (record, version) = self.state.lock().unwrap().clone();
        Ok(record.map(|record| Stored { record, version: version.to_string(), read: Instant::now() }))
    }

    async fn write(&self, record: Record, version: Option<String>) -> Result<Stored, LeaseError> {
        self.check()?;
        let mut state = self.state.lock().unwrap();
        let current = state.0.as_ref().map(|_| state.1.to_string());
        if current != version {
            return Err(failed("conflict"));
        }
        *state = (Some(record.clone()), state.1 + 1);
        Ok(Stored { record, version: state.1.to_string(), read: Instant::now() })
    }
}

struct Running {
    fence: Fence,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LeaderError>>,
}

fn run(store: impl LeaseStore, identity: &str) -> Running {
    let candidate = Candidate {
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };
    let (keeper, fence) = fence();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let task = tokio::spawn(async move { lead(&store, &candidate, &keeper, &metrics, &stopped).await });
    Running { fence, stop, task }
}

async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads_and_the_other_takes_over_at_once_when_it_is_handed_over() {
    let store = FakeStore::default();
    let first = run(store.clone(), "first");
    pass(1).await;
    let second = run(store.clone(), "second");
    pass(60).await;
    assert!(first.fence.is_open() && !second.fence.is_open());
    assert_eq!(store.transitions(), 0);
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    assert_eq!(store.holder(), None);
    pass(3).await;
    assert!(second.fence.is_open() && !first.fence.is_open());
    assert_eq!((store.holder().as_deref(), store.transitions()), (Some("second"), 1));
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_when_its_lease_runs_out_and_not_before() {
    let store = FakeStore::default();
    let first = run(store.clone(), "first");
    pass(1).await;
    let second = run(store.clone(), "second");
    pass(10).await;
    first.task.abort();
    pass(12).await;
    assert!(!second.fence.is_open(), "the lease is still running");
    pass(8).await;
    assert!(second.fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_writing_before_another_may_begin() {
    let store = FakeStore::default();
    let cut_off = FakeStore { down: Arc::default(), ..store.clone() };
    let first = run(cut_off.clone(), "first");
    pass(1).await;
    let second = run(store.clone(), "second");
    pass(10).await;
    cut_off.set_down(true);
    let mut closed_at = None;
    let began = Instant::now();
    while !second.fence.is_open() {
        if closed_at.is_none() && !first.fence.is_open() {
            closed_at = Some(began.elapsed());
        }
        assert!(!(first.fence.is_open() && second.fence.is_open()), "two leaders");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        closed_at.unwrap() + Duration::from_secs(2) < began.elapsed(),
        "{closed_at:?} of {:?}",
        began.elapsed()
    );
    let ended = first.task.await.unwrap().unwrap_err();
    assert_eq!(ended.reason(), "LeaseExpired");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_no_leader() {
    let store = FakeStore::default();
    let first = run(store.clone(), "first");
    pass(5).await;
    store.set_down(true);
    pass(7).await;
    assert!(first.fence.is_open());
    store.set_down(false);
    pass(30).await;
    assert!(first.fence.is_open() && !first.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_ends() {
    let store = FakeStore::default();
    let first = run(store.clone(), "first");
    pass(5).await;
    let thief =
        Record { holder: Some("thief".to_owned()), duration: Duration::from_secs(15), ..Record::default() };
    *store.state.lock().unwrap() = (Some(thief), 1_000);
    pass(5).await;
    assert_eq!(first.task.await.unwrap().unwrap_err().reason(), "LeaseTaken");
    assert!(!first.fence.is_open());
    assert_eq!(store.holder().as_deref(), Some("thief"));
}
