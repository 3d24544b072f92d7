//! Flags about the userspace proxy, which also serves NodePorts on localhost.
//!
//! Owns parsing, and the proxy's options.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::{Unreadable, seconds};
use crate::dataplane::userspace::{pool::Choice, proxy::Options};

/// Options of the userspace proxy.
#[derive(Clone, Copy, Debug, ClapArgs)]
#[command(next_help_heading = "Userspace proxy")]
pub struct UserspaceArgs {
    /// Choice of an endpoint for a client without session affinity.
    #[arg(long, value_enum, default_value_t = Choice::Random)]
    pub userspace_choice: Choice,
    /// Timeout of an idle UDP flow, in seconds. A flow with one question and its answer is closed after 30 s at
    /// most.
    #[arg(long, default_value = "120", value_parser = idle_seconds)]
    pub udp_timeout: Duration,
}

impl UserspaceArgs {
    /// The proxy's options; `mark` is that of its own packets.
    pub fn options(self, mark: Option<u32>) -> Options {
        let Self { userspace_choice: choice, udp_timeout } = self;
        Options { choice, udp_timeout, mark }
    }
}

fn idle_seconds(text: &str) -> Result<Duration, Unreadable> {
    seconds(text).and_then(|seconds| {
        if seconds.is_zero() {
            Err(Unreadable("a flow must be kept for at least a second".to_owned()))
        } else {
            Ok(seconds)
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::Args, *};

    fn options(args: &[&str]) -> Options {
        let args = ["portico-nodeproxy"].iter().chain(args);
        Args::try_parse_from(args).expect("parses").userspace.options(Some(0x4000))
    }

    #[test]
    fn the_proxy_gets_the_values_of_the_flags() {
        let (two_minutes, mark) = (Duration::from_mins(2), Some(0x4000));
        assert_eq!(options(&[]), Options { choice: Choice::Random, udp_timeout: two_minutes, mark });
        assert_eq!(
            options(&["--udp-timeout=7", "--userspace-choice=round-robin"]),
            Options { choice: Choice::RoundRobin, udp_timeout: Duration::from_secs(7), mark }
        );
    }
}
