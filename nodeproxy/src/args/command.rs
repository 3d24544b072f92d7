//! The subcommands that ask instead of serving.
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

/// Where a running proxy is asked.
pub const ADMIN_SOCKET: &str = "/run/portico/nodeproxy.sock";

/// Questions to a running proxy, or to what one left in a file.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say where a connection would go from this node's point of view: which Service and policy, which endpoints with what
    /// chance, whom they see, or why it is refused or dropped.
    Trace {
        /// Who opens it: `IP` or `IP:port` (`[IP]:port`).
        #[arg(long)]
        from: Sender,
        /// What it dials: `IP:port` (`[IP]:port`), and `/tcp`, `/udp` or `/sctp`; without, TCP.
        #[arg(long)]
        to: Destination,
        /// On which interface of the node its packets arrive. It counts where pods are told by that; without, the one that
        /// the node would send answers to.
        #[arg(long)]
        in_interface: Option<InterfaceName>,
        /// Check the answer against the kernel's tables. If they differ, each element is named and the exit code is 1.
        #[arg(long)]
        kernel: bool,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// List all that is programmed for a Service.
    Explain {
        /// The Service: `svc/namespace/name`.
        service: ServiceArg,
        /// Check the answer against the kernel's tables. If they differ, each element is named and the exit code is 1.
        #[arg(long)]
        kernel: bool,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Write all that the proxy of this node knows, and what the kernel has, as JSON: for `--dump`, here or elsewhere. It
    /// names every Service and endpoint of the cluster.
    Dump {
        /// Socket of the running proxy.
        #[arg(long, default_value = ADMIN_SOCKET)]
        admin_socket: PathBuf,
    },
}

/// Whom to ask, and how to answer.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct AskArgs {
    /// Node on which the packet is looked at, or whose tables are listed. Without it: the one that is asked.
    #[arg(long)]
    pub node: Option<String>,
    /// Ask this file, written by `portico-nodeproxy dump`, and not the running proxy. Of several, --node chooses.
    #[arg(long)]
    pub dump: Vec<PathBuf>,
    /// Socket of the running proxy.
    #[arg(long, default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How an answer looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Who opens a connection: an address, or an address and a port that does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender(pub IpAddr);

/// What a connection dials.
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
