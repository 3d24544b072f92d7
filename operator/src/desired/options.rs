//! Annotations: the one table of those every provider shares, and their typed reader.
//!
//! Owns: keys, values, defaults, and the problem of a wrong one. Leaves to others: what a value means (`desired`),
//! and options of single providers (their own table, [`Capabilities::options`]).
//! Invariant: a value that does not parse is a problem with key and remedy, never a default. An unknown key under our domain is a
//! warning, since it is most likely misspelt.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use portico_provider::{
    Capabilities, Field, GroupName, Options, ProxyProtocol, Replacement, Scheme, TargetKind,
};

use crate::cache::service::HELD_BY;
use crate::desired::problem::{Problem, ProblemKind};

#[cfg(test)]
mod docs;
mod nearest;

const DOMAIN: &str = "portico.dev/";

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnotationSpec {
    /// The full name.
    pub key: &'static str,
    /// Its values; completes the sentence "must be …".
    pub value: &'static str,
    /// The meaning of its absence.
    pub default: &'static str,
    /// The field that it sets; each provider's table gives the cost of a change. `None`: it sets nothing that exists.
    pub field: Option<Field>,
}

pub(crate) const ADDRESSES: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/addresses",
    value: "addresses separated by commas, at most one of each family, such as \"203.0.113.7\"",
    default: "spec.loadBalancerIP, or else the provider chooses",
    field: Some(Field::RequestedAddresses),
};
pub(crate) const PROXY_PROTOCOL: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/proxy-protocol",
    value: "\"v2\" or \"off\"",
    default: "off",
    field: Some(Field::ProxyProtocol),
};
pub(crate) const SCHEME: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/scheme",
    value: "\"external\" or \"internal\"",
    default: "external",
    field: Some(Field::Scheme),
};
pub(crate) const TARGET_KIND: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/target-kind",
    value: "\"node\" or \"pod\"",
    default: "what the provider's own annotations say, or else what it prefers",
    field: Some(Field::TargetKind),
};
pub(crate) const ALLOW_REPLACEMENT: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/allow-replacement",
    value: "\"true\" or \"false\"",
    default: "false",
    field: None,
};
pub(crate) const TAKE_OVER: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/take-over",
    value: "\"true\" or \"false\"",
    default: "false: a Service without a class that another controller serves is left to that",
    field: None,
};
pub(crate) const GROUP: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/group",
    value: "a name of up to 63 letters, digits, \"-\" and \".\", or namespace/name where the operator allows it",
    default: "a load balancer of its own",
    field: Some(Field::Group),
};
pub(crate) const SOURCE_RANGES: AnnotationSpec = AnnotationSpec {
    key: "service.beta.kubernetes.io/load-balancer-source-ranges",
    value: "CIDRs separated by commas, such as \"10.0.0.0/8,192.0.2.0/24\"",
    default: "spec.loadBalancerSourceRanges, which wins, or else everybody",
    field: Some(Field::SourceRanges),
};

/// Every annotation that is not one provider's own; for docs, too.
pub const ANNOTATIONS: [AnnotationSpec; 8] =
    [ADDRESSES, PROXY_PROTOCOL, SCHEME, TARGET_KIND, ALLOW_REPLACEMENT, TAKE_OVER, GROUP, SOURCE_RANGES];

/// A group as an annotation names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRef {
    /// `None`: the Service's own.
    pub(crate) namespace: Option<String>,
    /// Its name there.
    pub(crate) name: String,
}

/// Parsed annotations; `None` and empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotated {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) scheme: Scheme,
    pub(crate) target_kind: Option<TargetKind>,
    pub(crate) replacement: Replacement,
    pub(crate) group: Option<GroupRef>,
    pub(crate) source_ranges: BTreeSet<IpNet>,
    /// The provider's own.
    pub(crate) options: Options,
}

/// An option that names another controller's load balancer, to be taken over.
const ADOPT: &str = "portico.dev/adopt";

/// Whether the author of a Service wants Portico in the place of another controller.
pub(crate) fn takes_over(service: &Service) -> bool {
    let annotations = service.metadata.annotations.iter();
    annotations.into_iter().any(|all| said(all, TAKE_OVER.key) == Some("true") || said(all, ADOPT).is_some())
}

/// Reads all annotations of a Service into `problems` where they are wrong, and `warnings` where they are likely misspelt.
pub(crate) fn read(
    annotations: &BTreeMap<String, String>,
    capabilities: &Capabilities,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Annotated {
    let mut reader = Reader { annotations, problems };
    // It decided already whether anything is read at all; here it is only checked.
    reader.one(TAKE_OVER, &[("true", true), ("false", false)]);
    let annotated = Annotated {
        addresses: reader.list(ADDRESSES, |item| item.parse().ok()),
        proxy_protocol: reader
            .one(PROXY_PROTOCOL, &[("v2", ProxyProtocol::V2), ("off", ProxyProtocol::Off)])
            .unwrap_or_default(),
        scheme: reader
            .one(SCHEME, &[("external", Scheme::External), ("internal", Scheme::Internal)])
            .unwrap_or_default(),
        target_kind: reader.one(TARGET_KIND, &[("node", TargetKind::Node), ("pod", TargetKind::Pod)]),
        replacement: reader
            .one(ALLOW_REPLACEMENT, &[("true", Replacement::Allowed), ("false", Replacement::NeedsConsent)])
            .unwrap_or_default(),
        group: reader.parsed(GROUP, parse_group),
        source_ranges: reader.list(SOURCE_RANGES, parse_range),
        options: of_the_provider(annotations, capabilities),
    };
    warnings.extend(unknown(annotations, capabilities));
    annotated
}

/// `name` or `namespace/name`.
fn parse_group(text: &str) -> Option<GroupRef> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    GroupName::new(namespace.unwrap_or("own"), name)?;
    Some(GroupRef { namespace: namespace.map(str::to_owned), name: name.to_owned() })
}

/// A CIDR without its host bits, as kube-proxy reads it.
pub(crate) fn parse_range(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|range| range.trunc())
}

/// Those that the provider reads itself, as they are.
pub(crate) fn of_the_provider(
    annotations: &BTreeMap<String, String>,
    capabilities: &Capabilities,
) -> Options {
    let known = annotations.iter().filter(|(key, _)| capabilities.option(key).is_some());
    known.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether the operator or the provider reads it.
pub(crate) fn is_known(key: &str, capabilities: &Capabilities) -> bool {
    ANNOTATIONS.iter().any(|spec| spec.key == key) || capabilities.option(key).is_some()
}

/// Whether a key that begins so is read.
pub(crate) fn begins_known(beginning: &str, capabilities: &Capabilities) -> bool {
    let shared = ANNOTATIONS.iter().map(|spec| spec.key);
    let own = capabilities.options.iter().map(|spec| spec.key);
    shared.chain(own).any(|key| key.starts_with(beginning)) || is_known(beginning, capabilities)
}

/// The problem of a key that is not read.
pub(crate) fn unknown_key(key: &str, capabilities: &Capabilities) -> Problem {
    let shared = ANNOTATIONS.iter().map(|spec| spec.key);
    let own = capabilities.options.iter().map(|spec| spec.key);
    let message = match nearest::nearest(key, shared.chain(own)) {
        Some(known) => format!("nothing here reads it; did you mean {known}? If not, remove it"),
        None => {
            "nothing here reads it; remove it, or see docs/annotations.md for those that are read".to_owned()
        }
    };
    Problem::new(ProblemKind::UnknownAnnotation, format!("annotation {key}"), message)
}

/// Keys under our domain, or the provider's own prefixes, that nobody reads.
fn unknown(annotations: &BTreeMap<String, String>, capabilities: &Capabilities) -> Vec<Problem> {
    let ours = |key: &str| {
        (key.starts_with(DOMAIN) && key != HELD_BY)
            || capabilities.option_prefixes.iter().any(|prefix| key.starts_with(prefix))
    };
    let unread = annotations.keys().filter(|key| ours(key) && !is_known(key, capabilities));
    unread.map(|key| unknown_key(key, capabilities)).collect()
}

/// What an annotation says; `None`: nothing. Empty is as good as absent, to Kubernetes and to other controllers.
fn said<'a>(annotations: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    annotations.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn one<T: Copy>(&mut self, spec: AnnotationSpec, choices: &[(&str, T)]) -> Option<T> {
        let value = said(self.annotations, spec.key)?;
        let chosen = choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice);
        if chosen.is_none() {
            self.refuse(spec, value);
        }
        chosen
    }

    fn parsed<T>(&mut self, spec: AnnotationSpec, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = said(self.annotations, spec.key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.refuse(spec, value);
        }
        parsed
    }

    fn list<T: Ord>(&mut self, spec: AnnotationSpec, parse: impl Fn(&str) -> Option<T>) -> BTreeSet<T> {
        let Some(value) = self.annotations.get(spec.key) else { return BTreeSet::new() };
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        let parsed: Option<BTreeSet<T>> = items.map(parse).collect();
        parsed.unwrap_or_else(|| {
            self.refuse(spec, value);
            BTreeSet::new()
        })
    }

    fn refuse(&mut self, spec: AnnotationSpec, value: &str) {
        let AnnotationSpec { key, value: expected, default: _, field: _ } = spec;
        let message = format!("is {value:?}, but must be {expected}");
        self.problems.push(Problem::new(
            ProblemKind::InvalidAnnotation,
            format!("annotation {key}"),
            message,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::CAPABILITIES;

    fn read_one(key: &str, value: &str) -> (Annotated, Vec<Problem>, Vec<Problem>) {
        let annotations = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let annotated = read(&annotations, &CAPABILITIES, &mut problems, &mut warnings);
        (annotated, problems, warnings)
    }

    #[test]
    fn every_annotation_of_the_table_refuses_nonsense_with_key_and_remedy() {
        for spec in ANNOTATIONS {
            let (annotated, problems, warnings) = read_one(spec.key, "non sense");
            assert_eq!(annotated, Annotated::default(), "{}", spec.key);
            assert!(warnings.is_empty(), "{warnings:?}");
            let text = problems.iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains(spec.key) && text.contains(spec.value), "{text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named_beside_the_one_that_is_meant() {
        let (_, problems, warnings) = read_one("portico.dev/adresses", "192.0.2.1");
        assert!(problems.is_empty());
        let text = warnings.iter().map(ToString::to_string).collect::<String>();
        assert!(text.contains("portico.dev/adresses") && text.contains("portico.dev/addresses"), "{text}");
        for (key, meant) in [
            ("fake.example/lb-test-optoin", "did you mean fake.example/lb-test-option?"),
            ("fake.example/lb-entirely-else", "docs/annotations.md"),
        ] {
            let (_, _, warnings) = read_one(key, "x");
            let text = warnings.iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains(key) && text.contains(meant), "{text}");
        }
        let (_, problems, warnings) = read_one("example.com/other", "x");
        assert!(problems.is_empty() && warnings.is_empty(), "other domains are none of our business");
    }

    #[test]
    fn host_bits_of_a_source_range_are_dropped_as_kube_proxy_drops_them() {
        let (annotated, problems, _) = read_one(SOURCE_RANGES.key, "10.1.2.3/8, 2001:db8::1/32");
        assert!(problems.is_empty());
        let ranges: Vec<String> = annotated.source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.0.0.0/8", "2001:db8::/32"]);
    }

    #[test]
    fn what_a_provider_lists_is_passed_on_and_not_unknown() {
        let (annotated, problems, warnings) = read_one("portico.dev/test-option", "5m");
        assert!(problems.is_empty() && warnings.is_empty());
        assert_ne!(annotated.options, Options::default());
    }
}
