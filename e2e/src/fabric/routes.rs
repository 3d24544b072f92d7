//! Routes to pods: every node, the control plane and the load balancer reach each node's podCIDR by that node's address,
//! as hosts of a cloud's private network do. The cluster's controller-manager allocates the podCIDRs; this watches Nodes
//! and keeps the kernel's routes equal to what they say, as a cloud's route controller does. The outside host gets none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Context as _;
use futures::{StreamExt as _, pin_mut};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};

use super::{Host, ip_batch, is_on_fabric};

/// A node's pods, and the address that leads to them, for each family.
type ByNode = BTreeMap<String, Vec<(IpNet, IpAddr)>>;

/// Namespace (none: the fabric) → destination → gateway.
type Routes = BTreeMap<Option<String>, BTreeMap<IpNet, IpAddr>>;

/// Follows the cluster's Nodes until the watch ends, which it does only with an error that retrying did not heal.
pub async fn follow(client: Client) -> anyhow::Result<()> {
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let (mut nodes, mut listed) = (ByNode::new(), ByNode::new());
    let mut programmed = Routes::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(node)) => apply(&mut listed, &node),
            Ok(watcher::Event::InitDone) => nodes.clone_from(&listed),
            Ok(watcher::Event::Apply(node)) => apply(&mut nodes, &node),
            Ok(watcher::Event::Delete(node)) => drop(nodes.remove(&node.name_any())),
            Err(error) => tracing::warn!(%error, "watching nodes for their routes"),
        }
        let desired = desired(&nodes);
        for (netns, batch) in plan(&desired, &programmed) {
            ip_batch(netns.as_deref(), &batch).context("setting routes to pods")?;
        }
        programmed = desired;
    }
    Ok(())
}

fn apply(nodes: &mut ByNode, node: &Node) {
    let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses: Vec<IpAddr> = addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .filter(|address| is_on_fabric(*address)) // a node that stands for a cloud's instance is nowhere here
        .collect();
    let gateway =
        |cidr: &IpNet| addresses.iter().copied().find(|address| address.is_ipv4() == cidr.addr().is_ipv4());
    let pairs: Vec<_> = cidrs
        .filter_map(|cidr| cidr.parse::<IpNet>().ok())
        .filter_map(|cidr| Some((cidr, gateway(&cidr)?)))
        .collect();
    if pairs.is_empty() {
        nodes.remove(&node.name_any());
    } else {
        nodes.insert(node.name_any(), pairs);
    }
}

/// Every namespace's routes: all podCIDRs but its own, which the node agent's links lead to.
fn desired(nodes: &ByNode) -> Routes {
    let others = [None, Some(Host::load_balancer().name)];
    let namespaces = nodes.keys().cloned().map(Some).chain(others);
    namespaces
        .map(|namespace| {
            let others = nodes.iter().filter(|(name, _)| namespace.as_ref() != Some(name));
            let routes = others.flat_map(|(_, pairs)| pairs).copied().collect();
            (namespace, routes)
        })
        .collect()
}

/// The `ip -batch` text that leads from `programmed` to `desired`. A node that is gone takes its namespace's routes along.
fn plan(desired: &Routes, programmed: &Routes) -> Vec<(Option<String>, String)> {
    let nothing = BTreeMap::new();
    let mut batches = Vec::new();
    for (namespace, want) in desired {
        let have = programmed.get(namespace).unwrap_or(&nothing);
        let mut lines = Vec::new();
        for (cidr, gateway) in want.iter().filter(|(cidr, gateway)| have.get(cidr) != Some(gateway)) {
            lines.push(format!("route replace {cidr} via {gateway}\n"));
        }
        let stale: BTreeSet<_> = have.keys().filter(|cidr| !want.contains_key(cidr)).collect();
        for cidr in stale {
            lines.push(format!("route del {cidr}\n"));
        }
        if !lines.is_empty() {
            batches.push((namespace.clone(), lines.concat()));
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dual_stack_node_is_reached_in_each_family_by_its_address_of_that_family() -> anyhow::Result<()> {
        let mut nodes = ByNode::new();
        let node = json!({
            "metadata": {"name": "node-1"},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd44::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "172.30.1.1"}, {"type": "InternalIP", "address": "fd30::1:1"},
            ]},
        });
        apply(&mut nodes, &serde_json::from_value(node)?);
        let fabric = plan(&desired(&nodes), &Routes::new());
        let expected = "route replace 10.244.0.0/24 via 172.30.1.1\nroute replace fd44::/64 via fd30::1:1\n";
        assert_eq!(fabric.first(), Some(&(None, expected.to_owned())));
        Ok(())
    }

    fn mk_nodes(numbers: &[u8]) -> ByNode {
        numbers
            .iter()
            .map(|&n| {
                let cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, n, 0), 24);
                (format!("node-{n}"), vec![(cidr.into(), Ipv4Addr::new(172, 30, 1, n).into())])
            })
            .collect()
    }

    #[test]
    fn a_node_has_routes_to_the_others_and_fabric_and_load_balancer_to_all() {
        let all = "route replace 10.244.1.0/24 via 172.30.1.1\nroute replace 10.244.2.0/24 via 172.30.1.2\n";
        let plan = plan(&desired(&mk_nodes(&[1, 2])), &Routes::new());
        let text: Vec<_> = plan.iter().map(|(ns, batch)| (ns.as_deref(), batch.as_str())).collect();
        assert_eq!(
            text,
            [
                (None, all),
                (Some("lb"), all),
                (Some("node-1"), "route replace 10.244.2.0/24 via 172.30.1.2\n"),
                (Some("node-2"), "route replace 10.244.1.0/24 via 172.30.1.1\n"),
            ]
        );
    }

    #[test]
    fn what_is_right_already_is_left_alone() {
        let routes = desired(&mk_nodes(&[1, 2, 3]));
        assert_eq!(plan(&routes, &routes), []);
    }

    #[test]
    fn a_node_that_went_takes_its_routes_along() {
        let plan = plan(&desired(&mk_nodes(&[1])), &desired(&mk_nodes(&[1, 2])));
        assert_eq!(
            plan,
            [
                (None, "route del 10.244.2.0/24\n".to_owned()),
                (Some("lb".to_owned()), "route del 10.244.2.0/24\n".to_owned()),
                (Some("node-1".to_owned()), "route del 10.244.2.0/24\n".to_owned()),
            ]
        );
    }
}
