//! All objects of a model as a value that can be written to a file and read back elsewhere.
//!
//! Owns the conversion from a model and back. Leaves files and formats to the daemon.
//!
//! Invariant: the model of a snapshot answers every question like the model that it was taken from, up to the
//! order of slots.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    input::{Config, EndpointSlice, Event, NodeInfo, Service},
    model::Model,
    plan::{AffinityMap, Chain, State},
    table::{Key, Value},
};

/// State of the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Programmed {
    /// Elements of maps and sets, sorted.
    pub elements: Vec<(Key, Value)>,
    /// The chains that choose an endpoint.
    pub chains: Vec<Chain>,
    /// The maps from clients to their last endpoint.
    pub affinity: Vec<AffinityMap>,
    /// Difference between the fixed part of the table and the one that this proxy writes. If there is one, the
    /// lists are empty.
    pub damage: Option<String>,
}

impl Programmed {
    /// From the result of a dataplane's read.
    pub fn of(state: State, damage: Option<String>) -> Self {
        let State { elements, chains, affinity } = state;
        let mut elements: Vec<_> = elements.into_iter().collect();
        elements.sort_unstable();
        Self {
            elements,
            chains: chains.into_iter().collect(),
            affinity: affinity.into_iter().collect(),
            damage,
        }
    }

    /// Back to the result of a dataplane's read.
    pub fn state(self) -> (State, Option<String>) {
        let Self { elements, chains, affinity, damage } = self;
        let state = State {
            elements: elements.into_iter().collect(),
            chains: chains.into_iter().collect(),
            affinity: affinity.into_iter().collect(),
        };
        (state, damage)
    }
}

/// Input of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Configuration of the proxy.
    pub config: Config,
    /// The node that the proxy runs on.
    pub node: NodeInfo,
    /// Ranges of `ClusterIP`s.
    pub service_cidrs: Vec<IpNet>,
    /// Services, sorted by name.
    pub services: Vec<Service>,
    /// Their slices, sorted by Service and name.
    pub slices: Vec<EndpointSlice>,
}

impl Snapshot {
    /// Copies all objects of a model.
    pub fn of(model: &Model) -> Self {
        let mut services: Vec<_> = model.all_services().cloned().collect();
        services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut slices: Vec<_> = model.all_slices().cloned().collect();
        slices.sort_unstable_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        Self {
            config: model.config().clone(),
            node: model.node_info().clone(),
            service_cidrs: model.service_cidrs().to_vec(),
            services,
            slices,
        }
    }

    /// A model with all these objects.
    pub fn model(self) -> Model {
        let Self { config, node, service_cidrs, services, slices } = self;
        let mut model = Model::new(config);
        model.apply(Event::Node(node));
        model.apply(Event::ServiceCidrs(service_cidrs));
        for slice in slices {
            model.apply(Event::Slice(slice));
        }
        for service in services {
            model.apply(Event::Service(service));
        }
        model
    }
}
