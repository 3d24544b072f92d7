//! Which endpoint a client had last, as the dataplane remembers it.
//!
//! Owns the question. Leaves to the dataplane where clients are remembered: in the kernel's maps, or in this process.

use std::{net::IpAddr, sync::Arc};

use portico_proxy_core::{
    input::ServiceName,
    model::Model,
    oracle::Packet,
    plan::AffinityMap,
    table::{Alias, Backend, Key, Value},
};

use crate::dataplane::DataplaneError;

/// A client of a Service port with session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Who.
    pub address: IpAddr,
    /// By what the port is known.
    pub port: Alias,
    /// Where it would be remembered.
    pub map: AffinityMap,
}

/// Where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Had {
    /// At the endpoint with this affinity id.
    Id(u32),
    /// At this endpoint.
    Endpoint(Backend),
}

/// Asks a dataplane about a client; blocks. `None`: it is not remembered.
pub type Recollect = Arc<dyn Fn(&Client) -> Result<Option<Had>, DataplaneError> + Send + Sync>;

/// Who sends a packet, if its clients are remembered.
pub(super) fn client(model: &Model, packet: &Packet) -> Option<Client> {
    let (port, map) = model.affinity_of(&packet.to)?;
    Some(Client { address: packet.source, port, map })
}

/// The endpoint that a client of a Service had. `None`: the Service has no such endpoint any more.
pub(super) fn endpoint(model: &Model, service: &ServiceName, client: &Client, had: Had) -> Option<Backend> {
    let id = match had {
        Had::Endpoint(backend) => return Some(backend),
        Had::Id(id) => id,
    };
    model.elements_of(service).find_map(|(key, value)| match (key, value) {
        (Key::AffinityEndpoint(port, _, of), Value::Backend(backend)) if (port, of) == (client.port, id) => {
            Some(backend)
        }
        _ => None,
    })
}
