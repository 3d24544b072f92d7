//! Flags about the kernel's connection tracking, with kube-proxy's names and defaults.
//!
//! Owns parsing, durations as Go writes them included. Leaves the settings to [`crate::conntrack::settings`].

use std::{path::PathBuf, time::Duration};

use clap::Args as ClapArgs;

use super::Unreadable;

/// Directory of the settings of a network namespace.
pub const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// Settings of the kernel's connection tracking. 0 leaves a setting as it is.
#[derive(Clone, Debug, PartialEq, Eq, ClapArgs)]
#[command(next_help_heading = "Connection tracking")]
pub struct ConntrackArgs {
    /// Connections that may be tracked for each processor; a limit that is higher already stays. 0: as it is.
    #[arg(long, default_value_t = 32_768)]
    pub conntrack_max_per_core: u32,
    /// Connections that may be tracked at least, however few processors there are.
    #[arg(long, default_value_t = 131_072)]
    pub conntrack_min: u32,
    /// Timeout of an idle TCP connection. 0s: as it is.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub conntrack_tcp_timeout_established: Duration,
    /// Timeout of a TCP connection that only one side has closed. 0s: as it is.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub conntrack_tcp_timeout_close_wait: Duration,
    /// Timeout of a UDP flow without an answer. 0s: as it is.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub conntrack_udp_timeout: Duration,
    /// Timeout of a UDP flow with answers. 0s: as it is.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub conntrack_udp_timeout_stream: Duration,
    /// Make TCP packets outside of the window valid. Without it the proxy drops those of pods, because the
    /// kernel does not rewrite their addresses and the client would reset the connection.
    #[arg(long)]
    pub conntrack_tcp_be_liberal: bool,
    /// Directory of the settings, for a container that has them mounted elsewhere to be able to write them.
    #[arg(long, default_value = SYSCTLS)]
    pub conntrack_sysctls: PathBuf,
}

/// A duration as Go writes it: `24h0m0s`, `1h`, `90s`, `0`.
fn duration(text: &str) -> Result<Duration, Unreadable> {
    let unreadable = || Unreadable(format!("\"{text}\" is no duration; write it like 24h, 1h30m or 90s"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(unreadable)?;
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_too_large| unreadable())?;
        let (seconds, length) = match unit.as_bytes() {
            [b'h', ..] => (3600, 1),
            [b'm', ..] => (60, 1),
            [b's', ..] => (1, 1),
            _ => return Err(unreadable()),
        };
        let part = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(unreadable)?;
        total = total.checked_add(part).ok_or_else(unreadable)?;
        rest = &unit[length..];
    }
    if text.is_empty() { Err(unreadable()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in
            [("24h0m0s", 86_400), ("1h", 3600), ("1h30m", 5400), ("90s", 90), ("0s", 0), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "10", "1d", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
