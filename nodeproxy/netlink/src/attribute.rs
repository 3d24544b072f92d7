//! Netlink attributes: length, type, value, padding to four bytes; nested ones hold more of them.
//!
//! Numbers in nf_tables attributes are big-endian (`include/uapi/linux/netfilter/nf_tables.h`); lengths and types are in
//! the machine's order. The [`Writer`] appends to one buffer and remembers the first value that did not fit; [`Reader`]
//! walks a buffer that the kernel sent and trusts nothing in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// Flag in an attribute's type: the value is itself attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;
/// Bits of the type field that are the type (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
/// Bytes of an attribute's header.
const HEADER: usize = 4;

/// Rounds a length up to the next multiple of four, as everything in netlink is padded.
pub fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Appends attributes to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    too_long: Option<u16>,
}

impl Writer {
    /// A writer that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Appends bytes that are no attribute, such as a message header; pads nothing.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends one attribute.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.buffer.extend_from_slice(value);
        self.close(start, kind);
    }

    /// Appends a big-endian 32-bit number.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends a big-endian 64-bit number.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends a string with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
        self.close(start, kind);
    }

    /// Appends an attribute whose value `content` writes.
    pub fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        content(self);
        self.close(start, kind);
    }

    /// The buffer, unless a value was too long for its length field.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.too_long {
            None => Ok(self.buffer),
            Some(kind) => Err(Error::TooLong(format!("attribute {kind}"))),
        }
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0, 0]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize, kind: u16) {
        let length = self.buffer.len() - start;
        match u16::try_from(length) {
            Ok(length) => self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = self.too_long.or(Some(kind & KIND)),
        }
        self.buffer.resize(start + align(length), 0);
    }
}

/// One attribute that the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type, without flags.
    pub kind: u16,
    /// Value, without padding.
    pub value: &'a [u8],
    /// Offset of the attribute's header in the buffer that was read.
    pub offset: usize,
}

/// Walks the attributes in a buffer; after the first malformed one it ends.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads the attributes in `buffer`.
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer, offset: 0 }
    }

    /// The first attribute of a type, if there is one.
    pub fn find(buffer: &'a [u8], kind: u16) -> Result<Option<Attribute<'a>>> {
        for attribute in Self::new(buffer) {
            let attribute = attribute?;
            if attribute.kind == kind {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < HEADER {
            return None; // at most padding is left
        }
        let length = usize::from(u16::from_ne_bytes([self.rest[0], self.rest[1]]));
        let kind = u16::from_ne_bytes([self.rest[2], self.rest[3]]) & KIND;
        let left = self.rest.len();
        if length < HEADER || length > left {
            self.rest = &[];
            return Some(Err(Error::Malformed(format!("attribute {kind} says {length} of {left} bytes"))));
        }
        let attribute = Attribute { kind, value: &self.rest[HEADER..length], offset: self.offset };
        let step = align(length).min(left);
        self.rest = &self.rest[step..];
        self.offset += step;
        Some(Ok(attribute))
    }
}

impl<'a> Attribute<'a> {
    /// The attributes inside this one.
    pub fn nested(&self) -> Reader<'a> {
        Reader::new(self.value)
    }

    /// The value as one byte.
    pub fn u8(&self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The value as a big-endian 16-bit number.
    pub fn u16(&self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The value as a big-endian 32-bit number.
    pub fn u32(&self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The value as a big-endian 64-bit number.
    pub fn u64(&self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The value as text, up to its terminating zero.
    pub fn string(&self) -> Result<String> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end])
            .map(str::to_owned)
            .map_err(|error| Error::Malformed(format!("attribute {} is no text: {error}", self.kind)))
    }

    /// The value as an IPv4 or IPv6 address, by its length.
    pub fn address(&self) -> Result<IpAddr> {
        match self.value.len() {
            4 => self.array::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            _ => self.array::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        }
    }

    fn array<const N: usize>(&self) -> Result<[u8; N]> {
        <[u8; N]>::try_from(self.value).map_err(|_wrong_length| {
            Error::Malformed(format!("attribute {} has {} bytes and not {N}", self.kind, self.value.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_nested_attribute_over_64_kib_is_an_error_and_not_a_wrong_length() {
        let mut writer = Writer::new();
        writer.nested(3, |inner| {
            for _ in 0..3 {
                inner.bytes(1, &vec![0; 30_000]);
            }
        });
        assert_eq!(writer.finish(), Err(Error::TooLong("attribute 3".into())));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(values in proptest::collection::vec((0u16..100, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut writer = Writer::new();
            for (kind, value) in &values {
                writer.bytes(*kind, value);
            }
            let buffer = writer.finish().expect("short");
            prop_assert_eq!(buffer.len() % 4, 0);
            let read: Vec<_> = Reader::new(&buffer).map(|a| a.map(|a| (a.kind, a.value.to_vec()))).collect::<Result<_>>().expect("well formed");
            prop_assert_eq!(read, values);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_always_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Reader::new(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
