//! How scenarios become trials of a test run: filters and names as `cargo test` has them, a time limit each, a few at
//! once, and those that disturb the cluster (kill a part of it) alone and after all others.
//!
//! A failed scenario leaves its evidence in a file before its namespace is removed; `PORTICO_E2E_KEEP=1` keeps failed
//! scenarios' namespaces, and the cluster itself until Ctrl-C.

use std::{env, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures::{FutureExt as _, future::LocalBoxFuture};
use libtest_mimic::{Completion, Failed, Trial};
use portico_e2e::session::Inside;
use tokio::{
    runtime::Handle,
    sync::{OnceCell, RwLock},
    time::timeout,
};

use super::{evidence, scene::Scene, stage::Stage};

/// How many scenarios run at once where the user does not say.
pub(crate) const PARALLEL: usize = 3;

/// What a scenario does: it passes or says why not.
type Script = for<'a> fn(&'a Scene) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// Whether others may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Others,
    Alone,
}

/// One scenario.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    name: &'static str,
    company: Company,
    limit: Duration,
    script: Script,
}

impl Scenario {
    /// A scenario that keeps to its own namespace.
    pub(crate) const fn new(name: &'static str, script: Script) -> Self {
        Self { name, company: Company::Others, limit: Duration::from_mins(2), script }
    }

    /// A scenario that disturbs the cluster: it runs after the others, and alone.
    pub(crate) const fn alone(name: &'static str, script: Script) -> Self {
        Self { name, company: Company::Alone, limit: Duration::from_mins(2), script }
    }
}

/// Whether failed scenarios' state is to be kept.
pub(crate) fn keeps_state() -> bool {
    env::var_os("PORTICO_E2E_KEEP").is_some_and(|value| !value.is_empty() && value != "0")
}

/// The cluster that all trials share. It starts with the first trial that runs, so that a filter that meets nothing
/// starts nothing.
pub(crate) struct Theatre {
    place: Place,
    stage: OnceCell<Result<Arc<Stage>, String>>,
    gate: RwLock<()>,
}

/// Where the trials would run.
pub(crate) enum Place {
    /// In a sandbox.
    Inside(Inside),
    /// Nowhere, because this machine lets no sandbox be made: they are skipped for this reason.
    Refused(String),
    /// Nowhere, as they are only listed.
    Listing,
}

impl Theatre {
    /// One whose cluster has not started yet.
    pub(crate) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self { place, stage: OnceCell::new(), gate: RwLock::new(()) })
    }

    async fn stage(&self) -> anyhow::Result<Arc<Stage>> {
        let Place::Inside(inside) = &self.place else { bail!("outside of a sandbox no scenario can run") };
        let start =
            || async { Stage::start(inside).await.map(Arc::new).map_err(|error| format!("{error:#}")) };
        self.stage
            .get_or_init(start)
            .await
            .clone()
            .map_err(|error| anyhow!("the cluster did not start: {error}"))
    }

    /// Whether a trial started the cluster.
    pub(crate) fn has_started(&self) -> bool {
        self.stage.get().is_some_and(Result::is_ok)
    }
}

/// The trials of all scenarios, those that want to be alone last.
pub(crate) fn trials(mut scenarios: Vec<Scenario>, theatre: &Arc<Theatre>, runtime: &Handle) -> Vec<Trial> {
    scenarios.sort_by_key(|scenario| scenario.company == Company::Alone); // stable: listed order within each half
    let trial = |scenario: Scenario| {
        let (theatre, runtime) = (theatre.clone(), runtime.clone());
        Trial::ignorable_test(scenario.name, move || {
            if let Place::Refused(reason) = &theatre.place {
                return Ok(Completion::ignored_with(reason));
            }
            let played = runtime.block_on(play(scenario, &theatre));
            played.map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    scenarios.into_iter().map(trial).collect()
}

/// Plays one scenario in a namespace of its own.
async fn play(scenario: Scenario, theatre: &Theatre) -> anyhow::Result<()> {
    let stage = theatre.stage().await?;
    let (_shared, _alone) = match scenario.company {
        Company::Others => (Some(theatre.gate.read().await), None),
        Company::Alone => (None, Some(theatre.gate.write().await)),
    };
    if scenario.company == Company::Alone {
        stage.settle().await;
    }
    let scene = Scene::open(stage, scenario.name).await.context("making the scenario's namespace")?;
    let script = AssertUnwindSafe((scenario.script)(&scene)).catch_unwind();
    let outcome = match timeout(scenario.limit, script).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("panicked: {}", words(panic.as_ref()))),
        Err(_) => Err(anyhow!("took longer than its {} s", scenario.limit.as_secs())),
    };
    let Err(error) = outcome else {
        scene.close().await;
        return Ok(());
    };
    let evidence = evidence::gather(&scene, scenario.name).await;
    if !keeps_state() {
        scene.close().await;
    }
    Err(anyhow!("{error:#}\n{evidence}"))
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no words)")
}
