//! Names: digests of whose a thing is and what it is for, so that a lost reply finds the same name again.
//!
//! Owns: the names. Leaves to others: whether what bears one is ours (its tags say).
//! Invariant: at most 32 characters, letters, digits and hyphens; equal in every process.

use portico_provider::{ClusterUid, GroupName, IpFamily, Owner};

use crate::cloud::resources::{GroupShape, TargetType, Transport};

/// AWS takes so many characters.
pub(crate) const LONGEST: usize = 32;

/// A name of the user's for its `n`th replacement; of a long one, less.
fn nth(name: &str, n: u32) -> String {
    let end = format!("-{n}");
    let kept = name.get(..LONGEST - end.len()).unwrap_or(name);
    format!("{}{end}", kept.trim_end_matches('-'))
}

/// So many replacements have names of their own; the first free one is taken, so two are enough.
pub(crate) const GENERATIONS: u32 = 8;

/// Whether a load balancer's name is a digest that only this owner's can have, or his group's.
pub(crate) fn is_load_balancer(name: &str, owner: &Owner, group: Option<&GroupName>) -> bool {
    (0..GENERATIONS).any(|n| match group {
        Some(group) => shared_load_balancer(&owner.cluster, group, None, n) == name,
        None => load_balancer(owner, None, n) == name,
    })
}

/// The name of a load balancer: the user's, or a digest; a replacement's has the generation.
pub(crate) fn load_balancer(owner: &Owner, asked: Option<&str>, generation: u32) -> String {
    match (asked, generation) {
        (Some(name), 0) => name.to_owned(),
        (Some(name), more) => nth(name, more),
        (None, _) => named(owner, &format!("load balancer {generation}")),
    }
}

/// The same of one that a group shares.
pub(crate) fn shared_load_balancer(
    cluster: &ClusterUid,
    group: &GroupName,
    asked: Option<&str>,
    generation: u32,
) -> String {
    match (asked, generation) {
        (Some(name), 0) => name.to_owned(),
        (Some(name), more) => nth(name, more),
        (None, _) => shared(cluster, group, &format!("load balancer {generation}")),
    }
}

/// The name of the `shard`th security group in front of a group's load balancer, from 0.
pub(crate) fn shared_security_group(cluster: &ClusterUid, group: &GroupName, shard: usize) -> String {
    shared(cluster, group, &format!("security group {shard}"))
}

/// The name of the target group behind one port of a load balancer.
pub(crate) fn target_group(owner: &Owner, load_balancer: &str, port: u16, shape: GroupShape) -> String {
    let GroupShape { protocol, targets, family } = shape;
    named(owner, &format!("target group {load_balancer} {port} {protocol} {targets} {family}"))
}

/// Whether a target group of this name is one of this owner's behind that port of that load balancer, of any shape.
pub(crate) fn is_target_group(name: &str, owner: &Owner, load_balancer: &str, port: u16) -> bool {
    shapes().any(|shape| target_group(owner, load_balancer, port, shape) == name)
}

/// Every shape that a target group can have.
pub(crate) fn shapes() -> impl Iterator<Item = GroupShape> {
    let protocols = [Transport::Tcp, Transport::Udp, Transport::TcpUdp, Transport::Tls];
    let kinds = [
        (TargetType::Instance, IpFamily::IPv4),
        (TargetType::Ip, IpFamily::IPv4),
        (TargetType::Ip, IpFamily::IPv6),
    ];
    let of = move |protocol| kinds.map(|(targets, family)| GroupShape { protocol, targets, family });
    protocols.into_iter().flat_map(of)
}

/// The name of the `shard`th security group in front of a Service's load balancers, from 0.
pub(crate) fn security_group(owner: &Owner, shard: usize) -> String {
    match shard {
        0 => named(owner, "security group"),
        more => named(owner, &format!("security group {more}")),
    }
}

fn shared(cluster: &ClusterUid, group: &GroupName, what: &str) -> String {
    readable(group.namespace(), group.name(), &format!("{cluster}\ngroup {group}\n{what}"))
}

fn named(owner: &Owner, what: &str) -> String {
    let Owner { cluster, service, name } = owner;
    readable(name.namespace(), name.name(), &format!("{cluster}\n{service}\n{what}"))
}

/// `p-<namespace>-<name>-<digest>`, the first two cut to size: for people.
fn readable(namespace: &str, name: &str, digested: &str) -> String {
    let cut = |text: &str, length: usize| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).take(length).collect()
    };
    format!("p-{}-{}-{:016x}", cut(namespace, 5), cut(name, 7), digest(digested))
}

/// FNV-1a, 64 bits (RFC 9923): stable across processes and compilers. Nobody gains by a collision in his own Services.
pub(crate) fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_owner_and_generation() {
        let mk = |service: &str| Owner {
            cluster: "c".parse().unwrap(),
            service: service.parse().unwrap(),
            name: portico_provider::ServiceName::new("a-long-namespace", "a.long.name").unwrap(),
        };
        let names = [
            load_balancer(&mk("1"), None, 0),
            load_balancer(&mk("1"), None, 1),
            load_balancer(&mk("2"), None, 0),
            security_group(&mk("1"), 0),
            security_group(&mk("1"), 1),
        ];
        assert!(names.iter().all(|name| name.len() <= 32), "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
    }
}
