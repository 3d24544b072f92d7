//! The bench `cloud`: controllers of AWS load balancers in turn, on the same API server and the same emulator, seen through
//! a proxy that counts their calls. Then four more, as the picture shows: Services created, and restarts with many load
//! balancers, under AWS's token buckets; the operator's footprint on bare metal, and while a provider does not answer.
//!
//! ```text
//! testbed (control plane, Nodes with heartbeats) ─▶ for each size, for each controller, in an account of its own: trial
//!                                                ├▶ for each controller: trial, but only made, throttled
//!                                                ├▶ restart: a thousand load balancers, throttled
//!                                                ├▶ bare_metal: thousands of Services, a provider that costs nothing
//!                                                └▶ waiting: a thousand Services and nodes, a provider that does not answer
//! ```
//! Owns the order of things and where results go. Leaves to others: one controller at one size (`trial`), the restarts
//! (`restart`), the footprint on bare metal, the footprint while a provider does not answer.

pub mod bare_metal;
pub mod controller;
mod objects;
mod phase;
pub mod report;
pub mod restart;
pub mod site;
pub mod testbed;
pub mod trial;
pub mod waiting;

use std::{fs, path::Path};

use anyhow::Context as _;

use self::{
    controller::Controller,
    report::Report,
    testbed::Testbed,
    trial::{Buckets, Trial},
};
use super::proxy::{machine, write};
use crate::{account::Account, home::Home, tools::Tools};

/// Sizes and controllers to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, each made from nothing.
    pub services: Vec<u32>,
    /// In this order at each size.
    pub controllers: Vec<Controller>,
    /// How many load balancers there are when Portico is started again under throttling; 0: not measured.
    pub restart: u32,
    /// How many Services the operator has on bare metal, for its memory; 0: not measured.
    pub bare_metal: u32,
    /// How many Services, and nodes, while the provider does not answer; 0: not measured.
    pub waiting: u16,
    /// How many Services each controller makes under throttling; 0: not measured.
    pub throttled: u32,
}

/// Measures, prints the tables, and leaves the TSV file.
pub async fn run(plan: &Plan, home: &Home) -> anyhow::Result<()> {
    let (account, tools) = (Account::new(), Tools::find()?);
    let file = tools.bench_dir().join("cloud.tsv");
    let mut report = Report::default();
    account.line(machine());
    let testbed = Testbed::start(tools, home.clone(), &account).await?;
    let crashes = testbed.crashes.clone();
    let measured = crashes.or(all(plan, &testbed, &file, &mut report, &account)).await;
    account.line(report.table());
    account.line(format_args!("\n{}", file.display()));
    let stopped = testbed.stop().await;
    measured.and(stopped)
}

async fn all(
    plan: &Plan,
    testbed: &Testbed,
    file: &Path,
    report: &mut Report,
    account: &Account,
) -> anyhow::Result<()> {
    let Plan { services, controllers, restart, bare_metal, waiting, throttled } = plan;
    let unlimited = services.iter().map(|services| (*services, Buckets::None));
    let throttled = Some((*throttled, Buckets::Documented)).filter(|(services, _)| *services > 0);
    for (services, buckets) in unlimited.chain(throttled) {
        for &controller in controllers {
            if let Some(obstacle) = controller.obstacle(&testbed.tools) {
                report.remark(format!("{controller} at {services}: not measured: {obstacle}"));
                continue;
            }
            account.step(format_args!("{controller} with {services} Services, {buckets} ({})", load()));
            // That a controller fails is a result, and no reason to stop.
            if let Err(error) = Trial::new(testbed, controller, services, account).run(buckets, report).await
            {
                report.remark(format!("{controller} at {services}, {buckets}: failed: {error:#}"));
            }
            write(file, &report.tsv())?;
        }
    }
    if *restart > 0 {
        account.step(format_args!("portico restarted with {restart} load balancers, throttled ({})", load()));
        if let Err(error) = restart::run(testbed, *restart, report, account).await {
            report.remark(format!("portico restarted with {restart} load balancers: failed: {error:#}"));
        }
        write(file, &report.tsv())?;
    }
    if *bare_metal > 0 {
        account.step(format_args!("portico with {bare_metal} Services that cost no cloud ({})", load()));
        bare_metal::run(testbed, *bare_metal, report, account).await?;
        write(file, &report.tsv())?;
    }
    if *waiting > 0 {
        account.step(format_args!("portico with {waiting} Services and nodes, and no answer ({})", load()));
        waiting::run(testbed, *waiting, report, account).await?;
        write(file, &report.tsv())?;
    }
    Ok(())
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").context("reading the load").unwrap_or_default();
    format!("load of the machine: {}", load.split_whitespace().next().unwrap_or("unknown"))
}
