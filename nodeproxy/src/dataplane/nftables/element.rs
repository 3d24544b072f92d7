//! Encodes keys and values of the model as the kernel's elements, and decodes them.
//!
//! Addresses and ports are in network order, slots and ids in the machine's, each field of several padded to four bytes. A
//! range of a plain interval set is two elements, its first address and the first one behind it. A range in a
//! concatenation is one element with two keys. The destination of a first packet is a number ([`Classes`]).
//! Invariant: decoding returns the encoded key and value, and nothing else decodes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portico_netlink::nftables::{self as kernel, Data, Element};
use portico_proxy_core::table::{Alias, Backend, Family, Frontend, Key, List, Protocol, Value, Verdict};

use super::{classes::Classes, names::REFUSE};

#[cfg(test)]
mod tests;

/// The elements of a key; with a value for maps, without one for removals.
pub(super) fn encode(key: &Key, value: Option<&Value>, classes: &Classes) -> Vec<Element> {
    let bytes = match key {
        Key::Service(f)
        | Key::Short(f)
        | Key::Local(f)
        | Key::NoEndpoints(f)
        | Key::AffinityPort(f)
        | Key::Firewalled(f) => frontend(f),
        Key::Endpoint(f, number) => [frontend(f), number.to_ne_bytes().to_vec()].concat(),
        Key::AffinityPick(of, _) => alias(of),
        Key::AffinitySlot(of, number) | Key::AffinityEndpoint(of, _, number) => {
            [alias(of), number.to_ne_bytes().to_vec()].concat()
        }
        Key::NodeAddress(ip) | Key::ClusterIp(ip) => address(*ip),
        Key::NodePortStandIn(_, protocol) => vec![*protocol as u8],
        Key::NodePort(_, protocol, number) | Key::NodePortNoEndpoints(_, protocol, number) => {
            [vec![*protocol as u8, 0, 0, 0], port(*number)].concat()
        }
        Key::Hairpin(ip, protocol, port) => {
            [address(*ip), frontend(&Frontend { address: *ip, protocol: *protocol, port: *port })].concat()
        }
        Key::SourceRange(f, net) => {
            let side = |ip| [frontend(f), address(ip)].concat();
            return vec![Element {
                key: side(net.network()),
                key_end: Some(side(net.broadcast())),
                ..Element::default()
            }];
        }
        Key::PodCidr(net) | Key::NodePod(net) | Key::ServiceCidr(net) => return interval(net),
    };
    vec![Element {
        key: bytes,
        data: value.and_then(|value| data(key, value, classes)),
        ..Element::default()
    }]
}

/// A plain interval set's range. One that ends at the last address has no end.
fn interval(net: &IpNet) -> Vec<Element> {
    let start = Element { key: address(net.network()), ..Element::default() };
    let end = behind(net.broadcast()).map(|key| Element { key, interval_end: true, ..Element::default() });
    std::iter::once(start).chain(end).collect()
}

/// The address behind an address, in bytes.
fn behind(ip: IpAddr) -> Option<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    }
}

/// A verdict without a number, or of a chain that is not programmed, has no data, and the kernel refuses it.
fn data(key: &Key, value: &Value, classes: &Classes) -> Option<Data> {
    Some(match value {
        Value::Present => return None,
        Value::Verdict(verdict) => match (key, verdict) {
            (Key::NoEndpoints(_) | Key::NodePortNoEndpoints(..), Verdict::Reject) => {
                Data::Verdict(kernel::Verdict::Goto(REFUSE.to_owned()))
            }
            (Key::NoEndpoints(_), Verdict::Drop) => Data::Verdict(kernel::Verdict::Drop),
            _ => Data::Value(classes.number(key.family(), *verdict)?.to_ne_bytes().to_vec()),
        },
        Value::Backend(backend) => Data::Value([address(backend.address), port(backend.port)].concat()),
        Value::Id(id) => Data::Value(id.to_ne_bytes().to_vec()),
        Value::Alias(ip) => Data::Value(address(*ip)),
    })
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

fn alias(alias: &Alias) -> Vec<u8> {
    [address(alias.address), vec![alias.protocol as u8, 0, 0, 0]].concat()
}

fn frontend(f: &Frontend) -> Vec<u8> {
    [alias(&Alias { address: f.address, protocol: f.protocol }), port(f.port)].concat()
}

/// Key of a client of a Service port in an affinity map.
pub(super) fn client(source: IpAddr, alias: &Alias) -> Vec<u8> {
    [address(source), address(alias.address)].concat()
}

/// The affinity id of an entry.
pub(super) fn id(element: &Element) -> Option<u32> {
    match &element.data {
        Some(Data::Value(bytes)) => <[u8; 4]>::try_from(&bytes[..]).ok().map(u32::from_ne_bytes),
        _ => None,
    }
}

/// The keys and values of a map's elements, or the error in one of them.
pub(super) fn decode(
    family: Family,
    map: &str,
    elements: Vec<Element>,
    classes: &Classes,
) -> Result<Vec<(Key, Value)>, String> {
    match map {
        "pod-cidrs" => intervals(family, elements, Key::PodCidr),
        "node-pods" => intervals(family, elements, Key::NodePod),
        "service-cidrs" => intervals(family, elements, Key::ServiceCidr),
        _ => elements
            .into_iter()
            .map(|element| {
                decode_one(family, map, &element, classes).ok_or_else(|| format!("{map} has {element:02x?}"))
            })
            .collect(),
    }
}

fn decode_one(family: Family, map: &str, element: &Element, classes: &Classes) -> Option<(Key, Value)> {
    let mut fields = Fields { family, rest: &element.key };
    let key = match map {
        "services" => Key::Service(fields.frontend()?),
        "short" => Key::Short(fields.frontend()?),
        "local" => Key::Local(fields.frontend()?),
        "no-endpoints" => Key::NoEndpoints(fields.frontend()?),
        "firewalled" => Key::Firewalled(fields.frontend()?),
        "endpoints" => Key::Endpoint(fields.frontend()?, fields.number()?),
        "affinity-ports" => Key::AffinityPort(fields.frontend()?),
        "affinity-picks" => Key::AffinityPick(fields.alias()?, List::Cluster),
        "affinity-picks-local" => Key::AffinityPick(fields.alias()?, List::Local),
        "affinity-slots" => Key::AffinitySlot(fields.alias()?, fields.number()?),
        "affinity-endpoints" => Key::AffinityEndpoint(fields.alias()?, List::Cluster, fields.number()?),
        "affinity-endpoints-local" => Key::AffinityEndpoint(fields.alias()?, List::Local, fields.number()?),
        "node-addresses" => Key::NodeAddress(fields.address()?),
        "node-port-stand-ins" => Key::NodePortStandIn(family, fields.lone_protocol()?),
        "node-ports" => Key::NodePort(family, fields.protocol()?, fields.port()?),
        "no-endpoints-node-ports" => Key::NodePortNoEndpoints(family, fields.protocol()?, fields.port()?),
        "cluster-ips" => Key::ClusterIp(fields.address()?),
        "hairpin" => {
            let (source, f) = (fields.address()?, fields.frontend()?);
            (source == f.address).then_some(Key::Hairpin(source, f.protocol, f.port))?
        }
        "source-ranges" => {
            let (f, first) = (fields.frontend()?, fields.address()?);
            let mut end = Fields { family, rest: element.key_end.as_ref()? };
            let (same, last) = (end.frontend()?, end.address()?);
            (f == same && end.rest.is_empty()).then_some(Key::SourceRange(f, network(first, last)?))?
        }
        _ => return None,
    };
    let value = decode_value(family, map, element.data.as_ref(), classes)?;
    (fields.rest.is_empty() && !element.interval_end).then_some((key, value))
}

fn decode_value(family: Family, map: &str, data: Option<&Data>, classes: &Classes) -> Option<Value> {
    match (map, data) {
        (
            "services" | "short" | "local" | "affinity-picks" | "affinity-picks-local",
            Some(Data::Value(bytes)),
        ) => {
            let number = Fields { family, rest: bytes }.number()?;
            classes.verdict(family, number).map(Value::Verdict)
        }
        ("no-endpoints" | "no-endpoints-node-ports", Some(Data::Verdict(verdict))) => {
            decode_verdict(verdict).map(Value::Verdict)
        }
        ("endpoints" | "affinity-endpoints" | "affinity-endpoints-local", Some(Data::Value(bytes))) => {
            let mut fields = Fields { family, rest: bytes };
            Some(Value::Backend(Backend { address: fields.address()?, port: fields.port()? }))
        }
        ("affinity-ports" | "node-port-stand-ins", Some(Data::Value(bytes))) => {
            Fields { family, rest: bytes }.address().map(Value::Alias)
        }
        ("affinity-slots", Some(Data::Value(bytes))) => {
            Fields { family, rest: bytes }.number().map(Value::Id)
        }
        (
            "cluster-ips" | "hairpin" | "firewalled" | "source-ranges" | "node-ports" | "node-addresses",
            None,
        ) => Some(Value::Present),
        _ => None,
    }
}

fn decode_verdict(verdict: &kernel::Verdict) -> Option<Verdict> {
    match verdict {
        kernel::Verdict::Drop => Some(Verdict::Drop),
        kernel::Verdict::Goto(chain) if chain == REFUSE => Some(Verdict::Reject),
        _ => None,
    }
}

/// Pairs the starts and ends of a plain interval set, in any order.
fn intervals(
    family: Family,
    elements: Vec<Element>,
    key: impl Fn(IpNet) -> Key,
) -> Result<Vec<(Key, Value)>, String> {
    let mut sides: Vec<(Vec<u8>, bool)> = elements.into_iter().map(|e| (e.key, e.interval_end)).collect();
    // Where a range begins right behind another, the end comes first.
    sides.sort_unstable_by_key(|(bytes, end)| (bytes.clone(), !end));
    let mut ranges = Vec::new();
    let mut open: Option<IpAddr> = None;
    for (bytes, is_end) in sides {
        let ip =
            Fields { family, rest: &bytes }.address().ok_or_else(|| format!("a range of {bytes:02x?}"))?;
        match (open.take(), is_end) {
            (None, false) => open = Some(ip),
            (Some(first), true) => ranges.push((first, before(ip))),
            // nft opens an interval set with an end at the lowest address.
            (None, true) if ip.is_unspecified() => {}
            (first, _) => return Err(format!("ranges overlap or have no start at {ip}, {first:?}")),
        }
    }
    ranges.extend(open.map(|first| (first, Some(last_address(family)))));
    ranges
        .into_iter()
        .map(|(first, last)| {
            let net = last
                .and_then(|last| network(first, last))
                .ok_or_else(|| format!("{first} to {last:?} is no CIDR"))?;
            Ok((key(net), Value::Present))
        })
        .collect()
}

fn before(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

fn last_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::MAX.into()),
        Family::V6 => IpAddr::V6(u128::MAX.into()),
    }
}

/// The network from a first to a last address, if there is one.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let net = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let prefix = (a.to_bits() ^ b.to_bits()).leading_zeros();
            IpNet::V4(Ipv4Net::new(a, u8::try_from(prefix).ok()?).ok()?)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let prefix = (a.to_bits() ^ b.to_bits()).leading_zeros();
            IpNet::V6(Ipv6Net::new(a, u8::try_from(prefix).ok()?).ok()?)
        }
        _ => return None,
    };
    (net.network() == first && net.broadcast() == last).then_some(net)
}

fn protocol(number: u8) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| *protocol as u8 == number)
}

/// Reads a key or data field by field.
struct Fields<'a> {
    family: Family,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.family {
            Family::V4 => self.take::<4>().map(IpAddr::from),
            Family::V6 => self.take::<16>().map(IpAddr::from),
        }
    }

    fn port(&mut self) -> Option<u16> {
        self.take::<4>().map(|[high, low, _, _]| u16::from_be_bytes([high, low]))
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn alias(&mut self) -> Option<Alias> {
        Some(Alias { address: self.address()?, protocol: self.protocol()? })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number, _, _, _] = self.take()?;
        protocol(number)
    }

    fn lone_protocol(&mut self) -> Option<Protocol> {
        self.take().and_then(|[number]| protocol(number))
    }

    fn frontend(&mut self) -> Option<Frontend> {
        let Alias { address, protocol } = self.alias()?;
        Some(Frontend { address, protocol, port: self.port()? })
    }
}
