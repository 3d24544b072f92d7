//! A pod's network: a namespace joined to the node's by a pair of virtual devices, point to point.
//!
//! ```text
//! node netns                                    pod netns
//! vethXXXX  GATEWAY/32 ◀────────────────────▶  eth0  POD_IP/32
//! route POD_IP/32 dev vethXXXX                  route GATEWAY dev eth0, default via GATEWAY
//! ```
//! As CNI's ptp plugin does: every packet between pods is routed and so seen by the node's netfilter hooks, which a bridge would
//! bypass. Owns the commands of `ip`; leaves addresses to `ipam.rs`. Invariants: deleting what is absent succeeds; the pod's
//! namespace name is `NAMESPACE_POD`; nothing but these two devices and the route is touched.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::enter::NETNS_DIR;

/// One pod's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Name in /run/netns.
    pub(crate) netns: String,
    /// Device on the node's side, 15 bytes at most.
    pub(crate) device: String,
}

impl Link {
    /// Names from the pod's; a device name has no room for more than a part of the UID.
    pub(crate) fn of(namespace: &str, name: &str, uid: &str) -> Self {
        let part: String = uid.chars().filter(char::is_ascii_hexdigit).take(11).collect();
        Self { netns: format!("{namespace}_{name}"), device: format!("veth{part}") }
    }

    /// The namespace's file.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.netns)
    }

    /// Makes namespace, devices, addresses and routes; an address and its gateway for each family.
    pub(crate) async fn connect(&self, addresses: &[(IpAddr, IpAddr)]) -> Result<()> {
        self.disconnect().await?; // what an agent before us left
        let (node, pod) = self.commands(addresses);
        ip(&["netns", "add", &self.netns], "").await?;
        ip(&["-batch", "-"], &node).await?;
        ip(&["-n", &self.netns, "-batch", "-"], &pod).await
    }

    /// Batches for the node's side and the pod's.
    fn commands(&self, addresses: &[(IpAddr, IpAddr)]) -> (String, String) {
        let Self { netns, device } = self;
        let mut node =
            format!("link add {device} type veth peer name eth0 netns {netns}\nlink set {device} up\n");
        let mut pod = "link set lo up\nlink set eth0 up\n".to_owned();
        for (address, gateway) in addresses {
            let (length, nodad, any) = match address {
                IpAddr::V4(_) => (32, "", "0.0.0.0/0"),
                IpAddr::V6(_) => (128, " nodad", "::/0"),
            };
            node.extend([
                format!("addr add {gateway}/{length} dev {device}{nodad}\n"),
                format!("route add {address}/{length} dev {device}\n"),
            ]);
            pod.extend([
                format!("addr add {address}/{length} dev eth0{nodad}\n"),
                format!("route add {gateway}/{length} dev eth0 scope link\n"),
                format!("route add {any} via {gateway} dev eth0\n"),
            ]);
        }
        (node, pod)
    }

    /// Takes both away. The device first: the namespace may be held by a process a little longer.
    pub(crate) async fn disconnect(&self) -> Result<()> {
        if self.device_exists().await {
            ip(&["link", "del", &self.device], "").await?;
        }
        if self.path().exists() {
            ip(&["netns", "del", &self.netns], "").await?;
        }
        Ok(())
    }

    /// Asked of the kernel: /sys may show another namespace's devices.
    async fn device_exists(&self) -> bool {
        ip(&["link", "show", "dev", &self.device], "").await.is_ok()
    }
}

async fn ip(args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("ip: not there; install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.context("ip: its input")?;
    }
    let output = child.wait_with_output().await.context("ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Link {
    /// As kept in the pod's directory, for an agent after this one.
    pub(crate) fn to_line(&self) -> String {
        let Self { netns, device } = self;
        format!("{netns} {device}")
    }

    /// Parses the output of [`Link::to_line`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (netns, device) = text.trim().split_once(' ')?;
        Some(Self { netns: netns.to_owned(), device: device.to_owned() })
    }
}

#[cfg(test)]
mod tests;
