//! Adoption after a restart: the model takes over the order of slots from the kernel.
//!
//! Owns the mapping of slots to Services. Leaves the difference that remains to the shadow state.

use std::collections::{BTreeSet, HashMap};

use crate::{
    compile::Placed,
    model::Model,
    plan::State,
    table::{Alias, Backend, Family, Frontend, Key, List, Value},
};

impl Model {
    /// Takes over the slots in the kernel, so that a restart changes nothing that is already right, and records
    /// the difference. Call it once the first full set of events is in.
    pub fn adopt(&mut self, observed: &State) {
        self.settle();
        let mut changed = BTreeSet::new();
        for (name, entry) in &mut self.entries {
            let Some(service) = &entry.service else { continue };
            // A contested frontend has its holder's slots, whose order does not concern this Service.
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
                if adopt_port(placed, &its, observed) {
                    changed.insert(name.clone());
                }
            }
        }
        self.recompile(&changed);
        self.shadow.observe(observed);
    }
}

/// Whether the kernel's order of the port's slots differed from ours and replaced it.
fn adopt_port(placed: &mut Placed, frontends: &[Frontend], observed: &State) -> bool {
    let adopt = |list: &mut Box<[Backend]>, which: List| {
        let found = frontends.iter().map(|f| observed.slots(f, which)).find(|slots| !slots.is_empty());
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
        let alias = self.alias(frontend);
        (list.first_slot()..)
            .map_while(|slot| match (self.elements.get(&Key::Endpoint(*frontend, slot)), alias) {
                (Some(Value::Backend(backend)), _) => Some(*backend),
                (_, alias) => self.affinity_backend(alias?, list, slot),
            })
            .collect()
    }

    /// The alias of a frontend's Service port, if that has session affinity.
    pub fn alias(&self, frontend: &Frontend) -> Option<Alias> {
        match self.elements.get(&Key::AffinityPort(*frontend)) {
            Some(Value::Alias(address)) => Some(Alias { address: *address, protocol: frontend.protocol }),
            _ => None,
        }
    }

    fn affinity_backend(&self, alias: Alias, list: List, slot: u32) -> Option<Backend> {
        let Some(Value::Id(id)) = self.elements.get(&Key::AffinitySlot(alias, slot)) else { return None };
        match self.elements.get(&Key::AffinityEndpoint(alias, list, *id)) {
            Some(Value::Backend(backend)) => Some(*backend),
            _ => None,
        }
    }
}
