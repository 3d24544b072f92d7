//! Enters the namespaces of a node, a pod or a container and becomes the given program.
//!
//! Owns every `setns`, `unshare` and `mount` of the test cluster's processes. They are made here, in a process that has one
//! thread and then calls `exec`, so nothing needs an unsafe `pre_exec`. An [`Entry`] is a value: people give
//! it by flags, the node agent as a file (`--spec`).
//!
//! Invariants: it runs before any async runtime exists. An [`Entry`] without `pid` and `join` replaces this process. With
//! them this process stays as the parent of the program, since a new process-id namespace holds children only. It passes
//! signals on, ends with the program's exit code, and the program ends when this process is killed. The process that
//! becomes the program is the one that enters a mount namespace, since the root of an image holds nothing of this program.
//!
//! The layout of a container's root is in `enter/root.rs`.

mod root;
mod supervise;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setgid, setgroups, sethostname, setsid, setuid,
};
use serde::{Deserialize, Serialize};

pub use root::{Bind, Root, is_hidden};

/// Folder of the names of `ip netns add`.
pub const NETNS_DIR: &str = "/run/netns";

/// Carries the [`Entry`] from the first stage to the second, which may no longer see the spec file.
const ENTRY_VARIABLE: &str = "PORTICO_ENTRY";

/// Exit code for a program that cannot be started, as a shell and a container runtime give it.
const CANNOT_START: u8 = 127;

/// For programs whose environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `portico-e2e enter`: run a program in the namespaces of a node, a pod or a process.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Network namespace: a name in /run/netns (a node, or `NAMESPACE_POD`) or a path
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<String>,
    /// Join all namespaces of this process (its user namespace first, where it has one of its own)
    #[arg(long, value_name = "PID")]
    join: Option<u32>,
    /// A mount namespace of its own, for --bind
    #[arg(long)]
    mount_ns: bool,
    /// Show SRC at DST (needs --mount-ns; `:ro` at the end makes it read-only)
    #[arg(long, value_name = "SRC:DST[:ro]", requires = "mount_ns")]
    bind: Vec<Bind>,
    /// Working directory of the program
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// Terminal that becomes the program's
    #[arg(long, hide = true)]
    tty: Option<PathBuf>,
    /// KEY=VALUE lines that replace the environment
    #[arg(long)]
    env_file: Option<PathBuf>,
    /// All of the above from a JSON file, as the node agent writes it
    #[arg(long, hide = true, conflicts_with_all = ["netns", "join", "mount_ns", "bind", "cwd", "env_file"])]
    spec: Option<PathBuf>,
    /// Second stage: already inside, only the last steps are left
    #[arg(long, hide = true, conflicts_with = "spec")]
    inside: bool,
    /// The program and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// All that is needed to become a program in other namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Network namespace to join, by path.
    pub netns: Option<PathBuf>,
    /// Process whose namespaces (mount, UTS, network, process ids) are joined.
    pub join: Option<u32>,
    /// A mount namespace of its own with these binds on the machine's root.
    pub mount_ns: bool,
    /// A root of its own instead: nothing written there reaches the machine.
    pub root: Option<Root>,
    /// Bind mounts; sources are paths outside the root.
    pub binds: Vec<Bind>,
    /// A process-id namespace of its own: killing its first process ends all.
    pub pid: bool,
    /// Host name, in a UTS namespace of its own.
    pub hostname: Option<String>,
    /// Working directory; `/` when none is given and there is a root of its own.
    pub cwd: Option<PathBuf>,
    /// The whole environment; none: what the caller has.
    pub env: Option<BTreeMap<String, String>>,
    /// User and group of the program; none: the caller's.
    pub user: Option<(u32, u32)>,
    /// Terminal that becomes the controlling one and stdin, stdout and stderr.
    pub tty: Option<PathBuf>,
    /// The program (looked up in PATH) and its arguments.
    pub argv: Vec<String>,
}

impl Entry {
    /// The entry that the flags describe, or an error with a remedy.
    pub fn from_args(args: &Args) -> Result<Self> {
        if let Some(path) = &args.spec {
            let text =
                std::fs::read(path).with_context(|| format!("--spec {}: cannot be read", path.display()))?;
            return serde_json::from_slice(&text).with_context(|| format!("--spec {}", path.display()));
        }
        if args.command.is_empty() {
            bail!("no program given: portico-e2e enter … -- PROGRAM [ARGS]");
        }
        let env = args.env_file.as_deref().map(read_env_file).transpose()?;
        Ok(Self {
            netns: args.netns.as_deref().map(netns_path),
            join: args.join,
            mount_ns: args.mount_ns,
            binds: args.bind.clone(),
            cwd: args.cwd.clone(),
            tty: args.tty.clone(),
            env,
            argv: args.command.clone(),
            ..Self::default()
        })
    }
}

/// The file of a network namespace given by name or path.
pub fn netns_path(name: &str) -> PathBuf {
    if name.contains('/') { PathBuf::from(name) } else { Path::new(NETNS_DIR).join(name) }
}

/// Enters and becomes the program. Returns only where a parent has to stay, or with an error.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.inside {
        let Err(error) = last_steps();
        writeln!(std::io::stderr(), "{error:#}").context("say why")?;
        return Ok(ExitCode::from(CANNOT_START));
    }
    let entry = Entry::from_args(args)?;
    if args.spec.is_some() {
        set_pdeathsig(Signal::SIGKILL).context("parent-death signal")?; // containers die with the agent
    }
    let exe = std::env::current_exe().context("own path")?;
    enter(&entry)?;
    if entry.pid || entry.join.is_some() {
        return supervise::second_stage(&exe, &entry);
    }
    finish(&entry).map(|never| match never {})
}

/// The second stage: a child, so it is in the process-id namespace that its parent made or joined.
fn last_steps() -> Result<Infallible> {
    set_pdeathsig(Signal::SIGKILL).context("parent-death signal")?;
    let text = std::env::var(ENTRY_VARIABLE)
        .with_context(|| format!("{ENTRY_VARIABLE}: set by the first stage only"))?;
    let mut entry: Entry = serde_json::from_str(&text).context(ENTRY_VARIABLE)?;
    entry.env.get_or_insert_with(|| std::env::vars().filter(|(key, _)| key != ENTRY_VARIABLE).collect());
    finish(&entry)
}

fn enter(entry: &Entry) -> Result<()> {
    if let Some(pid) = entry.join {
        join(pid)?;
    }
    if let Some(path) = &entry.netns {
        let file = File::open(path).with_context(|| {
            format!("network namespace {}: not there (`ls {NETNS_DIR}` shows what is)", path.display())
        })?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("join {}", path.display()))?;
    }
    if let Some(name) = &entry.hostname {
        unshare(CloneFlags::CLONE_NEWUTS).context("a UTS namespace")?;
        sethostname(name).with_context(|| format!("host name {name:?}"))?;
    }
    if entry.pid {
        unshare(CloneFlags::CLONE_NEWPID).context("a process-id namespace")?;
    }
    Ok(())
}

/// Joins every namespace of a process that differs from ours, except its mount namespace; the user namespace first, since it
/// gives the right to the rest.
fn join(pid: u32) -> Result<()> {
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("pid", CloneFlags::CLONE_NEWPID),
    ];
    join_each(pid, &kinds)
}

/// Joins the namespaces of these kinds that differ from ours, in this order. All are opened first: the first may hide the others.
fn join_each(pid: u32, kinds: &[(&str, CloneFlags)]) -> Result<()> {
    let mut files = Vec::new();
    for (kind, flag) in kinds {
        let theirs = format!("/proc/{pid}/ns/{kind}");
        let same =
            std::fs::read_link(&theirs).ok() == std::fs::read_link(format!("/proc/self/ns/{kind}")).ok();
        if !same {
            let file = File::open(&theirs).with_context(|| format!("process {pid}: its {kind} namespace"))?;
            files.push((kind, flag, file));
        }
    }
    for (kind, flag, file) in files {
        setns(file, *flag).with_context(|| format!("join the {kind} namespace of process {pid}"))?;
    }
    Ok(())
}

/// The last steps, by the process that becomes the program: root, /proc, terminal, directory, user.
fn finish(entry: &Entry) -> Result<Infallible> {
    if let Some(pid) = entry.join {
        // `pid` is the machine's number of the process, and so far /proc is the machine's.
        join_each(pid, &[("mnt", CloneFlags::CLONE_NEWNS)])?;
        chdir("/").context("chdir /")?;
    }
    if let Some(root) = &entry.root {
        root.build(&entry.binds)?;
        if entry.pid {
            root.mount_proc()?;
        }
    } else if entry.mount_ns {
        root::bind_only(&entry.binds)?;
    }
    if let Some(tty) = &entry.tty {
        take_terminal(tty)?;
    }
    if let Some(dir) = &entry.cwd {
        if entry.root.is_some() {
            std::fs::create_dir_all(dir).with_context(|| format!("working directory {}", dir.display()))?;
        }
        chdir(dir).with_context(|| format!("working directory {}", dir.display()))?;
    }
    if let Some((user, group)) = entry.user {
        become_user(user, group)?;
    }
    exec(&entry.argv, entry.env.as_ref())
}

/// A change of the user clears the parent-death signal.
fn become_user(user: u32, group: u32) -> Result<()> {
    let gid = Gid::from_raw(group);
    setgroups(&[gid]).and_then(|()| setgid(gid)).with_context(|| format!("become group {group}"))?;
    setuid(Uid::from_raw(user)).with_context(|| format!("become user {user}"))?;
    set_pdeathsig(Signal::SIGKILL).context("parent-death signal")
}

/// In a new session the first terminal that is opened becomes the controlling one.
fn take_terminal(path: &Path) -> Result<()> {
    setsid().context("setsid")?;
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("terminal {}", path.display()))?;
    dup2_stdin(&file).context("stdin")?;
    dup2_stdout(&file).context("stdout")?;
    dup2_stderr(&file).context("stderr")?;
    Ok(())
}

/// Finds the program in the PATH of its own environment, as a container runtime does. The standard library's `exec` also
/// gives SIGPIPE its default action back, which Rust's runtime ignores.
fn exec(argv: &[String], env: Option<&BTreeMap<String, String>>) -> Result<Infallible> {
    let (name, rest) = argv.split_first().context("no program given")?;
    let own_path = std::env::var("PATH").ok();
    let path = env.map_or(own_path.as_ref(), |env| env.get("PATH"));
    let program = find_in_path(name, path.map_or(DEFAULT_PATH, String::as_str))?;
    let mut command = Command::new(program);
    command.arg0(name).args(rest);
    if let Some(env) = env {
        command.env_clear().envs(env);
    }
    SigSet::empty().thread_set_mask().context("unblock signals")?; // the first stage's are blocked
    Err(command.exec()).with_context(|| format!("{name}: cannot be started"))
}

fn find_in_path(program: &str, path: &str) -> Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let found = path.split(':').map(|dir| Path::new(dir).join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{program}: executable file not found in PATH ({path})"))
}

fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--env-file {}", path.display()))?;
    parse_env(&text).with_context(|| format!("--env-file {}", path.display()))
}

fn parse_env(text: &str) -> Result<BTreeMap<String, String>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (key, value) = line.split_once('=').with_context(|| format!("{line:?}: want KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_namespace_of_ip_netns_and_a_path_is_itself() {
        assert_eq!(netns_path("node-1"), Path::new("/run/netns/node-1"));
        assert_eq!(netns_path("/proc/7/ns/net"), Path::new("/proc/7/ns/net"));
    }

    #[test]
    fn an_env_file_keeps_equal_signs_in_values_and_names_a_bad_line() {
        let env = parse_env("# a comment\nA=1\n\nB=x=y\n").expect("parses");
        assert_eq!(env["B"], "x=y");
        assert_eq!(env.len(), 2);
        let error = parse_env("nonsense").expect_err("no equal sign");
        assert!(error.to_string().contains("nonsense"), "{error}");
    }
}
