//! Compares the kernel with the model, element by element, for one packet or for one Service.
//!
//! Owns the set of elements that a question concerns, and the comparison. Leaves reading the kernel to a
//! dataplane.
//!
//! Invariant: other elements are not compared, so the result does not depend on the rest of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    model::Model,
    oracle::{self, Outcome, Packet},
    plan::{Chain, State},
    table::{Alias, Family, Frontend, Key, Value},
    walk::{self, PacketContext},
};

/// The desired elements that one question concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    elements: BTreeMap<Key, Value>,
    frontends: BTreeSet<Frontend>,
    aliases: BTreeSet<Alias>,
    families: BTreeSet<Family>,
}

/// An element, or a chain, that differs from the desired one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Map or set that holds it; `chain` for a chain.
    pub map: String,
    /// Its key, or the chain's name.
    pub key: String,
    /// Desired value; `None` when it should not exist.
    pub wanted: Option<String>,
    /// Programmed value; `None` when it does not exist.
    pub found: Option<String>,
}

/// Result of a comparison with the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Number of elements that were compared.
    pub compared: usize,
    /// Elements and chains that differ.
    pub differences: Vec<Difference>,
    /// Difference between the fixed part of the table and the one that this proxy writes, in words.
    pub damage: Option<String>,
    /// Outcome of the packet in the kernel's tables, if it is not the right one.
    pub outcome: Option<String>,
}

impl Wanted {
    /// The elements for a packet: its frontend's, the ranges, and its endpoints' hairpin elements.
    pub fn by_packet(model: &Model, packet: &Packet) -> Self {
        let to = packet.to;
        let family = Family::of(to.address);
        let alias = model.alias_of(&to);
        let stand_in = model.stand_in(&to);
        let mut wanted = Self {
            frontends: BTreeSet::from([to]).into_iter().chain(stand_in).collect(),
            aliases: alias.into_iter().collect(),
            families: BTreeSet::from([family]),
            ..Self::default()
        };
        let Frontend { address, protocol, port } = to;
        let mut keys = vec![
            Key::ClusterIp(address),
            Key::NodePort(family, protocol, port),
            Key::NodePortNoEndpoints(family, protocol, port),
        ];
        if let Some((claim, _)) = model.holder(&to) {
            // The mark of an endpoint that may reach itself may be another Service's.
            if let Outcome::Backends(backends) = oracle::outcome(model, packet) {
                keys.extend(backends.keys().map(|b| Key::Hairpin(b.address, to.protocol, b.port)));
            }
            let is_its = |key: &&Key| {
                key.frontend().is_some_and(|of| of == to || stand_in == Some(of))
                    || key.alias().is_some_and(|of| alias == Some(of))
            };
            keys.extend(model.keys(&claim.service).iter().filter(is_its));
        }
        wanted.take(model, &keys);
        wanted
    }

    /// The elements for a Service: its own, and those of its frontends.
    pub fn by_keys(model: &Model, keys: &[Key], frontends: BTreeSet<Frontend>) -> Self {
        let families = keys.iter().map(Key::family).collect();
        let aliases = keys.iter().filter_map(Key::alias).collect();
        let mut wanted = Self { frontends, aliases, families, ..Self::default() };
        wanted.take(model, keys);
        wanted
    }

    fn take(&mut self, model: &Model, keys: &[Key]) {
        let desired = &model.shadow().desired().elements;
        let ranges = model.ranges().filter(|key| self.families.contains(&key.family()));
        let all = keys.iter().copied().chain(ranges);
        self.elements = all.filter_map(|key| Some((key, *desired.get(&key)?))).collect();
    }

    fn concerns(&self, key: &Key) -> bool {
        match key {
            Key::PodCidr(_)
            | Key::NodePod(_)
            | Key::ServiceCidr(_)
            | Key::NodeAddress(_)
            | Key::NodePortStandIn(..) => self.families.contains(&key.family()),
            Key::ClusterIp(address) => self.frontends.iter().any(|frontend| frontend.address == *address),
            Key::NodePort(family, protocol, port) | Key::NodePortNoEndpoints(family, protocol, port) => self
                .frontends
                .iter()
                .any(|f| (Family::of(f.address), f.protocol, f.port) == (*family, *protocol, *port)),
            key => {
                key.frontend().is_some_and(|frontend| self.frontends.contains(&frontend))
                    || key.alias().is_some_and(|alias| self.aliases.contains(&alias))
            }
        }
    }

    /// Compares with a programmed state. With `damage` to the fixed part of the table its elements were not
    /// read, and the result has none.
    pub fn check(&self, found: &State, damage: Option<String>) -> Check {
        if damage.is_some() {
            return Check { compared: 0, differences: Vec::new(), damage, outcome: None };
        }
        let mut differences = Vec::new();
        for (key, value) in &self.elements {
            let stands = found.elements.get(key);
            if stands != Some(value) {
                differences.push(Difference::element(key, Some(value), stands));
            }
        }
        let surplus = found.elements.iter().filter(|(key, _)| self.concerns(key));
        let mut surplus: Vec<_> = surplus.filter(|(key, _)| !self.elements.contains_key(*key)).collect();
        surplus.sort_unstable();
        differences
            .extend(surplus.into_iter().map(|(key, value)| Difference::element(key, None, Some(value))));
        let missing = self.chains().into_iter().filter(|chain| !found.chains.contains(chain));
        differences.extend(missing.map(|chain| Difference {
            map: "chain".to_owned(),
            key: chain.to_string(),
            wanted: Some("present".to_owned()),
            found: None,
        }));
        Check { compared: self.elements.len(), differences, damage, outcome: None }
    }

    /// Balancing chains of the desired verdicts.
    pub fn chains(&self) -> BTreeSet<Chain> {
        let chain = |(key, value): (&Key, &Value)| {
            value.target().map(|target| Chain { family: key.family(), target })
        };
        self.elements.iter().filter_map(chain).collect()
    }
}

impl Difference {
    fn element(key: &Key, wanted: Option<&Value>, found: Option<&Value>) -> Self {
        Self {
            map: format!("{} {}", key.family(), key.map()),
            key: key.to_string(),
            wanted: wanted.map(ToString::to_string),
            found: found.map(ToString::to_string),
        }
    }
}

impl Check {
    /// Adds the outcome of a packet in the kernel's tables, if it is not `expected`.
    #[must_use]
    pub fn walked(
        mut self,
        found: &State,
        context: PacketContext<'_>,
        packet: &Packet,
        expected: &Outcome,
    ) -> Self {
        if self.damage.is_none() {
            let outcome = walk::walk(found, context, packet);
            self.outcome = (outcome != *expected).then(|| outcome.to_string());
        }
        self
    }

    /// Whether there is no difference.
    pub fn agrees(&self) -> bool {
        let Self { compared: _, differences, damage, outcome } = self;
        differences.is_empty() && damage.is_none() && outcome.is_none()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, differences, damage, outcome } = self;
        if self.agrees() {
            return writeln!(f, "kernel     agrees: {compared} elements are as they should be");
        }
        if let Some(damage) = damage {
            return writeln!(f, "kernel     DIFFERS: {damage}");
        }
        writeln!(f, "kernel     DIFFERS: {} of {compared} elements", differences.len())?;
        for difference in differences {
            writeln!(f, "  {difference}")?;
        }
        if let Some(outcome) = outcome {
            writeln!(f, "  the kernel now gives this packet: {outcome}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, key, wanted, found } = self;
        write!(f, "{map} {{ {key} }}: ")?;
        match (wanted, found) {
            (Some(wanted), Some(found)) => write!(f, "should be {wanted}, is {found}"),
            (Some(wanted), None) => write!(f, "should be {wanted}, is missing"),
            (None, found) => write!(f, "should not be there, is {}", found.as_deref().unwrap_or("present")),
        }
    }
}
