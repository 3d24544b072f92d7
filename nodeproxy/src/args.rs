//! The command line, with kube-proxy's names where kube-proxy has the flag.
//!
//! Owns parsing, and the messages for wrong values. Leaves the meaning to the modules that take the values.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args as ClapArgs, Parser, ValueEnum};
use ipnet::IpNet;
use portico_runtime::log::LogArgs;

use crate::sloppy;

pub mod command;
pub mod conntrack;
pub mod local;
pub mod userspace;

/// Makes Services reachable on this node: cluster IPs, node ports, load-balancer VIPs.
#[derive(Clone, Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Ask a running proxy instead of serving.
    #[command(subcommand)]
    pub command: Option<command::Command>,
    /// Remove everything of Portico from this node's kernel and exit.
    #[arg(long)]
    pub cleanup: bool,
    /// With --cleanup: wait for a signal afterwards, so that the pod of a `DaemonSet` stays.
    #[arg(long, requires = "cleanup")]
    pub stay: bool,
    /// Dataplane that forwards the packets.
    #[arg(long, value_enum, default_value_t = DataplaneKind::Nftables)]
    pub dataplane: DataplaneKind,
    /// The API server and this node's name.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Services to forward, and how.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// The userspace proxy, which also serves NodePorts on localhost.
    #[command(flatten)]
    pub userspace: userspace::UserspaceArgs,
    /// The kernel's connection tracking.
    #[command(flatten)]
    pub conntrack: conntrack::ConntrackArgs,
    /// Ports that this process listens on.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How much is logged, and how.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// The API server, and this node's name.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Name of this node's Node object. Default: the variable `NODE_NAME`.
    #[arg(long, env = "NODE_NAME")]
    pub hostname_override: Option<String>,
    /// Path of a kubeconfig. Default: KUBECONFIG, or the service account of the pod.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Serve only Services whose label `service.kubernetes.io/service-proxy-name` has this value. Default: only
    /// those without the label.
    #[arg(long)]
    pub service_proxy_name: Option<String>,
    /// Remove taint `portico.dev/nodeproxy-not-ready` from this node's Node object once its Services work. A
    /// node that is registered with the taint starts no pods before.
    #[arg(long)]
    pub remove_startup_taint: bool,
}

/// Services to forward, and how.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Ports that NodePorts may have: the API server's --service-node-port-range.
    #[arg(long, default_value = "30000-32767")]
    pub node_port_range: PortRange,
    /// Node addresses on which NodePorts answer, comma separated: `primary` (the node's own), `all` (but loopback),
    /// `localhost` (127.0.0.1 and `::1`, for the node itself), CIDRs.
    #[arg(long, default_value = "primary")]
    pub nodeport_addresses: NodePortAddresses,
    /// Recognition of pods.
    #[command(flatten)]
    pub local: local::LocalArgs,
    /// Masquerade all traffic to `ClusterIP`s.
    #[arg(long)]
    pub masquerade_all: bool,
    /// Bit of the packet mark, 0 to 31, for packets to masquerade. No other program on the node may use it.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..32))]
    pub masquerade_bit: u8,
    /// Serve `spec.externalIPs`. Anyone who may create Services can then take any address (CVE-2020-8554).
    #[arg(long)]
    pub allow_external_ips: bool,
}

/// Ports that this process listens on.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Address of /healthz (for load balancers) and /livez.
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = healthz_address)]
    pub healthz_bind_address: SocketAddr,
    /// Address of /metrics and /proxyMode.
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = metrics_address)]
    pub metrics_bind_address: SocketAddr,
    /// Path of the Unix socket for `portico-nodeproxy trace`, `explain` and `dump`. Only root may use it. If it
    /// cannot be created, the proxy warns and serves all the same.
    #[arg(long, default_value = command::ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Seconds to wait for those ports, while a predecessor still has them.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub bind_timeout: Duration,
}

/// Dataplane that forwards the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataplaneKind {
    /// nf_tables, through netlink.
    Nftables,
    /// This process: it accepts connections and opens one to an endpoint for each. Endpoints see the node's
    /// address.
    Userspace,
}

/// A range of ports, both ends included, written `30000-32767`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

/// Addresses of the node on which NodePorts answer: the union of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses(pub Vec<NodePortAddress>);

/// Some addresses of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The first `InternalIP` of each family of the Node object, or the first `ExternalIP` of a family without.
    Primary,
    /// Every address of the node but loopback and link-local ones.
    All,
    /// 127.0.0.1 and `::1`, the loopback addresses.
    Localhost,
    /// Addresses of the node in this range. A range within 127.0.0.0/8, and `::1/128`, means `localhost`, as
    /// with kube-proxy.
    Cidr(IpNet),
}

/// A value that does not parse, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl FromStr for PortRange {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let unreadable = || Unreadable(format!("\"{text}\" is no range of ports; write it like 30000-32767"));
        let (first, last) = text.split_once('-').ok_or_else(unreadable)?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = port(first).zip(port(last)).ok_or_else(unreadable)?;
        if first > last {
            return Err(Unreadable(format!(
                "\"{text}\" ends before it begins; write the smaller port first"
            )));
        }
        Ok(Self(first..=last))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl FromStr for NodePortAddresses {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl NodePortAddresses {
    /// Whether NodePorts answer on localhost.
    pub fn has_localhost(&self) -> bool {
        self.0.contains(&NodePortAddress::Localhost)
    }
}

impl FromStr for NodePortAddress {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            "localhost" => Ok(Self::Localhost),
            _ => match sloppy::cidr(text) {
                Some(net) if net.network().is_loopback() && net.broadcast().is_loopback() => {
                    Ok(Self::Localhost)
                }
                Some(net) => Ok(Self::Cidr(net)),
                None => Err(Unreadable(format!(
                    "\"{text}\" is neither primary, nor all, nor localhost, nor a CIDR like 192.0.2.0/24"
                ))),
            },
        }
    }
}

/// A CIDR, as kube-proxy reads it.
fn cidr(text: &str) -> Result<IpNet, Unreadable> {
    sloppy::cidr(text.trim())
        .ok_or_else(|| Unreadable(format!("\"{text}\" is no CIDR; write it like 10.1.0.0/16 or fd01::/48")))
}

fn healthz_address(text: &str) -> Result<SocketAddr, Unreadable> {
    listening_address(text, 10256)
}

fn metrics_address(text: &str) -> Result<SocketAddr, Unreadable> {
    listening_address(text, 10249)
}

/// An address with a port, as kube-proxy reads it. Without a port it gets this one.
fn listening_address(text: &str, port: u16) -> Result<SocketAddr, Unreadable> {
    let with_port = || sloppy::ip(text).map(|address| SocketAddr::new(address, port));
    sloppy::ip_and_port(text).or_else(with_port).ok_or_else(|| {
        Unreadable(format!(
            "\"{text}\" is no address with a port; write it like 0.0.0.0:{port} or [::]:{port}"
        ))
    })
}

fn seconds(text: &str) -> Result<Duration, Unreadable> {
    let seconds = text.trim_end_matches('s').parse();
    seconds
        .map(Duration::from_secs)
        .map_err(|error| Unreadable(format!("\"{text}\" is no number of seconds ({error})")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn error(args: &[&str]) -> String {
        let args = ["portico-nodeproxy"].iter().chain(args);
        Args::try_parse_from(args).expect_err("should be refused").to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_kube_proxy() {
        let args = Args::try_parse_from(["portico-nodeproxy"]).expect("no flag is needed");
        assert_eq!(args.listen.healthz_bind_address.port(), 10256);
        assert_eq!(args.listen.metrics_bind_address.to_string(), "127.0.0.1:10249");
        assert_eq!(args.traffic.nodeport_addresses, NodePortAddresses(vec![NodePortAddress::Primary]));
        assert_eq!(args.traffic.masquerade_bit, 14);
    }

    #[test]
    fn cidrs_of_both_families_are_taken() {
        let args =
            ["portico-nodeproxy", "--cluster-cidr=10.1.0.0/16,fd01::/48", "--detect-local-mode=clustercidr"];
        let args = Args::try_parse_from(args).expect("two CIDRs");
        assert_eq!(args.traffic.local.cluster_cidr.len(), 2);
    }

    #[test]
    fn node_port_addresses_mix_words_and_ranges_and_ranges_of_loopback_are_localhost() {
        let parse = |text: &str| text.parse::<NodePortAddresses>().expect("parses").0;
        assert_eq!(parse("primary, localhost"), [NodePortAddress::Primary, NodePortAddress::Localhost]);
        assert_eq!(parse("127.0.0.0/8,::1/128"), [NodePortAddress::Localhost; 2]);
        let open = "0.0.0.0/0".parse().expect("a CIDR");
        assert_eq!(parse("0.0.0.0/0,all"), [NodePortAddress::Cidr(open), NodePortAddress::All]);
    }

    /// Each row: a flag, a value as Kubernetes has always read it, and the same as it is written today.
    #[test]
    fn flags_read_addresses_as_kube_proxy_reads_them() {
        for (flag, old, new) in [
            ("--cluster-cidr", "010.001.0.0/016", "10.1.0.0/16"),
            ("--cluster-cidr", "::ffff:10.1.0.0/112", "10.1.0.0/16"),
            ("--cluster-cidr", "10.1.2.3/16", "10.1.0.0/16"),
            ("--cluster-cidr", "10.1.0.0/16,fd01:0000::/048", "10.1.0.0/16,fd01::/48"),
            ("--nodeport-addresses", "192.000.002.000/024", "192.0.2.0/24"),
            ("--nodeport-addresses", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("--nodeport-addresses", "127.000.0.0/08", "localhost"),
            ("--healthz-bind-address", "000.0.0.0:10256", "0.0.0.0:10256"),
            ("--healthz-bind-address", "0.0.0.0", "0.0.0.0:10256"),
            ("--healthz-bind-address", "::", "[::]:10256"),
            ("--metrics-bind-address", "[::ffff:127.0.0.1]:10249", "127.0.0.1:10249"),
            ("--metrics-bind-address", "127.0.0.01", "127.0.0.1:10249"),
        ] {
            let parse = |value: &str| {
                let args = Args::try_parse_from(["portico-nodeproxy".to_owned(), format!("{flag}={value}")]);
                let Args { traffic, listen, .. } = args.expect("parses");
                let addresses = (listen.healthz_bind_address, listen.metrics_bind_address);
                (traffic.local.cluster_cidr, traffic.nodeport_addresses, addresses)
            };
            assert_eq!(parse(old), parse(new), "{flag}={old}");
        }
    }

    #[test]
    fn flags_refuse_what_kube_proxy_refuses() {
        for bad in [
            "--cluster-cidr=10.1.0.0/33",
            "--cluster-cidr=10.1.0/16",
            "--nodeport-addresses=10.0.0.1",
            "--healthz-bind-address=:10256",
            "--metrics-bind-address=localhost:10249",
        ] {
            let (flag, value) = bad.split_once('=').expect("a flag with a value");
            let error = error(&[bad]);
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag_and_the_remedy() {
        let cases: [(&[&str], &str, &str); 6] = [
            (&["--udp-timeout=0"], "--udp-timeout", "at least a second"),
            (&["--node-port-range=32767-30000"], "--node-port-range", "smaller port first"),
            (&["--node-port-range=high"], "--node-port-range", "30000-32767"),
            (&["--nodeport-addresses=eth0"], "--nodeport-addresses", "192.0.2.0/24"),
            (&["--masquerade-bit=32"], "--masquerade-bit", "0..32"),
            (&["--cluster-cidr=10.1.0.0"], "--cluster-cidr", "10.1.0.0"),
        ];
        for (args, flag, remedy) in cases {
            let error = error(args);
            assert!(error.contains(flag) && error.contains(remedy), "{args:?}: {error}");
        }
    }
}
