//! `conformance`: Kubernetes' own e2e.test against a cluster whose node proxy is ours, and, as the control, kube-proxy.
//!
//! ```text
//! conformance ──▶ for each proxy: itself in a sandbox ──▶ cluster + CoreDNS + operator, portico-lb + proxy ──▶ ginkgo
//!             │                                                                              e2e.test ──▶ JSON report
//!             └─▶ both reports ──▶ table (target/conformance/results.md) and the closing line
//! ```
//!
//! Load balancers come from the operator's provider `local` under both proxies: it is the cloud here, and not what differs.
//! A test that this machine cannot run is left out for both, with its reason ([`unrunnable`]). A test's outcome is a
//! result; only a run that brought no report is an error.

mod manifests;
mod results;
mod suite;
mod unrunnable;

use std::{fmt, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use serde_json::json;

use self::results::Results;
use crate::{
    account::Account,
    cluster::{Cluster, Options},
    fabric::POD_CIDR,
    home::Home,
    kube_proxy,
    portico::{Parts, Provider},
    process, runtime, sandbox,
    session::{self, Plan, Side},
    tools::Tools,
};

/// Nodes of the cluster: some tests need three.
const NODES: u8 = 3;

/// Which proxy serves the cluster under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Proxy {
    /// The node proxy of this project.
    Portico,
    /// kube-proxy with `--proxy-mode=nftables`.
    KubeProxy,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portico => "portico",
            Self::KubeProxy => "kube-proxy",
        })
    }
}

/// Flags of `conformance`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which proxies, as in "portico kube-proxy"
    #[arg(long, value_enum, value_delimiter = ' ', default_value = "portico kube-proxy")]
    proxies: Vec<Proxy>,
    /// Which tests, by a regular expression of their whole names
    #[arg(long, value_name = "REGEX", default_value = suite::FOCUS)]
    focus: String,
    /// How many tests run at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..))]
    procs: u8,
    /// Run nothing: put the last runs' reports side by side
    #[arg(long)]
    report_only: bool,
    /// (internal) Run this proxy's cluster and tests, and leave the report.
    #[arg(long, hide = true)]
    only: Option<Proxy>,
}

/// Runs the tests on each proxy in turn and puts the results side by side.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.only {
        Some(proxy) => one(args, proxy),
        None => all(args),
    }
}

/// Folder of results: `target/conformance`.
fn folder() -> anyhow::Result<PathBuf> {
    let folder = Tools::find()?.conformance_dir();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn all(args: &Args) -> anyhow::Result<ExitCode> {
    let account = Account::new();
    let mut results = Results::default();
    for &proxy in &args.proxies {
        if !args.report_only {
            account.step(format_args!("{proxy}: Kubernetes' tests on a cluster of {NODES} nodes"));
            run_apart(args, proxy)?;
        }
        results.read(proxy, &report(proxy)?)?;
    }
    let table = folder()?.join("results.md");
    fs::write(&table, results.table()).with_context(|| format!("writing {}", table.display()))?;
    account.line(results.failures());
    account.line(format_args!("{}\n{}", table.display(), results.closing_line()));
    Ok(ExitCode::SUCCESS)
}

/// Runs one proxy's cluster and tests in a process of its own: a sandbox is a process' for good.
fn run_apart(args: &Args, proxy: Proxy) -> anyhow::Result<()> {
    let tools = Tools::find()?;
    let programs = suite::Programs::of(&tools);
    tools.check(&programs.all()).context("`make conformance` builds these")?;
    let report = report(proxy)?;
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("removing the former {}", report.display()))?;
    }
    let status = std::process::Command::new(tools.portico_e2e())
        .args(["conformance", "--only", &proxy.to_string(), "--focus", &args.focus])
        .args(["--procs", &args.procs.to_string()])
        .status()
        .context("starting the run of one proxy")?;
    if !report.exists() {
        bail!("{proxy}: no report came of it ({status}); see {}", report.with_extension("log").display());
    }
    Ok(())
}

fn report(proxy: Proxy) -> anyhow::Result<PathBuf> {
    Ok(folder()?.join(format!("{proxy}.json")))
}

fn one(args: &Args, proxy: Proxy) -> anyhow::Result<ExitCode> {
    let name = format!("conformance-{proxy}");
    match session::enter(&Plan::named(name))? {
        Side::Ended(code) => Ok(code),
        Side::Inside(inside) => runtime::block_on(test(args, proxy, &inside.home)),
    }
}

/// Masquerades as the network plugin of Kubernetes' own CI does, on which some tests rely: a packet that leaves the pods' network
/// gets its node's address.
async fn masquerade(cluster: &Cluster) -> anyhow::Result<()> {
    let table = "ip network-plugin";
    let rules = [
        format!("add table {table}"),
        format!("add chain {table} postrouting {{ type nat hook postrouting priority 110; }}"),
        format!("add rule {table} postrouting ip saddr {POD_CIDR} ip daddr != {POD_CIDR} masquerade"),
    ];
    for node in cluster.nodes() {
        let mut nft = cluster.from_node(&node.name).command("nft");
        process::output(nft.arg(rules.join("; "))).await?;
    }
    Ok(())
}

async fn test(args: &Args, proxy: Proxy, home: &Home) -> anyhow::Result<ExitCode> {
    debug_assert!(sandbox::is_inside());
    let account = Account::new();
    let values = json!({"nodeproxy": {"allowExternalIPs": true}});
    let portico = Parts { operator: Some(Provider::Local), nodeproxy: proxy == Proxy::Portico, values };
    let cluster =
        Cluster::start(home, &Options { nodes: NODES, portico, ..Options::default() }, &account).await?;
    masquerade(&cluster).await?;
    if proxy == Proxy::KubeProxy {
        kube_proxy::install(&cluster).await?;
        account.step("kube-proxy runs on every node");
    }
    manifests::zones(&cluster).await?;
    manifests::dns(&cluster).await?;
    account.step("CoreDNS answers");
    let suite = suite::Suite { focus: &args.focus, procs: args.procs, report: report(proxy)? };
    let outcome = cluster.crashes().or(suite.run(&cluster)).await;
    account.step("the tests have ended");
    cluster.stop().await?;
    outcome?;
    Ok(ExitCode::SUCCESS)
}
