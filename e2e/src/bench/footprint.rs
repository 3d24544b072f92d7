//! The footprint of a process by the kernel's count: memory from `/proc/<pid>/status`, CPU time from `/proc/<pid>/stat`.

use std::{fs, time::Duration};

use anyhow::Context as _;
use nix::unistd::Pid;

/// `USER_HZ`: what `/proc` counts CPU time in, 100 on every architecture that Linux has.
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Resident set now, in MiB.
    pub resident: f64,
    /// The largest it ever was.
    pub peak: f64,
}

impl Memory {
    /// Of a running process.
    pub fn of(pid: Pid) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        parse_status(&status).with_context(|| format!("{path} has no VmRSS and VmHWM"))
    }
}

/// CPU time of a process and of its children that have ended (kube-proxy's `nft` and `iptables-restore`), to 10 ms.
pub fn cpu_time(pid: Pid) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_stat(&stat).with_context(|| format!("{path} has an unknown form"))
}

fn parse_status(status: &str) -> Option<Memory> {
    let mebibytes = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u32 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(f64::from(kibibytes) / 1024.0)
    };
    Some(Memory { resident: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")? })
}

/// Fields 14 to 17 of `proc_pid_stat(5)`: user and system time, and the same of waited-for children.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let times: Vec<u32> =
        after_name.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    (times.len() == 4).then(|| TICK * times.iter().sum::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() -> anyhow::Result<()> {
        let me = Pid::this();
        let Memory { resident, peak } = Memory::of(me)?;
        assert!(resident > 0.0 && peak >= resident, "{resident} {peak}");
        cpu_time(me)?;
        Ok(())
    }

    #[test]
    fn childrens_time_counts_and_a_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 10 20 30 40 20 0 9 0 1 2 3";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(1)));
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }

    #[test]
    fn memory_is_in_mebibytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1536 kB\n";
        assert_eq!(parse_status(status), Some(Memory { resident: 1.5, peak: 2.0 }));
    }
}
