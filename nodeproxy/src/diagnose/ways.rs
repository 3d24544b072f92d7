//! Routes of this node, by its kernel.
//!
//! Owns the questions to the kernel that none of our tables answers. Invariant: sends nothing and changes
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use portico_netlink::routes;
use portico_proxy_core::interface::InterfaceName;

/// The kernel's answers, or those of a test.
#[derive(Clone, Copy)]
pub struct Ways {
    /// The source address of this node's own packets to an address, which masquerading uses as well; `None`
    /// without a route.
    pub source: fn(IpAddr) -> Option<IpAddr>,
    /// The interface towards an address. Its packets arrive there if routing is symmetric. `None` without a
    /// route.
    pub interface: fn(IpAddr) -> Option<InterfaceName>,
}

impl Ways {
    /// The kernel's, in the network namespace of the calling thread.
    pub fn of_kernel() -> Self {
        Self { source: source_towards, interface: interface_towards }
    }
}

/// [`Ways::source`] of the kernel, by a connected socket that sends nothing.
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
