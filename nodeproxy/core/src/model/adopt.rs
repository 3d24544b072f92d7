//! What a restart takes over from the kernel: the order of slots, which says nothing that the model would want otherwise.
//!
//! Owns which slots are whose. Leaves the difference that remains to the ledger.

use std::collections::{BTreeSet, HashMap};

use crate::{
    compile::Placed,
    input::{Service, TrafficPolicy},
    model::Model,
    plan::State,
    table::{Backend, Family, Frontend, Key, LOCAL_SLOTS, List, Value},
};

impl Model {
    /// Takes over the slots that stand in the kernel, so that a restart changes nothing that is already right, and learns
    /// the difference. To be called once the first full set of events is in.
    pub fn adopt(&mut self, observed: &State) {
        self.settle();
        let mut changed = BTreeSet::new();
        for (name, entry) in &mut self.entries {
            let Some(service) = &entry.service else { continue };
            // On a contested frontend stand the slots of whoever holds it, in an order that says nothing about this Service.
            let is_held = |f: &&Frontend| self.claims.holder(f).is_some_and(|claim| claim.service == *name);
            let mut held = HashMap::<_, Vec<_>>::new();
            for f in entry.claimed.iter().filter(is_held) {
                held.entry((f.port, f.protocol, Family::of(f.address))).or_default().push(*f);
            }
            let node_ports: HashMap<_, _> =
                service.ports.iter().map(|port| ((port.port, port.protocol), port.node_port)).collect();
            for placed in &mut entry.placed {
                let (number, protocol, family) = placed.port;
                let node_port = node_ports.get(&(number, protocol)).copied().flatten();
                let numbers = [Some(number), node_port.filter(|port| *port != number)];
                let its = numbers.into_iter().flatten().filter_map(|n| held.get(&(n, protocol, family)));
                let its: Vec<_> = its.flatten().copied().collect();
                if adopt_port(placed, service, &its, observed) {
                    changed.insert(name.clone());
                }
            }
        }
        self.recompile(&changed);
        self.ledger.observe(observed);
    }
}

/// Whether the kernel had an order for the port's slots other than ours, which then is ours.
fn adopt_port(placed: &mut Placed, service: &Service, frontends: &[Frontend], observed: &State) -> bool {
    // A ClusterIP under `internalTrafficPolicy: Local` has the local list in the slots of the other one.
    let internal_local = service.internal_policy == TrafficPolicy::Local;
    let list_of =
        |f: &Frontend, which: List| match (internal_local && service.cluster_ips.contains(&f.address), which)
        {
            (false, _) => observed.slots(f, which),
            (true, List::Local) => observed.slots(f, List::Cluster),
            (true, List::Cluster) => Vec::new(),
        };
    let adopt = |list: &mut Box<[Backend]>, which: List| {
        let found = frontends.iter().map(|f| list_of(f, which)).find(|slots| !slots.is_empty());
        let found = found.filter(|slots| **slots != **list);
        found.map(|slots| *list = slots.into()).is_some()
    };
    let cluster = adopt(&mut placed.cluster, List::Cluster);
    let local = adopt(&mut placed.local, List::Local);
    cluster || local
}

impl State {
    /// Backends of a frontend in the order of their slots, with or without affinity.
    pub fn slots(&self, frontend: &Frontend, list: List) -> Vec<Backend> {
        let first = match list {
            List::Cluster => 0,
            List::Local => LOCAL_SLOTS,
        };
        (first..)
            .map_while(|slot| match self.elements.get(&Key::Endpoint(*frontend, slot)) {
                Some(Value::Backend(backend)) => Some(*backend),
                _ => self.affinity_backend(frontend, slot),
            })
            .collect()
    }

    fn affinity_backend(&self, frontend: &Frontend, slot: u32) -> Option<Backend> {
        let Some(Value::Id(id)) = self.elements.get(&Key::AffinitySlot(*frontend, slot)) else { return None };
        match self.elements.get(&Key::AffinityEndpoint(*frontend, *id)) {
            Some(Value::Backend(backend)) => Some(*backend),
            _ => None,
        }
    }
}
