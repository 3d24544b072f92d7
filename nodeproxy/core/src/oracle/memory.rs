//! What happened before, as far as it decides where packets go: which endpoint each client had last, and which connections are
//! under way.
//!
//! Owns the memory that a kernel's affinity maps and its connection tracking are, without a kernel. Leaves what a memory changes to
//! [`oracle`](super). Invariants: a client is remembered by Service port, whichever address it dialled, and until its time is up; a
//! connection under way goes where it went, whatever became of endpoints and policies, until it is forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{Decision, Met, Outcome, Packet, Source, decide};
use crate::{
    input::{Name, ServiceName},
    ledger::Moment,
    model::Model,
    table::{Backend, Family, Frontend, Protocol},
};

/// A client of a Service port, in one family.
type Client = (IpAddr, ServiceName, Name, Protocol, Family);

/// Who had which endpoint, and which connections there are.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    clients: HashMap<Client, (Backend, Moment)>,
    connections: HashMap<(SocketAddr, Frontend), (Backend, Source)>,
}

impl Memory {
    /// What becomes of a packet that leaves its client from a port.
    pub fn outcome(&self, model: &Model, packet: &Packet, port: u16, now: Moment) -> Outcome {
        if let Some((backend, source)) = self.connections.get(&connection(packet, port)) {
            return Outcome::Backends(BTreeMap::from([(*backend, *source)]));
        }
        decide(model, packet, self.last(model, packet, now)).outcome
    }

    /// The endpoint that the packet's client had last, if it is still remembered.
    pub fn last(&self, model: &Model, packet: &Packet, now: Moment) -> Option<Backend> {
        let decision = decide(model, packet, None);
        let met = decision.met.as_ref()?;
        met.service.affinity?;
        let (backend, until) = self.clients.get(&client(packet, met))?;
        (now < *until).then_some(*backend)
    }

    /// The packet went to an endpoint that it may go to: its client is remembered from now on, and its connection is under way.
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

    /// No connection is under way any more.
    pub fn end_connections(&mut self) {
        self.connections.clear();
    }
}

fn connection(packet: &Packet, port: u16) -> (SocketAddr, Frontend) {
    (SocketAddr::new(packet.source, port), packet.to)
}

fn client(packet: &Packet, met: &Met<'_>) -> Client {
    let family = Family::of(packet.to.address);
    (packet.source, met.service.name.clone(), met.port.name.clone(), met.port.protocol, family)
}
