//! Addresses of this node, and notice of their changes.
//!
//! Follows `include/uapi/linux/if_addr.h`. A [`Watch`] only reports that something changed. The caller then
//! lists again, so a lost event loses nothing.

use std::{
    cell::RefCell,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::SockProtocol;

use crate::{Errno, Error, Result, Socket, attribute::Reader, message::Message};

/// `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_GETADDR`.
const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;
/// Bits of the groups `RTNLGRP_IPV4_IFADDR` (5) and `RTNLGRP_IPV6_IFADDR` (9).
const GROUPS: u32 = (1 << 4) | (1 << 8);
/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// `IFA_F_TENTATIVE` (not yet known to be unique) and `IFA_F_DADFAILED` (known not to be).
const UNUSABLE: u32 = 0x40 | 0x08;
/// `IFA_F_DEPRECATED` of `linux/if_addr.h`.
const DEPRECATED: u32 = 0x20;

/// How far an address is meant to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Reachable from anywhere.
    Global,
    /// This link only.
    Link,
    /// This host only, such as loopback addresses.
    Host,
}

/// An address of one of this node's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// IPv4 or IPv6.
    pub address: IpAddr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// The kernel's scope (`enum rt_scope_t`).
    pub scope: Scope,
    /// Index of the interface.
    pub interface: u32,
    /// Still valid, but no longer to be used for new connections.
    pub deprecated: bool,
}

/// All usable addresses in the network namespace of the calling thread, both families, sorted.
pub fn list() -> Result<Vec<Address>> {
    let mut socket = Socket::route()?;
    let found = RefCell::new(Vec::new());
    let header = [0; HEADER];
    socket.dump(
        "list addresses",
        GET,
        |w| w.raw(&header),
        || found.borrow_mut().clear(),
        |message| {
            if message.kind == NEW {
                found.borrow_mut().extend(Address::decode(message)?);
            }
            Ok(())
        },
    )?;
    let mut found = found.into_inner();
    found.sort_unstable();
    Ok(found)
}

impl Address {
    /// Reads an address; `None` if it is not usable, or not IP.
    pub(crate) fn decode(message: &Message<'_>) -> Result<Option<Self>> {
        let Some((&[_family, prefix, flags, scope, i0, i1, i2, i3], attributes)) =
            message.payload.split_first_chunk::<HEADER>()
        else {
            return Err(Error::Malformed(format!("an address of {} bytes", message.payload.len())));
        };
        let (mut local, mut peer, mut flags) = (None, None, u32::from(flags));
        for attribute in Reader::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                1 => peer = Some(attribute.address()?),
                2 => local = Some(attribute.address()?),
                8 => flags = attribute.value.first_chunk::<4>().map_or(flags, |all| u32::from_ne_bytes(*all)),
                _ => {}
            }
        }
        // On point-to-point links the first attribute is the other end; IPv6 has only the first.
        let Some(address) = local.or(peer).filter(|_| flags & UNUSABLE == 0) else { return Ok(None) };
        let scope = match scope {
            254 => Scope::Host,
            253 => Scope::Link,
            _ => Scope::Global,
        };
        let interface = u32::from_ne_bytes([i0, i1, i2, i3]);
        Ok(Some(Self { address, prefix, scope, interface, deprecated: flags & DEPRECATED != 0 }))
    }
}

/// Reports changes of addresses from the moment it is opened. Its descriptor is readable when there is
/// something to read, so it fits into tokio's `AsyncFd`. Open it before the first [`list`], so that no change
/// falls between the two.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::subscribed(SockProtocol::NetlinkRoute, GROUPS)? })
    }

    /// Whether an address came or went since the last call; reads all that has arrived, does not wait.
    pub fn changed(&mut self) -> Result<bool> {
        let mut changed = false;
        loop {
            let read = self.socket.try_read("hear of changes of addresses", |message| {
                changed |= matches!(message.kind, NEW | DELETE);
                Ok(())
            });
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(changed),
                // Events came faster than they were read: certainly something changed.
                Err(Error::Receive { source: Errno::ENOBUFS, .. }) => changed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
