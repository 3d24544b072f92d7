//! A short digest of a desired load balancer, to tell "unchanged" without reading a cloud.
//!
//! Owns: the digest. Leaves to others: where it is kept (a tag, a cache).
//! Invariant: stable across processes and compilers, which `std`'s hasher does not promise: FNV-1a, 128 bits,
//! over the canonical JSON (struct order, sorted sets and maps). Not for secrets: nobody gains from a collision
//! with one's own earlier spec.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A digest of a desired load balancer; prints as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(u128);

/// Parameters of FNV-1a with 128 bits: RFC 9923, section 5.
const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl SpecHash {
    pub(super) fn of<T: Serialize + fmt::Debug>(value: &T) -> Self {
        let mut fnv = Fnv(OFFSET);
        if serde_json::to_writer(&mut fnv, value).is_err() {
            // Every model type has a JSON form; should one lose it, its Debug form still tells changes apart.
            fnv.absorb(format!("{value:?}").as_bytes());
        }
        Self(fnv.0)
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

struct Fnv(u128);

impl Fnv {
    fn absorb(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
}

impl std::io::Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.absorb(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::model::{
        ClusterUid, HealthCheck, Listener, LoadBalancer, NodeName, NodeTarget, Owner, PodTarget, Port,
        Protocol, ServiceName, Targets,
    };

    fn mk_load_balancer() -> LoadBalancer {
        let owner = Owner {
            cluster: "c0ffee00-0000-4000-8000-000000000001".parse::<ClusterUid>().unwrap(),
            service: "c0ffee00-0000-4000-8000-000000000002".parse().unwrap(),
            name: ServiceName::new("shop", "web").unwrap(),
        };
        let listener = |protocol, port: u16| Listener {
            protocol,
            port: Port::try_from(port).unwrap(),
            name: format!("p{port}"),
            node_port: Some(Port::try_from(30_000 + port).unwrap()),
        };
        let node = NodeTarget {
            name: NodeName("node-1".to_owned()),
            addresses: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
            external_addresses: BTreeSet::new(),
            provider_id: Some("aws:///us-east-1a/i-1".to_owned()),
            zone: Some("us-east-1a".to_owned()),
            has_ready_endpoints: true,
        };
        let listeners = BTreeSet::from([listener(Protocol::Tcp, 80), listener(Protocol::Udp, 53)]);
        LoadBalancer {
            health_check: HealthCheck::node_proxy(),
            source_ranges: BTreeSet::from(["192.0.2.0/24".parse().unwrap()]),
            ..LoadBalancer::plain(owner, listeners, Targets::Nodes(BTreeSet::from([node])))
        }
    }

    /// Earlier releases wrote these into tags. With other ones an upgrade would read, and write, every load balancer again.
    #[test]
    fn digests_of_earlier_releases_still_hold() {
        let nodes = mk_load_balancer();
        let pod = PodTarget {
            address: "10.244.1.7".parse().unwrap(),
            ports: BTreeMap::from([(
                nodes.listeners.first().unwrap().key(),
                Port::try_from(8080_u16).unwrap(),
            )]),
            node: Some(NodeName("node-1".to_owned())),
            zone: None,
        };
        let mut pods = nodes.clone();
        pods.targets = Targets::Pods(BTreeSet::from([pod]));
        let digests = [nodes.spec_hash(), pods.spec_hash(), nodes.backends().spec_hash()];
        let recorded = [
            "8533480006bf3be0fdf4330482a2402b",
            "303d5d64147e4d6d272e3f3d00316fe7",
            "8a417af10150535b7cea6cf63a211890",
        ];
        assert_eq!(digests.map(|digest| digest.to_string()), recorded);
    }

    #[test]
    fn the_digest_is_the_published_fnv_1a_of_128_bits() {
        let mut fnv = Fnv(OFFSET);
        fnv.absorb(b"foobar");
        assert_eq!(format!("{:032x}", fnv.0), "343e1662793c64bf6f0d3597ba446f18");
    }
}
