//! Connection tracking: lists the flows of the kernel, and deletes some.
//!
//! A flow is deleted by its tuple and id, so the kernel deletes exactly the flow that was listed. Follows
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use crate::{
    Errno, Error, Result, Socket,
    attribute::{Attribute, Reader, Writer},
    message::{self, Message, netfilter_header},
    nftables::Family,
};

/// Message types of the subsystem (`enum cntl_msg_types`), with its number 1.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const GET_STATS: u16 = (1 << 8) | 5;
/// Attributes of a flow (`enum ctattr_type`).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS` and the flag that says that the protocol number is to be compared.
const FILTER_ORIGINAL: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;

/// Addresses and ports in one direction of a flow. Ports of protocols that have none are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Address and port of the sender.
    pub source: SocketAddr,
    /// Address and port of the receiver.
    pub destination: SocketAddr,
}

/// A flow that the kernel follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Direction of the first packet.
    pub original: Tuple,
    /// Direction of the answers: its source is the endpoint after destination rewriting.
    pub reply: Tuple,
    /// The original tuple's attribute, sent back as it came.
    tuple: Vec<u8>,
    id: Option<u32>,
    zone: Option<u16>,
}

/// A connection to the connection tracking of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::netfilter()? })
    }

    /// Flows of a family and protocol for which `wanted` is true.
    pub fn flows(
        &mut self,
        family: Family,
        protocol: u8,
        wanted: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>> {
        match self.dump(family, protocol, true, &wanted) {
            // Kernels before 5.8 do not filter; others may be built without it.
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => {
                self.dump(family, protocol, false, &wanted)
            }
            other => other,
        }
    }

    fn dump(
        &mut self,
        family: Family,
        protocol: u8,
        in_kernel: bool,
        wanted: &impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>> {
        let found = RefCell::new(Vec::new());
        let content = |w: &mut Writer| {
            netfilter_header(w, family as u8, 0);
            if in_kernel {
                w.nested(TUPLE_ORIGINAL, |tuple| tuple.nested(2, |p| p.bytes(1, &[protocol])));
                w.nested(FILTER, |filter| filter.bytes(FILTER_ORIGINAL, &FILTER_PROTOCOL.to_ne_bytes()));
            }
        };
        self.socket.dump(
            "list tracked flows",
            GET,
            content,
            || found.borrow_mut().clear(),
            |message| {
                if let Some(flow) = Flow::decode(message)?
                    && flow.protocol == protocol
                    && wanted(&flow)
                {
                    found.borrow_mut().push(flow);
                }
                Ok(())
            },
        )?;
        Ok(found.into_inner())
    }

    /// Deletes a flow; false if the kernel has already dropped it.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool> {
        let family = if flow.original.source.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let what = format!("forget the flow {} to {}", flow.original.source, flow.original.destination);
        let forgotten = self.socket.request(&what, DELETE, 0, |w| {
            netfilter_header(w, family as u8, 0);
            flow.encode(w);
        });
        match forgotten {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the flows of a family and protocol for which `stale` is true; returns their number.
    pub fn delete_matching(
        &mut self,
        family: Family,
        protocol: u8,
        stale: impl Fn(&Flow) -> bool,
    ) -> Result<usize> {
        let mut deleted = 0;
        for flow in self.flows(family, protocol, stale)? {
            deleted += usize::from(self.delete(&flow)?);
        }
        Ok(deleted)
    }

    /// Number of flows in the kernel's table.
    pub fn count(&mut self) -> Result<u32> {
        let what = "count tracked flows";
        let sequence = self.socket.sequences(1);
        let mut bytes = Vec::new();
        message::append(&mut bytes, GET_STATS, 0, sequence, |w| netfilter_header(w, 0, 0))?;
        self.socket.send(what, &bytes)?;
        let mut count = None;
        while count.is_none() {
            self.socket.read(what, |message| {
                if message.sequence == sequence {
                    let entries = Reader::find(message.netfilter()?.1, 1)?;
                    count = Some(entries.ok_or_else(|| Error::Malformed("no count of flows".into()))?.u32()?);
                }
                Ok(())
            })?;
        }
        count.ok_or_else(|| Error::Malformed("no count of flows".into()))
    }
}

impl Flow {
    /// Writes the attributes that name exactly this flow to the kernel.
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.nested(TUPLE_ORIGINAL, |tuple| tuple.raw(&self.tuple));
        if let Some(id) = self.id {
            w.u32(ID, id);
        }
        if let Some(zone) = self.zone {
            w.bytes(ZONE, &zone.to_be_bytes());
        }
    }

    /// Reads a flow; `None` if it is of a protocol whose tuples are not known here.
    pub(crate) fn decode(message: &Message<'_>) -> Result<Option<Self>> {
        let (_, attributes) = message.netfilter()?;
        let (mut original, mut reply, mut id, mut zone) = (None, None, None, None);
        let mut tuple = &[][..];
        for attribute in Reader::new(attributes) {
            let attribute = attribute?;
            match attribute.kind {
                TUPLE_ORIGINAL => {
                    tuple = attribute.value;
                    original = decode_tuple(&attribute)?;
                }
                TUPLE_REPLY => reply = decode_tuple(&attribute)?,
                ID => id = Some(attribute.u32()?),
                ZONE => zone = Some(attribute.u16()?),
                _ => {}
            }
        }
        Ok(match (original, reply) {
            (Some((protocol, original)), Some((_, reply))) => {
                Some(Self { protocol, original, reply, tuple: tuple.to_vec(), id, zone })
            }
            _ => None,
        })
    }
}

fn decode_tuple(tuple: &Attribute<'_>) -> Result<Option<(u8, Tuple)>> {
    let (mut source, mut destination, mut protocol) = (None::<IpAddr>, None::<IpAddr>, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in tuple.nested() {
        let part = part?;
        for field in part.nested() {
            let field = field?;
            match (part.kind, field.kind) {
                (1, 1 | 3) => source = Some(field.address()?),
                (1, 2 | 4) => destination = Some(field.address()?),
                (2, 1) => protocol = Some(field.u8()?),
                (2, 2) => source_port = field.u16()?,
                (2, 3) => destination_port = field.u16()?,
                _ => {}
            }
        }
    }
    Ok(match (source, destination, protocol) {
        (Some(source), Some(destination), Some(protocol)) => Some((
            protocol,
            Tuple {
                source: SocketAddr::new(source, source_port),
                destination: SocketAddr::new(destination, destination_port),
            },
        )),
        _ => None,
    })
}
