//! The sync loop, which owns the model and the dataplane: input events in, kernel transactions out.
//!
//! Owns the time of each step:
//!
//! * Where nothing of ours exists, the Services of the API server and of DNS are written as soon as they are known.
//!   Otherwise the kernel is read while the other lists come in.
//! * The first sync waits for the first list of every source, and changes only what differs.
//! * Later changes are committed at once, in one transaction with all that have come in by then.
//! * The destructive phase, and the deletion of UDP flows, follow after [`DESTRUCTIVE_AFTER`].
//! * A failure, or a change by another program, leads to a read and a full comparison, with growing pauses.
//!
//! Leaves the desired state to the model.
//!
//! Invariants: nothing is changed before the first sync, and nothing because of an implausible answer of the
//! API server ([`plausibility`]). After an error nothing is written before a read. The model takes input all the time.
//! Surplus in the kernel is removed, however it was found. A stop finishes the destructive phase.

use std::{collections::BTreeSet, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use portico_proxy_core::{
    flows::{self, Before},
    input::Event,
    model::Model,
    plan::Transaction,
    shadow::Moment,
    table::{Family, Frontend},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinError,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    conntrack::Flows,
    dataplane::{Dataplane, DataplaneError, Observed, Retry},
    diagnose::{Inquiry, InquiryContext},
    health::Health,
    health_check::Published,
    input_event::{FIRST_SOURCES, InputEvent, SOURCES, Source},
    metrics::Metrics,
    node::Node,
};

use caller::Caller;
use cleaner::{Cleaner, Deleted};
pub use error::SyncError;
use plausibility::Implausible;
use reporters::Reporters;

mod caller;
mod cleaner;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fake;
mod first;
mod plausibility;
mod reporters;
#[cfg(test)]
mod tests;

/// Longest time for which changes are gathered before they are committed. A change does not wait for later
/// ones. Changes during a transaction share the next one, so a storm makes its own batches.
pub const COALESCE: Duration = Duration::from_millis(2);
/// Time after a transaction until no packet can hold an answer from before it: far longer than a packet takes
/// through our hooks.
pub const DESTRUCTIVE_AFTER: Duration = Duration::from_millis(RIPENING);
const RIPENING: Moment = 100;
/// Interval of checks for changes by other programs: one small request. With it repairs begin within a second.
pub const AUDIT_EVERY: Duration = Duration::from_millis(500);
/// After such changes, reading takes at most one part in so many of the time, because on some nodes other
/// programs change their tables all day.
const READ_SHARE: u32 = 50;

/// Longest time for which a stop finishes pending removals.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The loop's connections to the rest of the process.
pub struct Outside {
    /// Programs Services: nftables or userspace.
    pub dataplane: Box<dyn Dataplane>,
    /// Deletes tracked flows.
    pub flows: Box<dyn Flows>,
    /// Health, written by the loop.
    pub health: Health,
    /// Metrics, written by the loop.
    pub metrics: Metrics,
    /// Health check node ports, written by the loop.
    pub health_checks: watch::Sender<Published>,
}

/// The loop's knowledge of the kernel.
enum Kernel {
    /// Unknown since the last error. The next read is at this time.
    Unknown(Instant),
    /// The programmed state of the shadow state, at this number of the ruleset.
    Known(u32),
}

/// State of the loop.
pub struct Sync {
    model: Model,
    node: Node,
    dataplane: Caller,
    cleaner: Cleaner,
    reporters: Reporters,
    kernel: Kernel,
    backoff: ExponentialBackoff,
    failed_before: bool,
    destructive_at: Option<Instant>,
    audit_at: Instant,
    /// UDP frontends that an endpoint has left since the last commit.
    departed: BTreeSet<Frontend>,
    missing: BTreeSet<Source>,
    /// Reason why the first sync is put off.
    implausible: Option<Implausible>,
    /// Whether a list without Services or slices may be right.
    may_be_empty: bool,
    /// Sources that the first Services still wait for.
    missing_first: BTreeSet<Source>,
    first_programmed: Option<watch::Sender<bool>>,
    inquiries: Option<mpsc::Receiver<Inquiry>>,
    start: Instant,
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(30))
        .without_max_times()
        .with_jitter()
        .build()
}

impl Sync {
    /// A loop before its first read.
    pub fn new(model: Model, node: Node, families: Vec<Family>, outside: Outside) -> Self {
        let Outside { dataplane, flows, health, metrics, health_checks } = outside;
        Self {
            model,
            node,
            dataplane: Caller::new(dataplane),
            cleaner: Cleaner::new(flows),
            reporters: Reporters::new(health, metrics, health_checks, families),
            kernel: Kernel::Unknown(Instant::now()),
            backoff: backoff(),
            failed_before: false,
            destructive_at: None,
            audit_at: Instant::now() + AUDIT_EVERY,
            departed: BTreeSet::new(),
            missing: SOURCES.into(),
            implausible: None,
            may_be_empty: false,
            missing_first: FIRST_SOURCES.into(),
            first_programmed: None,
            inquiries: None,
            start: Instant::now(),
        }
    }

    /// Also answers inquiries, between two events.
    #[must_use]
    pub fn answering(self, inquiries: mpsc::Receiver<Inquiry>) -> Self {
        Self { inquiries: Some(inquiries), ..self }
    }

    /// Also accepts lists without Services, where the proxy serves only some of the cluster's.
    #[must_use]
    pub fn serving_some(self, may_be_empty: bool) -> Self {
        Self { may_be_empty, ..self }
    }

    /// Also signals when the first Services are programmed, or if they need not be.
    #[must_use]
    pub fn signalling_first(self, signal: watch::Sender<bool>) -> Self {
        Self { first_programmed: Some(signal), ..self }
    }

    /// Also signals when the node's startup taint can be removed.
    #[must_use]
    pub fn untainting(mut self, untaint: watch::Sender<bool>) -> Self {
        self.reporters.untaint = Some(untaint);
        self
    }

    /// Runs until `stop`. The kernel's tables stay, and traffic continues.
    pub async fn run(
        mut self,
        mut inputs: mpsc::Receiver<InputEvent>,
        stop: CancellationToken,
    ) -> Result<(), SyncError> {
        if self.dataplane.call(|dataplane| dataplane.is_absent()).is_ok_and(|absent| !absent) {
            self.reporters.inherited();
        }
        while !self.missing.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                inquiry = next(&mut self.inquiries) => self.answer(inquiry),
                deleted = self.cleaner.over() => self.deleted(deleted),
                input = inputs.recv() => {
                    self.learn(input.ok_or(SyncError::NoSources)?);
                    self.gather(&mut inputs);
                    self.begin()?;
                }
            }
        }
        loop {
            let (repair_at, destructive_at, audit_at) =
                (self.repair_at(), self.destructive_at, self.audit_at);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.finish().await,
                () = at(repair_at) => self.repair()?,
                () = at(destructive_at) => self.run_destructive()?,
                () = sleep_until(audit_at) => self.audit()?,
                inquiry = next(&mut self.inquiries) => self.answer(inquiry),
                deleted = self.cleaner.over() => self.deleted(deleted),
                input = inputs.recv() => {
                    self.learn(input.ok_or(SyncError::NoSources)?);
                    self.gather(&mut inputs);
                    self.recheck_plausibility();
                    self.run_additive()?;
                }
            }
        }
    }

    /// Finishes pending removals and deletions of flows. The successor does the rest after the timeout.
    async fn finish(&mut self) -> Result<(), SyncError> {
        let end = Instant::now() + FINISH_WITHIN;
        loop {
            let destructive_at = self.destructive_at.filter(|at| *at < end);
            if destructive_at.is_none() && !self.cleaner.is_listing() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = sleep_until(end) => return Ok(()),
                () = at(destructive_at) => self.run_destructive()?,
                deleted = self.cleaner.over() => self.deleted(deleted),
            }
        }
    }

    fn answer(&self, inquiry: Inquiry) {
        inquiry(InquiryContext {
            model: &self.model,
            local_addresses: self.node.addresses(),
            complete: self.missing.is_empty(),
        });
    }

    /// Whether only the kernel is missing.
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.implausible.is_none()
    }

    fn repair_at(&self) -> Option<Instant> {
        match self.kernel {
            Kernel::Unknown(at) => Some(at),
            Kernel::Known(_) => None,
        }
    }

    fn now(&self) -> Moment {
        Moment::try_from(self.start.elapsed().as_millis()).unwrap_or(Moment::MAX)
    }

    /// Applies one input event to the model.
    fn learn(&mut self, input: InputEvent) {
        match input {
            InputEvent::First(source) => {
                self.missing_first.remove(&source);
            }
            InputEvent::Listed(source) => {
                self.missing.remove(&source);
                self.missing_first.remove(&source);
                tracing::debug!(?source, "listed");
                if self.missing.is_empty() {
                    self.reporters.queued(true);
                }
            }
            InputEvent::Node(object) => {
                self.node.set_object(object);
                self.reporters.node(&self.node);
                self.change(Event::Node(self.node.info()));
            }
            InputEvent::Addresses(addresses) => {
                self.node.set_addresses(addresses);
                self.change(Event::Node(self.node.info()));
            }
            InputEvent::Change(event, times) => {
                self.reporters.came(&event, times, self.missing.is_empty());
                self.change(*event);
            }
        }
    }

    fn change(&mut self, event: Event) {
        let before = Before::of(&self.model, &event);
        self.model.take(event);
        self.departed.extend(before.into_iter().flat_map(|before| before.departed(&self.model)));
        self.reporters.queued(self.is_complete());
    }

    /// Applies all further input that has come in, and compiles.
    fn gather(&mut self, inputs: &mut mpsc::Receiver<InputEvent>) {
        let began = Instant::now();
        while let Ok(input) = inputs.try_recv() {
            self.learn(input);
            if began.elapsed() > COALESCE {
                break;
            }
        }
        self.model.settle();
    }

    /// Commits the additive phase.
    fn run_additive(&mut self) -> Result<(), SyncError> {
        if matches!(self.kernel, Kernel::Unknown(_)) {
            return Ok(());
        }
        let transaction = self.model.shadow().additive();
        if !transaction.is_empty() {
            tracing::debug!(plan = %self.model.shadow().plan(), "sync");
            if !self.commit(&transaction, false)? {
                return Ok(());
            }
        }
        let left = &flows::touched(&self.model, &transaction) | &std::mem::take(&mut self.departed);
        self.made(&transaction, left);
        Ok(())
    }

    /// Commits the removals that are due.
    fn run_destructive(&mut self) -> Result<(), SyncError> {
        self.destructive_at = None;
        if matches!(self.kernel, Kernel::Unknown(_)) {
            return Ok(());
        }
        let ripe = self.now().saturating_sub(RIPENING);
        let transaction = self.model.shadow().destructive(ripe);
        if !transaction.is_empty() {
            tracing::debug!(%transaction, "destructive phase");
            if !self.commit(&transaction, false)? {
                return Ok(());
            }
        }
        self.cleaner.ripen(ripe);
        self.cleaner.start(&self.model, self.now());
        self.made(&transaction, flows::forgotten(&self.model, &transaction));
        Ok(())
    }

    /// Reads the kernel and changes all that differs. Unless everything was as the loop left it, earlier
    /// destinations are not known, and the flows of every frontend count.
    fn repair(&mut self) -> Result<(), SyncError> {
        let was_known = matches!(self.kernel, Kernel::Known(_));
        let (generation, observed) = match self.dataplane.read() {
            Ok(read) => read,
            Err(error) => return self.fail(error),
        };
        let Observed { state, rebuild } = observed;
        if self.is_implausible(&state) {
            return Ok(());
        }
        self.model.adopt(&state);
        self.kernel = Kernel::Known(generation);
        let transaction = self.model.shadow().additive();
        tracing::info!(
            found = state.elements.len(),
            wanted = self.model.shadow().desired().elements.len(),
            changes = transaction.len(),
            rebuild,
            "read the kernel"
        );
        let is_right = transaction.is_empty() && rebuild.is_none();
        if !is_right && !self.commit(&transaction, true)? {
            return Ok(());
        }
        let mut left = std::mem::take(&mut self.departed);
        if !(was_known && is_right) {
            left.extend(flows::frontends(&self.model));
            left.extend(flows::touched(&self.model, &transaction));
        }
        self.made(&transaction, left);
        Ok(())
    }

    /// Checks for changes by another program, and repairs them.
    fn audit(&mut self) -> Result<(), SyncError> {
        self.audit_at = Instant::now() + AUDIT_EVERY;
        let Kernel::Known(expected) = self.kernel else { return Ok(()) };
        match self.dataplane.generation() {
            Ok(generation) if generation == expected => Ok(()),
            Ok(_) => {
                let began = Instant::now();
                self.repair()?;
                self.audit_at += began.elapsed() * READ_SHARE;
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    /// Whether the commit succeeded.
    fn commit(&mut self, transaction: &Transaction, full: bool) -> Result<bool, SyncError> {
        let began = Instant::now();
        let applied = match self.dataplane.apply(transaction) {
            Ok(applied) => applied,
            Err(error) => return self.fail(error).map(|()| false),
        };
        if let Kernel::Known(generation) = &mut self.kernel {
            *generation = generation.wrapping_add(u32::try_from(applied.transactions).unwrap_or(0));
        }
        tracing::debug!(%applied, "programmed");
        self.reporters.programmed(transaction.len(), began.elapsed(), full);
        Ok(true)
    }

    /// Records a commit, or that none was needed. From now on nothing leads to the endpoints that left these
    /// frontends.
    fn made(&mut self, transaction: &Transaction, left: BTreeSet<Frontend>) {
        let now = self.now();
        self.model.shadow_mut().applied(transaction, now);
        self.backoff = backoff();
        self.failed_before = false;
        self.reporters.settled(&self.model, &self.node);
        self.cleaner.left(left, now);
        self.schedule_destructive();
    }

    /// Schedules the destructive phase, for elements or flows, when no packet can hold an older answer.
    fn schedule_destructive(&mut self) {
        let removals = (!self.model.shadow().is_settled()).then(|| Instant::now() + DESTRUCTIVE_AFTER);
        let flows = self.cleaner.next(RIPENING).map(|next| self.start + Duration::from_millis(next));
        self.destructive_at = [self.destructive_at, removals, flows].into_iter().flatten().min();
    }

    /// Records the end of a listing of flows.
    fn deleted(&mut self, deleted: Result<Deleted, JoinError>) {
        let now = self.now();
        let deleted = deleted.unwrap_or_else(|error| {
            tracing::error!(%error, "a listing of UDP flows broke off");
            Vec::new()
        });
        let is_done = !deleted.is_empty() && deleted.iter().all(|(_, deleted)| deleted.is_ok());
        self.cleaner.ended(is_done, now, RIPENING);
        for (family, deleted) in deleted {
            self.reporters.flows_deleted(family, deleted);
        }
        self.schedule_destructive();
    }

    fn fail(&mut self, error: DataplaneError) -> Result<(), SyncError> {
        self.reporters.failed(error.reason(), self.is_complete());
        let pause = match error.retry() {
            Retry::Never => return Err(SyncError::Dataplane(error)),
            Retry::Now if !self.failed_before => Duration::ZERO,
            Retry::Now | Retry::Backoff => self.backoff.next().unwrap_or(Duration::from_secs(30)),
        };
        self.failed_before = true;
        tracing::warn!(error = %portico_runtime::chain(&error), reason = error.reason(), ?pause, "a call to the dataplane failed; reading the kernel again");
        self.kernel = Kernel::Unknown(Instant::now() + pause);
        Ok(())
    }
}

/// Waits for an inquiry; for ever without a sender.
async fn next(inquiries: &mut Option<mpsc::Receiver<Inquiry>>) -> Inquiry {
    let received = match inquiries {
        Some(receiver) => receiver.recv().await,
        None => None,
    };
    match received {
        Some(inquiry) => inquiry,
        None => std::future::pending().await,
    }
}

/// Waits until a time, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
