//! Which ways packets take on this node, as its kernel says.
//!
//! Owns the questions to the kernel that no table of ours answers. Invariant: nothing is sent, nothing is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use portico_netlink::routes;
use portico_proxy_core::interface::InterfaceName;

/// Where the kernel is asked, or a test answers.
#[derive(Clone, Copy)]
pub struct Ways {
    /// The source address that the kernel gives to this node's own packets to an address, which is what masquerading replaces
    /// a client by; `None` when it knows no way.
    pub source: fn(IpAddr) -> Option<IpAddr>,
    /// The interface on the way to an address, on which its packets arrive where routing is symmetric; `None` when the
    /// kernel knows no way.
    pub interface: fn(IpAddr) -> Option<InterfaceName>,
}

impl Ways {
    /// Those of the kernel, in the network namespace of the thread that asks.
    pub fn of_kernel() -> Self {
        Self { source: source_towards, interface: interface_towards }
    }
}

/// [`Ways::source`] of the kernel, by a socket that is connected and never used.
pub fn source_towards(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    socket.local_addr().ok().map(|at| at.ip())
}

fn interface_towards(address: IpAddr) -> Option<InterfaceName> {
    routes::interface_towards(address).ok()??.parse().ok()
}
