//! `up`, `down` and `shell`: a cluster to keep and work with by hand.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};

use crate::{
    account::Account,
    cluster::{Cluster, Options},
    controlplane::Credentials,
    fabric::Families,
    home::{Home, ProcessRecord, State},
    kubeconfig,
    portico::{self, Parts, Provider},
    runtime, sandbox,
    session::{self, Inside, Plan, Side, Signals},
    tools::Tools,
};

/// The cluster that is meant where none is named.
const DEFAULT_NAME: &str = "default";

/// A part of Portico that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// portico-nodeproxy; run another proxy in its place.
    Nodeproxy,
    /// The operator, portico-operator.
    Operator,
}

/// Flags of `up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=254))]
    nodes: u8,
    /// Install nothing, and leave the chart's values for this cluster: to install Portico by hand
    #[arg(long, conflicts_with_all = ["without", "provider"])]
    bare: bool,
    /// Leave a part of Portico out; may be given twice
    #[arg(long, value_name = "PART")]
    without: Vec<Part>,
    /// Give pods and Services addresses of both families
    #[arg(long)]
    dual_stack: bool,
    /// Provider of load balancers
    #[arg(long, value_enum, default_value_t = Provider::Local)]
    provider: Provider,
    /// Run Portico's pods from the images in this folder, as `make images` leaves them
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// Which cluster is meant.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// Name of the cluster, to have several
    #[arg(long, default_value = DEFAULT_NAME, conflicts_with = "data_dir")]
    name: String,
    /// Folder of a cluster whose data is kept, and used again
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Which {
    /// Folder of the cluster.
    fn home(&self) -> anyhow::Result<Home> {
        Ok(match &self.data_dir {
            Some(dir) => Home::existing(dir),
            None => Home::existing(&Tools::find()?.cluster_dir(&self.name)),
        })
    }

    /// How other subcommands name the same cluster: with a leading blank, or nothing.
    fn flag(&self) -> String {
        match &self.data_dir {
            Some(dir) => format!(" --data-dir {}", dir.display()),
            None if self.name == DEFAULT_NAME => String::new(),
            None => format!(" --name {}", self.name),
        }
    }
}

impl UpArgs {
    fn options(&self) -> Options {
        let operator = (!self.without.contains(&Part::Operator)).then_some(self.provider);
        let nodeproxy = !self.without.contains(&Part::Nodeproxy);
        Options {
            nodes: self.nodes,
            families: if self.dual_stack { Families::Both } else { Families::V4 },
            portico: Parts { operator, nodeproxy, ..Parts::default() },
            bare: self.bare,
            images: self.images.clone(),
        }
    }
}

/// `up`: runs a cluster until Ctrl-C.
pub fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let Which { name, data_dir } = args.which.clone();
    let plan = Plan { data_dir, ..Plan::named(name) };
    match session::enter(&plan)? {
        Side::Ended(code) => Ok(code),
        Side::Inside(inside) => runtime::block_on(keep(args, &inside)),
    }
}

async fn keep(args: &UpArgs, inside: &Inside) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let account = Account::new();
    let home = &inside.home;
    let options = args.options();
    let cluster = tokio::select! {
        cluster = Cluster::start(home, &options, &account) => cluster?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    explain(&account, &args.which, inside)?;
    if args.bare {
        let (chart, values) = (cluster.tools().chart(), portico::values(home));
        account.line(format!(
            "install          helm install portico {} -n {} --values {}",
            chart.display(),
            portico::NAMESPACE,
            values.display()
        ));
    }
    tokio::select! {
        crash = cluster.crashes().first() => return Err(crash),
        () = signals.next() => {}
    }
    account.step("stopping");
    cluster.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the KUBECONFIG that works from the machine, and says how to use the cluster.
fn explain(account: &Account, which: &Which, inside: &Inside) -> anyhow::Result<()> {
    let Inside { home, api_port } = inside;
    let tools = Tools::find()?;
    let pki = Credentials::open(&home.pki())?;
    let server = format!("https://127.0.0.1:{api_port}");
    let kubeconfig = kubeconfig::write(&home.kubeconfig(), &server, &pki.ca.cert, &pki.admin)?;
    let program = tools.portico_e2e();
    let program = program.display();
    let which = which.flag();
    account.line(format!(
        "\n\
         export KUBECONFIG={}\n\
         kubectl          {} kubectl get nodes\n\
         enter a node     {program} shell{which} node-1\n\
         enter a pod      {program} shell{which} NAMESPACE/POD\n\
         be outside       {program} shell{which} outside\n\
         logs             {}\n\
         end              Ctrl-C, or {program} down{which}",
        kubeconfig.display(),
        tools.controlplane().display(),
        home.logs().display(),
    ));
    Ok(())
}

/// Flags of `down`.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    #[command(flatten)]
    which: Which,
}

/// `down`: ends a cluster that runs, and removes what a killed one left: its folder is all that can be left. A folder that
/// was asked to be kept stays.
pub fn down(args: &DownArgs) -> anyhow::Result<ExitCode> {
    let account = Account::new();
    let home = args.which.home()?;
    if !home.dir().exists() {
        account.line(format!("there is no cluster in {}", home.dir().display()));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(state) = home.state() {
        end(&state)?;
    }
    if args.which.data_dir.is_none() {
        home.remove()?;
    }
    account.line(format!("the cluster in {} has ended", home.dir().display()));
    Ok(ExitCode::SUCCESS)
}

/// Asks the outer process to end, then kills the sandbox, if they still are those of the record.
fn end(state: &State) -> anyhow::Result<()> {
    use nix::{sys::signal, unistd::Pid};
    let State { outer, sandbox } = state;
    let wait_for = |running: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while running() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        running()
    };
    if outer.is_running() {
        signal::kill(Pid::from_raw(i32::try_from(outer.pid)?), signal::Signal::SIGTERM)
            .context("asking the cluster to end")?;
        wait_for(&|| outer.is_running());
    }
    if let Some(sandbox) = sandbox
        && sandbox.is_running()
    {
        sandbox::kill(sandbox.pid)?;
        if wait_for(&|| sandbox.is_running()) {
            bail!("process {} of the cluster does not end", sandbox.pid);
        }
    }
    Ok(())
}

/// Flags of `shell`.
#[derive(Debug, clap::Args)]
pub struct ShellArgs {
    #[command(flatten)]
    which: Which,
    /// Place: node-1, outside, lb, fabric (the control plane), or NAMESPACE/POD
    place: String,
    /// Command to run there; a shell if none is given
    #[arg(last = true)]
    command: Vec<String>,
}

/// `shell`: a shell, or a command, in the network of a node or pod of a running cluster.
pub fn shell(args: &ShellArgs) -> anyhow::Result<ExitCode> {
    let ShellArgs { which, place, command } = args;
    let home = which.home()?;
    let sandbox = home.state().and_then(|state| state.sandbox).filter(ProcessRecord::is_running);
    let Some(sandbox) = sandbox else {
        bail!("no cluster runs in {}: `portico-e2e up` starts one", home.dir().display())
    };
    let init = sandbox::init_of(sandbox.pid)?;
    let mut nsenter = std::process::Command::new("nsenter");
    nsenter.args(["--target", &init.to_string(), "--mount", "--pid"]);
    if !nix::unistd::geteuid().is_root() {
        nsenter.args(["--user", "--preserve-credentials"]);
    }
    if place == "fabric" {
        nsenter.arg("--net");
    } else {
        let netns = format!("/proc/{init}/root/run/netns/{}", place.replace('/', "_"));
        if !std::path::Path::new(&netns).exists() {
            bail!(
                "there is no {place:?}: a place is node-1, node-2, …, outside, lb, fabric or NAMESPACE/POD"
            );
        }
        nsenter.arg(format!("--net={netns}"));
    }
    nsenter.arg("--").env("KUBECONFIG", home.admin_kubeconfig());
    if command.is_empty() {
        nsenter.arg("bash").arg("--norc").env("PS1", format!("{place}# "));
    } else {
        nsenter.args(command);
    }
    Err(nsenter.exec()).context("starting nsenter: it is part of util-linux")
}
