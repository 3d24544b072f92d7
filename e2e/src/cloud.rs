//! Clouds on this machine, for tests and benches: emulators of AWS and Compute Engine, accounts in them, and a proxy in
//! front that counts calls and makes them fail.
//!
//! ```text
//! operator ──▶ FaultProxy ──▶ emulator (moto with the NLB overlay, or emulators/gce)
//!                │ names each call, and the Service it is about (`call`, `attribution`)
//!                │ throttles, fails, delays, loses, answers what was true a moment ago (`faults`)
//!                └ counts, keeps a log, stops a call until the test has killed its caller (`record`, `trap`)
//! ```
//! Owns: starting them, what is in the accounts, and the faults. Leaves to others: what the emulators answer (`emulators/`).
//! Invariants: a process started here ends with its value. It listens on loopback, or on an address of the caller's. The
//! n-th call of a kind meets the same random fault in every run of the same seed.

mod attribution;
pub mod aws;
pub mod call;
mod clouds;
mod control;
pub mod faults;
pub mod gce;
pub mod proxy;
pub mod record;
pub mod targets;
mod trap;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{net::TcpStream, time::sleep};

use crate::process::Crashes;

pub use aws::Aws;
pub use clouds::Cloud;
pub use faults::{Faults, Limits};
pub use gce::Gce;
pub use proxy::FaultProxy;
pub use targets::Targets;
pub use trap::{Moment, Trap};

/// How long an emulator may take to listen; Python reads half of botocore first.
const READY_DEADLINE: Duration = Duration::from_mins(2);

/// Logs, crashes and address of an emulator's process.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Folder of its log.
    pub logs: &'a Path,
    /// Report of its crash.
    pub crashes: &'a Crashes,
    /// Address that it listens on; `None`: a free port of loopback.
    pub address: Option<SocketAddr>,
}

impl Place<'_> {
    fn address(&self) -> anyhow::Result<SocketAddr> {
        match self.address {
            Some(address) => Ok(address),
            None => free_address(),
        }
    }
}

/// An address of loopback that no process listens on.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("taking a port of loopback")?;
    listener.local_addr().context("reading the port that was taken")
}

/// A client without the machine's proxy, and with a connection for each call. A kept connection that the other side closes
/// would be a fault beyond those that a test sets.
fn http_client() -> anyhow::Result<reqwest::Client> {
    // The client wants TLS although nothing here has any; fails where another was installed, which is as good.
    let _first = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().context("making an HTTP client")
}

/// Waits until something listens.
async fn listens(address: SocketAddr, crashes: &Crashes) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    crashes
        .or(async {
            while let Err(error) = TcpStream::connect(address).await {
                if Instant::now() >= deadline {
                    bail!("nothing listens on {address} after {READY_DEADLINE:?}: {error}");
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
        .await
}
