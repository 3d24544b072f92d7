//! Names of network interfaces, and the interfaces of this node's pods.
//!
//! Owns the rules for names (`dev_valid_name` in the kernel), and which names belong to pods. Leaves the flags
//! to the daemon and the comparison in the kernel to a dataplane.
//!
//! Invariant: a name has 1 to 15 bytes, none of them a space, `/` or `:`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// `IFNAMSIZ`: bytes of a name with the zero behind it.
pub const NAME_SIZE: usize = 16;

/// Name of a network interface, or a prefix of names. A text in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; NAME_SIZE]);

/// A text that cannot be the name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no name of a network interface; it has 1 to 15 bytes, none of them a space, \"/\" or \":\", like cni0 or veth"
)]
pub struct BadInterfaceName(String);

/// The interfaces on which packets of this node's pods arrive, and no other packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodInterfaces {
    /// The interface of this name: a bridge with all pods behind it.
    Named(InterfaceName),
    /// All interfaces whose names have this prefix.
    Prefixed(InterfaceName),
}

impl InterfaceName {
    /// The name's bytes, without zeros.
    pub fn bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        &self.0[..length]
    }

    /// The name as the kernel holds it, with zeros behind it.
    pub fn padded(&self) -> [u8; NAME_SIZE] {
        self.0
    }
}

impl PodInterfaces {
    /// Whether a packet that arrives on an interface is a pod's. This node's own packets arrive on none.
    pub fn have(&self, arrived: Option<&InterfaceName>) -> bool {
        match (self, arrived) {
            (_, None) => false,
            (Self::Named(name), Some(arrived)) => name == arrived,
            (Self::Prefixed(prefix), Some(arrived)) => arrived.bytes().starts_with(prefix.bytes()),
        }
    }
}

impl FromStr for InterfaceName {
    type Err = BadInterfaceName;

    fn from_str(text: &str) -> Result<Self, BadInterfaceName> {
        let is_bad = |byte: u8| matches!(byte, b'/' | b':' | 0 | b' ' | b'\t'..=b'\r');
        if text.is_empty()
            || text.len() >= NAME_SIZE
            || text.bytes().any(is_bad)
            || [".", ".."].contains(&text)
        {
            return Err(BadInterfaceName(text.to_owned()));
        }
        let mut name = [0; NAME_SIZE];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for PodInterfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "{name}"),
            Self::Prefixed(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Serialize for InterfaceName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InterfaceName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_name(text: &str) -> InterfaceName {
        text.parse().expect("a name")
    }

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for good in ["a", "cni0", "veth0123456789a", "eth0.100", "lxc_health", "..."] {
            assert_eq!(mk_name(good).to_string(), good);
        }
        for bad in ["", ".", "..", "veth0123456789ab", "a b", "a/b", "eth0:1", "a\t"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_itself_and_a_prefix_is_all_that_begin_so() {
        let (named, prefixed) =
            (PodInterfaces::Named(mk_name("veth")), PodInterfaces::Prefixed(mk_name("veth")));
        for (arrived, is_named, is_prefixed) in
            [("veth", true, true), ("veth1", false, true), ("vet", false, false), ("xveth", false, false)]
        {
            let arrived = mk_name(arrived);
            assert_eq!(named.have(Some(&arrived)), is_named, "{arrived}");
            assert_eq!(prefixed.have(Some(&arrived)), is_prefixed, "{arrived}");
        }
        assert!(!named.have(None) && !prefixed.have(None), "the node's own packets");
    }

    #[test]
    fn what_is_written_as_json_reads_back_and_a_bad_name_does_not() {
        for interfaces in [PodInterfaces::Named(mk_name("cni0")), PodInterfaces::Prefixed(mk_name("veth"))] {
            let text = serde_json::to_string(&interfaces).expect("writes");
            assert_eq!(serde_json::from_str::<PodInterfaces>(&text).ok(), Some(interfaces), "{text}");
        }
        assert!(serde_json::from_str::<InterfaceName>("\"a/b\"").is_err());
    }
}
