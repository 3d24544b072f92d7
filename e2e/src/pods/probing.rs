//! The probes of one running container: when to check, and what to report.
//!
//! Owns the rhythm: postStart first, then the startup probe until it passes, then readiness and liveness side by side. Leaves
//! checks to `checks.rs` and thresholds to `thresholds.rs`. Invariants: only a change of state is reported (a failed
//! liveness probe each time); ends when its task is aborted.
//!
//! Until the first success, readiness is checked every half second, however long its period. The kubelet, too, checks more
//! often while a container starts, and a pod here starts in milliseconds.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::checks::{Check, Subject};
use super::event::Event;
use super::thresholds::{Kind, Rhythm, Tally};

/// A process needs a moment before it listens.
const FIRST_CHECK: Duration = Duration::from_millis(100);

/// See the module's documentation.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// Longest a postStart hook may take.
const HOOK_LIMIT: Duration = Duration::from_mins(5);

/// Sender of results, for one start of one container.
#[derive(Clone)]
pub(super) struct ProbeReporter {
    pub(super) to: mpsc::UnboundedSender<Event>,
    pub(super) container: String,
    pub(super) attempt: u32,
}

impl ProbeReporter {
    fn report(&self, kind: Kind, good: bool, why: String) {
        let (container, attempt) = (self.container.clone(), self.attempt);
        self.to.send(Event::Judged { container, attempt, kind, good, why }).ok();
    }
}

/// Probes until aborted.
pub(super) async fn watch(subject: Arc<Subject>, reporter: ProbeReporter) {
    subject.process.appeared().await;
    let hook = subject.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
    if let Some(hook) = hook
        && let Err(why) = Check::of_hook(&hook).run(&subject, HOOK_LIMIT).await
    {
        reporter.report(Kind::Liveness, false, format!("postStart: {why}"));
        return;
    }
    sleep(FIRST_CHECK).await;
    if let Some(startup) = &subject.container.startup_probe
        && !startup_passes(startup, &subject, &reporter).await
    {
        return;
    }
    let readiness = repeat(Kind::Readiness, subject.container.readiness_probe.as_ref(), &subject, &reporter);
    let liveness = repeat(Kind::Liveness, subject.container.liveness_probe.as_ref(), &subject, &reporter);
    tokio::join!(readiness, liveness);
}

async fn startup_passes(probe: &Probe, subject: &Subject, reporter: &ProbeReporter) -> bool {
    let rhythm = Rhythm::of(probe);
    let (check, mut tally) = (Check::of_probe(probe), Tally::new(rhythm));
    sleep(rhythm.delay).await;
    loop {
        let result = check.run(subject, rhythm.timeout).await;
        if let Some(good) = tally.add(result.is_ok()) {
            reporter.report(Kind::Startup, good, result.err().unwrap_or_default());
            return good;
        }
        sleep(rhythm.period).await;
    }
}

async fn repeat(kind: Kind, probe: Option<&Probe>, subject: &Subject, reporter: &ProbeReporter) {
    let Some(probe) = probe else { return };
    let rhythm = Rhythm::of(probe);
    let (check, mut tally) = (Check::of_probe(probe), Tally::new(rhythm));
    let mut state = None;
    sleep(rhythm.delay).await;
    loop {
        let result = check.run(subject, rhythm.timeout).await;
        let changed =
            tally.add(result.is_ok()).filter(|good| state != Some(*good) || kind == Kind::Liveness && !good);
        if let Some(good) = changed {
            state = Some(good);
            reporter.report(kind, good, result.err().unwrap_or_default());
        }
        let waiting = kind == Kind::Readiness && state != Some(true);
        sleep(if waiting { rhythm.period.min(IMPATIENCE) } else { rhythm.period }).await;
    }
}
