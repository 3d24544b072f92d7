//! Every reader of what the kernel sends, behind one function that takes any bytes. Only the fuzz target
//! (`nodeproxy/fuzz`) builds it.
//!
//! Owns the list of readers, and the meaning of "reads back": a value that was read and then written reads the
//! same again. This holds for every value that Portico also sends. Leaves the source of the bytes to the
//! target.

use std::{fmt::Debug, net::IpAddr};

use crate::{
    Errno, Error, Result,
    addresses::Address,
    attribute::{Reader, Writer},
    conntrack::Flow,
    message::{Message, Messages, netfilter_header},
    nftables::{Batch, Chain, Change, Element, Family, Rule, Set, Table},
    routes,
};

/// A value that reads back as something else, in words.
pub type Difference = String;

/// Hands `buffer`, as one read of a socket gives it, to every reader whatever kind of message it is for. Returns how many
/// values there were in it.
///
/// # Errors
/// If a value is not the same after it was written and read again.
pub fn read(buffer: &[u8]) -> std::result::Result<usize, Difference> {
    let mut change = Change::default();
    let mut values = 0;
    for message in Messages::new(buffer).flatten() {
        values += replies(&message);
        values += usize::from(Address::decode(&message).is_ok_and(|address| address.is_some()));
        values += usize::from(routes::interface(&message).is_ok_and(|interface| interface.is_some()));
        values += usize::from(change.note(&message).unwrap_or_default());
        values += flow(&message)?;
        if let Ok((family, attributes)) = message.netfilter() {
            values += objects(family, attributes)? + elements(attributes)?;
        }
    }
    Ok(values)
}

/// Error replies, with what they say of a batch.
fn replies(message: &Message<'_>) -> usize {
    let Ok(reply) = message.reply() else { return 0 };
    drop(message.status());
    let table = Table { family: Family::Ip, name: "portico".into() };
    let mut batch = Batch::new();
    let numbers = (0..3u32).map(|key| Element { key: key.to_be_bytes().to_vec(), ..Element::default() });
    let added = batch.add_table(&table).and_then(|()| batch.add_elements(&table, "services", numbers));
    debug_assert!(added.is_ok(), "three elements fit");
    let errno = reply.error.unwrap_or(Errno::UnknownErrno);
    drop(batch.failure(message.sequence as usize, errno, reply.clone()));
    usize::from(reply.error.is_some())
}

fn objects(family: u8, attributes: &[u8]) -> std::result::Result<usize, Difference> {
    let mut values = 0;
    if let Ok(table) = Table::decode(family, attributes) {
        values += same(&table, |w| w.string(1, &table.name), |bytes| Table::decode(family, bytes))?;
    }
    if let Ok(chain) = Chain::decode(family, attributes) {
        values += same(&chain, |w| chain.encode(w), |bytes| Chain::decode(family, bytes))?;
    }
    if let Ok(rule) = Rule::decode(family, attributes) {
        values += same(&rule, |w| rule.encode(w), |bytes| Rule::decode(family, bytes))?;
    }
    if let Ok(set) = Set::decode(family, attributes) {
        // The kernel reports the number of elements; nobody declares it.
        let set = Set { count: None, ..set };
        values += same(&set, |w| set.encode(w, 1), |bytes| Set::decode(family, bytes))?;
    }
    Ok(values)
}

/// A list of elements, and the one number that answers about the ruleset and about tracked flows are.
fn elements(attributes: &[u8]) -> std::result::Result<usize, Difference> {
    let number = Reader::find(attributes, 1).ok().flatten().map(|number| number.u32());
    let mut values = usize::from(number.is_some_and(|number| number.is_ok()));
    let Ok(Some(list)) = Reader::find(attributes, 3) else { return Ok(values) };
    for attribute in list.nested().flatten() {
        let Ok(element) = Element::decode(&attribute) else { continue };
        let unread = || Error::Malformed("no element".into());
        let read = |bytes: &[u8]| Element::decode(&Reader::new(bytes).next().ok_or_else(unread)??);
        values += same(&element, |w| element.encode(w), read)?;
    }
    Ok(values)
}

/// A tracked flow, written as the request that makes the kernel forget it, with the other direction behind.
fn flow(message: &Message<'_>) -> std::result::Result<usize, Difference> {
    let Ok(Some(flow)) = Flow::decode(message) else { return Ok(0) };
    let write = |w: &mut Writer| {
        netfilter_header(w, Family::Ip as u8, 0);
        flow.encode(w);
        w.nested(2, |tuple| {
            tuple.nested(1, |ip| {
                address(ip, 1, flow.reply.source.ip());
                address(ip, 2, flow.reply.destination.ip());
            });
            tuple.nested(2, |ports| {
                ports.bytes(1, &[flow.protocol]);
                ports.bytes(2, &flow.reply.source.port().to_be_bytes());
                ports.bytes(3, &flow.reply.destination.port().to_be_bytes());
            });
        });
    };
    let unread = || Error::Malformed("no flow".into());
    same(&flow, write, |payload| Flow::decode(&Message { payload, ..*message })?.ok_or_else(unread))
}

/// `CTA_IP_V4_SRC` and `CTA_IP_V4_DST` are 1 and 2, and IPv6's are 3 and 4.
fn address(writer: &mut Writer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => writer.bytes(kind, &ip.octets()),
        IpAddr::V6(ip) => writer.bytes(kind + 2, &ip.octets()),
    }
}

/// Counts a value, if it reads back the same. One that is longer than can be written is not sent either.
fn same<T: PartialEq + Debug>(
    value: &T,
    write: impl FnOnce(&mut Writer),
    read: impl FnOnce(&[u8]) -> Result<T>,
) -> std::result::Result<usize, Difference> {
    let mut writer = Writer::new();
    write(&mut writer);
    let Ok(bytes) = writer.finish() else { return Ok(0) };
    match read(&bytes) {
        Ok(again) if again == *value => Ok(1),
        other => Err(format!("{value:?} reads back as {other:?}")),
    }
}
