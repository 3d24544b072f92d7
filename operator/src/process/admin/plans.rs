//! The plans of all Services, as JSON.
//!
//! Owns: [`Plans`]: when they are made, and for how long an answer is good. Leaves to others: planning (`reconcile/plan`).
//! Invariants: they are made once at a time, on a thread that serves nothing else, even if whoever asked has gone; those that ask
//! meanwhile get the same answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::reconcile::plan::ServicePlan;
use portico_runtime::chain;

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(5);

/// The last answer, and how the next one is made.
pub(super) struct Plans {
    make: Arc<dyn Fn() -> Vec<ServicePlan> + Send + Sync>,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Plans {
    pub(super) fn new(make: impl Fn() -> Vec<ServicePlan> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), last: Arc::default() }
    }

    /// The plans as of at most [`FRESH`] ago; an error is a fault of ours.
    pub(super) async fn get(&self) -> Result<Bytes, String> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((made, json)) = &*last
            && made.elapsed() < FRESH
        {
            return Ok(json.clone());
        }
        let plan = Arc::clone(&self.make);
        // The lock goes along: a client that hangs up cannot have a second one begun beside this.
        let making = tokio::task::spawn_blocking(move || {
            let json = Bytes::from(serde_json::to_vec(&plan()).map_err(|error| chain(&error))?);
            *last = Some((Instant::now(), json.clone()));
            Ok(json)
        });
        making.await.map_err(|error| chain(&error))?
    }
}
