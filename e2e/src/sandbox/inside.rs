//! The first things done inside a fresh sandbox, as its PID 1: a private /run (named network namespaces, pods' secrets),
//! and loopback. Mount propagation is already private, so none of it is seen outside.

use std::{fs, process::Command};

use anyhow::{Context as _, bail};
use nix::mount::{MsFlags, mount};

/// Makes the sandbox fit for a cluster.
pub(super) fn prepare() -> anyhow::Result<()> {
    // What the machine's /run offers to programs is not for the cluster, and `ip netns` must not meet the machine's names.
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .context("mounting a private /run")?;
    fs::create_dir_all("/run/netns").context("making /run/netns")?;
    // sysfs shows the network devices of the namespace that mounted it; the machine's would name the machine's devices.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, None::<&str>)
        .context("mounting /sys of the sandbox's network namespace")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("running `ip`: install iproute2")?;
    if !status.success() {
        bail!("`ip link set lo up` ended with {status}");
    }
    Ok(())
}
