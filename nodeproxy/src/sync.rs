//! The one task that owns the model and the dataplane: facts in, kernel transactions out.
//!
//! Owns when things happen: where nothing of ours stands, the API server's and DNS's Services are written as soon as they are
//! known, and otherwise the kernel is read while the rest comes in; the first sync waits until every source has told what it
//! began with, and changes only what differs; afterwards a change goes out at once, in one transaction with all that has
//! come in by then; removals that must wait, and the flows of UDP clients, follow after [`NARROW_AFTER`]; a failure, or somebody
//! else's change, leads to a fresh read and a full difference, with growing pauses. Leaves what should stand to the model.
//!
//! Invariants: nothing that stands is changed before the first sync, and nothing at the word of an API server that cannot be right ([`doubt`]); after an error nothing is written before a read; the model takes
//! facts in all the time; what the kernel has and should not goes, however it was found; a stop finishes what a change began.

use std::{collections::BTreeSet, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use portico_proxy_core::{
    flows::{self, Before},
    input::Event,
    ledger::Moment,
    model::Model,
    plan::Transaction,
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
    diagnose::{Inquiry, Known},
    facts::{FIRST_SOURCES, Fact, SOURCES, Source},
    health::Health,
    health_check::Published,
    metrics::Metrics,
    node::Node,
};

use audience::Audience;
use caller::Caller;
use cleaner::{Cleaner, Deleted};
use doubt::Doubt;

mod audience;
mod caller;
mod cleaner;
mod doubt;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fake;
#[cfg(test)]
mod tests;

/// How long changes are taken in, at most, before those that are in go out. A change does not wait for others that may come:
/// what comes while a transaction is under way shares the next one, so a storm makes its own batches.
pub const COALESCE: Duration = Duration::from_millis(2);
/// How long after a transaction no packet can hold an answer from before it: far longer than a packet takes through our
/// hooks.
pub const NARROW_AFTER: Duration = Duration::from_millis(RIPENING);
const RIPENING: Moment = 100;
/// How often to ask whether somebody else changed the kernel's tables: one small request, and with it repairs begin within
/// a second.
pub const AUDIT_EVERY: Duration = Duration::from_millis(500);
/// If somebody did, reading may take at most one part in so many of our time: on some nodes others change theirs all day.
const READ_SHARE: u32 = 50;

/// How long a stop may take to finish what changes began.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Trying again is pointless.
    #[error("the dataplane cannot work on this machine")]
    Dataplane(#[source] DataplaneError),
    /// Nobody sends facts any more.
    #[error("all watches ended")]
    NoSources,
}

/// What stands between the loop and the outside.
pub struct Outside {
    /// Where rules stand.
    pub dataplane: Box<dyn Dataplane>,
    /// Connection tracking.
    pub flows: Box<dyn Flows>,
    /// Health, which the loop writes.
    pub health: Health,
    /// Metrics.
    pub metrics: Metrics,
    /// Health check node ports.
    pub health_checks: watch::Sender<Published>,
}

/// What the loop knows of the kernel.
enum Kernel {
    /// Not read since the last error; read again at this moment.
    Unknown(Instant),
    /// As the ledger says, at this number of the ruleset.
    Known(u32),
}

/// The loop's state.
pub struct Sync {
    model: Model,
    node: Node,
    dataplane: Caller,
    cleaner: Cleaner,
    audience: Audience,
    kernel: Kernel,
    backoff: ExponentialBackoff,
    failed_before: bool,
    narrow_at: Option<Instant>,
    audit_at: Instant,
    /// UDP frontends that an endpoint has left since a transaction last went through.
    departed: BTreeSet<Frontend>,
    missing: BTreeSet<Source>,
    /// Why the first sync does not change what stands.
    doubt: Option<Doubt>,
    /// Whether an API server's answer without Services or slices may be right.
    may_be_empty: bool,
    /// Whom the first Services still wait for.
    missing_first: BTreeSet<Source>,
    gate: Option<watch::Sender<bool>>,
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
    /// A loop that has not read or written anything.
    pub fn new(model: Model, node: Node, families: Vec<Family>, outside: Outside) -> Self {
        let Outside { dataplane, flows, health, metrics, health_checks } = outside;
        Self {
            model,
            node,
            dataplane: Caller::new(dataplane),
            cleaner: Cleaner::new(flows),
            audience: Audience::new(health, metrics, health_checks, families),
            kernel: Kernel::Unknown(Instant::now()),
            backoff: backoff(),
            failed_before: false,
            narrow_at: None,
            audit_at: Instant::now() + AUDIT_EVERY,
            departed: BTreeSet::new(),
            missing: SOURCES.into(),
            doubt: None,
            may_be_empty: false,
            missing_first: FIRST_SOURCES.into(),
            gate: None,
            inquiries: None,
            start: Instant::now(),
        }
    }

    /// The same loop, which answers what it is asked between two events.
    #[must_use]
    pub fn answering(self, inquiries: mpsc::Receiver<Inquiry>) -> Self {
        Self { inquiries: Some(inquiries), ..self }
    }

    /// The same loop, for which no Service at all may be the truth: where it serves some of the cluster's only.
    #[must_use]
    pub fn serving_some(self, may_be_empty: bool) -> Self {
        Self { may_be_empty, ..self }
    }

    /// The same loop, which opens a gate once the first Services stand, or if they need not.
    #[must_use]
    pub fn opening(self, gate: watch::Sender<bool>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// The same loop, which says when the node's startup taint should go.
    #[must_use]
    pub fn untainting(mut self, untaint: watch::Sender<bool>) -> Self {
        self.audience.untaint = Some(untaint);
        self
    }

    /// Runs until `stop`. What stands in the kernel then stays there, and traffic goes on.
    pub async fn run(
        mut self,
        mut facts: mpsc::Receiver<Fact>,
        stop: CancellationToken,
    ) -> Result<(), SyncError> {
        if self.dataplane.call(|dataplane| dataplane.is_absent()).is_ok_and(|absent| !absent) {
            self.audience.inherited();
        }
        while !self.missing.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                inquiry = next(&mut self.inquiries) => self.answer(inquiry),
                deleted = self.cleaner.over() => self.deleted(deleted),
                fact = facts.recv() => {
                    self.learn(fact.ok_or(SyncError::NoSources)?);
                    self.gather(&mut facts);
                    self.begin()?;
                }
            }
        }
        loop {
            let (repair_at, narrow_at, audit_at) = (self.repair_at(), self.narrow_at, self.audit_at);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.finish().await,
                () = at(repair_at) => self.repair()?,
                () = at(narrow_at) => self.narrow()?,
                () = sleep_until(audit_at) => self.audit()?,
                inquiry = next(&mut self.inquiries) => self.answer(inquiry),
                deleted = self.cleaner.over() => self.deleted(deleted),
                fact = facts.recv() => {
                    self.learn(fact.ok_or(SyncError::NoSources)?);
                    self.gather(&mut facts);
                    self.believe();
                    self.widen()?;
                }
            }
        }
    }

    /// Makes the removals that still wait, and deletes the flows of what left. What takes too long is the successor's.
    async fn finish(&mut self) -> Result<(), SyncError> {
        let end = Instant::now() + FINISH_WITHIN;
        loop {
            let narrow_at = self.narrow_at.filter(|at| *at < end);
            if narrow_at.is_none() && !self.cleaner.is_listing() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = sleep_until(end) => return Ok(()),
                () = at(narrow_at) => self.narrow()?,
                deleted = self.cleaner.over() => self.deleted(deleted),
            }
        }
    }

    /// Once it is known what comes first: writes it where nothing stands, else begins to read; and lets everything else come.
    fn begin(&mut self) -> Result<(), SyncError> {
        let Some(gate) = self.gate.take_if(|_| self.missing_first.is_empty()) else { return Ok(()) };
        let written = if self.missing.is_empty() { Ok(()) } else { self.write_first() };
        // Nobody waits any more when the process is about to end.
        gate.send_replace(true);
        written
    }

    /// Writes what is known, beside nothing. The first sync then reads it back like everything else.
    fn write_first(&mut self) -> Result<(), SyncError> {
        let looked = self.dataplane.call(|dataplane| {
            let absent = dataplane.is_absent()?;
            if absent { dataplane.read().map(Some) } else { Ok(None) }
        });
        let observed = match looked {
            Ok(Some(observed)) => observed,
            Ok(None) => {
                self.dataplane.read_ahead();
                return Ok(());
            }
            Err(error) => return self.fail(error),
        };
        self.model.adopt(&observed.state);
        let transaction = self.model.ledger().widen();
        let services = self.model.services();
        match self.dataplane.apply(&transaction) {
            Ok(applied) => {
                tracing::info!(services, %applied, "the first Services stand");
                // Nothing stood before, so no packet is on its way to an endpoint.
                let now = self.now();
                self.cleaner.left(flows::frontends(&self.model), now);
                self.cleaner.ripen(now);
                self.cleaner.start(&self.model, now);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    fn answer(&self, inquiry: Inquiry) {
        inquiry(Known {
            model: &self.model,
            local_addresses: self.node.addresses(),
            complete: self.missing.is_empty(),
        });
    }

    /// Whether only the kernel is waited for.
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.doubt.is_none()
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

    /// Takes one fact into the model.
    fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::First(source) => {
                self.missing_first.remove(&source);
            }
            Fact::Listed(source) => {
                self.missing.remove(&source);
                self.missing_first.remove(&source);
                tracing::debug!(?source, "listed");
                if self.missing.is_empty() {
                    self.audience.queued(true);
                }
            }
            Fact::Node(object) => {
                self.node.set_object(object);
                self.audience.node(&self.node);
                self.change(Event::Node(self.node.facts()));
            }
            Fact::Addresses(addresses) => {
                self.node.set_addresses(addresses);
                self.change(Event::Node(self.node.facts()));
            }
            Fact::Event(event, times) => {
                self.audience.came(&event, times, self.missing.is_empty());
                self.change(*event);
            }
        }
    }

    fn change(&mut self, event: Event) {
        let before = Before::of(&self.model, &event);
        self.model.take(event);
        self.departed.extend(before.into_iter().flat_map(|before| before.departed(&self.model)));
        self.audience.queued(self.is_complete());
    }

    /// Takes in what else has come, and what follows from all of it.
    fn gather(&mut self, facts: &mut mpsc::Receiver<Fact>) {
        let began = Instant::now();
        while let Ok(fact) = facts.try_recv() {
            self.learn(fact);
            if began.elapsed() > COALESCE {
                break;
            }
        }
        self.model.settle();
    }

    /// Makes at once what may be made at once.
    fn widen(&mut self) -> Result<(), SyncError> {
        if matches!(self.kernel, Kernel::Unknown(_)) {
            return Ok(());
        }
        let transaction = self.model.ledger().widen();
        if !transaction.is_empty() {
            tracing::debug!(plan = %self.model.ledger().plan(), "sync");
            if !self.commit(&transaction, false)? {
                return Ok(());
            }
        }
        let left = &flows::touched(&self.model, &transaction) | &std::mem::take(&mut self.departed);
        self.made(&transaction, left);
        Ok(())
    }

    /// Removes what nothing leads to any more.
    fn narrow(&mut self) -> Result<(), SyncError> {
        self.narrow_at = None;
        if matches!(self.kernel, Kernel::Unknown(_)) {
            return Ok(());
        }
        let ripe = self.now().saturating_sub(RIPENING);
        let transaction = self.model.ledger().narrow(ripe);
        if !transaction.is_empty() {
            tracing::debug!(%transaction, "narrow");
            if !self.commit(&transaction, false)? {
                return Ok(());
            }
        }
        self.cleaner.ripen(ripe);
        self.cleaner.start(&self.model, self.now());
        self.made(&transaction, flows::forgotten(&self.model, &transaction));
        Ok(())
    }

    /// Reads the kernel and changes whatever differs. Unless all was as it was left, nobody knows what led where meanwhile, and
    /// the flows of every frontend count.
    fn repair(&mut self) -> Result<(), SyncError> {
        let was_known = matches!(self.kernel, Kernel::Known(_));
        let (generation, observed) = match self.dataplane.read() {
            Ok(read) => read,
            Err(error) => return self.fail(error),
        };
        let Observed { state, rebuild } = observed;
        if self.doubts(&state) {
            return Ok(());
        }
        self.model.adopt(&state);
        self.kernel = Kernel::Known(generation);
        let transaction = self.model.ledger().widen();
        tracing::info!(
            found = state.elements.len(),
            wanted = self.model.ledger().desired().elements.len(),
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

    /// Asks whether somebody else changed something, and repairs if so.
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

    /// Whether the transaction went through.
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
        self.audience.programmed(transaction.len(), began.elapsed(), full);
        Ok(true)
    }

    /// What follows when a transaction went through or was not needed; from now on nothing leads to what left these frontends.
    fn made(&mut self, transaction: &Transaction, left: BTreeSet<Frontend>) {
        let now = self.now();
        self.model.ledger_mut().applied(transaction, now);
        self.backoff = backoff();
        self.failed_before = false;
        self.audience.settled(&self.model, &self.node);
        self.cleaner.left(left, now);
        self.schedule_narrow();
    }

    /// There is something to do once what has been left, by elements or by flows, is out of every packet's reach.
    fn schedule_narrow(&mut self) {
        let removals = (!self.model.ledger().is_settled()).then(|| Instant::now() + NARROW_AFTER);
        let flows = self.cleaner.next(RIPENING).map(|next| self.start + Duration::from_millis(next));
        self.narrow_at = [self.narrow_at, removals, flows].into_iter().flatten().min();
    }

    /// A listing of flows is over.
    fn deleted(&mut self, deleted: Result<Deleted, JoinError>) {
        let now = self.now();
        let deleted = deleted.unwrap_or_else(|error| {
            tracing::error!(%error, "a listing of UDP flows broke off");
            Vec::new()
        });
        let is_done = !deleted.is_empty() && deleted.iter().all(|(_, deleted)| deleted.is_ok());
        self.cleaner.ended(is_done, now, RIPENING);
        for (family, deleted) in deleted {
            self.audience.flows_deleted(family, deleted);
        }
        self.schedule_narrow();
    }

    fn fail(&mut self, error: DataplaneError) -> Result<(), SyncError> {
        self.audience.failed(error.reason(), self.is_complete());
        let pause = match error.retry() {
            Retry::Never => return Err(SyncError::Dataplane(error)),
            Retry::Now if !self.failed_before => Duration::ZERO,
            Retry::Now | Retry::Backoff => self.backoff.next().unwrap_or(Duration::from_secs(30)),
        };
        self.failed_before = true;
        tracing::warn!(error = %portico_runtime::chain(&error), reason = error.reason(), ?pause, "reading the kernel anew");
        self.kernel = Kernel::Unknown(Instant::now() + pause);
        Ok(())
    }
}

/// Waits for an inquiry; for ever when nobody can ask.
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

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl SyncError {
    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dataplane(error) => error.reason(),
            Self::NoSources => "NoSources",
        }
    }

    /// Whether a new process may do better.
    pub fn retry(&self) -> bool {
        !matches!(self, Self::Dataplane(_))
    }
}
