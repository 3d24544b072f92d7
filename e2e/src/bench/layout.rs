//! Who has which address: two nodes, a client's pod and one pod of endpoints on each node. Pure; the text for `ip -batch`
//! is made here and run by the testbed.
//!
//! A pod of endpoints answers on thousands of addresses (local routes), so that each filler Service has three endpoints of
//! its own, all of them real. Endpoints that Services share would make a proxy's tables smaller than they are in life.

use std::{iter, net::Ipv4Addr};

use super::subject::NODE;
use crate::fabric::Host;

/// The most filler Services that the address ranges of endpoints hold.
pub const MAX_SERVICES: u32 = 8000;

/// How many endpoints a filler has.
pub const ENDPOINTS: u32 = 3;

/// Start of a pod of endpoints' addresses within its node's range, and the two prefixes that cover them.
const FIRST_ENDPOINT: u32 = 16 << 8;
const ENDPOINT_PREFIXES: [(u32, u8); 2] = [(16 << 8, 20), (32 << 8, 19)];

/// A node with its pods' range.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place on the fabric.
    pub host: Host,
    /// First address of its podCIDR, which is a /18.
    first: u32,
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

impl Node {
    /// The two nodes: [`NODE`], on which the proxies run, and another one.
    pub fn both() -> [Self; 2] {
        [1, 2].map(|number| Self {
            host: Host::node(number),
            first: Ipv4Addr::new(10, 244, 64 * number, 0).to_bits(),
        })
    }

    /// Its podCIDR.
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

    fn endpoint_ranges(&self) -> [String; 2] {
        ENDPOINT_PREFIXES.map(|(offset, length)| format!("{}/{length}", self.address(offset)))
    }

    /// `ip -batch` text for this node's side of `pod`: a point-to-point link, as the ptp CNI plugin makes it.
    pub fn node_side(&self, pod: &Pod) -> String {
        let Pod { name, address, is_endpoint } = pod;
        let (link, gateway) = (format!("v-{name:.12}"), self.address(1));
        let ranges = self.endpoint_ranges().into_iter().filter(|_| *is_endpoint);
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
        let ranges = self.endpoint_ranges().into_iter().filter(|_| *is_endpoint);
        let links = format!(
            "link set lo up\naddr add {address}/32 dev eth0\nlink set eth0 up\nroute add {gateway} dev eth0 scope link\n\
             route add default via {gateway}\n"
        );
        let routes = ranges.map(|range| format!("route add local {range} dev lo\n"));
        iter::once(links).chain(routes).collect()
    }

    /// `ip -batch` text that leads from this node to another one's pods.
    pub fn route_to(&self, other: &Self) -> String {
        format!("route add {} via {}\n", other.pod_cidr(), other.host.address)
    }
}

/// The endpoints of filler `service` (from 0): their addresses and nodes, alternating between the nodes.
pub fn endpoints(nodes: &[Node; 2], service: u32) -> Vec<(Ipv4Addr, &Node)> {
    let serials = service * ENDPOINTS..(service + 1) * ENDPOINTS;
    serials
        .map(|serial| {
            let [even, odd] = nodes;
            let node = if serial % 2 == 0 { even } else { odd };
            (node.address(FIRST_ENDPOINT + serial / 2), node)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::Ipv4Net;

    use super::*;

    #[test]
    fn every_endpoint_of_every_filler_is_an_address_of_its_own_that_its_pod_answers_for() -> anyhow::Result<()>
    {
        let nodes = Node::both();
        let mut seen = BTreeSet::new();
        for service in 0..MAX_SERVICES {
            for (address, node) in endpoints(&nodes, service) {
                assert!(seen.insert(address), "{address} twice");
                let ranges: Vec<Ipv4Net> =
                    node.endpoint_ranges().iter().map(|r| r.parse()).collect::<Result<_, _>>()?;
                assert!(ranges.iter().any(|range| range.contains(&address)), "{address} of {service}");
            }
        }
        Ok(())
    }

    #[test]
    fn endpoint_ranges_are_in_the_nodes_range_and_hold_no_pods_own_address() -> anyhow::Result<()> {
        for node in Node::both() {
            let cidr: Ipv4Net = node.pod_cidr().parse()?;
            for range in node.endpoint_ranges() {
                let range: Ipv4Net = range.parse()?;
                assert!(cidr.contains(&range), "{range}");
                let own = [Some(node.endpoints()), node.client()];
                assert!(own.iter().flatten().all(|pod| !range.contains(&pod.address)), "{range}");
            }
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
