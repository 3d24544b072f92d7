//! Interned names: of Services, nodes, zones, namespaces and ports. Each is stored once.

use std::collections::HashSet;

use crate::{
    input::{EndpointSlice, Name, Service, ServiceName},
    model::Model,
};

/// Names in use, and some that are not any more.
#[derive(Debug, Default)]
pub(super) struct Interned(HashSet<Name>);

impl Interned {
    /// Replaces a copy by the interned name, or interns it.
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
    /// Interns both parts of a Service's name.
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

    /// Interns the names in a slice. Nodes, zones and ports have few names, and every endpoint has one of each.
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
