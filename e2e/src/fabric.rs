//! The network of a cluster: addresses of hosts, and their namespaces and links. The sandbox's own namespace is the fabric,
//! a bridge with the control plane on it. Nodes, the load balancer and the outside host are namespaces with one `eth0`
//! each on that bridge.
//!
//! The commands are text for `ip -batch` (pure), and run once per namespace. Pods' links belong to the node agents.

pub mod routes;

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Address of the API server.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Address of the load balancer's API.
pub const LOAD_BALANCER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// A host outside the cluster.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 100);
/// The addresses that the load balancer gives out.
pub const LOAD_BALANCER_RANGE: &str = "172.30.10.0/24";
/// Range of each ClusterIP.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The same of IPv6, in a dual-stack cluster.
pub const SERVICE_CIDR_V6: &str = "fd96::/112";
/// The `kubernetes` Service's address: the first one of [`SERVICE_CIDR`].
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// ClusterIP of DNS, in pods' `resolv.conf`.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Pods' addresses; the controller-manager gives each node a /24 of it.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// The same of IPv6, in a dual-stack cluster: a /64 for each node.
pub const POD_CIDR_V6: &str = "fd44::/56";

/// Length of the fabric's prefix.
const PREFIX: u8 = 16;
/// The same of IPv6.
const PREFIX_V6: u8 = 64;

/// Address families of a cluster's pods and Services. The fabric itself always has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Nodes, pods and Services have IPv4 alone.
    #[default]
    V4,
    /// Both; what does not ask for a family gets IPv4.
    Both,
}

/// The IPv6 address on the fabric that belongs to an IPv4 address there.
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, third, fourth] = address.octets();
    Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, u16::from(third), u16::from(fourth))
}

/// A network namespace on the fabric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// Its name, as `ip netns` shows it.
    pub name: String,
    /// The address of its `eth0`.
    pub address: Ipv4Addr,
    /// Whether it forwards for others and reaches what it has no route for by the fabric: a node.
    pub is_router: bool,
}

impl Host {
    /// Node `number`, from 1 to 254.
    pub fn node(number: u8) -> Self {
        Self { name: format!("node-{number}"), address: Ipv4Addr::new(172, 30, 1, number), is_router: true }
    }

    /// The host of `portico-lb`.
    pub fn load_balancer() -> Self {
        Self { name: "lb".to_owned(), address: LOAD_BALANCER, is_router: false }
    }

    /// The host outside the cluster: it shares the wire with the nodes, and knows no route to pods or Services.
    pub fn outside() -> Self {
        Self { name: "outside".to_owned(), address: OUTSIDE, is_router: false }
    }

    /// The addresses of its `eth0` that a cluster of these families uses.
    pub fn addresses(&self, families: Families) -> Vec<IpAddr> {
        let twin = (families == Families::Both).then(|| twin(self.address).into());
        std::iter::once(self.address.into()).chain(twin).collect()
    }

    /// Path of its network namespace, inside the sandbox.
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    fn outer_link(&self) -> String {
        format!("v-{}", self.name)
    }
}

/// Whether an address is one of the fabric's.
fn is_on_fabric(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == CONTROL_PLANE.octets()[..2], // its prefix is a /16
        IpAddr::V6(address) => address.segments()[..4] == twin(CONTROL_PLANE).segments()[..4], // … a /64
    }
}

/// Makes the bridge in the sandbox's own namespace.
pub fn create() -> anyhow::Result<()> {
    ip_batch(None, &bridge_batch())?;
    // Where br_netfilter is loaded, bridged packets would pass the fabric's hooks and connection tracking a second time.
    for family in ["iptables", "ip6tables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if std::path::Path::new(&path).exists() {
            std::fs::write(&path, "0").with_context(|| format!("writing {path}"))?;
        }
    }
    Ok(())
}

/// Makes `host`'s namespace and plugs it into the bridge.
pub fn attach(host: &Host) -> anyhow::Result<()> {
    run(Command::new("ip").args(["netns", "add", &host.name]))?;
    ip_batch(None, &outer_batch(host))?;
    ip_batch(Some(&host.name), &inner_batch(host))?;
    let mut sysctls = vec!["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"];
    if host.is_router {
        sysctls.extend(["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        // As network plugins do for pods' devices: while a link-local address is checked for duplicates, a second or two,
        // the kernel sends no neighbor solicitation for the pod, and its first connections over IPv6 wait.
        sysctls.push("net.ipv6.conf.default.accept_dad=0");
    }
    run(Command::new("nsenter")
        .arg(format!("--net={}", host.netns()))
        .args(["sysctl", "-q", "-w"])
        .args(sysctls))
}

/// Takes `host` off the bridge, with its namespace.
pub fn detach(host: &Host) -> anyhow::Result<()> {
    ip_batch(None, &format!("link del {}\n", host.outer_link()))?;
    run(Command::new("ip").args(["netns", "del", &host.name]))
}

fn bridge_batch() -> String {
    let twin = twin(CONTROL_PLANE);
    format!(
        "link add fabric type bridge\naddr add {CONTROL_PLANE}/{PREFIX} dev fabric\n\
         addr add {twin}/{PREFIX_V6} dev fabric nodad\nlink set fabric up\n"
    )
}

fn outer_batch(host: &Host) -> String {
    let (link, name) = (host.outer_link(), &host.name);
    format!(
        "link add {link} type veth peer name eth0 netns {name}\nlink set {link} master fabric\nlink set {link} up\n"
    )
}

fn inner_batch(host: &Host) -> String {
    let (address, second) = (host.address, twin(host.address));
    let link = format!(
        "link set lo up\naddr add {address}/{PREFIX} dev eth0\naddr add {second}/{PREFIX_V6} dev eth0 nodad\n\
         link set eth0 up\n"
    );
    if !host.is_router {
        return link;
    }
    // As on a real node. Without it the kernel would refuse a connection to a Service's address before the node proxy's
    // rules see it. The fabric itself forwards nothing, so what has no rule gets no answer.
    format!("{link}route add default via {CONTROL_PLANE}\nroute add ::/0 via {}\n", twin(CONTROL_PLANE))
}

/// Runs `ip -batch` in a named namespace, or in the sandbox's own.
pub(crate) fn ip_batch(netns: Option<&str>, batch: &str) -> anyhow::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-netns", netns]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("starting `ip`: install iproute2")?;
    child
        .stdin
        .take()
        .context("`ip` has no stdin")?
        .write_all(batch.as_bytes())
        .context("writing to `ip -batch`")?;
    let done = child.wait_with_output().context("waiting for `ip -batch`")?;
    if !done.status.success() {
        bail!("`ip -batch` failed: {}\nwith\n{batch}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output().with_context(|| format!("starting {}", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{command:?} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_have_a_default_route() {
        assert!(inner_batch(&Host::node(1)).contains("route add default via 172.30.0.1"));
        assert!(!inner_batch(&Host::outside()).contains("route"));
    }

    #[test]
    fn link_names_fit_the_kernels_fifteen_bytes() {
        for host in [Host::node(254), Host::load_balancer(), Host::outside()] {
            assert!(host.outer_link().len() <= 15, "{}", host.outer_link());
        }
    }
}
