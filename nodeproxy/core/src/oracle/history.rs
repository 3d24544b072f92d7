//! Session affinity and connection tracking, without a kernel: the last endpoint of each client, and the
//! connections under way.
//!
//! Owns this history, which a kernel keeps in its affinity maps and its conntrack table. Leaves its effect on
//! outcomes to [`oracle`](super).
//!
//! Invariants: a client has one entry for each Service port, whichever address it dialled, until the timeout. A
//! connection under way keeps its endpoint, whatever becomes of endpoints and policies, until it is deleted.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{Decision, Met, Outcome, Packet, Source, decide};
use crate::{
    input::{Name, ServiceName},
    model::Model,
    shadow::Moment,
    table::{Backend, Family, Frontend, Protocol},
};

/// A client of a Service port, in one family.
type ClientKey = (IpAddr, ServiceName, Name, Protocol, Family);

/// Affinity entries and tracked connections.
#[derive(Clone, Debug, Default)]
pub struct History {
    clients: HashMap<ClientKey, (Backend, Moment)>,
    connections: HashMap<(SocketAddr, Frontend), (Backend, Source)>,
}

impl History {
    /// Outcome of a packet that leaves its client from `port`.
    pub fn outcome(&self, model: &Model, packet: &Packet, port: u16, now: Moment) -> Outcome {
        if let Some((backend, source)) = self.connections.get(&connection(packet, port)) {
            return Outcome::Backends(BTreeMap::from([(*backend, *source)]));
        }
        decide(model, packet, self.last(model, packet, now)).outcome
    }

    /// The endpoint in the affinity entry of the packet's client, before its timeout.
    pub fn last(&self, model: &Model, packet: &Packet, now: Moment) -> Option<Backend> {
        let decision = decide(model, packet, None);
        let met = decision.met.as_ref()?;
        met.service.affinity?;
        let (backend, until) = self.clients.get(&client(packet, met))?;
        (now < *until).then_some(*backend)
    }

    /// Records that the packet reached an endpoint that it may use: adds an affinity entry and a tracked
    /// connection.
    pub fn learn(&mut self, model: &Model, packet: &Packet, port: u16, to: Backend, now: Moment) {
        if self.connections.contains_key(&connection(packet, port)) {
            return;
        }
        let Decision { met, outcome, .. } = decide(model, packet, self.last(model, packet, now));
        let Outcome::Backends(backends) = outcome else { return };
        let Some(source) = backends.get(&to) else { return };
        self.connections.insert(connection(packet, port), (to, *source));
        if let Some((met, seconds)) = met.as_ref().and_then(|met| Some((met, met.service.affinity?))) {
            self.clients.insert(client(packet, met), (to, now + u64::from(seconds) * 1000));
        }
    }

    /// Deletes all tracked connections.
    pub fn end_connections(&mut self) {
        self.connections.clear();
    }
}

fn connection(packet: &Packet, port: u16) -> (SocketAddr, Frontend) {
    (SocketAddr::new(packet.source, port), packet.to)
}

fn client(packet: &Packet, met: &Met<'_>) -> ClientKey {
    let family = Family::of(packet.to.address);
    (packet.source, met.service.name.clone(), met.port.name.clone(), met.port.protocol, family)
}
