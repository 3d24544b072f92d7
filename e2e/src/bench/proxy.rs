//! The bench `proxy`: node proxies in turn on the same cluster, at each size. Owns the order of things and where results go;
//! what is measured of one proxy at one size is a [`Trial`].

use std::{fs, path::Path};

use anyhow::Context as _;

use super::{
    report::{Metric, Report},
    subject::Subject,
    testbed::Testbed,
    trial::{Effort, Trial},
};
use crate::{account::Account, home::Home, tools::Tools};

/// Sizes and subjects to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of filler Services; measured from the smallest to the largest, so that nothing is made twice.
    pub services: Vec<u32>,
    /// In this order at each size.
    pub subjects: Vec<Subject>,
    /// How much of each.
    pub effort: Effort,
}

/// Measures, prints the table, and leaves the TSV file.
pub async fn run(plan: &Plan, home: &Home) -> anyhow::Result<()> {
    let (account, tools) = (Account::new(), Tools::find()?);
    let file = tools.bench_dir().join("proxy.tsv");
    let mut report = Report::default();
    account.line(machine());
    let testbed = Testbed::start(tools, home.clone(), &account).await?;
    let crashes = testbed.crashes.clone();
    let mut run = Run { plan, testbed, file: &file, report: &mut report, account };
    let done = crashes.or(run.all_sizes()).await;
    let stopped = match done {
        Ok(()) => run.testbed.stop().await,
        Err(error) => Err(error),
    };
    account.line(report.table());
    account.line(format_args!("\n{}", file.display()));
    stopped
}

struct Run<'a> {
    plan: &'a Plan,
    testbed: Testbed,
    file: &'a Path,
    report: &'a mut Report,
    account: Account,
}

impl Run<'_> {
    async fn all_sizes(&mut self) -> anyhow::Result<()> {
        let mut runnable = Vec::new();
        for &subject in &self.plan.subjects {
            match subject.obstacle(&self.testbed.tools) {
                Some(obstacle) => self.report.remark(format!("{subject}: not measured: {obstacle}")),
                None => runnable.push(subject),
            }
        }
        let mut sizes = self.plan.services.clone();
        sizes.sort_unstable();
        sizes.dedup();
        for services in sizes {
            self.testbed.grow_to(services, &self.account).await?;
            for &subject in &runnable {
                self.one(subject, services).await?;
            }
        }
        Ok(())
    }

    /// One trial. That a subject fails is a result; that the bench does is an error.
    async fn one(&mut self, subject: Subject, services: u32) -> anyhow::Result<()> {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown");
        self.account.step(format_args!("{subject} at {services} Services (load of the machine: {load})"));
        let trial = Trial { testbed: &self.testbed, subject, services, effort: self.plan.effort };
        if let Err(error) = trial.run(self.report).await {
            self.account.detail(format_args!("failed: {error:#}"));
            self.report.remark(format!("{subject} at {services}: failed: {error:#}"));
        }
        for metric in [Metric::Program, Metric::ColdStart, Metric::Resident, Metric::ConnectRatio] {
            if let Some(summary) = self.report.summary(subject, services, metric) {
                self.account.detail(format_args!("{metric}: p50 {:.3}, p99 {:.3}", summary.p50, summary.p99));
            }
        }
        write(self.file, &self.report.tsv())
    }
}

/// Writes the file after each trial, so that a run that was cut short leaves what it has.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// The machine, for the head of a report.
pub(super) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processors of an unknown model", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "debug (NOT for comparing)" } else { "release" };
    format!("machine: {processors} × {model}, Linux {}; Portico's build profile: {profile}", kernel.trim())
}
