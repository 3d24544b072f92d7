//! A cluster leaves nothing on the machine, however it ended. The test runs on the machine, so it is not one of the
//! scenarios, which live inside a sandbox.
//!
//! A whole cluster is started three times. The README's demo ends by itself, the second cluster by SIGTERM, the third by a
//! SIGKILL of the process that a person started.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use portico_e2e::{scenario::Missing, tools::Tools};

/// How long a cluster may take to start on two busy cores.
const STARTED: Duration = Duration::from_mins(3);

/// How long it may take to end.
const ENDED: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1); // two clusters at once would only slow each other down
    let trials = vec![
        trial("the demo ends with demo: ok and leaves nothing", demo),
        trial("a cluster that is asked to end leaves nothing", || leaves_nothing("asked", Signal::SIGTERM)),
        trial("a cluster whose outer process is killed leaves its folder, for down", || {
            leaves_nothing("killed", Signal::SIGKILL)
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(title: &'static str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::ignorable_test(title, move || {
        let failed = |error: anyhow::Error| Failed::from(format!("{error:#}"));
        match Missing::namespaces().map_err(failed)? {
            Some(missing) => missing.outcome(title),
            None => test().map(|()| Completion::Completed).map_err(failed),
        }
    })
}

fn demo() -> anyhow::Result<()> {
    let tools = Tools::find()?;
    let before = Machine::now()?;
    let child = Command::new(tools.portico_e2e())
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting portico-e2e demo")?;
    let dir = tools.cluster_dir(&format!("demo-{}", child.id()));
    let output = child.wait_with_output().context("waiting for the demo")?;
    let account = String::from_utf8_lossy(&output.stdout);
    let well = output.status.success() && account.lines().last() == Some("demo: ok");
    ensure!(well, "{}: {account}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    before.without_the_comings_and_goings(&Machine::now()?).context("after the demo")?;
    ensure!(processes_of(&dir)?.is_empty() && !dir.exists(), "{} is still in use", dir.display());
    Ok(())
}

fn leaves_nothing(name: &str, signal: Signal) -> anyhow::Result<()> {
    let tools = Tools::find()?;
    let name = format!("leaves-nothing-{name}");
    let dir = tools.cluster_dir(&name);
    let before = Machine::now()?;
    let mut cluster = Up::start(&tools, &name)?;
    ensure!(!processes_of(&dir)?.is_empty(), "a cluster that runs has processes that name its folder");
    let during = before.without_the_comings_and_goings(&Machine::now()?);
    during.context("while the cluster runs")?;

    kill(cluster.pid()?, signal)?;
    let ended = poll(ENDED, || Ok(cluster.child.try_wait()?.is_some() && processes_of(&dir)?.is_empty()))?;
    ensure!(ended, "after {signal} there still are {:?}", processes_of(&dir)?);
    before.without_the_comings_and_goings(&Machine::now()?).context("after the cluster")?;
    if signal == Signal::SIGKILL {
        let down = Command::new(tools.portico_e2e()).args(["down", "--name", &name]).output()?;
        ensure!(down.status.success(), "down: {}", String::from_utf8_lossy(&down.stderr));
    }
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}

/// A running `portico-e2e up`.
struct Up {
    child: Child,
}

impl Up {
    /// Starts a cluster of one node and waits until it says how to use it.
    fn start(tools: &Tools, name: &str) -> anyhow::Result<Self> {
        let child = Command::new(tools.portico_e2e())
            .args(["up", "--nodes", "1", "--name", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting portico-e2e up")?;
        let mut up = Self { child };
        let stdout = BufReader::new(up.child.stdout.take().context("no stdout")?);
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let deadline = Instant::now() + STARTED;
        let mut said = Vec::new();
        loop {
            let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.with_context(|| format!("the cluster did not start; it said {said:#?}"))?;
            if line.contains("KUBECONFIG=") {
                return Ok(up);
            }
            said.push(line);
        }
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Up {
    /// For a test that failed half way: the outer process's end takes the sandbox along.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _already_gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// State of the machine that a cluster could have changed.
struct Machine {
    /// Output of commands, by command.
    shown: BTreeMap<&'static str, BTreeSet<String>>,
    /// Values of sysctls, by path.
    sysctls: BTreeMap<PathBuf, String>,
}

/// Commands whose output is lines that come and go with what a cluster makes.
const SHOWN: [&[&str]; 6] = [
    &["ip", "-oneline", "link"],
    &["ip", "-oneline", "address"],
    &["ip", "route", "show", "table", "all"],
    &["ip", "rule"],
    &["ip", "netns"],
    &["nft", "list", "ruleset"],
];

/// Sysctls whose change would affect the whole machine.
const SYSCTLS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "net/ipv4/ip_local_port_range",
];

/// Words by which a line is known to be of a cluster and not of whatever else goes on on the machine.
const OURS: [&str; 8] = ["fabric", "v-node-", "v-lb", "v-outside", "172.30.", "10.244.", "10.96.", "portico"];

impl Machine {
    fn now() -> anyhow::Result<Self> {
        let mut shown = BTreeMap::new();
        for command in SHOWN {
            let &[program, ref arguments @ ..] = command else { continue };
            let done = Command::new(program)
                .args(arguments)
                .output()
                .with_context(|| format!("running {program}"))?;
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            shown.insert(
                command[1..].last().copied().unwrap_or(program),
                text.lines().map(str::to_owned).collect(),
            );
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
        shown.insert("mounts", mounts.lines().map(str::to_owned).collect());
        let read = |name: &&str| {
            let path = Path::new("/proc/sys").join(name);
            fs::read_to_string(&path).ok().map(|value| (path, value))
        };
        Ok(Self { shown, sysctls: SYSCTLS.iter().filter_map(read).collect() })
    }

    /// An error if a line appeared that is a cluster's, or a sysctl changed. Lines of others are none of this test's
    /// business: other tests make and remove namespaces on the same machine.
    fn without_the_comings_and_goings(&self, now: &Self) -> anyhow::Result<()> {
        for (what, lines) in &now.shown {
            let known = self.shown.get(what).cloned().unwrap_or_default();
            let new = lines.difference(&known).filter(|line| OURS.iter().any(|word| line.contains(word)));
            let new: Vec<_> = new.collect();
            ensure!(new.is_empty(), "the machine has something new ({what}): {new:#?}");
        }
        ensure!(
            self.sysctls == now.sysctls,
            "sysctls changed from {:#?} to {:#?}",
            self.sysctls,
            now.sysctls
        );
        Ok(())
    }
}

/// Processes whose command line names a folder, this one and its like aside.
fn processes_of(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let path = entry?.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&dir.display().to_string()) {
            found.push(command);
        }
    }
    Ok(found)
}

fn poll(limit: Duration, mut check: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limit;
    while !check()? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}
