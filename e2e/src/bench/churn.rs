//! Endpoint changes by the clock: a steady rate over the fillers, and a rollout of one large Service under traffic. Owns what is
//! written and when; what a proxy makes of it is measured by the trial.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    client::{self, Window},
    objects::{Objects, ROLLOUT_SLICES},
    testbed::Testbed,
};

/// Pause between two changes of a churn: 100 a second.
const CHURN_EVERY: Duration = Duration::from_millis(10);
/// Writers that may be under way; beyond that the API server is what is measured.
const WRITERS: usize = 64;
/// How long a rollout takes.
const ROLLOUT: Duration = Duration::from_secs(10);
/// Traffic before and after a rollout.
const MARGIN: Duration = Duration::from_secs(1);
/// Windows of the rollout's client; each ends early enough for the stop signal.
const SLICE: Duration = Duration::from_millis(200);

/// Changes an endpoint of one filler after the other, 100 a second for `length`. How many were made.
pub async fn churn(objects: &Objects, length: Duration) -> anyhow::Result<usize> {
    let mut ticks = interval(CHURN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (began, mut changes, mut writing) = (Instant::now(), 0, FuturesUnordered::new());
    while began.elapsed() < length {
        ticks.tick().await;
        if writing.len() >= WRITERS
            && let Some(done) = writing.next().await
        {
            let () = done?;
        }
        writing.push(objects.change_filler(changes));
        changes += 1;
    }
    while let Some(done) = writing.next().await {
        let () = done?;
    }
    Ok(changes)
}

/// Replaces all endpoints of the rollout's Service, slice by slice, in [`ROLLOUT`], while a client connects in a closed loop.
pub async fn rollout(testbed: &Testbed) -> anyhow::Result<Window> {
    let frontend = testbed.rollout.frontend;
    let stop = Arc::new(AtomicBool::new(false));
    let ends = stop.clone();
    let traffic = testbed.traffic.run(move || {
        let mut all = Window { connects: Vec::new(), failures: 0, length: Duration::ZERO };
        while !ends.load(Ordering::Relaxed) {
            let Window { connects, failures, length } = client::closed_loop(&[frontend], SLICE);
            all.connects.extend(connects);
            all.failures += failures;
            all.length += length;
        }
        all
    });
    let write = async {
        let began = Instant::now() + MARGIN;
        for step in 0..ROLLOUT_SLICES {
            sleep_until(began + ROLLOUT * step / ROLLOUT_SLICES).await;
            testbed.objects.roll(step).await?;
        }
        sleep_until(began + ROLLOUT + MARGIN).await;
        anyhow::Ok(())
    };
    let stopped = async {
        let written = write.await;
        stop.store(true, Ordering::Relaxed);
        written
    };
    let (traffic, written) = tokio::join!(traffic, stopped);
    written?;
    traffic
}
