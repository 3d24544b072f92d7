//! Scenarios as trials of a test run, with filters and names as `cargo test` has them, and a time limit each. A few run at
//! once. Exclusive ones, which disturb the cluster, run one at a time and after all others.
//!
//! A failed scenario leaves its evidence in a file before its namespace is removed; `PORTICO_E2E_KEEP=1` keeps the
//! namespaces of failed scenarios, and the cluster itself until Ctrl-C.

use std::{any::Any, env, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures::{FutureExt as _, future::LocalBoxFuture};
use libtest_mimic::{Completion, Failed, Trial};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, RwLock},
    time::timeout,
};

use super::{Missing, Setup, evidence, fixture::Fixture};
use crate::{cloud::Cloud, session::Inside};

/// The work of a scenario: it passes or says why not.
type Script<S> = for<'a> fn(&'a Fixture<S>) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// Whether other scenarios may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concurrency {
    Shared,
    Exclusive,
}

/// One scenario of the suite with setup `S`.
#[must_use]
pub struct Scenario<S> {
    name: &'static str,
    namespace: Option<&'static str>,
    concurrency: Concurrency,
    limit: Duration,
    needs: &'static [Cloud],
    script: Script<S>,
}

impl<S> Scenario<S> {
    /// A scenario that keeps to its own namespace. It may take two minutes, unless [`Scenario::limit`] says otherwise.
    pub const fn new(name: &'static str, script: Script<S>) -> Self {
        let (concurrency, limit) = (Concurrency::Shared, Duration::from_mins(2));
        Self { name, namespace: None, concurrency, limit, needs: &[], script }
    }

    /// A scenario that disturbs the cluster: it runs after the shared ones, and without any other at its side.
    pub const fn exclusive(name: &'static str, script: Script<S>) -> Self {
        Self { concurrency: Concurrency::Exclusive, ..Self::new(name, script) }
    }

    /// Sets how long it may take.
    pub const fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Sets the clouds whose emulators it cannot do without.
    pub const fn needs(self, needs: &'static [Cloud]) -> Self {
        Self { needs, ..self }
    }

    /// Sets the name of its namespace, which is otherwise made from the scenario's.
    pub const fn in_namespace(self, namespace: &'static str) -> Self {
        Self { namespace: Some(namespace), ..self }
    }
}

/// Place of a suite's trials.
#[derive(Clone)]
pub(super) enum Place {
    /// In a sandbox, by this runtime.
    Inside(Inside, Handle),
    /// Nowhere, because all of them miss something.
    Refused(Missing),
    /// Nowhere, as they are only listed.
    Listing,
}

/// Whether the user wants the state of failed scenarios kept.
pub(super) fn keeps_state() -> bool {
    env::var_os("PORTICO_E2E_KEEP").is_some_and(|value| !value.is_empty() && value != "0")
}

/// State that the trials of one suite share. The setup starts with the first trial that runs, so that a filter that matches
/// nothing starts nothing.
pub(super) struct Shared<S> {
    place: Place,
    setup: OnceCell<Result<Arc<S>, String>>,
    exclusive: RwLock<()>,
}

impl<S: Setup> Shared<S> {
    /// Nothing has started yet.
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self { place, setup: OnceCell::new(), exclusive: RwLock::new(()) })
    }

    async fn setup(&self) -> anyhow::Result<Arc<S>> {
        let Place::Inside(inside, _) = &self.place else { bail!("outside of a sandbox no scenario can run") };
        let start = || async { S::start(inside).await.map(Arc::new).map_err(|error| format!("{error:#}")) };
        let started = self.setup.get_or_init(start).await.clone();
        started.map_err(|error| anyhow!("the cluster did not start: {error}"))
    }

    /// Whether a trial started the setup.
    pub(super) fn has_started(&self) -> bool {
        self.setup.get().is_some_and(Result::is_ok)
    }
}

/// The trials `SUITE::NAME` of all scenarios, the exclusive ones last.
pub(super) fn trials<S: Setup>(mut scenarios: Vec<Scenario<S>>, shared: &Arc<Shared<S>>) -> Vec<Trial> {
    scenarios.sort_by_key(|scenario| scenario.concurrency == Concurrency::Exclusive); // stable: listed order otherwise
    let trial = |scenario: Scenario<S>| {
        let (name, shared) = (format!("{}::{}", S::SUITE, scenario.name), shared.clone());
        Trial::ignorable_test(name.clone(), move || run(&scenario, &name, &shared))
    };
    scenarios.into_iter().map(trial).collect()
}

/// Runs one trial on the calling thread.
fn run<S: Setup>(scenario: &Scenario<S>, name: &str, shared: &Shared<S>) -> Result<Completion, Failed> {
    if let Place::Refused(missing) = &shared.place {
        return missing.outcome(name);
    }
    if let Some(missing) = Missing::emulator(scenario.needs).map_err(|error| format!("{error:#}"))? {
        return missing.outcome(name);
    }
    let Place::Inside(_, runtime) = &shared.place else {
        return Err(Failed::from("a trial that is only listed does not run"));
    };
    let ended = runtime.block_on(play(scenario, shared));
    ended.map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
}

/// Runs one scenario in a namespace of its own.
async fn play<S: Setup>(scenario: &Scenario<S>, shared: &Shared<S>) -> anyhow::Result<()> {
    let setup = shared.setup().await?;
    let (_shared, _exclusive) = match scenario.concurrency {
        Concurrency::Shared => (Some(shared.exclusive.read().await), None),
        Concurrency::Exclusive => (None, Some(shared.exclusive.write().await)),
    };
    if scenario.concurrency == Concurrency::Exclusive {
        setup.settle().await;
    }
    let opened = Fixture::open(setup, scenario.namespace, scenario.name).await;
    let fixture = opened.context("creating the scenario's namespace")?;
    let script = AssertUnwindSafe((scenario.script)(&fixture)).catch_unwind();
    let outcome = match timeout(scenario.limit, script).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("panicked: {}", panic_message(panic.as_ref()))),
        Err(_) => Err(anyhow!("took longer than its {} s", scenario.limit.as_secs())),
    };
    let Err(error) = outcome else {
        fixture.close().await;
        return Ok(());
    };
    let evidence = evidence::gather(&fixture, scenario.name).await;
    if !keeps_state() {
        fixture.close().await;
    }
    Err(anyhow!("{error:#}\n{evidence}"))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(without a message)")
}
