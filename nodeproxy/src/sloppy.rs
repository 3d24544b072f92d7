//! Addresses and ranges as Kubernetes reads them in objects and flags (`netutils.ParseIPSloppy`, `ParseCIDRSloppy` of
//! k8s.io/utils).
//!
//! Owns texts that API servers once took and clusters still hold: numbers with leading zeros, which are decimal, and IPv4 written
//! as IPv6 (`::ffff:10.0.0.1`), which is IPv4. Invariant: what Kubernetes cannot read is not read here either, and what both
//! read is the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Bits of an IPv6 address before the IPv4 address that is written as one.
const MAPPED: u8 = 96;

/// An address, IPv4 if it can be.
pub(crate) fn ip(text: &str) -> Option<IpAddr> {
    as_written(text).map(|ip| ip.to_canonical())
}

/// A range, with the bits after its length cleared.
pub(crate) fn cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = u8::try_from(decimal(length)?).ok()?;
    match as_written(address)? {
        IpAddr::V4(v4) => Ipv4Net::new(v4, length).ok().map(|net| net.trunc().into()),
        IpAddr::V6(v6) => {
            let net = Ipv6Net::new(v6, length).ok()?.trunc();
            let mapped = length.checked_sub(MAPPED).zip(net.addr().to_ipv4_mapped());
            Some(match mapped {
                Some((length, v4)) => Ipv4Net::new(v4, length).ok()?.into(),
                None => net.into(),
            })
        }
    }
}

/// An address with a port, an IPv6 one in brackets.
pub(crate) fn ip_and_port(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = bare.map_or_else(|| v4(host).map(IpAddr::V4), ip)?;
    let port = u16::try_from(decimal(port)?).ok()?;
    Some(SocketAddr::new(address, port))
}

fn as_written(text: &str) -> Option<IpAddr> {
    if text.contains(':') { v6(text).map(IpAddr::V6) } else { v4(text).map(IpAddr::V4) }
}

fn v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(|part| u8::try_from(decimal(part)?).ok());
    let mut next = || parts.next().flatten();
    let octets = [next()?, next()?, next()?, next()?];
    parts.next().is_none().then(|| octets.into())
}

fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

/// Groups may have any number of leading zeros, and so may the IPv4 address at the end.
fn v6(text: &str) -> Option<Ipv6Addr> {
    let (head, last) = text.rsplit_once(':')?;
    let last = if last.contains('.') {
        let [a, b, c, d] = v4(last)?.octets();
        format!("{a:02x}{b:02x}:{c:02x}{d:02x}")
    } else {
        last.to_owned()
    };
    let whole = format!("{head}:{last}");
    let groups: Option<Vec<_>> = whole.split(':').map(group).collect();
    groups?.join(":").parse().ok()
}

/// A group without its leading zeros; an empty one is part of `::`.
fn group(text: &str) -> Option<&str> {
    if text.is_empty() {
        return Some(text);
    }
    let digits = text.trim_start_matches('0');
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some(if digits.is_empty() { "0" } else { digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, read) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.000.001", Some("10.0.0.1")),
            ("0000010.0.0.08", Some("10.0.0.8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::ffff:010.0.0.001", Some("10.0.0.1")),
            ("::FFFF:0a00:0001", Some("10.0.0.1")),
            ("0:0:0:0:0:ffff:10.0.0.1", Some("10.0.0.1")),
            ("::10.0.0.1", Some("::a00:1")),
            ("fd00::0001", Some("fd00::1")),
            ("fd00::000001", Some("fd00::1")),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", Some("2001:db8::1")),
            ("::", Some("::")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.0x1", None),
            ("10.0.0.+1", None),
            ("10..0.1", None),
            ("", None),
            ("fd00::1::2", None),
            ("fd00:1", None),
            ("fe80::1%eth0", None),
            ("::ffff:10.0.0.1:1", None),
            ("10.0.0.1:80", None),
            ("fd00::12345", None),
        ] {
            assert_eq!(ip(text), read.map(|read| read.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_as_kubernetes_reads_them() {
        for (text, read) in [
            ("203.0.113.0/25", Some("203.0.113.0/25")),
            ("203.0.113.000/025", Some("203.0.113.0/25")),
            ("203.0.113.77/24", Some("203.0.113.0/24")),
            ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
            ("::ffff:0.0.0.0/96", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/95", Some("::fffe:0:0/95")),
            ("::/0", Some("::/0")),
            ("2001:0db8::/0032", Some("2001:db8::/32")),
            ("10.0.0.0/33", None),
            ("fd00::/129", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/8/8", None),
            ("10.0.0.0/-1", None),
            ("10.0.0/8", None),
            ("everybody", None),
        ] {
            assert_eq!(cidr(text), read.map(|read| read.parse().expect("a CIDR")), "{text}");
        }
    }

    #[test]
    fn addresses_with_ports_are_read_as_kubernetes_reads_them() {
        for (text, read) in [
            ("0.0.0.0:10256", Some("0.0.0.0:10256")),
            ("010.0.0.001:010256", Some("10.0.0.1:10256")),
            ("[::]:10256", Some("[::]:10256")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("[fd00::0001]:80", Some("[fd00::1]:80")),
            ("[10.0.0.1]:80", Some("10.0.0.1:80")),
            ("10.0.0.1", None),
            ("::1:80", None),
            (":80", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:http", None),
            ("10.0.0.1:65536", None),
            ("localhost:80", None),
            ("[::1:80", None),
        ] {
            assert_eq!(ip_and_port(text), read.map(|read| read.parse().expect("an address")), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_as_it_should_be_is_read_as_it_is(address: IpAddr, length in 0u8..=128) {
            proptest::prop_assert_eq!(ip(&address.to_string()), Some(address.to_canonical()));
            let net = IpNet::new(address, length.min(if address.is_ipv4() { 32 } else { 128 })).expect("short enough");
            if address.to_canonical() == address {
                proptest::prop_assert_eq!(cidr(&net.to_string()), Some(net.trunc()));
            }
        }

        #[test]
        fn zeros_in_front_change_nothing(octets: [u8; 4], zeros in 0usize..5) {
            let text = octets.map(|octet| format!("{}{octet}", "0".repeat(zeros))).join(".");
            proptest::prop_assert_eq!(ip(&text), Some(IpAddr::from(octets)));
            proptest::prop_assert_eq!(ip(&format!("::ffff:{text}")), Some(IpAddr::from(octets)));
        }

        #[test]
        fn nothing_ends_the_process(text in "[0-9a-f.:/%+x ]{0,40}") {
            _ = (ip(&text), cidr(&text), ip_and_port(&text));
        }
    }
}
