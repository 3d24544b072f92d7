//! A short digest of a desired load balancer, to tell "unchanged" without reading a cloud.
//!
//! Owns: the digest. Leaves to others: where it is kept (a tag, a cache).
//! Invariant: stable across processes and compilers, which `std`'s hasher does not promise: FNV-1a, 128 bits,
//! over the canonical JSON (struct order, sorted sets and maps). Not for secrets: nobody gains from a collision
//! with one's own earlier spec.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A digest of a desired load balancer; prints as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(u128);

/// Parameters of FNV-1a with 128 bits: RFC 9923, section 5.
const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl SpecHash {
    pub(super) fn of<T: Serialize + fmt::Debug>(value: &T) -> Self {
        let mut fnv = Fnv(OFFSET);
        if serde_json::to_writer(&mut fnv, value).is_err() {
            // Every model type has a JSON form; should one lose it, its Debug form still tells changes apart.
            fnv.absorb(format!("{value:?}").as_bytes());
        }
        Self(fnv.0)
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

struct Fnv(u128);

impl Fnv {
    fn absorb(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
}

impl std::io::Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.absorb(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_published_fnv_1a_of_128_bits() {
        let mut fnv = Fnv(OFFSET);
        fnv.absorb(b"foobar");
        assert_eq!(format!("{:032x}", fnv.0), "343e1662793c64bf6f0d3597ba446f18");
    }
}
