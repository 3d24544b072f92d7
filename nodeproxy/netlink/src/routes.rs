//! Routes: the interface through which this node reaches an address.
//!
//! Follows `include/uapi/linux/rtnetlink.h`. Invariant: reads, and changes nothing.

use std::net::IpAddr;

use nix::net::if_::if_indextoname;

use crate::{Result, Socket, attribute::Reader, message::Message};

/// `RTM_NEWROUTE` and `RTM_GETROUTE` of `linux/rtnetlink.h`.
const NEW: u16 = 24;
const GET: u16 = 26;
/// `RTA_DST` and `RTA_OIF` of `enum rtattr_type_t`.
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;

/// Name of the interface towards an address, in the network namespace of the calling thread. Without a route
/// the error is the kernel's (`ENETUNREACH`).
pub fn interface_towards(address: IpAddr) -> Result<Option<String>> {
    let (family, bytes) = match address {
        IpAddr::V4(ip) => (nix::libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (nix::libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut header = [0; HEADER];
    header[0] = u8::try_from(family).unwrap_or_default();
    header[1] = u8::try_from(bytes.len() * 8).unwrap_or_default();
    let mut index = 0;
    Socket::route()?.ask(
        "look up a route",
        GET,
        |w| {
            w.raw(&header);
            w.bytes(DESTINATION, &bytes);
        },
        |message| {
            index = interface(message)?.unwrap_or(index);
            Ok(())
        },
    )?;
    Ok(if_indextoname(index).ok().and_then(|name| name.into_string().ok()))
}

/// Reads the index of the interface that a route leads to; `None` if the message is no route, or the route names none.
pub(crate) fn interface(message: &Message<'_>) -> Result<Option<u32>> {
    if message.kind != NEW {
        return Ok(None);
    }
    let found = Reader::find(message.payload.get(HEADER..).unwrap_or_default(), INTERFACE)?;
    Ok(found.and_then(|found| found.value.first_chunk()).map(|index| u32::from_ne_bytes(*index)))
}
