//! Stops one container: preStop hook, SIGTERM (or the container's stop signal), and SIGKILL when its time is up.
//! Source: "Termination of Pods" of the Kubernetes documentation. Leaves noticing the exit to the worker, which then aborts
//! this. Invariant: the time of the preStop hook is part of the grace period, and two seconds more are given if it used all.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};

use super::checks::{Check, Subject};

/// Grace of the program after a hook that used up the grace period.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Runs to the SIGKILL. `gentle`: not asked before.
pub(super) async fn stop(subject: Arc<Subject>, grace: Duration, gentle: bool) {
    let mut end = Instant::now() + grace;
    let lifecycle = subject.container.lifecycle.as_ref();
    let hook = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| gentle && !grace.is_zero()) {
        if let Err(error) = Check::of_hook(hook).run(&subject, grace).await {
            tracing::warn!(container = subject.container.name, error, "preStop");
        }
        end = end.max(Instant::now() + LAST_MOMENT);
    }
    if !grace.is_zero() {
        let named = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.as_deref());
        subject.process.signal(named.and_then(|name| name.parse().ok()).unwrap_or(Signal::SIGTERM));
        sleep_until(end).await;
    }
    subject.process.signal(Signal::SIGKILL);
}
