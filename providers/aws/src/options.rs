//! Annotations, parsed once.
//!
//! Owns: what each says and what is wrong with it. Leaves to others: what it means for a load balancer
//! (`wanted`). Invariants: every wrong value is named with its remedy, all in one pass; what the AWS Load Balancer
//! Controller takes is taken, in its spellings (its annotations reference, and `pkg/annotations/parser.go`).

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use portico_provider::{Options, Port, Scheme, TargetKind};

use crate::cloud::resources::{AddressType, Alpn, HealthProtocol, Id, Transport};
use reader::Reader;

pub(crate) const CROSS_ZONE: &str = "load_balancing.cross_zone.enabled";

/// Which listeners end TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsPorts {
    /// Each that is TCP.
    #[default]
    All,
    /// These, by number or name.
    Named(BTreeSet<String>),
}

/// The port of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckPort {
    /// The port of the traffic.
    Traffic,
    /// A port of its own.
    Fixed(u16),
    /// The port behind this port of the Service, by its name.
    Named(String),
}

/// A wish for the health check; `None` where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckChoice {
    pub(crate) protocol: Option<HealthProtocol>,
    pub(crate) port: Option<CheckPort>,
    pub(crate) path: Option<String>,
    pub(crate) codes: Option<String>,
    pub(crate) interval: Option<i32>,
    pub(crate) timeout: Option<i32>,
    pub(crate) healthy: Option<i32>,
    pub(crate) unhealthy: Option<i32>,
}

impl CheckChoice {
    /// Whether it says what is asked; then all that it does not say is as the AWS Load Balancer Controller has it.
    pub(crate) fn says_what(&self) -> bool {
        self.protocol.is_some() || self.port.is_some() || self.path.is_some()
    }
}

/// The values of all annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    /// A name or an ARN.
    pub(crate) adopt: Option<String>,
    pub(crate) target_kind: Option<TargetKind>,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) name: Option<String>,
    pub(crate) subnets: Vec<String>,
    pub(crate) eips: Vec<String>,
    pub(crate) private_addresses: Vec<Ipv4Addr>,
    pub(crate) ipv6_addresses: Vec<Ipv6Addr>,
    pub(crate) source_nat: bool,
    /// `None`: AWS chooses.
    pub(crate) source_prefixes: Vec<Option<Ipv6Net>>,
    pub(crate) address_type: Option<AddressType>,
    pub(crate) proxy_everywhere: bool,
    /// `None`: other annotations say.
    pub(crate) proxy_ports: Option<BTreeSet<u16>>,
    /// The default one first.
    pub(crate) certificates: Vec<String>,
    pub(crate) tls_ports: TlsPorts,
    pub(crate) tls_policy: Option<String>,
    pub(crate) tls_to_targets: bool,
    pub(crate) alpn: Option<Alpn>,
    pub(crate) check: CheckChoice,
    pub(crate) group_attributes: BTreeMap<String, String>,
    pub(crate) group_attributes_of: BTreeMap<u16, BTreeMap<String, String>>,
    pub(crate) listener_attributes_of: BTreeMap<(Transport, u16), BTreeMap<String, String>>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// IDs or names, until names are resolved (`plan`).
    pub(crate) security_groups: Vec<Id>,
    /// Annotation `manage-backend-security-group-rules`.
    pub(crate) node_rules: Option<bool>,
    pub(crate) prefix_lists: BTreeSet<String>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// Reads them; `ports` are the Service's, for options that are said of one port.
pub(crate) fn read(options: &Options, ports: &[Port]) -> Result<Choices, Vec<String>> {
    let (choices, wrong) = Reader::new(options).read(ports);
    if wrong.is_empty() { Ok(choices) } else { Err(wrong) }
}

/// The readable values; a wrong one counts as not said.
pub(crate) fn readable(options: &Options, ports: &[Port]) -> Choices {
    Reader::new(options).read(ports).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities as key;

    fn read_one(key: &str, value: &str) -> Result<Choices, Vec<String>> {
        let options: Options = [(key.to_owned(), value.to_owned())].into_iter().collect();
        read(&options, &[Port::try_from(80).unwrap()])
    }

    #[test]
    fn nonsense_is_refused_by_name_for_every_option_that_is_not_free_text() {
        let free = [
            key::LOG_BUCKET,
            key::LOG_PREFIX,
            key::SUBNETS,
            key::EIPS,
            key::TLS_PORTS,
            key::TLS_POLICY,
            key::CHECK_PATH,
            key::CHECK_CODES,
        ];
        for spec in key::CAPABILITIES.options {
            let name = match spec.key {
                family @ key::LISTENER_ATTRIBUTES_OF => format!("{family}TCP-80"),
                family if family.ends_with('.') => format!("{family}80"),
                whole => whole.to_owned(),
            };
            if free.contains(&spec.key) || spec.key == key::SECURITY_GROUPS {
                continue;
            }
            let wrong = read_one(&name, "non,,sense").unwrap_err().join("; ");
            assert!(wrong.contains(&name), "{name}: {wrong}");
        }
    }

    #[test]
    fn what_is_well_said_is_read() {
        let choices = read_one(&format!("{}80", key::GROUP_ATTRIBUTES_OF), "a.b=1, c = 2").unwrap();
        assert_eq!(choices.group_attributes_of[&80].len(), 2);
        let idle = format!("{}TCP_UDP-53", key::LISTENER_ATTRIBUTES_OF);
        let choices = read_one(&idle, "tcp.idle_timeout.seconds=60").unwrap();
        assert_eq!(choices.listener_attributes_of[&(Transport::TcpUdp, 53)].len(), 1);
        for end in ["80", "HTTP-80", "TCP-port", "TCP-70000"] {
            let wrong = read_one(&format!("{}{end}", key::LISTENER_ATTRIBUTES_OF), "a=b").unwrap_err();
            assert!(wrong[0].contains(end) && wrong[0].contains("TLS-443"), "{wrong:?}");
        }
        assert!(read_one(key::LOG_ENABLED, "true").unwrap_err()[0].contains("need a bucket"));
        let both = [
            (key::LOG_ENABLED, "true"),
            (key::LOG_BUCKET, "logs"),
            (key::ATTRIBUTES, "access_logs.s3.bucket=new"),
        ];
        let options: Options =
            both.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let choices = read(&options, &[]).unwrap();
        assert_eq!(
            choices.attributes["access_logs.s3.bucket"], "logs",
            "the older one wins, as in that controller"
        );
        assert_eq!(choices.attributes["access_logs.s3.enabled"], "true");
        assert_eq!(read_one(key::CERTIFICATE, "arn:a, arn:b").unwrap().certificates, ["arn:a", "arn:b"]);
        assert!(read_one(key::CERTIFICATE, "arn:a, arn:a").is_err());
        assert_eq!(read_one(key::CHECK_PORT, "traffic-port").unwrap().check.port, Some(CheckPort::Traffic));
        assert_eq!(read_one(key::INTERNAL, "true").unwrap().scheme, Some(Scheme::Internal));
    }
}
