//! This node's input for the model: from the Node object, the kernel's addresses and the flags.
//!
//! Owns the addresses of NodePorts and the sources that are pods. Invariants: [`Node::info`] depends on the
//! last Node object and the last addresses only. A deleted Node object changes nothing, because the machine
//! still serves.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use portico_proxy_core::{
    input::{Name, NodeInfo},
    table::Family,
};

use crate::{
    args::{NodePortAddress, TrafficArgs, local::DetectLocalMode},
    dataplane::nftables::LocalDetector,
};

/// Taint that the cluster autoscaler sets before it removes a node. Load balancers should then avoid the node.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Startup taint of a node, so that no pod starts on it before its Services work. The proxy removes it then
/// ([`crate::taint`]).
pub const NOT_READY: &str = "portico.dev/nodeproxy-not-ready";

/// The fields of the Node object that the proxy uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Name>,
    /// One address of each family: the first `InternalIP`, or the first `ExternalIP` if there is none.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the node is going away: it is being deleted or has taint [`TO_BE_DELETED`].
    pub leaving: bool,
    /// Whether the node has taint [`NOT_READY`].
    pub held_back: bool,
}

/// All that decides the node's input for the model.
#[derive(Clone, Debug)]
pub struct Node {
    name: Name,
    flags: TrafficArgs,
    object: Option<NodeState>,
    addresses: Vec<IpAddr>,
}

impl Node {
    /// A node without a Node object or addresses.
    pub fn new(name: Name, flags: TrafficArgs) -> Self {
        Self { name, flags, object: None, addresses: Vec::new() }
    }

    /// Sets the Node object; `None` when there is none, and then the last one stays.
    pub fn set_object(&mut self, object: Option<NodeState>) {
        if object.is_none() {
            let node = &self.name;
            tracing::warn!(%node, "there is no Node object of this name; what is known stays; see --hostname-override");
        }
        self.object = object.or(self.object.take());
    }

    /// Whether there was a Node object.
    pub fn is_known(&self) -> bool {
        self.object.is_some()
    }

    /// Sets the addresses of this network namespace.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// The addresses of this network namespace.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether load balancers may send traffic here. True without a Node object.
    pub fn is_eligible(&self) -> bool {
        self.object.as_ref().is_none_or(|object| !object.leaving)
    }

    /// Whether pods wait for this proxy.
    pub fn is_held_back(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.held_back)
    }

    /// The node's input for the model.
    pub fn info(&self) -> NodeInfo {
        let object = self.object.clone().unwrap_or_default();
        NodeInfo {
            name: self.name.clone(),
            zone: object.zone,
            node_port_addresses: self.node_port_addresses(&object.addresses),
            local_addresses: self.addresses.clone(),
            addresses: object.addresses,
            node_pod_cidrs: self.node_pod_cidrs(&object.pod_cidrs),
            pod_cidrs: match self.flags.local.detect_local_mode {
                DetectLocalMode::ClusterCidr => self.flags.local.cluster_cidr.clone(),
                DetectLocalMode::NodeCidr => object.pod_cidrs,
                DetectLocalMode::BridgeInterface
                | DetectLocalMode::InterfaceNamePrefix
                | DetectLocalMode::None => Vec::new(),
            },
        }
    }

    /// The node's own ranges, as far as they are ranges of pods.
    fn node_pod_cidrs(&self, own: &[IpNet]) -> Vec<IpNet> {
        let counts = |net: &&IpNet| match self.flags.local.detect_local_mode {
            DetectLocalMode::ClusterCidr => {
                self.flags.local.cluster_cidr.iter().any(|all| all.contains(*net))
            }
            DetectLocalMode::NodeCidr => true,
            DetectLocalMode::BridgeInterface
            | DetectLocalMode::InterfaceNamePrefix
            | DetectLocalMode::None => false,
        };
        own.iter().filter(counts).copied().collect()
    }

    fn node_port_addresses(&self, primary: &[IpAddr]) -> Vec<IpAddr> {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let mut chosen = BTreeSet::new();
        for wanted in &self.flags.nodeport_addresses.0 {
            match wanted {
                NodePortAddress::Primary => chosen.extend(primary),
                NodePortAddress::All => chosen.extend(&self.addresses),
                NodePortAddress::Localhost => chosen.extend(loopback),
                NodePortAddress::Cidr(net) => {
                    chosen.extend(self.addresses.iter().filter(|address| net.contains(*address)));
                }
            }
        }
        chosen.into_iter().collect()
    }
}

/// How the dataplane recognises pods. Fixed at its start.
pub fn local_detector(flags: &TrafficArgs) -> LocalDetector {
    let local = &flags.local;
    if let Some(interfaces) = local.pod_interfaces() {
        return LocalDetector::Interfaces(interfaces);
    }
    match local.detect_local_mode {
        DetectLocalMode::ClusterCidr => {
            LocalDetector::Addresses(local.cluster_cidr.iter().map(|net| Family::of(net.addr())).collect())
        }
        DetectLocalMode::NodeCidr => LocalDetector::addresses(),
        DetectLocalMode::BridgeInterface | DetectLocalMode::InterfaceNamePrefix | DetectLocalMode::None => {
            LocalDetector::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use portico_proxy_core::interface::PodInterfaces;

    use super::*;
    use crate::args::Args;

    fn mk_node(flags: &[&str]) -> Node {
        let args = ["portico-nodeproxy"].iter().chain(flags);
        let mut node = Node::new("here".into(), Args::parse_from(args).traffic);
        node.set_object(Some(NodeState {
            addresses: vec!["192.0.2.1".parse().expect("an address")],
            pod_cidrs: vec!["10.1.3.0/24".parse().expect("a CIDR")],
            ..NodeState::default()
        }));
        let kernel = ["192.0.2.1", "198.51.100.1"].map(|a| a.parse().expect("an address"));
        node.set_addresses(kernel.to_vec());
        node
    }

    fn addresses(flags: &[&str]) -> Vec<String> {
        mk_node(flags).info().node_port_addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn node_ports_answer_where_the_flag_says() {
        assert_eq!(addresses(&[]), ["192.0.2.1"]);
        assert_eq!(addresses(&["--nodeport-addresses=all"]), ["192.0.2.1", "198.51.100.1"]);
        assert_eq!(addresses(&["--nodeport-addresses=198.51.100.0/24"]), ["198.51.100.1"]);
        assert_eq!(addresses(&["--nodeport-addresses=localhost,primary"]), ["127.0.0.1", "192.0.2.1", "::1"]);
    }

    #[test]
    fn pods_are_recognised_by_the_cluster_the_node_or_not_at_all() {
        let cidrs = |flags: &[&str]| mk_node(flags).info().pod_cidrs.len();
        assert_eq!(cidrs(&[]), 0);
        assert_eq!(cidrs(&["--cluster-cidr=10.1.0.0/16,fd01::/48"]), 2);
        assert_eq!(cidrs(&["--detect-local-mode=NodeCIDR"]), 1);
        assert_eq!(cidrs(&["--detect-local-mode=None", "--cluster-cidr=10.1.0.0/16"]), 0);
        let bridge = ["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"];
        assert_eq!(cidrs(&bridge), 0);
    }

    #[test]
    fn pods_of_this_node_are_those_of_its_ranges_as_far_as_they_count_as_pods() {
        let own = |flags: &[&str]| mk_node(flags).info().node_pod_cidrs.len();
        assert_eq!(own(&["--cluster-cidr=10.1.0.0/16"]), 1);
        assert_eq!(own(&["--cluster-cidr=10.2.0.0/16"]), 0);
        assert_eq!(own(&["--detect-local-mode=NodeCIDR"]), 1);
        assert_eq!(own(&["--detect-local-mode=None"]), 0);
    }

    #[test]
    fn the_dataplane_gets_families_of_addresses_or_interfaces() {
        let detector = |flags: &[&str]| local_detector(&mk_node(flags).flags);
        assert_eq!(detector(&[]), LocalDetector::default());
        let v4 = LocalDetector::Addresses(BTreeSet::from([Family::V4]));
        assert_eq!(detector(&["--cluster-cidr=10.1.0.0/16"]), v4);
        assert_eq!(detector(&["--detect-local-mode=NodeCIDR"]), LocalDetector::addresses());
        let cni0 = PodInterfaces::Named("cni0".parse().expect("a name"));
        let bridge = ["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"];
        assert_eq!(detector(&bridge), LocalDetector::Interfaces(cni0));
        let veth = PodInterfaces::Prefixed("veth".parse().expect("a name"));
        let prefix = ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"];
        assert_eq!(detector(&prefix), LocalDetector::Interfaces(veth));
    }

    #[test]
    fn a_node_that_leaves_is_not_eligible() {
        let mut node = mk_node(&[]);
        assert!(node.is_eligible());
        node.set_object(Some(NodeState { leaving: true, ..NodeState::default() }));
        assert!(!node.is_eligible());
        node.set_object(None);
        assert!(!node.is_eligible());
    }

    #[test]
    fn a_node_object_that_is_gone_changes_nothing() {
        let mut node = mk_node(&[]);
        let before = node.info();
        node.set_object(None);
        assert_eq!((node.info(), node.is_eligible()), (before, true));
    }
}
