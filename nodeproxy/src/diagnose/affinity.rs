//! Affinity entries: the last endpoint of a client.
//!
//! Owns the question. Leaves the entries to the dataplane: they are in the kernel's maps, or in this process.

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
pub struct AffinityClient {
    /// Source address of the client.
    pub address: IpAddr,
    /// Alias of the Service port.
    pub port: Alias,
    /// Map that would have the entry.
    pub map: AffinityMap,
}

/// Content of an affinity entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityEntry {
    /// The endpoint with this affinity id.
    Id(u32),
    /// This endpoint.
    Endpoint(Backend),
}

/// Reads the affinity entry of a client from a dataplane; blocks. `None`: there is none.
pub type ReadAffinity =
    Arc<dyn Fn(&AffinityClient) -> Result<Option<AffinityEntry>, DataplaneError> + Send + Sync>;

/// The client of a packet, if its Service has session affinity.
pub(super) fn client(model: &Model, packet: &Packet) -> Option<AffinityClient> {
    let (port, map) = model.affinity_of(&packet.to)?;
    Some(AffinityClient { address: packet.source, port, map })
}

/// The endpoint in a client's entry. `None`: the Service has no such endpoint any more.
pub(super) fn endpoint(
    model: &Model,
    service: &ServiceName,
    client: &AffinityClient,
    entry: AffinityEntry,
) -> Option<Backend> {
    let id = match entry {
        AffinityEntry::Endpoint(backend) => return Some(backend),
        AffinityEntry::Id(id) => id,
    };
    model.elements_of(service).find_map(|(key, value)| match (key, value) {
        (Key::AffinityEndpoint(port, _, of), Value::Backend(backend)) if (port, of) == (client.port, id) => {
            Some(backend)
        }
        _ => None,
    })
}
