//! Session affinity: the rule for keeping an endpoint, the alias of a Service port, and the pool of a
//! namespace.
//!
//! Owns the rule that every dataplane follows ([`kept`]). Owns the aliases that stand for all addresses of a
//! Service port, and the pools that separate the clients of one tenant from those of others. Leaves to
//! `compile` the elements that follow in the kernel.
//!
//! Invariants: an alias belongs to one Service port for as long as that has session affinity. Aliases and pools
//! depend on names alone, so a restart computes the same ones. The exception is two ports with the same hash:
//! the later one takes the next number.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    input::{Name, Service, ServiceName},
    table::{Alias, Backend, Family, Protocol},
};

/// Most clients in one affinity map: of one pool, timeout and family. It is the kernel's own limit for a map
/// that packets fill and that declares none. A map that declares a size gets a hash table of that size, and
/// each namespace has its own maps.
pub const MOST: usize = 0xFFFF;

/// IPv4 aliases are in 240.0.0.0/4, which is reserved (RFC 1112).
const V4: u32 = 0xF000_0000;
/// IPv6 aliases are in `100::/64`, the discard prefix (RFC 6666).
const V6: u128 = 0x0100 << 112;

/// The endpoint that a client keeps: its last one, if that is in the list that its packet may use. Otherwise
/// the client is balanced like a new one.
pub fn kept(may_use: &[Backend], last: Option<Backend>) -> Option<Backend> {
    last.filter(|backend| may_use.contains(backend))
}

/// The pool of a namespace: a hash of its name. Each pool has its own affinity maps, because their size is
/// bounded and sources can be forged.
pub fn pool(namespace: &str) -> u32 {
    let hash = hash([namespace.as_bytes()]);
    u32::try_from((hash >> 32) ^ (hash & 0xFFFF_FFFF)).unwrap_or_default()
}

/// A port within a Service, in one family. A port keeps its name when its number changes.
type PortName = (Name, Protocol, Family);

/// Every alias in use.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    taken: HashMap<Alias, ServiceName>,
    held: HashMap<ServiceName, Vec<(PortName, Alias)>>,
}

impl Aliases {
    /// The aliases of a Service's ports, in the order of [`ports`]; none without session affinity. Aliases that
    /// the Service no longer needs become free.
    pub(crate) fn settle(&mut self, name: &ServiceName, service: Option<&Service>) -> Vec<Alias> {
        let mut before = HashMap::<_, Vec<_>>::new();
        for (port, alias) in self.held.remove(name).unwrap_or_default() {
            before.entry(port).or_default().push(alias);
        }
        let wanted = service.filter(|service| service.affinity.is_some()).map(ports).unwrap_or_default();
        let mut now = Vec::with_capacity(wanted.len());
        for port in wanted {
            // Of ports of one name, the first keeps the first.
            let known = before.get_mut(&port).filter(|known| !known.is_empty()).map(|known| known.remove(0));
            let alias = known.unwrap_or_else(|| self.take(name, &port));
            now.push((port, alias));
        }
        for alias in before.into_values().flatten() {
            self.taken.remove(&alias);
        }
        let aliases = now.iter().map(|(_, alias)| *alias).collect();
        if !now.is_empty() {
            self.held.insert(name.clone(), now);
        }
        aliases
    }

    /// The Service that has the alias.
    pub(crate) fn holder(&self, alias: &Alias) -> Option<&ServiceName> {
        self.taken.get(alias)
    }

    fn take(&mut self, service: &ServiceName, (port, protocol, family): &PortName) -> Alias {
        let words =
            [service.namespace.as_bytes(), service.name.as_bytes(), port.as_bytes(), &[*protocol as u8]];
        let mut number = hash(words);
        loop {
            let alias = Alias { address: address(number, *family), protocol: *protocol };
            if let std::collections::hash_map::Entry::Vacant(free) = self.taken.entry(alias) {
                free.insert(service.clone());
                return alias;
            }
            number = number.wrapping_add(1);
        }
    }
}

/// Every port of a Service in each of its families.
fn ports(service: &Service) -> Vec<PortName> {
    let families = service.cluster_ips.iter().map(|ip| Family::of(*ip));
    let of = |family| service.ports.iter().map(move |port| (port.name.clone(), port.protocol, family));
    families.flat_map(of).collect()
}

fn address(number: u64, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let low = u32::try_from(number & u64::from(!V4)).unwrap_or_default();
            Ipv4Addr::from_bits(V4 | low).into()
        }
        Family::V6 => Ipv6Addr::from_bits(V6 | u128::from(number)).into(),
    }
}

/// FNV-1a with an end behind each word: the standard library's hashers promise no stability between releases.
fn hash<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let hash =
        words.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, word| step(word.iter().fold(hash, step), &0xFF));
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::input::{ServicePort, TrafficPolicy};

    fn mk_service(name: &str, ports: &[&str]) -> Service {
        let port = |name: &&str| ServicePort {
            name: (*name).into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        };
        Service {
            name: ServiceName { namespace: "shop".into(), name: name.into() },
            created: 0,
            cluster_ips: vec![[10, 96, 0, 1].into(), "fd96::1".parse().expect("an address")],
            external_ips: Vec::new(),
            load_balancer_vips: Vec::new(),
            ports: ports.iter().map(port).collect(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: Some(10),
            source_ranges: Vec::new(),
            health_check_node_port: None,
        }
    }

    #[test]
    fn each_port_and_family_has_an_alias_of_its_own_and_keeps_it() {
        let mut aliases = Aliases::default();
        let service = mk_service("web", &["a", "b"]);
        let first = aliases.settle(&service.name, Some(&service));
        let distinct: BTreeSet<_> = first.iter().collect();
        assert_eq!((first.len(), distinct.len()), (4, 4));
        let fewer = mk_service("web", &["b"]);
        assert_eq!(aliases.settle(&service.name, Some(&fewer)), [first[1], first[3]]);
        assert_eq!(aliases.settle(&service.name, Some(&service)), first, "names alone say which");
        aliases.settle(&service.name, Some(&Service { affinity: None, ..service.clone() }));
        assert!(aliases.taken.is_empty() && aliases.held.is_empty());
    }

    #[test]
    fn ports_with_the_same_hash_have_different_aliases() {
        let mut aliases = Aliases::default();
        let (one, other) = (mk_service("one", &[""]), mk_service("other", &[""]));
        let wished = aliases.settle(&one.name, Some(&one));
        aliases.settle(&one.name, None);
        aliases.taken.insert(wished[0], other.name.clone());
        let given = aliases.settle(&one.name, Some(&one));
        assert_ne!(given[0], wished[0]);
        assert_eq!(
            (aliases.holder(&given[0]), aliases.holder(&wished[0])),
            (Some(&one.name), Some(&other.name))
        );
    }

    #[test]
    fn two_ports_of_one_name_have_two_aliases() {
        let twins = mk_service("twins", &["", ""]);
        let aliases = Aliases::default().settle(&twins.name, Some(&twins));
        assert_eq!(aliases.iter().collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn namespaces_have_pools_of_their_own() {
        let pools: BTreeSet<_> = (0..10_000).map(|n| pool(&format!("tenant-{n}"))).collect();
        assert_eq!(pools.len(), 10_000);
        assert_eq!(pool("default"), pool("default"));
    }
}
