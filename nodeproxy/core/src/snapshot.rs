//! Everything that a model was told, as a value that can be written down and read back elsewhere.
//!
//! Owns the way out of a model and back. Leaves files and formats to the daemon.
//!
//! Invariant: the model of a snapshot answers every question as the one it was taken of, up to the order of slots.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    input::{Config, EndpointSlice, Event, NodeFacts, Service},
    model::Model,
    plan::{AffinityMap, Chain, State},
    table::{Key, Value},
};

/// What stood in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Programmed {
    /// Elements of maps and sets, sorted.
    pub elements: Vec<(Key, Value)>,
    /// Balancing chains.
    pub chains: Vec<Chain>,
    /// Maps that remember clients.
    pub affinity: Vec<AffinityMap>,
    /// Why the fixed part of the table is not as this proxy writes it; then nothing else is said.
    pub damage: Option<String>,
}

impl Programmed {
    /// What a dataplane read.
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

    /// The same as a dataplane says it.
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

/// What a model was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The configuration.
    pub config: Config,
    /// The node.
    pub node: NodeFacts,
    /// Ranges of `ClusterIP`s.
    pub service_cidrs: Vec<IpNet>,
    /// Services, by name.
    pub services: Vec<Service>,
    /// Their slices, by Service and name.
    pub slices: Vec<EndpointSlice>,
}

impl Snapshot {
    /// What a model was told. Costs a copy of all of it.
    pub fn of(model: &Model) -> Self {
        let mut services: Vec<_> = model.all_services().cloned().collect();
        services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut slices: Vec<_> = model.all_slices().cloned().collect();
        slices.sort_unstable_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        Self {
            config: model.config().clone(),
            node: model.node_facts().clone(),
            service_cidrs: model.service_cidrs().to_vec(),
            services,
            slices,
        }
    }

    /// A model that was told all this.
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
