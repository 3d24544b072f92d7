//! The proxy's loop without its tasks, with a kernel that refuses nothing.
//!
//! Owns the loop's use of the model: the node's input, stale flows, both phases of each plan. Invariant, checked at every
//! event: the shadow state's difference is the one that a look at everything gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use clap::Parser;
use portico_nodeproxy::{args::Args, input_event::InputEvent, node::Node};
use portico_proxy_core::{
    flows::{self, Before},
    input::{Config, Event},
    model::{HealthCheck, Model, Problem},
    plan::{self, AffinityMap, Chain, State},
    shadow::Moment,
    table::{Backend, Frontend, Key, List, Value},
};

use crate::api::NODE;

/// A proxy without its tasks.
pub(crate) struct Lived {
    node: Node,
    model: Model,
    kernel: State,
    moment: Moment,
}

/// Backends of a frontend's lists.
type Slots = BTreeMap<(Frontend, List), BTreeSet<Backend>>;

/// Everything that follows from the objects; not the order of slots, which is that of arrival.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    slots: Slots,
    elements: BTreeMap<Key, Value>,
    chains: BTreeSet<Chain>,
    affinity: BTreeSet<AffinityMap>,
    problems: Vec<Problem>,
    health_checks: Vec<(String, HealthCheck)>,
    counts: (usize, (usize, usize)),
}

/// The node whose proxy it is.
pub(crate) fn mk_node() -> Node {
    let flags =
        ["portico-nodeproxy", "--cluster-cidr=10.1.0.0/16,fd01::/48", "--nodeport-addresses=primary,all"];
    Node::new(NODE.into(), Args::parse_from(flags).traffic)
}

pub(crate) fn addresses() -> Vec<IpAddr> {
    vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 1])]
}

/// An empty model.
pub(crate) fn mk_model() -> Model {
    Model::new(Config { external_ips: true, ..Config::default() })
}

impl Lived {
    /// A proxy without input.
    pub(crate) fn new() -> Self {
        let mut node = mk_node();
        node.set_addresses(addresses());
        let model = mk_model();
        let mut lived = Self { node, model, kernel: State::default(), moment: 0 };
        lived.change(Event::Node(lived.node.info()));
        lived
    }

    /// Applies an input event as the loop does.
    pub(crate) fn learn(&mut self, input: InputEvent) {
        match input {
            InputEvent::First(_) | InputEvent::Listed(_) => {}
            InputEvent::Node(object) => {
                self.node.set_object(object);
                self.change(Event::Node(self.node.info()));
            }
            InputEvent::Addresses(addresses) => {
                self.node.set_addresses(addresses);
                self.change(Event::Node(self.node.info()));
            }
            InputEvent::Change(event, _) => self.change(*event),
        }
    }

    fn change(&mut self, event: Event) {
        self.moment += 1;
        let before = Before::of(&self.model, &event);
        self.model.apply(event);
        let departed: Vec<_> = before.into_iter().flat_map(|before| before.departed(&self.model)).collect();
        let plan = self.model.shadow().plan();
        assert_eq!(plan, plan::diff(&self.kernel, self.model.shadow().desired()));
        self.kernel.apply(&plan.additive);
        self.model.shadow_mut().applied(&plan.additive, self.moment);
        let left = flows::touched(&self.model, &plan.additive).into_iter().chain(departed);
        drop(flows::stale_flows(&self.model, left));
        if self.moment.is_multiple_of(3) {
            self.run_destructive();
        }
    }

    fn run_destructive(&mut self) {
        let destructive = self.model.shadow().destructive(self.moment);
        self.kernel.apply(&destructive);
        self.model.shadow_mut().applied(&destructive, self.moment);
        assert!(self.model.shadow().is_settled(), "{}", self.model.shadow().plan());
    }

    /// The programmed state once nothing is pending.
    pub(crate) fn outcome(mut self) -> Outcome {
        self.run_destructive();
        assert_eq!(&self.kernel, self.model.shadow().desired());
        Outcome::of(&self.kernel, &self.model)
    }
}

impl Outcome {
    /// The effect of a model's objects, and the programmed state.
    pub(crate) fn of(kernel: &State, model: &Model) -> Self {
        let (mut slots, mut elements) = (Slots::new(), BTreeMap::new());
        for (key, value) in &kernel.elements {
            match key {
                Key::Endpoint(..) | Key::AffinitySlot(..) => {}
                _ => _ = elements.insert(*key, *value),
            }
            if let Some(frontend) = key.frontend() {
                for list in [List::Cluster, List::Local] {
                    let backends = kernel.slots(&frontend, list).into_iter().collect::<BTreeSet<_>>();
                    slots.insert((frontend, list), backends);
                }
            }
        }
        let checks = model.health_checks().iter();
        Outcome {
            slots,
            elements,
            chains: kernel.chains.clone(),
            affinity: kernel.affinity.clone(),
            problems: model.problems(),
            health_checks: checks.map(|(service, check)| (service.to_string(), *check)).collect(),
            counts: (model.services(), model.without_local_endpoints()),
        }
    }

    /// Number of programmed elements, slots aside.
    pub(crate) fn elements(&self) -> usize {
        self.elements.len()
    }
}
