//! Scenarios on a real cluster: what a user of Services does, and what a client gets, from a pod, a node and outside.
//!
//! ```text
//! cargo test -p portico-e2e --test cluster [FILTER] [-- --list|--skip S|--test-threads N]
//!   └─ sandbox ─▶ one cluster (starts with the first trial) ─▶ a Kubernetes namespace per scenario
//! ```
//! Scenarios that keep to their namespace run a few at once; those that kill a part of the cluster run alone, after them.
//! A failed one leaves `target/e2e/scenarios/evidence/<scenario>.txt`; `PORTICO_E2E_KEEP=1` keeps its namespace, and the
//! cluster until Ctrl-C. The suite uses the cluster through the library; what the sandbox leaves behind is another test's
//! matter (`tests/leaves_nothing.rs`), because that one has to look from the machine.

use std::process::ExitCode;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Conclusion};
use portico_e2e::{
    account::Account,
    runtime, sandbox,
    session::{self, Plan, Side, Signals},
};
use tokio::runtime::Handle;

use cluster::harness::{self, Place, Theatre};

mod cluster {
    pub(crate) mod cloud;
    pub(crate) mod evidence;
    pub(crate) mod ground;
    pub(crate) mod harness;
    pub(crate) mod objects;
    pub(crate) mod observe;
    pub(crate) mod parts;
    pub(crate) mod scene;
    pub(crate) mod stage;
    pub(crate) mod traffic;

    pub(crate) mod scenarios;
}

/// How to look at a cluster that is kept.
const KEPT: &str = "\
the cluster is kept until Ctrl-C; to look at it:
  target/debug/portico-e2e shell --name scenarios fabric -- target/tools/controlplane kubectl get pods -A
  target/debug/portico-e2e shell --name scenarios node-1";

fn main() -> ExitCode {
    match run(Arguments::from_args()) {
        Ok(code) => code,
        Err(error) => {
            Account::new().failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    arguments.test_threads.get_or_insert(harness::PARALLEL);
    let place = if arguments.list {
        Place::Listing
    } else if let Some(reason) = refusal()? {
        Place::Refused(reason)
    } else {
        match session::enter(&Plan { name: "scenarios".to_owned(), data_dir: None })? {
            Side::Ended(code) => return Ok(code),
            Side::Inside(inside) => Place::Inside(inside),
        }
    };
    runtime::block_on(play(arguments, place)).map(|conclusion| conclusion.exit_code())
}

/// Why no sandbox can be made; inside of one the question is settled.
fn refusal() -> anyhow::Result<Option<String>> {
    if sandbox::is_inside() { Ok(None) } else { sandbox::refusal() }
}

/// Runs the trials. The harness blocks its threads, so it has one beside the runtime's. The cluster is not stopped in
/// order at the end: nothing of it is kept, and the sandbox's end is its end.
async fn play(arguments: Arguments, place: Place) -> anyhow::Result<Conclusion> {
    let theatre = Theatre::new(place);
    let trials = harness::trials(cluster::scenarios::all(), &theatre, &Handle::current());
    let conclusion = tokio::task::spawn_blocking(move || libtest_mimic::run(&arguments, trials))
        .await
        .context("running the trials")?;
    if theatre.has_started() && harness::keeps_state() {
        Account::new().line(KEPT);
        Signals::new()?.next().await;
    }
    Ok(conclusion)
}
