//! The benches: Portico and its peers in turn on the same cluster, measured by the same client.
//!
//! ```text
//! bench ──▶ sandbox ──▶ testbed (control plane, two nodes, endpoints, client)
//!                         └─ for each size, for each subject: trial ──▶ report ──▶ table, target/bench/<bench>.tsv
//! ```
//! The bench `cloud` has a testbed, trial and report of its own; its subjects are controllers of load balancers.
//!
//! A bench has no thresholds: it says what is. How each number is taken, and what it is not, is in docs/benchmarks.md.

pub mod churn;
pub mod client;
pub mod cloud;
pub mod exposition;
pub mod fill;
pub mod footprint;
pub mod layout;
pub mod namespace;
pub mod objects;
pub mod proxy;
pub mod report;
pub mod responder;
pub mod statistics;
pub mod subject;
pub mod testbed;
pub mod traffic;
pub mod trial;

use std::{env, process::ExitCode};

use cloud::controller::Controller;
use subject::Subject;

use crate::{
    account::Account,
    runtime,
    session::{self, Inside, Plan, Side},
};

/// Endpoint changes of a full run.
const FULL: usize = 50;

/// Endpoint changes of a run that measures the empty cluster alone: a smoke test that ends in about a minute.
const SMOKE: usize = 10;

/// The benches of `portico-e2e bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bench {
    /// Node proxies: how soon a change works, cold start, memory, connections.
    Proxy,
    /// Controllers of AWS load balancers: calls and time to create, restart, follow nodes and delete.
    Cloud,
}

impl Bench {
    /// Numbers of Services where none are given.
    fn services(self) -> Vec<u32> {
        match self {
            Self::Proxy => vec![0, 1000, 5000],
            Self::Cloud => vec![50, 200],
        }
    }
}

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which bench
    #[arg(long, value_enum, default_value_t = Bench::Proxy)]
    bench: Bench,
    /// Numbers of Services to measure at, as in "0 1000 5000". Default: that, or "50 200" for the bench `cloud`
    #[arg(long, value_delimiter = ' ')]
    services: Vec<u32>,
    /// Node proxies to measure, as in "portico kube-proxy-nftables"
    #[arg(
        long,
        value_enum,
        value_delimiter = ' ',
        default_value = "portico kube-proxy-nftables kube-proxy-iptables"
    )]
    subjects: Vec<Subject>,
    /// Endpoint changes to measure, from 1; cold starts (1 to 3) and connection windows follow from it. Default: 50, or 10
    /// where 0 is the only number of Services
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Controllers of load balancers to measure
    #[arg(long, value_enum, value_delimiter = ' ', default_value = "portico cloud-provider-aws")]
    controllers: Vec<Controller>,
    /// Load balancers for Portico's restarts under throttling in the bench `cloud`; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    restart: u32,
    /// Services for the operator's memory with provider `bare-metal`; 0: not measured
    #[arg(long, alias = "crowd", value_name = "N", default_value_t = 10_000)]
    bare_metal: u32,
    /// Services, and as many nodes, for the operator's memory while its provider does not answer; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    waiting: u16,
    /// Services that each controller makes under AWS's documented token buckets; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 200)]
    throttled: u32,
}

impl Args {
    fn services(&self) -> Vec<u32> {
        if self.services.is_empty() { self.bench.services() } else { self.services.clone() }
    }

    fn effort(&self) -> trial::Effort {
        let default = if self.services().iter().all(|services| *services == 0) { SMOKE } else { FULL };
        trial::Effort::of(self.rounds.map_or(default, usize::from))
    }
}

/// `bench`: measures in a sandbox, prints a table and leaves a TSV file.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.bench == Bench::Proxy {
        args.services().iter().try_for_each(|services| objects::check_size(*services))?;
    }
    if session::inside()?.is_none()
        && env::args().any(|flag| flag == "--crowd" || flag.starts_with("--crowd="))
    {
        Account::new().line("--crowd is called --bare-metal now; the next release refuses the old name");
    }
    let Inside { home, api_port: _ } = match session::enter(&Plan::named("bench"))? {
        Side::Ended(code) => return Ok(code),
        Side::Inside(inside) => inside,
    };
    let Args {
        bench,
        services: _,
        subjects,
        rounds: _,
        controllers,
        restart,
        bare_metal,
        waiting,
        throttled,
    } = args;
    match bench {
        Bench::Proxy => {
            let plan =
                proxy::Plan { services: args.services(), subjects: subjects.clone(), effort: args.effort() };
            runtime::block_on(proxy::run(&plan, &home))?;
        }
        Bench::Cloud => {
            let plan = cloud::Plan {
                services: args.services(),
                controllers: controllers.clone(),
                restart: *restart,
                bare_metal: *bare_metal,
                waiting: *waiting,
                throttled: *throttled,
            };
            runtime::block_on(cloud::run(&plan, &home))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn mk_args(line: &[&str]) -> Args {
        Line::parse_from([&["bench"], line].concat()).args
    }

    #[test]
    fn without_flags_all_subjects_run_at_all_sizes() {
        let args = mk_args(&[]);
        assert_eq!(args.services(), [0, 1000, 5000]);
        assert_eq!(args.subjects, [Subject::Portico, Subject::KubeProxyNftables, Subject::KubeProxyIptables]);
        assert_eq!(args.effort().updates, FULL);
        let cloud = mk_args(&["--bench", "cloud"]);
        assert_eq!(cloud.services(), [50, 200]);
        assert_eq!(cloud.controllers, [Controller::Portico, Controller::CloudProviderAws]);
    }

    #[test]
    fn lists_are_one_argument_as_make_gives_them_and_the_empty_cluster_alone_is_a_smoke_run() {
        let args = mk_args(&["--services", "0", "--subjects", "portico kube-proxy-nftables"]);
        assert_eq!(args.subjects, [Subject::Portico, Subject::KubeProxyNftables]);
        assert_eq!(args.effort().updates, SMOKE);
        assert_eq!(mk_args(&["--services", "0", "--rounds", "30"]).effort().updates, 30);
        assert!(Line::try_parse_from(["bench", "--subjects", "ipvs"]).is_err());
    }
}
