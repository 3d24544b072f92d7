//! Packets that connection tracking considers invalid, such as TCP outside of the window. They belong to no
//! connection, so their addresses are not rewritten. An answer with the endpoint's own address makes its client
//! reset the connection.
//!
//! Owns the rows as data, like the packet table beside them.

use std::net::{IpAddr, Ipv4Addr};

use super::{Client, FAR_POD, NODE, OTHER_POD, OUTSIDE, POD, twin};

/// A packet that no Service may answer.
#[derive(Clone, Copy, Debug)]
pub struct InvalidPacket {
    /// Name of the behaviour.
    pub name: &'static str,
    /// Where the packet comes from.
    pub from: Client,
    /// The address that it is sent to.
    pub to: Ipv4Addr,
    /// Whether it passes.
    pub arrives: bool,
}

const fn invalid(name: &'static str, from: Client, to: Ipv4Addr, arrives: bool) -> InvalidPacket {
    InvalidPacket { name, from, to, arrives }
}

/// The rows. Each holds for IPv4 and, between the twins of the addresses, for IPv6.
pub const INVALID_PACKETS: &[InvalidPacket] = &[
    invalid("a pod's to a client outside is dropped", Client::Pod, OUTSIDE, false),
    invalid("an endpoint's to a pod is dropped", Client::Endpoint, OTHER_POD, false),
    invalid("that of another node's pod to a pod here is dropped", Client::FarPod, POD, false),
    invalid("a pod's to the node is dropped", Client::Pod, NODE, false),
    invalid("an outside client's to a pod is not ours", Client::Outside, POD, true),
    invalid("the node's own to a pod is not ours", Client::Node, FAR_POD, true),
    invalid("an outside client's to the node is not ours", Client::Outside, NODE, true),
];

impl InvalidPacket {
    /// Source and destination in a family.
    pub fn addresses(&self, v6: bool) -> (IpAddr, IpAddr) {
        let of = |address: Ipv4Addr| if v6 { twin(address).into() } else { address.into() };
        (of(self.from.address()), of(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::cluster_events, *};
    use crate::{input::Config, model::Model, oracle, walk};

    #[test]
    fn the_oracle_and_the_ruleset_say_what_the_rows_say() {
        let mut model = Model::new(Config::default());
        for event in cluster_events() {
            model.apply(event);
        }
        for row in INVALID_PACKETS {
            for v6 in [false, true] {
                let (source, _) = row.addresses(v6);
                let said = oracle::lets_invalid_pass(&model, source, row.from.interface());
                let state = model.shadow().desired();
                let does = walk::lets_invalid_pass(state, model.config(), source, row.from.interface());
                assert_eq!((said, does), (row.arrives, row.arrives), "{}", row.name);
            }
        }
    }
}
