//! The flags of `portico-lb`.
//!
//! Owns: flags and what can be wrong with them. Leaves to others: acting on them (`run`).
//! Invariant: what parses can be started; errors name the flag and the remedy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;

use super::placement::Placement;

/// A TCP and UDP load balancer for one machine, with an API.
#[derive(Clone, Debug, Parser)]
#[command(name = "portico-lb", version)]
pub struct Args {
    /// Addresses to give to load balancers, in order; may be repeated, IPv4 and IPv6.
    #[arg(long = "range", required = true, value_name = "CIDR")]
    pub ranges: Vec<IpNet>,

    /// Interface that gets the addresses (`ip address add ADDRESS/32 dev …`). Without it all ranges must be in
    /// 127.0.0.0/8, which answers by itself.
    #[arg(long)]
    pub interface: Option<String>,

    /// The listening address of the API.
    #[arg(long, default_value = "127.0.0.1:9440")]
    pub listen: SocketAddr,

    /// File with the bearer token that clients of the API show.
    #[arg(long)]
    pub token_file: PathBuf,

    /// Directory that keeps the state.
    #[arg(long)]
    pub state_dir: PathBuf,

    /// How long a new load balancer is `provisioning` before it has its address.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub provisioning_delay: Duration,

    /// How long connections may go on after their target, listener or load balancer left, and after SIGTERM.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// How long a UDP flow lives without a packet.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub udp_idle_timeout: Duration,

    /// How long a target may take to accept before another is tried.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub connect_timeout: Duration,
}

impl Args {
    /// Where addresses live; an error if they could not answer there.
    pub fn placement(&self) -> anyhow::Result<Placement> {
        if let Some(interface) = &self.interface {
            return Ok(Placement::Interface(interface.clone()));
        }
        match self.ranges.iter().find(|range| !range.addr().is_loopback()) {
            Some(range) => {
                anyhow::bail!("--range {range} is outside 127.0.0.0/8, so --interface is needed too")
            }
            None => Ok(Placement::Loopback),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    portico_provider::parse_duration(text).ok_or_else(|| "must be like 30s, 500ms or 5m".to_owned())
}
