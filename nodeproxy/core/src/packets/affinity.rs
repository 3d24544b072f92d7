//! Rows about session affinity, which keeps a client's endpoint, and connection tracking, which keeps a
//! connection's. In each row the client first connects while there is one endpoint. Then the Service changes,
//! and the client connects again.
//!
//! Owns the rows as data, like the packet table beside them; each holds over IPv4 and, between the twins of the addresses, over IPv6.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    BOTH, Case, Client, Expect, FAR, FAR_MASQUERADED, FAR_POD, HERE, HERE_MASQUERADED, NODE, POD, POD_PORT,
    cluster, lb, twin, vip,
};
use crate::{
    input::{Endpoint, EndpointSlice, Event, Name, Service, SlicePort, TrafficPolicy},
    oracle::Packet,
    table::{Backend, Family, Protocol},
};

/// Number of the Service.
const NUMBER: u8 = 40;
/// Its `ClusterIP`, its load balancer's VIP and its NodePorts.
const INSIDE: Ipv4Addr = vip(NUMBER);
const OUTSIDE_VIP: Ipv4Addr = lb(NUMBER);
const NODE_PORT: u16 = 30_140;
const UDP_NODE_PORT: u16 = 30_141;

/// State of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Ready, without hints.
    Ready,
    /// Ready, for clients of this zone.
    Hinted(&'static str),
    /// Terminating, and still serving.
    Terminating,
    /// Neither ready nor serving.
    Stopped,
}

/// A state of the Service.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// `internalTrafficPolicy`.
    pub internal: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub external: TrafficPolicy,
    /// Whether it has `ClientIP` session affinity.
    pub affinity: bool,
    /// Address and state of each endpoint.
    pub endpoints: &'static [(Ipv4Addr, EndpointState)],
}

/// The client's second attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// With a new connection.
    Anew,
    /// With the existing connection.
    SameConnection,
}

/// A client that connects twice, and what its second connection gets.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name of the behaviour.
    pub name: &'static str,
    /// Where both connections come from.
    pub from: Client,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Address and port of the first connection.
    pub first: (Ipv4Addr, u16),
    /// The only endpoint at that time.
    pub had: Ipv4Addr,
    /// The Service after the change.
    pub then: Shape,
    /// Address and port of the second attempt.
    pub again: (Ipv4Addr, u16),
    /// New or existing connection.
    pub how: Again,
    /// What the second connection gets.
    pub expect: Expect,
}

use Client::{FarPod, Node, Outside, Pod};
use TrafficPolicy::{Cluster, Local};

const READY: &[(Ipv4Addr, EndpointState)] = &[(POD, EndpointState::Ready), (FAR_POD, EndpointState::Ready)];
const SAME: Shape = Shape { internal: Cluster, external: Cluster, affinity: true, endpoints: READY };
const EXTERNAL_LOCAL: Shape = Shape { external: Local, ..SAME };
const INTERNAL_LOCAL: Shape = Shape { internal: Local, ..SAME };

const fn with(shape: Shape, endpoints: &'static [(Ipv4Addr, EndpointState)]) -> Shape {
    Shape { endpoints, ..shape }
}

const fn row(
    name: &'static str,
    from: Client,
    (first, had): ((Ipv4Addr, u16), Ipv4Addr),
    then: Shape,
    (again, expect): ((Ipv4Addr, u16), Expect),
) -> Row {
    Row { name, from, protocol: Protocol::Tcp, first, had, then, again, how: Again::Anew, expect }
}

const fn udp(how: Again, row: Row) -> Row {
    Row { protocol: Protocol::Udp, how, ..row }
}

const SERVICE: (Ipv4Addr, u16) = (INSIDE, 80);
const VIP: (Ipv4Addr, u16) = (OUTSIDE_VIP, 80);
const PORT: (Ipv4Addr, u16) = (NODE, NODE_PORT);
const UDP_PORT: (Ipv4Addr, u16) = (NODE, UDP_NODE_PORT);

/// The rows of the affinity table, in the order of its sections.
pub const ROWS: &[Row] = &[
    row("a client keeps its endpoint", Outside, (PORT, FAR_POD), SAME, (PORT, FAR_MASQUERADED)),
    row(
        "at a VIP it keeps what it had at the NodePort",
        Outside,
        (PORT, FAR_POD),
        SAME,
        (VIP, FAR_MASQUERADED),
    ),
    row(
        "at the NodePort it keeps what it had at the ClusterIP",
        Pod,
        (SERVICE, POD),
        SAME,
        (PORT, HERE_MASQUERADED),
    ),
    row("at the ClusterIP it keeps what it had at a VIP", Pod, (VIP, FAR_POD), SAME, (SERVICE, FAR)),
    row(
        "externalTrafficPolicy that becomes Local takes a client outside from an endpoint elsewhere",
        Outside,
        (PORT, FAR_POD),
        EXTERNAL_LOCAL,
        (PORT, HERE),
    ),
    row(
        "externalTrafficPolicy that becomes Local takes a pod of another node from an endpoint elsewhere",
        FarPod,
        (VIP, FAR_POD),
        EXTERNAL_LOCAL,
        (VIP, HERE),
    ),
    row(
        "externalTrafficPolicy that becomes Local leaves a client outside at an endpoint here",
        Outside,
        (VIP, POD),
        EXTERNAL_LOCAL,
        (PORT, HERE),
    ),
    row(
        "externalTrafficPolicy that becomes Local drops a client outside without an endpoint here",
        Outside,
        (PORT, FAR_POD),
        with(EXTERNAL_LOCAL, &[(FAR_POD, EndpointState::Ready)]),
        (PORT, Expect::Dropped),
    ),
    row(
        "externalTrafficPolicy that becomes Local leaves a pod where it was",
        Pod,
        (PORT, FAR_POD),
        EXTERNAL_LOCAL,
        (PORT, FAR),
    ),
    row(
        "externalTrafficPolicy that becomes Local leaves the node itself where it was",
        Node,
        (PORT, FAR_POD),
        EXTERNAL_LOCAL,
        (PORT, FAR_MASQUERADED),
    ),
    row(
        "internalTrafficPolicy that becomes Local takes a client from an endpoint elsewhere",
        Pod,
        (SERVICE, FAR_POD),
        INTERNAL_LOCAL,
        (SERVICE, HERE),
    ),
    row(
        "internalTrafficPolicy that becomes Local leaves it there for the NodePort",
        Pod,
        (SERVICE, FAR_POD),
        INTERNAL_LOCAL,
        (PORT, FAR_MASQUERADED),
    ),
    row(
        "an endpoint that terminates loses its clients to one that is ready",
        Pod,
        (SERVICE, POD),
        with(SAME, &[(POD, EndpointState::Terminating), (FAR_POD, EndpointState::Ready)]),
        (SERVICE, FAR),
    ),
    row(
        "an endpoint that terminates keeps its clients while none is ready",
        Pod,
        (SERVICE, FAR_POD),
        with(SAME, &[(POD, EndpointState::Terminating), (FAR_POD, EndpointState::Terminating)]),
        (SERVICE, FAR),
    ),
    row(
        "policy Local takes a client to an endpoint here that terminates from one elsewhere that is ready",
        Outside,
        (PORT, FAR_POD),
        with(EXTERNAL_LOCAL, &[(POD, EndpointState::Terminating), (FAR_POD, EndpointState::Ready)]),
        (PORT, HERE),
    ),
    row(
        "an endpoint that no longer serves loses its clients",
        Node,
        (SERVICE, FAR_POD),
        with(SAME, &[(POD, EndpointState::Ready), (FAR_POD, EndpointState::Stopped)]),
        (SERVICE, HERE_MASQUERADED),
    ),
    row(
        "an endpoint that is gone loses its clients",
        Outside,
        (VIP, FAR_POD),
        with(SAME, &[(POD, EndpointState::Ready)]),
        (VIP, HERE_MASQUERADED),
    ),
    row(
        "a Service without endpoints refuses clients with an entry",
        Pod,
        (SERVICE, FAR_POD),
        with(SAME, &[]),
        (SERVICE, Expect::Refused),
    ),
    row(
        "traffic distribution takes a client from an endpoint of another zone",
        Pod,
        (SERVICE, FAR_POD),
        with(SAME, &[(POD, EndpointState::Hinted("a")), (FAR_POD, EndpointState::Hinted("b"))]),
        (SERVICE, HERE),
    ),
    row(
        "without session affinity no entry counts any more",
        Pod,
        (SERVICE, FAR_POD),
        Shape { affinity: false, ..SAME },
        (SERVICE, BOTH),
    ),
    udp(
        Again::Anew,
        row(
            "UDP: externalTrafficPolicy that becomes Local takes a client from an endpoint elsewhere",
            Outside,
            (UDP_PORT, FAR_POD),
            EXTERNAL_LOCAL,
            (UDP_PORT, HERE),
        ),
    ),
    udp(
        Again::SameConnection,
        row(
            "UDP: a flow stays with its endpoint, whatever the policy becomes",
            Outside,
            (UDP_PORT, FAR_POD),
            EXTERNAL_LOCAL,
            (UDP_PORT, FAR_MASQUERADED),
        ),
    ),
];

impl Row {
    /// The first packet, over a family.
    pub fn first(&self, v6: bool) -> Packet {
        self.case(self.first, self.expect, v6).packet()
    }

    /// The second attempt.
    pub fn again(&self, v6: bool) -> Case {
        self.case(self.again, self.expect, v6)
    }

    /// The first endpoint.
    pub fn had(&self, v6: bool) -> Backend {
        Backend { address: in_family(self.had, v6), port: POD_PORT }
    }

    fn case(&self, (address, port): (Ipv4Addr, u16), expect: Expect, v6: bool) -> Case {
        let to = (in_family(address, v6), self.protocol, port);
        Case { name: self.name, from: self.from, to, expect }
    }

    /// The Service before the change.
    pub fn before(&self) -> Vec<Event> {
        events(&SAME, &[(self.had, EndpointState::Ready)])
    }

    /// The Service after the change.
    pub fn after(&self) -> Vec<Event> {
        events(&self.then, self.then.endpoints)
    }
}

fn in_family(address: Ipv4Addr, v6: bool) -> IpAddr {
    if v6 { twin(address).into() } else { address.into() }
}

/// The addresses that must be routed to the node.
pub fn virtual_addresses() -> Vec<IpAddr> {
    [false, true]
        .into_iter()
        .flat_map(|v6| [INSIDE, OUTSIDE_VIP].map(|address| in_family(address, v6)))
        .collect()
}

fn events(shape: &Shape, endpoints: &[(Ipv4Addr, EndpointState)]) -> Vec<Event> {
    let Shape { internal, external, affinity, endpoints: _ } = *shape;
    let both = |address: Ipv4Addr| vec![in_family(address, false), in_family(address, true)];
    let port = |name: &str, protocol, port, node_port| cluster::port(name, protocol, port, Some(node_port));
    let service = Service {
        cluster_ips: both(INSIDE),
        load_balancer_vips: both(OUTSIDE_VIP),
        ports: vec![
            port("main", Protocol::Tcp, 80, NODE_PORT),
            port("datagrams", Protocol::Udp, 80, UDP_NODE_PORT),
        ],
        internal_policy: internal,
        external_policy: external,
        affinity: affinity.then_some(10_800),
        ..cluster::service(NUMBER, None, &[])
    };
    let slice = |v6: bool| EndpointSlice {
        service: service.name.clone(),
        name: format!("slice-{}", if v6 { Family::V6 } else { Family::V4 }).into(),
        ports: service
            .ports
            .iter()
            .map(|p| SlicePort { name: p.name.clone(), protocol: p.protocol, port: POD_PORT })
            .collect(),
        endpoints: endpoints.iter().map(|(address, state)| endpoint(*address, *state, v6)).collect(),
    };
    let slices = [false, true].map(slice).map(Event::Slice);
    slices.into_iter().chain([Event::Service(service)]).collect()
}

fn endpoint(address: Ipv4Addr, state: EndpointState, v6: bool) -> Endpoint {
    let node = if address == POD { "here" } else { "there" };
    let ready = Endpoint { address: in_family(address, v6), ..cluster::endpoint(address, node) };
    match state {
        EndpointState::Ready => ready,
        EndpointState::Hinted(zone) => {
            Endpoint { zone_hints: [Name::from(zone)].into_iter().collect(), ..ready }
        }
        EndpointState::Terminating => Endpoint { ready: false, terminating: true, ..ready },
        EndpointState::Stopped => Endpoint { ready: false, serving: false, ..ready },
    }
}

#[cfg(test)]
mod tests {
    use super::{super::empty_cluster, *};
    use crate::{
        input::Config,
        model::Model,
        oracle::{self, history::History},
        trace,
        walk::{self, PacketContext},
    };

    fn mk_model(service: Vec<Event>) -> Model {
        let mut model = Model::new(Config::default());
        for event in empty_cluster().into_iter().chain(service) {
            model.apply(event);
        }
        model
    }

    /// Time of the second attempt, and its source port.
    fn again(row: &Row) -> (u64, u16) {
        (1000, if row.how == Again::SameConnection { 4000 } else { 4001 })
    }

    #[test]
    fn the_oracle_the_tracer_and_the_ruleset_say_what_the_rows_say() {
        for (row, v6) in ROWS.iter().flat_map(|row| [(row, false), (row, true)]) {
            let about = format!("{} ({})", row.name, if v6 { "IPv6" } else { "IPv4" });
            let (before, after) = (mk_model(row.before()), mk_model(row.after()));
            let (first, case) = (row.first(v6), row.again(v6));
            let mut history = History::default();
            history.learn(&before, &first, 4000, row.had(v6), 0);
            let id = before.affinity_id(&first.to, row.had(v6));
            assert!(id.is_some(), "{about}");
            let (now, port) = again(row);
            assert_eq!(history.outcome(&after, &case.packet(), port, now), case.outcome(), "{about}");
            if row.how == Again::SameConnection {
                history.end_connections();
                assert_ne!(history.outcome(&after, &case.packet(), port, now), case.outcome(), "{about}");
                continue;
            }
            let last = history.last(&after, &case.packet(), now);
            let traced = trace::trace_with_affinity(&after, &case.packet(), last);
            assert_eq!(traced.outcome(), case.outcome(), "{about}");
            let context = PacketContext { affinity_id: id, ..PacketContext::of(&after) };
            let walked = walk::walk(after.shadow().desired(), context, &case.packet());
            assert_eq!(walked, case.outcome(), "{about}");
        }
    }

    #[test]
    fn a_client_is_forgotten_when_its_time_is_up_and_each_connection_renews_it() {
        let row = &ROWS[0];
        let (before, after) = (mk_model(row.before()), mk_model(row.after()));
        let packet = row.first(false);
        let mut history = History::default();
        history.learn(&before, &packet, 4000, row.had(false), 0);
        let second = 10_799_000;
        assert_eq!(history.last(&after, &packet, second), Some(row.had(false)));
        history.learn(&after, &packet, 4001, row.had(false), second);
        assert_eq!(history.last(&after, &packet, second + 10_799_000), Some(row.had(false)));
        assert_eq!(history.last(&after, &packet, second + 10_800_000), None);
        let elsewhere = Backend { port: 1, ..row.had(false) };
        history.learn(&after, &packet, 4002, elsewhere, second);
        assert_eq!(history.last(&after, &packet, second), Some(row.had(false)), "it cannot have gone there");
    }

    #[test]
    fn every_client_and_every_kind_of_address_has_affinity() {
        let is_used = |client| ROWS.iter().any(|row| row.from == client);
        assert!([Pod, Node, FarPod, Outside].into_iter().all(is_used));
        for address in [SERVICE, VIP, PORT] {
            assert!(
                ROWS.iter().any(|row| row.first == address) && ROWS.iter().any(|row| row.again == address)
            );
        }
        assert!(
            oracle::outcome(&mk_model(ROWS[0].after()), &ROWS[0].again(false).packet())
                != ROWS[0].again(false).outcome()
        );
    }
}
