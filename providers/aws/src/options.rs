//! Annotations, parsed once.
//!
//! Owns: what each says and what is wrong with it. Leaves to others: what it means for a load balancer
//! (`translate`). Invariant: every wrong value is named with its remedy, all in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::Ipv6Net;
use portico_provider::{OptionReader, Options, Port, Scheme, TargetKind};

use crate::capabilities as key;
use crate::cloud::resources::{AddressType, Alpn, HealthProtocol, Id, Transport};

/// Words separated by commas; none is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List(Vec<String>);

impl FromStr for List {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).collect();
        if words.iter().any(String::is_empty) { Err(()) } else { Ok(Self(words)) }
    }
}

/// `key=value`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pairs(BTreeMap<String, String>);

impl FromStr for Pairs {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let List(words) = text.parse()?;
        let pair =
            |word: &String| word.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
        let pairs: Option<BTreeMap<_, _>> = words.iter().map(pair).collect();
        pairs.filter(|pairs| !pairs.contains_key("")).map(Self).ok_or(())
    }
}

/// Which listeners end TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsPorts {
    /// Each that is TCP.
    #[default]
    All,
    /// These, by number or name.
    Named(BTreeSet<String>),
}

/// Where a health check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckPort {
    /// Where the traffic goes.
    Traffic,
    /// Here.
    Fixed(u16),
}

impl CheckPort {
    /// The port, if it is a fixed one.
    pub(crate) fn fixed(self) -> Option<u16> {
        match self {
            Self::Traffic => None,
            Self::Fixed(port) => Some(port),
        }
    }
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

/// What the annotations say.
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
    pub(crate) proxy_ports: BTreeSet<u16>,
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
    pub(crate) security_groups: Vec<Id>,
    pub(crate) prefix_lists: BTreeSet<String>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// Reads them; `ports` are the Service's, for options that are said of one port.
pub(crate) fn read(options: &Options, ports: &[Port]) -> Result<Choices, Vec<String>> {
    let mut reader = Reader { options, values: options.reader(), wrong: Vec::new() };
    let choices = reader.choices(ports);
    let Reader { options: _, values, mut wrong } = reader;
    wrong.extend(values.finish().iter().map(ToString::to_string));
    if wrong.is_empty() { Ok(choices) } else { Err(wrong) }
}

struct Reader<'a> {
    options: &'a Options,
    values: OptionReader<'a>,
    wrong: Vec<String>,
}

impl Reader<'_> {
    fn choices(&mut self, ports: &[Port]) -> Choices {
        self.refuse();
        self.word(
            key::TCP_UDP,
            "true, as TCP and UDP on one port can only share a listener",
            &[("true", ())],
        );
        self.word(key::TYPE, "external, nlb or nlb-ip", &[("external", ()), ("nlb", ()), ("nlb-ip", ())]);
        let attributes = self.attributes();
        Choices {
            adopt: self.adopt(),
            target_kind: self.word(
                key::TARGET_TYPE,
                "instance or ip",
                &[("instance", TargetKind::Node), ("ip", TargetKind::Pod)],
            ),
            scheme: self.scheme(),
            name: self.name(),
            subnets: self.list(key::SUBNETS),
            eips: self.list(key::EIPS),
            private_addresses: self.each(key::PRIVATE_ADDRESSES, "IPv4 addresses"),
            ipv6_addresses: self.each(key::IPV6_ADDRESSES, "IPv6 addresses"),
            source_nat: self
                .word(key::SOURCE_NAT, "on or off", &[("on", true), ("off", false)])
                .unwrap_or(false),
            source_prefixes: self.prefixes(),
            address_type: self.word(
                key::ADDRESS_TYPE,
                "ipv4 or dualstack",
                &[("ipv4", AddressType::Ipv4), ("dualstack", AddressType::Dualstack)],
            ),
            proxy_everywhere: self.word(key::PROXY, "*", &[("*", ())]).is_some(),
            proxy_ports: self.ports(),
            certificates: self.certificates(),
            tls_ports: self.tls_ports(),
            tls_policy: self.values.parsed(key::TLS_POLICY, "an SSL policy's name"),
            tls_to_targets: self
                .word(key::BACKEND_PROTOCOL, "tcp or ssl", &[("tcp", false), ("ssl", true), ("tls", true)])
                .unwrap_or(false),
            alpn: self.alpn(),
            check: self.check(),
            group_attributes: self.pairs(key::GROUP_ATTRIBUTES),
            group_attributes_of: self.attributes_of(ports),
            listener_attributes_of: self.listener_attributes_of(),
            attributes,
            security_groups: self.list(key::SECURITY_GROUPS).into_iter().map(Id).collect(),
            prefix_lists: self.prefix_lists(),
            tags: self.pairs(key::TAGS),
        }
    }

    fn refuse(&mut self) {
        for (key, remedy) in key::NOT_HONOURED {
            if self.values.parsed::<String>(key, "").is_some() {
                self.wrong.push(format!("annotation {key} is not honoured by this provider: {remedy}"));
            }
        }
    }

    fn word<T: Copy>(&mut self, key: &str, expected: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text: String = self.values.parsed(key, expected)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.wrong.push(format!("annotation {key} is {text:?}, but must be {expected}"));
        }
        found
    }

    fn list(&mut self, key: &str) -> Vec<String> {
        self.values.parsed::<List>(key, "words separated by commas").unwrap_or_default().0
    }

    fn pairs(&mut self, key: &str) -> BTreeMap<String, String> {
        self.values.parsed::<Pairs>(key, "key=value pairs separated by commas").unwrap_or_default().0
    }

    fn number(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<i32>,
        expected: &'static str,
    ) -> Option<i32> {
        let number: i32 = self.values.parsed(key, expected)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.wrong.push(format!("annotation {key} is {number}, but must be {expected}"));
        None
    }

    fn scheme(&mut self) -> Option<Scheme> {
        let words = [("internet-facing", Scheme::External), ("internal", Scheme::Internal)];
        let scheme = self.word(key::SCHEME, "internet-facing or internal", &words);
        let legacy = [("true", Scheme::Internal), ("false", Scheme::External)];
        let internal = self.word(key::INTERNAL, "true or false", &legacy);
        scheme.or(internal)
    }

    fn name(&mut self) -> Option<String> {
        let name: String = self.values.parsed(key::NAME, "a name")?;
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let ends = name.starts_with('-') || name.ends_with('-') || name.starts_with("internal-");
        // Two characters are for the generation, should it be replaced.
        if name.is_empty() || name.len() > 30 || !letters || ends {
            let expected = "1 to 30 letters, digits and inner hyphens, not beginning with internal-";
            self.wrong.push(format!("annotation {} is {name:?}, but must be {expected}", key::NAME));
            return None;
        }
        Some(name)
    }

    fn adopt(&mut self) -> Option<String> {
        let asked: String = self.values.parsed(key::ADOPT, "a load balancer's name or ARN")?;
        let named = !asked.is_empty() && asked.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if named || (asked.starts_with("arn:") && asked.contains(":loadbalancer/net/")) {
            return Some(asked);
        }
        let expected = "the name or the ARN of a Network Load Balancer";
        self.wrong.push(format!("annotation {} is {asked:?}, but must be {expected}", key::ADOPT));
        None
    }

    /// All of a list, each parsed.
    fn each<T: FromStr>(&mut self, key: &str, expected: &str) -> Vec<T> {
        let words = self.list(key);
        let all: Vec<T> = words.iter().filter_map(|word| word.parse().ok()).collect();
        if all.len() < words.len() {
            let said = words.join(", ");
            self.wrong.push(format!("annotation {key} is {said:?}, but must be {expected}"));
        }
        all
    }

    fn prefixes(&mut self) -> Vec<Option<Ipv6Net>> {
        let words = self.list(key::SOURCE_PREFIXES);
        let one = |word: &String| match word.parse::<Ipv6Net>() {
            Ok(prefix) if prefix.prefix_len() == 80 && prefix == prefix.trunc() => Some(Some(prefix)),
            _ => (word == "auto_assigned").then_some(None),
        };
        let all: Vec<_> = words.iter().filter_map(one).collect();
        if all.len() < words.len() {
            let said = words.join(", ");
            let expected = "prefixes of 80 bits such as 2001:db8:0:1::/80, or auto_assigned";
            self.wrong
                .push(format!("annotation {} is {said:?}, but must be {expected}", key::SOURCE_PREFIXES));
        }
        all
    }

    fn ports(&mut self) -> BTreeSet<u16> {
        let words = self.list(key::PROXY_PORTS);
        let ports: BTreeSet<u16> = words.iter().filter_map(|word| word.parse().ok()).collect();
        if ports.len() < words.len() {
            let said = words.join(", ");
            self.wrong
                .push(format!("annotation {} is {said:?}, but must be distinct ports", key::PROXY_PORTS));
        }
        ports
    }

    fn certificates(&mut self) -> Vec<String> {
        let arns = self.list(key::CERTIFICATE);
        let distinct: BTreeSet<&String> = arns.iter().collect();
        if distinct.len() < arns.len() || arns.iter().any(|arn| !arn.starts_with("arn:")) {
            let said = arns.join(", ");
            let expected = "distinct ARNs of ACM or IAM, separated by commas";
            self.wrong.push(format!("annotation {} is {said:?}, but must be {expected}", key::CERTIFICATE));
        }
        arns
    }

    fn prefix_lists(&mut self) -> BTreeSet<String> {
        let lists = self.list(key::PREFIX_LISTS);
        if let Some(odd) = lists.iter().find(|id| !id.starts_with("pl-")) {
            let expected = "IDs of prefix lists such as pl-0123456789abcdef0, separated by commas";
            self.wrong.push(format!("annotation {} is {odd:?}, but must be {expected}", key::PREFIX_LISTS));
        }
        lists.into_iter().collect()
    }

    fn tls_ports(&mut self) -> TlsPorts {
        match self.list(key::TLS_PORTS) {
            words if words.is_empty() || words == ["*"] => TlsPorts::All,
            words => TlsPorts::Named(words.into_iter().collect()),
        }
    }

    fn alpn(&mut self) -> Option<Alpn> {
        let expected = "HTTP1Only, HTTP2Only, HTTP2Optional, HTTP2Preferred or None";
        let text: String = self.values.parsed(key::ALPN, expected)?;
        let alpn = text.parse().ok();
        if alpn.is_none() {
            self.wrong.push(format!("annotation {} is {text:?}, but must be {expected}", key::ALPN));
        }
        alpn
    }

    fn check(&mut self) -> CheckChoice {
        let protocols =
            [("tcp", HealthProtocol::Tcp), ("http", HealthProtocol::Http), ("https", HealthProtocol::Https)];
        let port: Option<String> = self.values.parsed(key::CHECK_PORT, "a port or traffic-port");
        let port = port.and_then(|text| match (text.as_str(), text.parse::<u16>()) {
            ("traffic-port", _) => Some(CheckPort::Traffic),
            (_, Ok(number)) if number > 0 => Some(CheckPort::Fixed(number)),
            _ => {
                let expected = "a port or traffic-port";
                self.wrong
                    .push(format!("annotation {} is {text:?}, but must be {expected}", key::CHECK_PORT));
                None
            }
        });
        CheckChoice {
            protocol: self.word(key::CHECK_PROTOCOL, "tcp, http or https", &protocols),
            port,
            path: self.values.parsed(key::CHECK_PATH, "a path"),
            codes: self.values.parsed(key::CHECK_CODES, "codes such as 200-399"),
            interval: self.number(key::CHECK_INTERVAL, 5..=300, "5 to 300 seconds"),
            timeout: self.number(key::CHECK_TIMEOUT, 2..=120, "2 to 120 seconds"),
            healthy: self.number(key::CHECK_HEALTHY, 2..=10, "2 to 10"),
            unhealthy: self.number(key::CHECK_UNHEALTHY, 2..=10, "2 to 10"),
        }
    }

    fn attributes(&mut self) -> BTreeMap<String, String> {
        let mut attributes = self.pairs(key::ATTRIBUTES);
        if let Some(enabled) = self.values.flag(key::CROSS_ZONE) {
            attributes.entry("load_balancing.cross_zone.enabled".to_owned()).or_insert(enabled.to_string());
        }
        // The older annotations; whoever uses both means the newer one.
        let enabled = self.values.flag(key::LOG_ENABLED).map(|enabled| enabled.to_string());
        let bucket = self.values.parsed(key::LOG_BUCKET, "a bucket's name");
        let prefix = self.values.parsed(key::LOG_PREFIX, "a prefix");
        for (name, value) in [("enabled", enabled), ("bucket", bucket), ("prefix", prefix)] {
            if let Some(value) = value {
                attributes.entry(format!("access_logs.s3.{name}")).or_insert(value);
            }
        }
        let enabled = attributes.get("access_logs.s3.enabled").is_some_and(|value| value == "true");
        if enabled && !attributes.contains_key("access_logs.s3.bucket") {
            let message = format!("annotation {} is missing: access logs need a bucket", key::LOG_BUCKET);
            self.wrong.push(message);
        }
        attributes
    }

    fn listener_attributes_of(&mut self) -> BTreeMap<(Transport, u16), BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for name in self.options.keys() {
            let Some(end) = name.strip_prefix(key::LISTENER_ATTRIBUTES_OF) else { continue };
            let parts = end.rsplit_once('-').and_then(|(protocol, port)| {
                Some((protocol.parse::<Transport>().ok()?, port.parse::<u16>().ok()?))
            });
            let pairs = self.pairs(name);
            match parts {
                Some(listener) => drop(all.insert(listener, pairs)),
                None => self.wrong.push(format!(
                    "annotation {name} must end in the listener's protocol and port, such as TCP-80 or TLS-443"
                )),
            }
        }
        all
    }

    fn attributes_of(&mut self, ports: &[Port]) -> BTreeMap<u16, BTreeMap<String, String>> {
        let each = ports.iter().map(|port| {
            let key = format!("{}{port}", key::GROUP_ATTRIBUTES_OF);
            (port.get(), self.pairs(&key))
        });
        each.filter(|(_, pairs)| !pairs.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(choices.attributes["access_logs.s3.bucket"], "new");
        assert_eq!(choices.attributes["access_logs.s3.enabled"], "true");
        assert_eq!(read_one(key::CERTIFICATE, "arn:a, arn:b").unwrap().certificates, ["arn:a", "arn:b"]);
        assert!(read_one(key::CERTIFICATE, "arn:a, arn:a").is_err());
        assert_eq!(read_one(key::CHECK_PORT, "traffic-port").unwrap().check.port, Some(CheckPort::Traffic));
        assert_eq!(read_one(key::INTERNAL, "true").unwrap().scheme, Some(Scheme::Internal));
    }
}
