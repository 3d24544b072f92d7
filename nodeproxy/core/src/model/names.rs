//! Names that many objects repeat, each kept once: of Services, nodes, zones, namespaces and ports.

use std::collections::HashSet;

use crate::{
    input::{EndpointSlice, Name, Service, ServiceName},
    model::Model,
};

/// Names that somebody holds, and some that nobody does any more.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Name>);

impl Names {
    /// Puts the known name in place of its copy, or gets to know it.
    fn share(&mut self, name: &mut Name) {
        if let Some(known) = self.0.get(name) {
            *name = known.clone();
        } else {
            if self.0.len() == self.0.capacity() {
                self.0.retain(|name| Name::strong_count(name) > 1);
            }
            self.0.insert(name.clone());
        }
    }
}

impl Model {
    /// A Service's name is kept once, however many objects name it.
    fn intern_name(&mut self, name: &mut ServiceName) {
        match self.entries.get_key_value(name) {
            Some((known, _)) => *name = known.clone(),
            None => self.names.share(&mut name.namespace),
        }
    }

    pub(super) fn intern_service(&mut self, service: &mut Service) {
        self.intern_name(&mut service.name);
        for port in &mut service.ports {
            self.names.share(&mut port.name);
        }
        service.ports.shrink_to_fit();
        service.cluster_ips.shrink_to_fit();
    }

    /// Nodes, zones and ports have few names and are named by every endpoint: each name is kept once.
    pub(super) fn intern(&mut self, mut slice: EndpointSlice) -> EndpointSlice {
        self.intern_name(&mut slice.service);
        for port in &mut slice.ports {
            self.names.share(&mut port.name);
        }
        for endpoint in &mut slice.endpoints {
            let hints = endpoint.zone_hints.iter_mut().chain(endpoint.node_hints.iter_mut());
            for name in hints.chain(&mut endpoint.node) {
                self.names.share(name);
            }
        }
        slice.endpoints.shrink_to_fit();
        slice.ports.shrink_to_fit();
        slice
    }
}
