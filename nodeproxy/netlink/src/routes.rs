//! The way to an address: on which interface this node would send to it.
//!
//! Follows `include/uapi/linux/rtnetlink.h`. Invariant: asks and changes nothing.

use std::net::IpAddr;

use nix::net::if_::if_indextoname;

use crate::{Result, Socket, attribute::Reader, message::Message};

/// `RTM_NEWROUTE`, `RTM_GETROUTE`.
const NEW: u16 = 24;
const GET: u16 = 26;
/// `RTA_DST`, `RTA_OIF`.
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;

/// Name of the interface on the way to an address from the network namespace of the calling thread. The error is the kernel's
/// when there is no way (`ENETUNREACH`).
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
