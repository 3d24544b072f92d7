//! Annotations, parsed once.
//!
//! Owns: what each may say. Leaves to others: what it means for a load balancer (`wanted`).
//! Invariant: every wrong value is named with its key and what it may be, all in one pass.

use portico_provider::{Options, Scheme};

use crate::capabilities as keys;
use crate::resource::Tier;

/// Choices made by annotations.
pub(crate) struct Chosen {
    pub(crate) scheme: Scheme,
    pub(crate) tier: Option<Tier>,
    pub(crate) subnetwork: Option<String>,
    /// Reserved addresses, by name.
    pub(crate) named: Vec<String>,
    pub(crate) collection: Option<String>,
    pub(crate) global_access: bool,
    pub(crate) deny_others: bool,
    pub(crate) weighted: Option<PodsPerNode>,
    pub(crate) strong_affinity: Option<Enabled>,
}

/// `enabled`.
pub(crate) struct Enabled;

impl std::str::FromStr for Enabled {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "enabled" { Ok(Self) } else { Err(()) }
    }
}

/// `pods-per-node`.
pub(crate) struct PodsPerNode;

impl std::str::FromStr for PodsPerNode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "pods-per-node" { Ok(Self) } else { Err(()) }
    }
}

/// An internal or external load balancer, as GKE's annotation writes it.
struct Type(Scheme);

impl std::str::FromStr for Type {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "internal" => Ok(Self(Scheme::Internal)),
            "external" => Ok(Self(Scheme::External)),
            _ => Err(()),
        }
    }
}

/// The URL of a public delegated prefix.
struct Prefix(String);

impl std::str::FromStr for Prefix {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let path = text.strip_prefix("https://www.googleapis.com/compute/v1/").unwrap_or(text);
        match path.split('/').collect::<Vec<_>>()[..] {
            ["projects", _, "regions", _, "publicDelegatedPrefixes", _] => Ok(Self(path.to_owned())),
            _ => Err(()),
        }
    }
}

/// A resource's name.
struct Name(String);

impl std::str::FromStr for Name {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(valid);
        if named && text.len() <= 63 { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// The names of one or two.
struct NameList(Vec<String>);

impl std::str::FromStr for NameList {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let names = text.split(',').map(|name| name.trim().parse::<Name>().map(|Name(name)| name));
        let names: Vec<String> = names.collect::<Result<_, ()>>()?;
        if (1..=2).contains(&names.len()) { Ok(Self(names)) } else { Err(()) }
    }
}

/// The choices, and what is wrong with annotations, each by its key.
pub(crate) fn read(options: &Options, scheme: Scheme) -> (Chosen, Vec<String>) {
    const PREFIX: &str = "a URL such as projects/P/regions/R/publicDelegatedPrefixes/NAME";
    const NAME: &str = "one name of lower-case letters, digits and '-'";
    const NAMES: &str = "a name of lower-case letters, digits and '-', or two: IPV4-NAME,IPV6-NAME";
    let mut reader = options.reader();
    let kind = reader.parsed::<Type>(keys::TYPE, "\"Internal\" or \"External\"");
    let kind = kind.or(reader.parsed::<Type>(keys::OLD_TYPE, "\"Internal\" or \"External\""));
    let subnetwork = reader.parsed::<Name>(keys::SUBNET, NAME);
    let subnetwork = subnetwork.or(reader.parsed::<Name>(keys::INTERNAL_SUBNET, NAME));
    let chosen = Chosen {
        scheme: kind.map_or(scheme, |Type(scheme)| scheme),
        tier: reader.parsed(keys::TIER, "\"Premium\" or \"Standard\""),
        subnetwork: subnetwork.map(|Name(name)| name),
        named: reader
            .parsed::<NameList>(keys::ADDRESSES, NAMES)
            .map(|NameList(names)| names)
            .unwrap_or_default(),
        collection: reader.parsed::<Prefix>(keys::COLLECTION_V6, PREFIX).map(|Prefix(url)| url),
        global_access: reader.flag(keys::GLOBAL_ACCESS).unwrap_or_default(),
        deny_others: reader.flag(keys::DENY_FIREWALL).unwrap_or_default(),
        weighted: reader.parsed::<PodsPerNode>(keys::WEIGHTED, "\"pods-per-node\""),
        strong_affinity: reader.parsed::<Enabled>(keys::STRONG_AFFINITY, "\"enabled\""),
    };
    // Every one is of that kind, so there is nothing to switch on.
    let _always = reader.parsed::<Enabled>(keys::RBS, "\"enabled\", which is always so");
    let not_implemented = keys::NOT_IMPLEMENTED.into_iter();
    let asked = not_implemented.filter(|key| reader.parsed::<String>(key, "absent").is_some());
    let mut wrong: Vec<String> =
        asked.map(|key| format!("annotation {key} is not implemented: remove it")).collect();
    wrong.extend(reader.finish().into_iter().map(|error| error.to_string()));
    (chosen, wrong)
}
