//! Reading annotations: each option's form, and the message for a value of another form.
//!
//! Owns: the spellings. Leaves to others: what is read (`options`). Invariant: a wrong value is named once, with what it must be,
//! and counts as not said.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv6Net;
use portico_provider::{OptionReader, Options, Port, Scheme, TargetKind};

use super::{CROSS_ZONE, CheckChoice, CheckPort, Choices, TlsPorts};
use crate::capabilities::{self as key, NotHonoured};
use crate::cloud::resources::{AddressType, Alpn, HealthProtocol, Id, Transport};
use crate::names;

/// AWS takes 50 tags on a thing; ten are the operator's (`tags`).
const MOST_TAGS: usize = 40;

/// Words separated by commas; empty ones are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List(Vec<String>);

impl FromStr for List {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        Ok(Self(words.map(str::to_owned).collect()))
    }
}

/// `key=value`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pairs(BTreeMap<String, String>);

impl FromStr for Pairs {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let List(words) = text.parse().map_err(|_infallible: std::convert::Infallible| ())?;
        let pair =
            |word: &String| word.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
        let pairs: Option<BTreeMap<_, _>> = words.iter().map(pair).collect();
        pairs.filter(|pairs| !pairs.contains_key("")).map(Self).ok_or(())
    }
}

/// Letters, digits and hyphens.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// As Kubernetes' API server takes a Service port's name.
fn is_port_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 63 && text.bytes().all(inner) && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// Reads annotations one by one, and keeps what is wrong with each.
pub(super) struct Reader<'a> {
    options: &'a Options,
    values: OptionReader<'a>,
    wrong: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, values: options.reader(), wrong: Vec::new() }
    }

    /// The values of all annotations, and a message for each wrong one.
    pub(super) fn read(mut self, ports: &[Port]) -> (Choices, Vec<String>) {
        let choices = self.choices(ports);
        let Self { options: _, values, mut wrong } = self;
        wrong.extend(values.finish().iter().map(ToString::to_string));
        (choices, wrong)
    }

    fn choices(&mut self, ports: &[Port]) -> Choices {
        self.not_honoured();
        self.values.flag(key::TCP_UDP);
        let by_type = self.word(
            key::TYPE,
            "external, nlb or nlb-ip",
            &[("external", None), ("nlb", None), ("nlb-ip", Some(TargetKind::Pod))],
        );
        let by_target_type = self.word(
            key::TARGET_TYPE,
            "instance or ip",
            &[("instance", TargetKind::Node), ("ip", TargetKind::Pod)],
        );
        let attributes = self.attributes();
        Choices {
            adopt: self.adopt(),
            target_kind: by_type.flatten().or(by_target_type),
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
            node_rules: self.values.flag(key::NODE_RULES),
            prefix_lists: self.prefix_lists(),
            tags: self.tags(),
        }
    }

    fn not_honoured(&mut self) {
        for NotHonoured { key, remedy, harmless } in key::NOT_HONOURED {
            let of_it = |name: &&str| *name == *key || (key.ends_with('.') && name.starts_with(key));
            for name in self.options.keys().filter(of_it) {
                let said = self.options.get(name);
                if said.is_some() && said != *harmless {
                    self.wrong.push(format!("annotation {name} is not honoured by this provider: {remedy}"));
                }
            }
        }
    }

    /// One value that has to be of a form.
    fn of_form<T>(&mut self, key: &str, expected: &str, form: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.options.get(key)?;
        let found = form(text);
        if found.is_none() {
            self.refuse(key, text, expected);
        }
        found
    }

    fn refuse(&mut self, key: &str, said: &str, expected: &str) {
        self.wrong.push(format!("annotation {key} is {said:?}, but must be {expected}"));
    }

    fn word<T: Copy>(&mut self, key: &str, expected: &str, words: &[(&str, T)]) -> Option<T> {
        let value = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.of_form(key, expected, value)
    }

    fn list(&mut self, key: &str) -> Vec<String> {
        self.values.parsed::<List>(key, "words separated by commas").unwrap_or_default().0
    }

    fn pairs(&mut self, key: &str) -> BTreeMap<String, String> {
        self.values.parsed::<Pairs>(key, "key=value pairs separated by commas").unwrap_or_default().0
    }

    fn number(&mut self, key: &str, range: RangeInclusive<i32>, expected: &str) -> Option<i32> {
        self.of_form(key, expected, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    fn scheme(&mut self) -> Option<Scheme> {
        let words = [("internet-facing", Scheme::External), ("internal", Scheme::Internal)];
        let scheme = self.word(key::SCHEME, "internet-facing or internal", &words);
        let internal = self.values.flag(key::INTERNAL);
        scheme.or(internal.map(|internal| if internal { Scheme::Internal } else { Scheme::External }))
    }

    fn name(&mut self) -> Option<String> {
        let expected = "1 to 32 letters, digits and inner hyphens, not beginning with internal-";
        let ends = |name: &str| name.starts_with('-') || name.ends_with('-') || name.starts_with("internal-");
        let is_name = |name: &str| is_word(name) && name.len() <= names::LONGEST && !ends(name);
        self.of_form(key::NAME, expected, |name| is_name(name).then(|| name.to_owned()))
    }

    fn adopt(&mut self) -> Option<String> {
        let is_arn = |asked: &str| asked.starts_with("arn:") && asked.contains(":loadbalancer/net/");
        self.of_form(key::ADOPT, "the name or the ARN of a Network Load Balancer", |asked| {
            (is_word(asked) || is_arn(asked)).then(|| asked.to_owned())
        })
    }

    /// All of a list, each parsed.
    fn each<T: FromStr>(&mut self, key: &str, expected: &str) -> Vec<T> {
        let words = self.list(key);
        let all: Vec<T> = words.iter().filter_map(|word| word.parse().ok()).collect();
        if all.len() < words.len() {
            self.refuse(key, &words.join(", "), expected);
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
            let expected = "prefixes of 80 bits such as 2001:db8:0:1::/80, or auto_assigned";
            self.refuse(key::SOURCE_PREFIXES, &words.join(", "), expected);
        }
        all
    }

    fn ports(&mut self) -> Option<BTreeSet<u16>> {
        self.options.get(key::PROXY_PORTS)?;
        Some(self.each(key::PROXY_PORTS, "ports, separated by commas").into_iter().collect())
    }

    fn certificates(&mut self) -> Vec<String> {
        let arns = self.list(key::CERTIFICATE);
        let distinct: BTreeSet<&String> = arns.iter().collect();
        if distinct.len() < arns.len() || arns.iter().any(|arn| !arn.starts_with("arn:")) {
            let expected = "distinct ARNs of ACM or IAM, separated by commas";
            self.refuse(key::CERTIFICATE, &arns.join(", "), expected);
        }
        arns
    }

    fn prefix_lists(&mut self) -> BTreeSet<String> {
        let lists = self.list(key::PREFIX_LISTS);
        if let Some(odd) = lists.iter().find(|id| !id.starts_with("pl-")) {
            let expected = "IDs of prefix lists such as pl-0123456789abcdef0, separated by commas";
            self.refuse(key::PREFIX_LISTS, odd, expected);
        }
        lists.into_iter().collect()
    }

    fn tls_ports(&mut self) -> TlsPorts {
        let words = self.list(key::TLS_PORTS);
        if words.iter().any(|word| word == "*") {
            let message = format!(
                "annotation {} is \"*\", which is every port to Kubernetes' own provider and none to the AWS Load Balancer \
                 Controller: name ports, or remove it for every TCP port",
                key::TLS_PORTS
            );
            self.wrong.push(message);
        }
        if words.is_empty() { TlsPorts::All } else { TlsPorts::Named(words.into_iter().collect()) }
    }

    fn alpn(&mut self) -> Option<Alpn> {
        let expected = "HTTP1Only, HTTP2Only, HTTP2Optional, HTTP2Preferred or None";
        self.of_form(key::ALPN, expected, |text| text.parse().ok())
    }

    fn check(&mut self) -> CheckChoice {
        CheckChoice {
            protocol: self.check_protocol(),
            port: self.check_port(),
            path: self.check_path(),
            codes: self.check_codes(),
            interval: self.number(key::CHECK_INTERVAL, 5..=300, "5 to 300 seconds"),
            timeout: self.number(key::CHECK_TIMEOUT, 2..=120, "2 to 120 seconds"),
            healthy: self.number(key::CHECK_HEALTHY, 2..=10, "2 to 10"),
            unhealthy: self.number(key::CHECK_UNHEALTHY, 2..=10, "2 to 10"),
        }
    }

    fn check_protocol(&mut self) -> Option<HealthProtocol> {
        let any_case = |text: &str| text.to_ascii_uppercase().parse().ok();
        self.of_form(key::CHECK_PROTOCOL, "tcp, http or https", any_case)
    }

    fn check_port(&mut self) -> Option<CheckPort> {
        let expected = "a port, the name of one of the Service, or traffic-port";
        self.of_form(key::CHECK_PORT, expected, |text| match (text, text.parse::<u16>()) {
            ("traffic-port", _) => Some(CheckPort::Traffic),
            (_, Ok(number)) => (number > 0).then_some(CheckPort::Fixed(number)),
            (name, Err(_)) => is_port_name(name).then(|| CheckPort::Named(name.to_owned())),
        })
    }

    fn check_path(&mut self) -> Option<String> {
        let expected = "a path that begins with /, of 1024 characters at most";
        self.of_form(key::CHECK_PATH, expected, |text| {
            let fits =
                text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic());
            fits.then(|| text.to_owned())
        })
    }

    fn check_codes(&mut self) -> Option<String> {
        let expected = "codes from 200 to 599, such as 200, 200,202 or 200-399";
        let code = |text: &str| text.parse::<u16>().is_ok_and(|code| (200..=599).contains(&code));
        let one = |text: &str| text.split_once('-').map_or(code(text), |(from, to)| code(from) && code(to));
        let all = |text: &str| text.split(',').all(|part| one(part.trim())).then(|| text.to_owned());
        self.of_form(key::CHECK_CODES, expected, all)
    }

    /// The older annotations win over the newer one, and those of the log count where one of them switches it on.
    fn attributes(&mut self) -> BTreeMap<String, String> {
        let mut attributes = self.pairs(key::ATTRIBUTES);
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                attributes.insert(name.to_owned(), value);
            }
        };
        set(CROSS_ZONE, self.values.flag(key::CROSS_ZONE).map(|enabled| enabled.to_string()));
        let bucket = self.values.parsed(key::LOG_BUCKET, "a bucket's name");
        let prefix = self.values.parsed(key::LOG_PREFIX, "a prefix");
        if self.values.flag(key::LOG_ENABLED) == Some(true) {
            set("access_logs.s3.enabled", Some("true".to_owned()));
            set("access_logs.s3.bucket", bucket);
            set("access_logs.s3.prefix", prefix);
        }
        let enabled = attributes.get("access_logs.s3.enabled").is_some_and(|value| value == "true");
        if enabled && !attributes.contains_key("access_logs.s3.bucket") {
            let message = format!("annotation {} is missing: access logs need a bucket", key::LOG_BUCKET);
            self.wrong.push(message);
        }
        attributes
    }

    /// Within what AWS takes of tags: <https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html>.
    fn tags(&mut self) -> BTreeMap<String, String> {
        let tags = self.pairs(key::TAGS);
        let taken = |text: &str, most: usize| {
            let odd = |c: char| !(c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c));
            text.chars().count() <= most && !text.contains(odd)
        };
        if let Some((tag, value)) = tags.iter().find(|(tag, value)| !taken(tag, 128) || !taken(value, 256)) {
            let message = format!(
                "annotation {}: tag {tag}={value} has characters that AWS does not take, or too many: use letters, digits, \
                 spaces and _.:/=+-@, at most 128 in the key and 256 in the value",
                key::TAGS
            );
            self.wrong.push(message);
        }
        if tags.len() > MOST_TAGS {
            let message = format!(
                "annotation {}: {} tags, but AWS takes 50 on a thing and the operator needs {}: name {MOST_TAGS} at most",
                key::TAGS,
                tags.len(),
                50 - MOST_TAGS
            );
            self.wrong.push(message);
        }
        tags
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
            let mut pairs = self.pairs(&key);
            // What is said for all ports stays.
            pairs.retain(|_, value| !value.is_empty());
            (port.get(), pairs)
        });
        each.filter(|(_, pairs)| !pairs.is_empty()).collect()
    }
}
