//! The desired state of one Service, chosen by the dice.
//!
//! Owns: the manifest, and the load balancer that must follow from it. Leaves to others: writing and checking. Pure.

use std::collections::BTreeSet;

use portico_e2e::cloud::{Cloud, faults::Dice};
use serde_json::{Value, json};

use super::account::scheme;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) name: String,
    /// `ClusterIP` otherwise: then there must be nothing.
    pub(crate) balanced: bool,
    /// Each port once, whatever the protocol.
    pub(crate) ports: BTreeSet<(u16, Transport)>,
    pub(crate) internal: bool,
    ranges: Option<&'static str>,
    local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl Desired {
    /// A new one.
    pub(crate) fn new(number: usize, dice: &mut Dice) -> Self {
        let name = format!("s{number:03}");
        let mut desired = Self {
            name,
            balanced: true,
            ports: BTreeSet::from([(80, Transport::Tcp)]),
            internal: dice.hits(300),
            ranges: None,
            local: false,
        };
        if dice.hits(300) {
            desired.ports.insert((53, Transport::Udp));
        }
        desired
    }

    /// The same Service, wanted otherwise.
    pub(crate) fn changed(&self, dice: &mut Dice) -> Self {
        let mut desired = self.clone();
        match dice.below(6) {
            0 => desired.balanced = !desired.balanced,
            1 => desired.internal = !desired.internal,
            2 => desired.ranges = if desired.ranges.is_none() { Some("192.0.2.0/24") } else { None },
            3 => desired.local = !desired.local,
            _ => {
                let port = (443, Transport::Tcp);
                if !desired.ports.remove(&port) {
                    desired.ports.insert(port);
                }
            }
        }
        desired
    }

    /// The Service, for a server-side apply.
    pub(crate) fn manifest(&self, cloud: Cloud) -> Value {
        let Self { name, balanced, ports, internal, ranges, local } = self;
        let ports = ports.iter().map(|(port, transport)| {
            let word = transport.word();
            json!({"name": format!("{}-{port}", word.to_lowercase()), "port": port, "protocol": word})
        });
        let mut spec =
            json!({"type": "ClusterIP", "selector": {"app": name}, "ports": ports.collect::<Vec<_>>()});
        if *balanced {
            spec["type"] = json!("LoadBalancer");
            spec["loadBalancerClass"] = json!(cloud.class());
            spec["externalTrafficPolicy"] = json!(if *local { "Local" } else { "Cluster" });
            if let Some(range) = ranges {
                spec["loadBalancerSourceRanges"] = json!([range]);
            }
        }
        let (key, value) = scheme(cloud, *internal);
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": {key: value, "portico.dev/allow-replacement": "true"}},
            "spec": spec,
        })
    }
}
