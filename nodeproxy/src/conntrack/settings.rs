//! The kernel's settings of connection tracking, as kube-proxy sets them (`pkg/proxy/conntrack/sysctls.go`).
//!
//! Owns the meaning of each flag, and the writes. Invariants: a limit is never lowered, because an
//! administrator may have raised it. A value that is right is not written. A failed write is reported, and
//! traffic does not depend on it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::args::conntrack::ConntrackArgs;

/// Most connections that the number of processors leads to (kube-proxy's limit).
const MOST: u64 = 1 << 20;
/// Connections for each chain of the kernel's hash table.
const PER_BUCKET: u64 = 4;
/// Setting that makes packets outside of the window valid.
const BE_LIBERAL: &str = "nf_conntrack_tcp_be_liberal";

/// One setting and its wanted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of its file under `/proc/sys/net/netfilter`.
    pub name: &'static str,
    /// The value that the flags ask for.
    pub value: u64,
    /// Whether a higher value is right, too.
    pub at_least: bool,
}

/// A setting that could not be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} cannot be set to {value}; set it on the node (sysctl net.netfilter), let the container write it (the chart's \
     nodeproxy.conntrack.manage), or set its flag to 0", .path.display()
)]
pub struct Unset {
    path: PathBuf,
    value: u64,
    #[source]
    source: io::Error,
}

/// Settings that follow from the flags on a machine with so many processors.
pub fn wanted(args: &ConntrackArgs, processors: u64) -> Vec<Setting> {
    let ConntrackArgs {
        conntrack_max_per_core,
        conntrack_min,
        conntrack_tcp_timeout_established,
        conntrack_tcp_timeout_close_wait,
        conntrack_udp_timeout,
        conntrack_udp_timeout_stream,
        conntrack_tcp_be_liberal,
        conntrack_sysctls: _,
    } = args;
    let per_core = u64::from(*conntrack_max_per_core);
    let max = (per_core > 0).then(|| (per_core * processors).max(u64::from(*conntrack_min)).min(MOST));
    let exactly = |name, value| Setting { name, value, at_least: false };
    let at_least = |name, value| Setting { name, value, at_least: true };
    let limits = max.into_iter().flat_map(|max| {
        [at_least("nf_conntrack_max", max), at_least("nf_conntrack_buckets", max / PER_BUCKET)]
    });
    let timeouts = [
        ("nf_conntrack_tcp_timeout_established", conntrack_tcp_timeout_established),
        ("nf_conntrack_tcp_timeout_close_wait", conntrack_tcp_timeout_close_wait),
        ("nf_conntrack_udp_timeout", conntrack_udp_timeout),
        ("nf_conntrack_udp_timeout_stream", conntrack_udp_timeout_stream),
    ];
    let timeouts = timeouts.into_iter().filter(|(_, timeout)| timeout.as_secs() > 0);
    let liberal = conntrack_tcp_be_liberal.then(|| exactly(BE_LIBERAL, 1));
    limits.chain(timeouts.map(|(name, timeout)| exactly(name, timeout.as_secs()))).chain(liberal).collect()
}

/// The settings to write. An unreadable one is written, and the write then returns the error.
pub fn plan(wanted: Vec<Setting>, current: impl Fn(&str) -> Option<u64>) -> Vec<Setting> {
    let is_right = |setting: &Setting| {
        current(setting.name)
            .is_some_and(|now| now == setting.value || (setting.at_least && now > setting.value))
    };
    wanted.into_iter().filter(|setting| !is_right(setting)).collect()
}

/// Writes the settings, and returns those that failed.
pub fn apply(args: &ConntrackArgs, processors: u64) -> Vec<Unset> {
    let dir = &args.conntrack_sysctls;
    let mut unset = Vec::new();
    for Setting { name, value, at_least: _ } in plan(wanted(args, processors), |name| read(dir, name)) {
        let path = dir.join(name);
        match fs::write(&path, value.to_string()) {
            Ok(()) => tracing::info!(name, value, "a setting of connection tracking"),
            Err(source) => unset.push(Unset { path, value, source }),
        }
    }
    unset
}

/// Whether the kernel treats TCP packets outside of the window as valid.
pub fn is_liberal(args: &ConntrackArgs) -> bool {
    read(&args.conntrack_sysctls, BE_LIBERAL).is_some_and(|value| value != 0)
}

fn read(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// Processors of the machine, not of the container.
pub fn processors() -> u64 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let counted = online.and_then(|list| count(&list)).filter(|count| *count > 0);
    counted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64))
}

/// Number of processors in a list like `0-3,6`.
fn count(numbers: &str) -> Option<u64> {
    numbers.trim().split(',').try_fold(0u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some(sum + (last + 1).checked_sub(first)?)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    fn mk_args(flags: &[&str]) -> ConntrackArgs {
        Args::parse_from(["portico-nodeproxy"].iter().chain(flags)).conntrack
    }

    fn values(flags: &[&str], processors: u64) -> BTreeMap<&'static str, u64> {
        wanted(&mk_args(flags), processors).into_iter().map(|setting| (setting.name, setting.value)).collect()
    }

    #[test]
    fn the_defaults_are_those_of_kube_proxy() {
        let small = values(&[], 2);
        assert_eq!(small["nf_conntrack_max"], 131_072);
        assert_eq!(small["nf_conntrack_buckets"], 32_768);
        assert_eq!(small["nf_conntrack_tcp_timeout_established"], 86_400);
        assert_eq!(small["nf_conntrack_tcp_timeout_close_wait"], 3600);
        assert_eq!(small.len(), 4, "UDP and liberality stay as they are");
        assert_eq!(values(&[], 16)["nf_conntrack_max"], 524_288);
        assert_eq!(values(&[], 128)["nf_conntrack_max"], MOST);
    }

    #[test]
    fn zero_leaves_a_setting_alone() {
        let flags = [
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ];
        assert!(values(&flags, 2).is_empty());
        let all = [
            "--conntrack-udp-timeout=10s",
            "--conntrack-udp-timeout-stream=1m",
            "--conntrack-tcp-be-liberal",
        ];
        assert_eq!(values(&all, 2).len(), 7);
    }

    #[test]
    fn a_limit_is_never_lowered_and_what_is_right_is_not_written() {
        let now = BTreeMap::from([
            ("nf_conntrack_max", 1_000_000),
            ("nf_conntrack_buckets", 1024),
            ("nf_conntrack_tcp_timeout_established", 432_000),
            ("nf_conntrack_tcp_timeout_close_wait", 3600),
        ]);
        let steps = plan(wanted(&mk_args(&[]), 2), |name| now.get(name).copied());
        let names: Vec<_> = steps.iter().map(|setting| setting.name).collect();
        assert_eq!(names, ["nf_conntrack_buckets", "nf_conntrack_tcp_timeout_established"]);
    }

    #[test]
    fn what_cannot_be_written_is_named_with_the_remedy() {
        let args = mk_args(&["--conntrack-sysctls=/proc/no-such-folder"]);
        let unset = apply(&args, 2);
        assert_eq!(unset.len(), 4);
        let text = unset[0].to_string();
        assert!(text.contains("/proc/no-such-folder/nf_conntrack_max") && text.contains("sysctl"), "{text}");
        assert!(!is_liberal(&args), "unknown is not liberal: such packets are then dropped");
    }

    #[test]
    fn processors_are_counted_from_the_kernels_list() {
        assert_eq!(count("0-3,6\n"), Some(5));
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count(""), None);
        assert_eq!(count("3-1"), None);
    }
}
