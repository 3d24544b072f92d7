//! The test binary of all suites: lists them together, and runs those with a selected scenario one after the other.
//!
//! Each suite runs in a sandbox of its own, in which the same command line runs again for that suite alone, and leaves its
//! counts in a file. Owns: that, and the closing line, which counts all suites. Leaves to others: a suite's trials
//! (`harness`). Invariants: a suite without a selected scenario starts no sandbox; a suite that ends without counts ends
//! the run as a failure.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    ops::AddAssign,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use libtest_mimic::{Arguments, Conclusion, Trial};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;

use super::{
    Missing, Scenario, Setup,
    harness::{self, Place, Shared},
};
use crate::{
    account::Account,
    runtime,
    session::{self, Inside, Plan, Signals},
};

/// Names the suite to the inside of its sandbox.
const SUITE: &str = "PORTICO_SUITE";
/// Names the file for the counts to the inside.
const COUNTS: &str = "PORTICO_SUITE_COUNTS";

/// A suite of scenarios that share a setup.
pub struct Suite {
    name: &'static str,
    parallel: usize,
    prepare: Box<dyn Fn(Place) -> Prepared>,
}

/// The trials of a suite, and whether its setup has started.
struct Prepared {
    trials: Vec<Trial>,
    has_started: Box<dyn Fn() -> bool + Send>,
}

impl Suite {
    /// The suite of setup `S`, with its scenarios in the order in which they should run.
    pub fn new<S: Setup>(scenarios: fn() -> Vec<Scenario<S>>) -> Self {
        let prepare = move |place| {
            let shared = Shared::<S>::new(place);
            let trials = harness::trials(scenarios(), &shared);
            Prepared { trials, has_started: Box::new(move || shared.has_started()) }
        };
        Self { name: S::SUITE, parallel: S::PARALLEL, prepare: Box::new(prepare) }
    }

    fn trials(&self, place: Place) -> Vec<Trial> {
        (self.prepare)(place).trials
    }

    /// Runs it in a sandbox.
    fn run_in_sandbox(&self) -> anyhow::Result<Counts> {
        let counts = NamedTempFile::new().context("creating a file for the counts")?;
        let file = counts.path().as_os_str().to_owned();
        let environment = vec![(SUITE, OsString::from(self.name)), (COUNTS, file)];
        let plan = Plan { environment, ..Plan::named(self.name) };
        let code = session::run_in_sandbox(&plan)?;
        let counts = Counts::read(counts.path())
            .with_context(|| format!("suite {} ended with code {code}", self.name))?;
        if code != 0 && counts.failed == 0 {
            bail!("suite {} ended with code {code}, and no test failed", self.name);
        }
        Ok(counts)
    }

    /// Runs its trials, here, and leaves the counts. The cluster is not stopped in order at the end: the end of the
    /// sandbox is its end.
    fn run_inside(&self, inside: Inside, mut arguments: Arguments) -> anyhow::Result<ExitCode> {
        arguments.test_threads.get_or_insert(self.parallel);
        let counts = PathBuf::from(env::var_os(COUNTS).with_context(|| format!("{COUNTS} is not set"))?);
        runtime::block_on(async {
            let Prepared { trials, has_started } = (self.prepare)(Place::Inside(inside, Handle::current()));
            // The harness blocks its threads, so it has one beside the runtime's.
            let running = tokio::task::spawn_blocking(move || libtest_mimic::run(&arguments, trials));
            let conclusion = running.await.context("running the trials")?;
            Counts::from(&conclusion).write(&counts)?;
            if has_started() && harness::keeps_state() {
                Account::new().line(format!(
                    "the cluster is kept until Ctrl-C; to use it:\n  \
                     target/debug/portico-e2e shell --name {0} fabric -- target/tools/controlplane kubectl get pods -A\n  \
                     target/debug/portico-e2e shell --name {0} node-1",
                    self.name
                ));
                Signals::new()?.next().await;
            }
            Ok(conclusion.exit_code())
        })
    }
}

/// The test binary of these suites.
pub fn main(suites: &[Suite]) -> ExitCode {
    match run(suites, Arguments::from_args()) {
        Ok(code) => code,
        Err(error) => {
            Account::new().failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(suites: &[Suite], mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(inside) = session::inside()? {
        let name = env::var(SUITE).with_context(|| format!("{SUITE} is not set inside the sandbox"))?;
        let suite = suites.iter().find(|suite| suite.name == name);
        return suite.with_context(|| format!("no suite is called {name}"))?.run_inside(inside, arguments);
    }
    if arguments.list {
        let trials = suites.iter().flat_map(|suite| suite.trials(Place::Listing)).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }
    let missing = Missing::namespaces()?;
    let mut all = Counts::default();
    for suite in suites {
        let trials = suite.trials(Place::Listing);
        if trials.iter().all(|trial| arguments.is_filtered_out(trial)) {
            all.filtered_out += trials.len() as u64;
            continue;
        }
        all += match &missing {
            None => suite.run_in_sandbox()?,
            Some(missing) => {
                arguments.test_threads.get_or_insert(1);
                let trials = suite.trials(Place::Refused(missing.clone()));
                Counts::from(&libtest_mimic::run(&arguments, trials))
            }
        };
    }
    Account::new().line(all);
    Ok(if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many trials ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered_out: u64,
}

impl Counts {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read(file).context("reading the counts")?;
        if text.is_empty() {
            bail!("the suite left no counts");
        }
        serde_json::from_slice(&text).context("reading the counts")
    }

    fn write(self, file: &Path) -> anyhow::Result<()> {
        fs::write(file, serde_json::to_vec(&self)?).context("writing the counts")
    }
}

impl From<&Conclusion> for Counts {
    fn from(conclusion: &Conclusion) -> Self {
        Self {
            passed: conclusion.num_passed,
            failed: conclusion.num_failed,
            ignored: conclusion.num_ignored,
            filtered_out: conclusion.num_filtered_out,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed, ignored, filtered_out } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        self.filtered_out += filtered_out;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, ignored, filtered_out } = self;
        write!(
            f,
            "all suites: {passed} passed; {failed} failed; {ignored} ignored; {filtered_out} filtered out"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_suites_add_up_and_a_suite_without_counts_is_an_error() -> anyhow::Result<()> {
        let file = NamedTempFile::new()?;
        assert!(Counts::read(file.path()).is_err());
        let mut all = Counts { passed: 2, failed: 1, ignored: 0, filtered_out: 3 };
        Counts { passed: 1, failed: 0, ignored: 4, filtered_out: 0 }.write(file.path())?;
        all += Counts::read(file.path())?;
        assert_eq!(all.to_string(), "all suites: 3 passed; 1 failed; 4 ignored; 3 filtered out");
        Ok(())
    }
}
