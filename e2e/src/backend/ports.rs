//! Ports of the backend, and their text form in its command line. Invariant: `Port`'s text form reads back as the same port.

use std::fmt;
use std::str::FromStr;

/// Declared container ports, as `80/tcp,53/udp`.
pub const PORTS_VARIABLE: &str = "PORTICO_BACKEND_PORTS";

/// The transports that the backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Streams: HTTP or lines.
    Tcp,
    /// Datagrams, one answer each.
    Udp,
}

/// One port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Port number, 1 to 65535.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, transport } = self;
        let transport = match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{number}/{transport}")
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: want a port and its transport, as 80/tcp or 53/udp");
        let (number, transport) = text.split_once('/').ok_or_else(wrong)?;
        let transport = match transport.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(wrong()),
        };
        match number.parse() {
            Ok(0) | Err(_) => Err(wrong()),
            Ok(number) => Ok(Self { number, transport }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_as_it_prints_and_nonsense_says_what_is_wanted() {
        for text in ["80/tcp", "53/udp", "65535/tcp"] {
            assert_eq!(text.parse::<Port>().expect("parses").to_string(), text);
        }
        for text in ["80", "0/tcp", "80/sctp", "x/udp", "65536/tcp"] {
            assert!(text.parse::<Port>().expect_err("refused").contains("80/tcp"));
        }
    }
}
