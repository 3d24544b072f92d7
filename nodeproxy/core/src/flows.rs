//! Stale flows after a change: the UDP flows whose endpoint serves no more.
//!
//! Owns the decision, as data. Leaves listing and deleting conntrack entries to the daemon. TCP flows stay: a
//! client sees the reset or the end and dials again, while a UDP client keeps its entry alive by retrying
//! (kubernetes#139628).
//!
//! Invariants: after a change only the frontends that it touched count. After a start, an error or a change by
//! another program every frontend counts ([`frontends`]), because the state before is not known. An entry whose
//! endpoint serves, ready or terminating, is never stale.

use std::collections::{BTreeSet, HashMap};

use crate::{
    input::{Event, ServiceName},
    model::Model,
    plan::Transaction,
    select::{self, Ports},
    table::{Backend, Family, Frontend, Key, Protocol},
};

/// Stale UDP flows of one frontend: those whose answers come from anywhere but `keep`. A flow that was tracked
/// while there was no endpoint answers from the frontend's own address, and is stale as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// Original destination of the flows.
    pub frontend: Frontend,
    /// Endpoints whose flows stay. Empty: none stay.
    pub keep: BTreeSet<Backend>,
}

impl StaleFlows {
    /// Whether a tracked flow is stale, by the source address and port of its answers.
    pub fn is_stale(&self, original_destination: &Frontend, reply_source: &Backend) -> bool {
        let Self { frontend, keep } = self;
        frontend == original_destination && !keep.contains(reply_source)
    }
}

/// The endpoints of a Service's UDP frontends before an event. An endpoint that took no new flows any more (it
/// terminated while others were ready, or hints named other nodes) leaves without a change to any element. Its
/// flows must be deleted all the same.
#[derive(Debug)]
pub struct Before {
    serving: Vec<(Frontend, BTreeSet<Backend>)>,
}

impl Before {
    /// Call this before `event` is applied. `None`: the event takes no endpoint away.
    pub fn of(model: &Model, event: &Event) -> Option<Self> {
        let service: &ServiceName = match event {
            Event::Slice(slice) => &slice.service,
            Event::SliceGone { service, name: _ } => service,
            Event::Service(_) | Event::ServiceGone(_) | Event::Node(_) | Event::ServiceCidrs(_) => {
                return None;
            }
        };
        let udp = model.claimed(service).filter(|frontend| is_udp(frontend));
        let mut now = Serving::of(model);
        let serving: Vec<_> = udp.map(|frontend| (*frontend, now.at(frontend))).collect();
        (!serving.is_empty()).then_some(Self { serving })
    }

    /// The frontends that an endpoint has left; call this once the event is applied.
    pub fn departed(self, model: &Model) -> Vec<Frontend> {
        let mut now = Serving::of(model);
        let left = |(frontend, before): &(Frontend, BTreeSet<Backend>)| !before.is_subset(&now.at(frontend));
        self.serving.into_iter().filter(left).map(|(frontend, _)| frontend).collect()
    }
}

/// Every UDP frontend that has a Service, for cases in which the state before is not known.
pub fn frontends(model: &Model) -> BTreeSet<Frontend> {
    model.held().filter(|frontend| is_udp(frontend)).copied().collect()
}

/// The UDP frontends that a transaction changes, by their own elements or by those of their Service port.
pub fn touched(model: &Model, transaction: &Transaction) -> BTreeSet<Frontend> {
    model.frontends(transaction.keys()).into_iter().filter(is_udp).collect()
}

/// The UDP frontends at which the removals of a transaction delete affinity endpoints.
pub fn forgotten(model: &Model, transaction: &Transaction) -> BTreeSet<Frontend> {
    let is_way = |key: &&Key| matches!(key, Key::AffinityEndpoint(..) | Key::AffinityPort(_));
    let ways = transaction.removals.iter().filter(is_way);
    model.frontends(ways).into_iter().filter(is_udp).collect()
}

/// The stale flows of some frontends at this moment.
pub fn stale_flows(model: &Model, frontends: impl IntoIterator<Item = Frontend>) -> Vec<StaleFlows> {
    let mut now = Serving::of(model);
    frontends.into_iter().map(|frontend| StaleFlows { frontend, keep: now.at(&frontend) }).collect()
}

fn is_udp(frontend: &Frontend) -> bool {
    frontend.protocol == Protocol::Udp
}

/// Serving endpoints of many frontends. It reads the slices of each Service once.
struct Serving<'a> {
    model: &'a Model,
    ports: HashMap<&'a ServiceName, Ports<'a>>,
}

impl<'a> Serving<'a> {
    fn of(model: &'a Model) -> Self {
        Self { model, ports: HashMap::new() }
    }

    fn at(&mut self, frontend: &Frontend) -> BTreeSet<Backend> {
        let Some((claim, service)) = self.model.holder(frontend) else { return BTreeSet::new() };
        let Some(port) = service.ports.get(claim.port) else { return BTreeSet::new() };
        let name = &service.name;
        let ports = self.ports.entry(name).or_insert_with(|| Ports::new(self.model.slices(name)));
        select::serving(port, Family::of(frontend.address), ports, self.model.node_info())
    }
}
