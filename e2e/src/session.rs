//! A cluster's run as the machine sees it: makes the folder, starts the same program again inside a sandbox, passes on
//! Ctrl-C, forwards the API server's port, and cleans up. `demo`, `up`, the scenario suites and the benches all begin here.

use std::{env, ffi::OsString, net::Ipv4Addr, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    account::Account,
    forward,
    home::{Home, ProcessRecord, State},
    sandbox::{self, Sandbox},
    tools::Tools,
};

/// Variable with the path of the cluster's folder, for the inside.
const CLUSTER_DIR: &str = "PORTICO_CLUSTER_DIR";
/// Variable with the API server's port on the machine's loopback, for the inside.
const API_PORT: &str = "PORTICO_API_PORT";

/// A run's name, folder and environment.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the cluster, and of its folder under `target/e2e`.
    pub name: String,
    /// Another folder, which is kept.
    pub data_dir: Option<PathBuf>,
    /// Further variables for the inside.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Plan {
    /// A run in its own folder, which is removed at the end.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), data_dir: None, environment: Vec::new() }
    }
}

/// On which side of the sandbox this process is.
#[derive(Debug)]
pub enum Side {
    /// Inside, with everything prepared.
    Inside(Inside),
    /// Outside, and the inside has ended with this code.
    Ended(ExitCode),
}

/// Parameters of the inside.
#[derive(Clone, Debug)]
pub struct Inside {
    /// The cluster's folder.
    pub home: Home,
    /// Port on the machine's loopback that leads to the API server.
    pub api_port: u16,
}

/// Inside a sandbox: says where things are. Outside: runs this very command line inside one, to its end.
pub fn enter(plan: &Plan) -> anyhow::Result<Side> {
    match inside()? {
        Some(inside) => Ok(Side::Inside(inside)),
        None => run_in_sandbox(plan).map(|code| Side::Ended(ExitCode::from(code))),
    }
}

/// Parameters of the inside; `None` outside of a sandbox.
pub fn inside() -> anyhow::Result<Option<Inside>> {
    if !sandbox::is_inside() {
        return Ok(None);
    }
    let dir = env::var_os(CLUSTER_DIR).context("PORTICO_CLUSTER_DIR is not set inside the sandbox")?;
    let api_port =
        env::var(API_PORT).context("PORTICO_API_PORT is not set")?.parse().context("PORTICO_API_PORT")?;
    Ok(Some(Inside { home: Home::existing(&PathBuf::from(dir)), api_port }))
}

/// Runs this very command line inside a new sandbox, to its end; gives its exit code.
pub fn run_in_sandbox(plan: &Plan) -> anyhow::Result<u8> {
    let tools = Tools::find()?;
    tools.check(&[&tools.portico_e2e(), &tools.controlplane(), &tools.helm()])?;
    let dir = plan.data_dir.clone().unwrap_or_else(|| tools.cluster_dir(&plan.name));
    let home = Home::existing(&dir);
    if home.is_running() {
        bail!(
            "a cluster runs in {}: end it with `portico-e2e down`, or choose another --name or --data-dir",
            dir.display()
        );
    }
    if plan.data_dir.is_none() {
        home.remove()?; // of a run that was killed
    }
    let home = Home::open(&dir)?;
    let code = tokio::runtime::Runtime::new()?.block_on(outside(&tools, &home, &plan.environment))?;
    match (code, &plan.data_dir) {
        (0, None) => home.remove()?,
        (0, Some(_)) => {}
        _ => Account::new().failure(&format!("the logs are kept in {}", home.logs().display())),
    }
    Ok(code)
}

async fn outside(tools: &Tools, home: &Home, environment: &[(&'static str, OsString)]) -> anyhow::Result<u8> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("taking a port of the machine's loopback")?;
    let port = listener.local_addr()?.port();
    let program = env::current_exe().context("finding the running program")?;
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut environment = environment.to_vec();
    environment.push((CLUSTER_DIR, home.dir().as_os_str().to_owned()));
    environment.push((API_PORT, OsString::from(port.to_string())));
    let outer = ProcessRecord::of(std::process::id())?;
    let (mut sandbox, lifeline) = Sandbox::start(tools, &program, &arguments, &environment)?;
    home.record(&State { outer, sandbox: Some(ProcessRecord::of(sandbox.pid())?) })?;

    let pid = sandbox.pid();
    let mut ended = tokio::task::spawn_blocking(move || sandbox.wait());
    let socket = home.api_socket();
    tokio::select! {
        code = &mut ended => return code.context("waiting for the sandbox")?,
        forwarding = forward::outside(listener, &socket) => forwarding?,
        () = signals.next() => {}
    }
    drop(lifeline);
    tokio::select! {
        code = &mut ended => code.context("waiting for the sandbox")?,
        () = signals.next() => {
            sandbox::kill(pid)?;
            ended.await.context("waiting for the sandbox")?
        }
    }
}

/// The signals that ask for the end.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
