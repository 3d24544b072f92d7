//! Annotations: the one table of those every provider shares, and their typed reader.
//!
//! Owns: keys, values, defaults, and what a wrong one is told. Leaves to others: what a value means (`desired`),
//! and options of single providers (their own table, [`Capabilities::options`]).
//! Invariant: a value that does not parse is a problem with key and remedy, never a default; a key under our
//! domain that nobody knows is a warning, as it is most likely a misspelt one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portico_provider::{Capabilities, Options, ProxyProtocol, Replacement, Scheme, TargetKind};

use crate::problem::{Problem, ProblemKind};
use crate::service::HELD_BY;

const DOMAIN: &str = "portico.dev/";

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnotationSpec {
    /// The full name.
    pub key: &'static str,
    /// What it may say; completes the sentence "must be …".
    pub value: &'static str,
    /// What its absence means.
    pub default: &'static str,
    /// Which providers heed it.
    pub providers: &'static str,
}

const ADDRESSES: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/addresses",
    value: "addresses separated by commas, at most one of each family, such as \"203.0.113.7\"",
    default: "spec.loadBalancerIP, or else the provider chooses",
    providers: "those that give addresses of their own",
};
const PROXY_PROTOCOL: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/proxy-protocol",
    value: "\"v2\" or \"off\"",
    default: "off",
    providers: "local, aws",
};
const SCHEME: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/scheme",
    value: "\"external\" or \"internal\"",
    default: "external",
    providers: "aws, gce",
};
const TARGET_KIND: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/target-kind",
    value: "\"node\" or \"pod\"",
    default: "what the provider prefers",
    providers: "those that reach both",
};
const ALLOW_REPLACEMENT: AnnotationSpec = AnnotationSpec {
    key: "portico.dev/allow-replacement",
    value: "\"true\" or \"false\"",
    default: "false",
    providers: "all",
};
const SOURCE_RANGES: AnnotationSpec = AnnotationSpec {
    key: "service.beta.kubernetes.io/load-balancer-source-ranges",
    value: "CIDRs separated by commas, such as \"10.0.0.0/8,192.0.2.0/24\"",
    default: "spec.loadBalancerSourceRanges, which wins, or else everybody",
    providers: "all",
};

/// Every annotation that is not one provider's own; for docs, too.
pub const ANNOTATIONS: [AnnotationSpec; 6] =
    [ADDRESSES, PROXY_PROTOCOL, SCHEME, TARGET_KIND, ALLOW_REPLACEMENT, SOURCE_RANGES];

/// What annotations ask for; `None` and empty where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotated {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) scheme: Scheme,
    pub(crate) target_kind: Option<TargetKind>,
    pub(crate) replacement: Replacement,
    pub(crate) source_ranges: BTreeSet<IpNet>,
    /// The provider's own.
    pub(crate) options: Options,
}

/// Reads all annotations of a Service; errors go to `problems`, likely misspellings to `warnings`.
pub(crate) fn read(
    annotations: &BTreeMap<String, String>,
    capabilities: &Capabilities,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Annotated {
    let mut reader = Reader { annotations, problems };
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
        source_ranges: reader.list(SOURCE_RANGES, parse_range),
        options: provider_options(annotations, capabilities),
    };
    warnings.extend(unknown(annotations, capabilities));
    annotated
}

/// A CIDR without its host bits, as kube-proxy reads it.
pub(crate) fn parse_range(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|range| range.trunc())
}

fn provider_options(annotations: &BTreeMap<String, String>, capabilities: &Capabilities) -> Options {
    let known = annotations.iter().filter(|(key, _)| capabilities.option(key).is_some());
    known.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn unknown(annotations: &BTreeMap<String, String>, capabilities: &Capabilities) -> Vec<Problem> {
    let shared = |key: &str| ANNOTATIONS.iter().any(|spec| spec.key == key);
    let ours = annotations.keys().filter(|key| key.starts_with(DOMAIN) && *key != HELD_BY);
    ours.filter(|key| !shared(key) && capabilities.option(key).is_none())
        .map(|key| {
            let shared = ANNOTATIONS.iter().map(|spec| spec.key).filter(|known| known.starts_with(DOMAIN));
            let own = capabilities.options.iter().map(|spec| spec.key);
            let known: Vec<&str> = shared.chain(own).collect();
            let message = format!("nothing here reads it; remove it, or use one of {}", known.join(", "));
            Problem::new(ProblemKind::UnknownAnnotation, format!("annotation {key}"), message)
        })
        .collect()
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn one<T: Copy>(&mut self, spec: AnnotationSpec, choices: &[(&str, T)]) -> Option<T> {
        let value = self.annotations.get(spec.key)?;
        let chosen = choices.iter().find(|(word, _)| *word == value.trim()).map(|(_, choice)| *choice);
        if chosen.is_none() {
            self.refuse(spec, value);
        }
        chosen
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
        let AnnotationSpec { key, value: expected, default: _, providers: _ } = spec;
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
            let (annotated, problems, warnings) = read_one(spec.key, "nonsense");
            assert_eq!(annotated, Annotated::default(), "{}", spec.key);
            assert!(warnings.is_empty(), "{warnings:?}");
            let text = problems.iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains(spec.key) && text.contains(spec.value), "{text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named_beside_those_that_exist() {
        let (_, problems, warnings) = read_one("portico.dev/adresses", "192.0.2.1");
        assert!(problems.is_empty());
        let text = warnings.iter().map(ToString::to_string).collect::<String>();
        assert!(text.contains("portico.dev/adresses") && text.contains("portico.dev/addresses"), "{text}");
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
