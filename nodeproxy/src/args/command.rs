//! The subcommands that ask a running proxy.
//!
//! Owns their parsing, and the messages for addresses and Services that cannot be read.

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use portico_proxy_core::{
    input::ServiceName,
    interface::InterfaceName,
    table::{Frontend, Protocol},
};

use super::Unreadable;
use crate::sloppy;

/// Default path of the admin socket.
pub const ADMIN_SOCKET: &str = "/run/portico/nodeproxy.sock";

/// Questions to a running proxy, or to a file that one wrote.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print where a connection would go from this node's point of view. The answer has its Service and policy,
    /// its endpoints with their probabilities and the source that they see, or the reason why it is refused or
    /// dropped.
    Trace {
        /// Source of the connection: `IP` or `IP:port` (`[IP]:port`).
        #[arg(long)]
        from: Sender,
        /// Destination of the connection: `IP:port` (`[IP]:port`), and `/tcp`, `/udp` or `/sctp`; TCP by
        /// default.
        #[arg(long)]
        to: Destination,
        /// Interface of the node on which its packets arrive. Only used where pods are recognised by interface.
        /// Default: the one of the route to the source.
        #[arg(long)]
        in_interface: Option<InterfaceName>,
        /// Compare the answer with the kernel's tables. If they differ, each element is named and the exit code
        /// is 1.
        #[arg(long)]
        kernel: bool,
        /// The proxy or the dump to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// List all that is programmed for a Service.
    Explain {
        /// The Service: `svc/namespace/name`.
        service: ServiceArg,
        /// Compare the answer with the kernel's tables. If they differ, each element is named and the exit code
        /// is 1.
        #[arg(long)]
        kernel: bool,
        /// The proxy or the dump to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Write all objects of this node's proxy, and the kernel's tables, as JSON: for `--dump`, here or
    /// elsewhere. The file names every Service and endpoint of the cluster.
    Dump {
        /// Socket of the running proxy.
        #[arg(long, default_value = ADMIN_SOCKET)]
        admin_socket: PathBuf,
    },
}

/// The proxy or the dump to ask, and the format of the answer.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct AskArgs {
    /// Name of the node whose view or tables are wanted. Default: the node of the proxy that answers.
    #[arg(long)]
    pub node: Option<String>,
    /// Path of a file of `portico-nodeproxy dump`, which answers instead of the running proxy. Of several,
    /// --node chooses.
    #[arg(long)]
    pub dump: Vec<PathBuf>,
    /// Socket of the running proxy.
    #[arg(long, default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Format of the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Format of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Source of a connection: an address, and a port that is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender(pub IpAddr);

/// Destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(pub Frontend);

/// A Service, with or without its kind before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceArg(pub ServiceName);

impl FromStr for Sender {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = sloppy::ip(bare).or_else(|| sloppy::ip_and_port(text).map(|at| at.ip()));
        address.map(Self).ok_or_else(|| {
            Unreadable(format!("\"{text}\" is no address; write 10.1.0.5, 10.1.0.5:4000 or [fd01::5]:4000"))
        })
    }
}

impl FromStr for Destination {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (at, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => {
                return Err(Unreadable(format!("\"{protocol}\" in \"{text}\" is none of tcp, udp and sctp")));
            }
        };
        let at = sloppy::ip_and_port(at).filter(|at| at.port() > 0).ok_or_else(|| {
            Unreadable(format!(
                "\"{text}\" is no address with a port; write 10.96.0.10:53/udp or [fd00::a]:53/udp"
            ))
        })?;
        Ok(Self(Frontend { address: at.ip(), protocol, port: at.port() }))
    }
}

impl FromStr for ServiceArg {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let kinds = ["svc/", "service/", "services/"];
        let name = kinds.iter().find_map(|kind| text.strip_prefix(kind).filter(|rest| rest.contains('/')));
        let name = name.unwrap_or(text).parse();
        name.map(Self).map_err(|_bad| {
            Unreadable(format!("\"{text}\" does not name a Service; write svc/namespace/name"))
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn parse(args: &[&str]) -> Result<Option<Command>, String> {
        let args = ["portico-nodeproxy"].iter().chain(args);
        Args::try_parse_from(args).map(|args| args.command).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let args = ["trace", "--from", "[fd01::5]:4000", "--to", "[fd00::a]:53/udp", "-o", "json"];
        let Ok(Some(Command::Trace { from, to, in_interface: None, kernel, ask })) = parse(&args) else {
            panic!("{args:?}")
        };
        assert_eq!(from.0.to_string(), "fd01::5");
        assert_eq!(to.0.to_string(), "[fd00::a]:53/udp");
        assert_eq!((kernel, ask.output), (false, Output::Json));
        assert_eq!(ask.admin_socket, PathBuf::from(ADMIN_SOCKET));
        for (text, expected) in
            [("10.1.0.5", "10.1.0.5"), ("10.1.0.5:80", "10.1.0.5"), ("fd01::5", "fd01::5")]
        {
            assert_eq!(text.parse::<Sender>().map(|s| s.0.to_string()), Ok(expected.to_owned()));
        }
        let plain = "10.96.0.1:80".parse::<Destination>().map(|d| d.0.to_string());
        assert_eq!(plain, Ok("10.96.0.1:80/tcp".to_owned()));
    }

    #[test]
    fn a_service_may_have_its_kind_before_it() {
        for text in ["svc/kube-system/dns", "service/kube-system/dns", "kube-system/dns"] {
            assert_eq!(text.parse::<ServiceArg>().map(|s| s.0.to_string()), Ok("kube-system/dns".to_owned()));
        }
        let odd = "svc/dns".parse::<ServiceArg>().map(|s| s.0.to_string());
        assert_eq!(odd, Ok("svc/dns".to_owned()), "a namespace may be called svc");
    }

    #[test]
    fn what_cannot_be_read_names_the_remedy() {
        let cases: [(&[&str], &str); 4] = [
            (&["trace", "--from", "pod-1", "--to", "10.96.0.1:80"], "10.1.0.5:4000"),
            (&["trace", "--from", "10.1.0.1", "--to", "10.96.0.1"], "10.96.0.10:53/udp"),
            (&["trace", "--from", "10.1.0.1", "--to", "10.96.0.1:80/icmp"], "none of tcp, udp and sctp"),
            (&["explain", "dns"], "svc/namespace/name"),
        ];
        for (args, remedy) in cases {
            let error = parse(args).expect_err("should be refused");
            assert!(error.contains(remedy), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_proxys_own_flags_do_not_go_with_a_question() {
        assert!(parse(&["--masquerade-all", "explain", "a/b"]).is_err());
    }
}
