//! Where addresses live: on an interface of this machine, or on loopback, which has all of 127.0.0.0/8 by itself.
//!
//! Owns: calling `ip` (iproute2). Leaves to others: which addresses.
//! Invariant: adding what is there and removing what is not are done. Only single addresses (/32, /128) inside
//! the configured ranges are ever removed, so the machine's own addresses are safe.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Output;

use serde::Deserialize;
use tokio::process::Command;

/// An `ip` command that failed.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// It could not be run.
    #[error("cannot run `ip {command}`: is iproute2 installed?")]
    Run {
        /// The command line of `ip`.
        command: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// It said no.
    #[error("`ip {command}` failed: {stderr}")]
    Failed {
        /// The command line of `ip`.
        command: String,
        /// Its standard error.
        stderr: String,
    },
    /// It answered in another form.
    #[error("cannot read the answer of `ip -j address show dev {interface}`")]
    Answer {
        /// Of which interface.
        interface: String,
        /// What is wrong with the JSON, and where.
        #[source]
        source: serde_json::Error,
    },
}

/// The place of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// They already answer (loopback ranges); nothing to do.
    Loopback,
    /// They are added to this interface.
    Interface(String),
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    addr_info: Vec<AddressInfo>,
}

#[derive(Deserialize)]
struct AddressInfo {
    local: Option<IpAddr>,
    prefixlen: u8,
}

impl Placement {
    /// Makes the address answer on this machine.
    pub async fn add(&self, address: IpAddr) -> Result<(), PlacementError> {
        let Self::Interface(interface) = self else { return Ok(()) };
        if self.present().await?.contains(&address) {
            return Ok(());
        }
        let with_prefix = single(address);
        let mut arguments = vec!["address", "add", &with_prefix, "dev", interface];
        if address.is_ipv6() {
            // Duplicate address detection would leave it tentative, and not bindable, for a second.
            arguments.push("nodad");
        }
        ip(&arguments).await.map(|_output| ())
    }

    /// Takes the address away.
    pub async fn remove(&self, address: IpAddr) -> Result<(), PlacementError> {
        let Self::Interface(interface) = self else { return Ok(()) };
        if !self.present().await?.contains(&address) {
            return Ok(());
        }
        ip(&["address", "del", &single(address), "dev", interface]).await.map(|_output| ())
    }

    /// The single addresses that are on the interface.
    pub async fn present(&self) -> Result<BTreeSet<IpAddr>, PlacementError> {
        let Self::Interface(interface) = self else { return Ok(BTreeSet::new()) };
        let output = ip(&["-j", "address", "show", "dev", interface]).await?;
        let links: Vec<Link> = serde_json::from_slice(&output.stdout)
            .map_err(|source| PlacementError::Answer { interface: interface.clone(), source })?;
        let infos = links.into_iter().flat_map(|link| link.addr_info);
        Ok(infos.filter_map(|info| info.local.filter(|local| info.prefixlen == bits(*local))).collect())
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn single(address: IpAddr) -> String {
    format!("{address}/{}", bits(address))
}

async fn ip(arguments: &[&str]) -> Result<Output, PlacementError> {
    let command = arguments.join(" ");
    let output = Command::new("ip").args(arguments).output().await;
    let output = output.map_err(|source| PlacementError::Run { command: command.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PlacementError::Failed { command, stderr })
}
