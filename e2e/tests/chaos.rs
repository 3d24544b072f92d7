//! Chaos: a hundred Services, half of them on each cloud, made, changed and deleted in random order, while the cloud throttles, fails,
//! drops connections and answers what was true a moment ago, and the operator is killed again and again.
//!
//! ```text
//! cargo test -p portico-e2e --test chaos        PORTICO_CHAOS_SEED=7 PORTICO_CHAOS_SERVICES=100
//!   └─ sandbox ─▶ API server ◀── portico-operator (a process for each cloud) ──▶ fault proxy ──▶ emulator
//! ```
//! When the faults end, every Service that lives has one load balancer and its address in the status; when all are deleted
//! the account is, byte for byte, what it was before: full of other people's load balancers that look like ours.
//! A seed fixes what is done to Services and which call of a kind meets which fault, not how processes interleave.

use std::process::ExitCode;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use portico_e2e::{
    account::Account,
    runtime, sandbox,
    session::{self, Inside, Plan, Side},
};
use tokio::runtime::Handle;

use chaos::{run, site::Cloud};

mod chaos {
    pub(crate) mod operator;
    pub(crate) mod run;
    pub(crate) mod site;
    pub(crate) mod stage;
    pub(crate) mod wish;
}

fn main() -> ExitCode {
    match start(Arguments::from_args()) {
        Ok(code) => code,
        Err(error) => {
            Account::new().failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    arguments.test_threads.get_or_insert(2); // both clouds at once: most of the time is waiting
    let refusal = if sandbox::is_inside() { None } else { sandbox::refusal()? };
    let inside = if arguments.list || refusal.is_some() {
        None
    } else {
        match session::enter(&Plan { name: "chaos".to_owned(), data_dir: None })? {
            Side::Ended(code) => return Ok(code),
            Side::Inside(inside) => Some(inside),
        }
    };
    runtime::block_on(async move {
        let stage = chaos::stage::Stage::set(inside);
        let trials = [Cloud::Aws, Cloud::Gce].map(|cloud| trial(cloud, stage.clone(), refusal.clone()));
        let conclusion =
            tokio::task::spawn_blocking(move || libtest_mimic::run(&arguments, trials.into())).await;
        Ok(conclusion.context("running the trials")?.exit_code())
    })
}

fn trial(cloud: Cloud, stage: chaos::stage::Stage<Inside>, refusal: Option<String>) -> Trial {
    let runtime = Handle::current();
    Trial::ignorable_test(format!("chaos on {cloud} leaks nothing and touches nobody else's"), move || {
        if let Some(reason) = refusal {
            return Ok(Completion::ignored_with(reason));
        }
        let played = runtime.block_on(async {
            let stage = stage.cluster().await?;
            run::play(cloud, &stage).await
        });
        match played {
            Ok(None) => Ok(Completion::Completed),
            Ok(Some(reason)) => Ok(Completion::ignored_with(reason)),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        }
    })
}
