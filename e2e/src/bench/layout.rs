//! Addresses of two nodes, a client's pod and one pod of endpoints on each node. Pure; the text for `ip -batch`
//! is made here and run by the testbed.
//!
//! A pod of endpoints answers on thousands of addresses (local routes), so that each filler Service has three endpoints of
//! its own, all of them real. Endpoints that Services share would make a proxy's tables smaller than they are in life.

use std::{iter, net::Ipv4Addr};

use super::subject::NODE;
use crate::fabric::Host;

/// The most filler Services that the address ranges of endpoints hold, with room for what replaces them.
pub const MAX_SERVICES: u32 = 40_000;

/// How many endpoints a filler has.
pub const ENDPOINTS: u32 = 3;

/// Endpoints answer on a /16 of their own for each node, outside of the podCIDRs, which hold no more than 16,000.
const ENDPOINT_PREFIX: u8 = 16;
/// Offset in that range of the endpoints that replace others.
const SPARE: u32 = 62_000;

/// A node with its pods' range.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place on the fabric.
    pub host: Host,
    /// First address of its podCIDR, which is a /18.
    first: u32,
    /// First address of its endpoints' range.
    first_endpoint: u32,
}

/// A pod-like namespace.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Name of the namespace.
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Whether it answers for the node's endpoint addresses.
    pub is_endpoint: bool,
}

impl Pod {
    /// Path of its network namespace.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

impl Node {
    /// The two nodes: [`NODE`], on which the proxies run, and another one.
    pub fn both() -> [Self; 2] {
        [1, 2].map(|number| Self {
            host: Host::node(number),
            first: Ipv4Addr::new(10, 244, 64 * number, 0).to_bits(),
            first_endpoint: Ipv4Addr::new(10, 127 + number, 0, 0).to_bits(),
        })
    }

    /// The node's podCIDR.
    pub fn pod_cidr(&self) -> String {
        format!("{}/18", Ipv4Addr::from_bits(self.first))
    }

    /// The pod that holds this node's endpoints.
    pub fn endpoints(&self) -> Pod {
        let name = format!("endpoints-{}", self.host.name);
        Pod { name, address: self.address(3), is_endpoint: true }
    }

    /// The client's pod; it runs on [`NODE`] only.
    pub fn client(&self) -> Option<Pod> {
        (self.host.name == NODE).then(|| Pod {
            name: "client".to_owned(),
            address: self.address(2),
            is_endpoint: false,
        })
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + offset)
    }

    fn endpoint(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first_endpoint + number)
    }

    fn endpoint_range(&self) -> String {
        format!("{}/{ENDPOINT_PREFIX}", self.endpoint(0))
    }

    /// `ip -batch` text for this node's side of `pod`: a point-to-point link, as the ptp CNI plugin makes it.
    pub fn node_side(&self, pod: &Pod) -> String {
        let Pod { name, address, is_endpoint } = pod;
        let (link, gateway) = (format!("v-{name:.12}"), self.address(1));
        let ranges = is_endpoint.then(|| self.endpoint_range()).into_iter();
        let links = format!(
            "link add {link} type veth peer name eth0 netns {name}\naddr add {gateway}/32 dev {link}\n\
             link set {link} up\nroute add {address}/32 dev {link}\n"
        );
        let routes = ranges.map(|range| format!("route add {range} via {address} dev {link} onlink\n"));
        iter::once(links).chain(routes).collect()
    }

    /// `ip -batch` text for `pod`'s side.
    pub fn pod_side(&self, pod: &Pod) -> String {
        let Pod { name: _, address, is_endpoint } = pod;
        let gateway = self.address(1);
        let ranges = is_endpoint.then(|| self.endpoint_range()).into_iter();
        let links = format!(
            "link set lo up\naddr add {address}/32 dev eth0\nlink set eth0 up\nroute add {gateway} dev eth0 scope link\n\
             route add default via {gateway}\n"
        );
        let routes = ranges.map(|range| format!("route add local {range} dev lo\n"));
        iter::once(links).chain(routes).collect()
    }

    /// `ip -batch` text that leads from this node to another one's pods.
    pub fn route_to(&self, other: &Self) -> String {
        let via = other.host.address;
        format!("route add {} via {via}\nroute add {} via {via}\n", other.pod_cidr(), other.endpoint_range())
    }
}

/// The endpoints of filler `service` (from 0): their addresses and nodes, alternating between the nodes.
pub fn endpoints(nodes: &[Node; 2], service: u32) -> Vec<(Ipv4Addr, &Node)> {
    let serials = service * ENDPOINTS..(service + 1) * ENDPOINTS;
    serials.map(|serial| endpoint(nodes, serial, 0)).collect()
}

/// Endpoint number `serial` of those that replace others; there are some 7,000, and then they come again.
pub fn spare(nodes: &[Node; 2], serial: u32) -> (Ipv4Addr, &Node) {
    endpoint(nodes, serial % 7000, SPARE)
}

fn endpoint(nodes: &[Node; 2], serial: u32, from: u32) -> (Ipv4Addr, &Node) {
    let [even, odd] = nodes;
    let node = if serial.is_multiple_of(2) { even } else { odd };
    (node.endpoint(from + serial / 2), node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::Ipv4Net;

    use super::*;
    use crate::fabric::{POD_CIDR, SERVICE_CIDR};

    const FABRIC_CIDR: &str = "172.30.0.0/16";

    #[test]
    fn every_endpoint_of_every_filler_is_an_address_of_its_own_that_its_pod_answers_for() -> anyhow::Result<()>
    {
        let nodes = Node::both();
        let fillers = (0..MAX_SERVICES).flat_map(|service| endpoints(&nodes, service));
        let mut seen = BTreeSet::new();
        for (address, node) in fillers.chain((0..7000).map(|serial| spare(&nodes, serial))) {
            assert!(seen.insert(address), "{address} twice");
            let range: Ipv4Net = node.endpoint_range().parse()?;
            assert!(range.contains(&address), "{address}");
        }
        Ok(())
    }

    #[test]
    fn endpoint_ranges_meet_neither_each_other_nor_anybody_else() -> anyhow::Result<()> {
        let mut all: Vec<Ipv4Net> = vec![POD_CIDR.parse()?, SERVICE_CIDR.parse()?, FABRIC_CIDR.parse()?];
        for node in Node::both() {
            let range: Ipv4Net = node.endpoint_range().parse()?;
            assert!(!all.iter().any(|other| other.contains(&range) || range.contains(other)), "{range}");
            all.push(range);
        }
        Ok(())
    }

    #[test]
    fn link_names_fit_the_kernels_fifteen_bytes_and_differ() {
        let [first, _] = Node::both();
        let client = first.client().expect("the first node has the client");
        let text = first.node_side(&first.endpoints()) + &first.node_side(&client);
        let links: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("link add ")?.split(' ').next()).collect();
        assert_eq!(links.len(), 2);
        assert!(links.iter().all(|link| link.len() <= 15), "{links:?}");
    }
}
