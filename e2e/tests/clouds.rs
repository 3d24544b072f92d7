//! Scenarios on a real cluster with two operators, one for AWS and one for Google Cloud, and a class each: what happens to
//! Services, and what to the accounts, read past the operators.
//!
//! ```text
//! cargo test -p portico-e2e --test clouds [FILTER] [-- --list|--skip S|--test-threads N]
//!   └─ sandbox ─▶ one cluster, nodes of both clouds ─▶ two releases of the chart ─▶ fault proxies ─▶ emulators
//! ```
//! The harness, a scenario's place and its clients are those of `tests/cluster`; what the stage is made of is this suite's
//! own. Without the emulators' Python all of it is skipped, and says so.

use std::process::ExitCode;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Conclusion};
use portico_e2e::{
    account::Account,
    runtime, sandbox,
    session::{self, Plan, Side, Signals},
    tools::Tools,
};
use tokio::runtime::Handle;

use clouds::harness::{self, Place, Theatre};

mod clouds {
    pub(crate) mod evidence;
    pub(crate) mod operators;
    pub(crate) mod published;
    pub(crate) mod site;
    pub(crate) mod stage;

    #[path = "../cluster/ground.rs"]
    pub(crate) mod ground;
    #[path = "../cluster/harness.rs"]
    pub(crate) mod harness;
    #[expect(dead_code, reason = "shared with tests/cluster, which uses all of it")]
    #[path = "../cluster/objects.rs"]
    pub(crate) mod objects;
    #[expect(dead_code, reason = "shared with tests/cluster, which uses all of it")]
    #[path = "../cluster/observe.rs"]
    pub(crate) mod observe;
    #[expect(dead_code, reason = "shared with tests/cluster, which uses all of it")]
    #[path = "../cluster/scene.rs"]
    pub(crate) mod scene;
    #[expect(dead_code, reason = "shared with tests/cluster, which uses all of it")]
    #[path = "../cluster/traffic.rs"]
    pub(crate) mod traffic;

    pub(crate) mod scenarios;
}

/// How to look at a cluster that is kept.
const KEPT: &str = "\
the cluster is kept until Ctrl-C; to look at it:
  target/debug/portico-e2e shell --name clouds fabric -- target/tools/controlplane kubectl get services -A";

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
        match session::enter(&Plan { name: "clouds".to_owned(), data_dir: None })? {
            Side::Ended(code) => return Ok(code),
            Side::Inside(inside) => Place::Inside(inside),
        }
    };
    runtime::block_on(play(arguments, place)).map(|conclusion| conclusion.exit_code())
}

/// Why no sandbox can be made, or no cloud; inside of a sandbox the question is settled.
fn refusal() -> anyhow::Result<Option<String>> {
    if sandbox::is_inside() {
        return Ok(None);
    }
    let tools = Tools::find()?;
    let missing = [("AWS", tools.aws_python()), ("Google Cloud", tools.gce_python())];
    if let Some((cloud, _)) = missing.iter().find(|(_, python)| python.is_none()) {
        return Ok(Some(format!("no emulator of {cloud}: `make emulators` installs it, by pip")));
    }
    sandbox::refusal()
}

/// Runs the trials; as in `tests/cluster`.
async fn play(arguments: Arguments, place: Place) -> anyhow::Result<Conclusion> {
    let theatre = Theatre::new(place);
    let trials = harness::trials(clouds::scenarios::all(), &theatre, &Handle::current());
    let conclusion = tokio::task::spawn_blocking(move || libtest_mimic::run(&arguments, trials))
        .await
        .context("running the trials")?;
    if theatre.has_started() && harness::keeps_state() {
        Account::new().line(KEPT);
        Signals::new()?.next().await;
    }
    Ok(conclusion)
}
