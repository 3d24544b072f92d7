//! Network namespaces for tests: a thread that lives in one and runs what it is handed.
//!
//! Sockets belong to the namespace in which they were created, and programs start in that of their parent
//! thread. So a closure on the namespace's thread runs within the namespace.

use std::{
    env,
    fs::OpenOptions,
    io::Write,
    process::Command,
    sync::mpsc::{Sender, channel},
    thread,
};

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. Deleted on drop.
pub(crate) struct Namespace {
    jobs: Sender<Job>,
    thread: nix::unistd::Pid,
}

impl Namespace {
    /// Makes an empty namespace with its loopback up; `None` if the test is to be skipped. Where namespaces are not permitted, it
    /// fails.
    pub(crate) fn new() -> Option<Self> {
        if is_skipped() {
            return None;
        }
        let (jobs, queue) = channel::<Job>();
        let (ready, made) = channel();
        thread::spawn(move || {
            let result = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid());
            let ok = result.is_ok();
            ready.send(result).expect("the test waits");
            while ok && let Ok(job) = queue.recv() {
                job();
            }
        });
        let made = made.recv().expect("the thread answers");
        let thread =
            made.expect("a network namespace: run as root, or without them by PORTICO_SKIP=namespaces");
        let namespace = Self { jobs, thread };
        // Without duplicate address detection an IPv6 address is usable at once, and not after a second.
        namespace.sh("for d in all default; do echo 0 > /proc/sys/net/ipv6/conf/$d/accept_dad; done");
        namespace.sh("ip link set lo up");
        Some(namespace)
    }

    /// Thread id, by which `ip link set … netns` finds the namespace.
    pub(crate) fn id(&self) -> nix::unistd::Pid {
        self.thread
    }

    /// Runs `work` in the namespace and waits for it. A panic in it is a panic here.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, result) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            send.send(outcome).expect("the test waits");
        };
        self.jobs.send(Box::new(job)).expect("the namespace lives");
        result.recv().expect("the job answers").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell script that must succeed; returns what it prints.
    pub(crate) fn sh(&self, script: &str) -> String {
        let (ok, out, err) = self.try_sh(script);
        assert!(ok, "{script}\n{out}{err}");
        out
    }

    /// Runs a shell script; returns whether it succeeded, its output and its errors.
    pub(crate) fn try_sh(&self, script: &str) -> (bool, String, String) {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().expect("sh runs");
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            (output.status.success(), text(output.stdout), text(output.stderr))
        })
    }
}

/// At every test's end nft lists the tables of each namespace, as text and as JSON. nft aborts on a single rule
/// or element that it cannot print, and then nobody on the node can list rules.
impl Drop for Namespace {
    fn drop(&mut self) {
        if !thread::panicking() {
            let json = self.sh("nft list ruleset > /dev/null; nft -j list ruleset");
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "nft wrote {json}");
        }
    }
}

/// Whether `PORTICO_SKIP` (names between commas) names the namespaces; a skip is written down in the file that
/// `PORTICO_SKIPPED` names, and `make test` counts them.
fn is_skipped() -> bool {
    let names = env::var("PORTICO_SKIP").unwrap_or_default();
    let skipped = names.split(',').any(|name| name.trim() == "namespaces");
    if let (true, Ok(list)) = (skipped, env::var("PORTICO_SKIPPED")) {
        let mut list = OpenOptions::new().create(true).append(true).open(list).expect("the list of skips");
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let line = format!("namespaces: portico-nodeproxy {test}\n");
        list.write_all(line.as_bytes()).expect("one more skip");
    }
    skipped
}

/// Says that rows of a test did not run, and why.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Says something that was measured.
#[expect(
    clippy::print_stderr,
    reason = "a number for whoever runs the test with --nocapture; nothing depends on it"
)]
pub(crate) fn note(what: &str) {
    eprintln!("measured: {what}");
}
