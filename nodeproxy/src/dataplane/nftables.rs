//! The nftables dataplane: table `portico` in the families `ip` and `ip6`, written over raw netlink.
//!
//! ```text
//!   Config ──► skeleton (rules, datatype): chains, maps, rules as data
//!   Transaction ──► write (element, target) ──► batches ──► kernel
//!   kernel ──► read (element, target) ──► State, or why to rebuild
//! ```
//!
//! docs/nftables.md shows the table. This file owns the connection and the order of calls. It keeps no copy of
//! the kernel's state, only whether it has read it since the last error, whether the skeleton must be rebuilt,
//! and the numbers of the chains.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Instant,
};

use portico_netlink::{
    Errno, Error,
    nftables::{Batch, Client, Family as KernelFamily},
    probe::{self, Feature},
};
use portico_proxy_core::{
    interface::PodInterfaces,
    plan::{AffinityMap, Transaction},
    table::{Alias, Family, Key},
};

use super::{Applied, Capabilities, Dataplane, DataplaneError, Observed};

use classes::Classes;
use degrade::Support;

mod classes;
mod datatype;
mod degrade;
mod element;
pub mod invalid;
mod names;
mod other_proxies;
mod read;
mod rules;
mod skeleton;
mod target;
mod write;

/// Both families, in the order in which they are written.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Settings that the fixed part of the table depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Mask of the packet mark's bit for packets to masquerade. kube-proxy's default is 0x4000.
    pub masquerade_mark: u32,
    /// Whether every packet to a ClusterIP is masqueraded (`--masquerade-all`).
    pub masquerade_all: bool,
    /// Recognition of pods. Other clients are masqueraded on the way to a ClusterIP.
    pub local_detector: LocalDetector,
    /// Whether this node's packets with the masquerade mark are a proxy's own, on their way to an endpoint.
    /// Then they are not redirected (`--dataplane=userspace`).
    pub proxied: bool,
    /// Whether invalid TCP packets of pods (by connection tracking) are dropped if they may be an endpoint's
    /// answers. The kernel does not rewrite their addresses, and a client that gets an answer from an address
    /// that it never dialled resets its connection.
    pub drop_invalid: bool,
    /// Missing features of the kernel, by family. [`Nftables`] detects them itself ([`Dataplane::probe`]).
    pub lacks: BTreeMap<Family, BTreeSet<Feature>>,
}

/// Recognition of packets of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetector {
    /// By their source in `pod-cidrs`, in these families. In other families every client counts as a pod.
    Addresses(BTreeSet<Family>),
    /// By the interface on which they arrive, in both families.
    Interfaces(PodInterfaces),
}

impl LocalDetector {
    /// By the addresses of both families.
    pub fn addresses() -> Self {
        Self::Addresses(FAMILIES.into())
    }
}

impl Default for LocalDetector {
    fn default() -> Self {
        Self::Addresses(BTreeSet::new())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            masquerade_mark: 0x4000,
            masquerade_all: false,
            local_detector: LocalDetector::default(),
            proxied: false,
            drop_invalid: true,
            lacks: BTreeMap::new(),
        }
    }
}

impl Config {
    fn has(&self, family: KernelFamily, feature: Feature) -> bool {
        let lacking = self.lacks.iter().filter(|(of, _)| kernel_family(**of) == family);
        !lacking.flat_map(|(_, lacks)| lacks).any(|lack| *lack == feature)
    }
}

/// State of our knowledge of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// Nothing was read since the start or the last error.
    Nothing,
    /// The tables are as `read` returned them.
    Whole,
    /// The next transaction rebuilds the tables.
    Rebuild,
}

/// The tables `portico` of one network namespace.
#[derive(Debug)]
pub struct Nftables {
    client: Client,
    config: Config,
    known: Knowledge,
    /// Numbers of the programmed chains.
    classes: Classes,
}

/// The kernel's name for a family.
fn kernel_family(family: Family) -> KernelFamily {
    match family {
        Family::V4 => KernelFamily::Ip,
        Family::V6 => KernelFamily::Ip6,
    }
}

impl Nftables {
    /// Connects to the network namespace of the calling thread. Changes nothing.
    pub fn open(config: Config) -> Result<Self, DataplaneError> {
        let client = Client::open().map_err(|error| convert(error, None))?;
        Ok(Self { client, config, known: Knowledge::Nothing, classes: Classes::default() })
    }

    /// The affinity id in the entry of a client of a Service port.
    pub fn affinity_entry(
        &mut self,
        map: &AffinityMap,
        client: IpAddr,
        port: &Alias,
    ) -> Result<Option<u32>, DataplaneError> {
        let table = names::table(kernel_family(map.family));
        let key = element::client(client, port);
        match self.client.elements(&table, &map.name(), |element| (element.key == key).then_some(element)) {
            Ok(found) => Ok(found.iter().find_map(element::id)),
            // A map that does not exist yet has no entries.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(convert(error, None)),
        }
    }

    /// Number of entries of each affinity map. Kernels without a count list all of them.
    pub fn clients(&mut self) -> Result<Vec<(AffinityMap, usize)>, DataplaneError> {
        self.count_clients().map_err(|error| convert(error, None))
    }

    fn count_clients(&mut self) -> portico_netlink::Result<Vec<(AffinityMap, usize)>> {
        let mut counts = Vec::new();
        for family in FAMILIES.map(kernel_family) {
            let table = names::table(family);
            if !self.client.tables(family)?.contains(&table) {
                continue;
            }
            for set in self.client.sets(&table)? {
                let Some(map) = target::parse_map_name(family, &set.name) else { continue };
                let count = match set.count {
                    Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
                    None => self.client.elements(&table, &set.name, Some)?.len(),
                };
                counts.push((map, count));
            }
        }
        Ok(counts)
    }

    fn try_family(&mut self, family: Family) -> Result<bool, DataplaneError> {
        // All at once: the kernel takes some 20 ms to take back each try, so what is missing is asked only if something is.
        let Err(refused) = self.try_skeleton(family)? else { return Ok(true) };
        let missing =
            probe::missing(&mut self.client, kernel_family(family)).map_err(|error| convert(error, None))?;
        if missing.is_empty() {
            return Err(convert(refused, None)); // no feature of ours is to blame
        }
        match degrade::support(missing) {
            Support::Without(lacks) => {
                self.config.lacks.insert(family, lacks);
                self.try_skeleton(family)?.map_err(|refused| convert(refused, None))?;
                Ok(true)
            }
            Support::None(missing) => {
                let lacks: Vec<_> = missing.iter().map(|feature| feature.describe()).collect();
                tracing::warn!(%family, lacks = lacks.join("; "), "this kernel cannot forward Services of this family");
                Ok(false)
            }
        }
    }

    /// Whether the kernel accepts the fixed part of a family's table. Changes nothing.
    fn try_skeleton(&mut self, family: Family) -> Result<portico_netlink::Result<()>, DataplaneError> {
        let mut batch = Batch::new();
        write::skeleton(&mut batch, family, &self.config).map_err(|error| convert(error, None))?;
        Ok(self.client.check(batch))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        let rebuild = if self.known == Knowledge::Rebuild { &FAMILIES[..] } else { &[] };
        let limit = self.client.batch_limit();
        let parts = write::write(transaction, rebuild, &self.config, &mut self.classes, limit)
            .map_err(|error| convert(error, None))?;
        let start = Instant::now();
        let mut applied = Applied::default();
        for write::Part { batch, origins } in parts {
            if batch.is_empty() {
                continue;
            }
            applied.transactions += 1;
            applied.bytes += batch.len();
            self.client.commit(batch).map_err(|error| {
                let key = match &error {
                    Error::Refused { index: Some(operation), element: Some(element), .. } => {
                        write::culprit(&origins, transaction, *operation, *element)
                    }
                    _ => None,
                };
                convert(error, key)
            })?;
        }
        applied.took = start.elapsed();
        Ok(applied)
    }
}

impl Dataplane for Nftables {
    fn generation(&mut self) -> Result<u32, DataplaneError> {
        self.client.generation().map_err(|error| convert(error, None))
    }

    fn probe(&mut self) -> Result<Capabilities, DataplaneError> {
        let mut families = Vec::new();
        for family in FAMILIES {
            if self.try_family(family)? {
                families.push(family);
            }
        }
        let other_proxies = other_proxies::find(&mut self.client).map_err(|error| convert(error, None))?;
        let lacks = self.config.lacks.iter().filter(|(family, _)| families.contains(family));
        let degraded = lacks.flat_map(|(family, lacks)| degrade::degradations(*family, lacks)).collect();
        Ok(Capabilities { families, other_proxies, degraded })
    }

    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        for family in FAMILIES.map(kernel_family) {
            let tables = self.client.tables(family).map_err(|error| convert(error, None))?;
            if tables.contains(&names::table(family)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self) -> Result<Observed, DataplaneError> {
        self.known = Knowledge::Nothing;
        match read::read(&mut self.client, &FAMILIES, &self.config).map_err(|error| convert(error, None))? {
            read::Read::Whole(state, classes) => {
                self.known = Knowledge::Whole;
                self.classes = classes;
                Ok(Observed { state, rebuild: None })
            }
            read::Read::Rebuild(reason) => {
                self.known = Knowledge::Rebuild;
                Ok(Observed { rebuild: Some(reason), ..Observed::default() })
            }
        }
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError> {
        if self.known == Knowledge::Nothing {
            return Err(DataplaneError::Changed {
                operation: "write to tables that were not read since the last error".into(),
            });
        }
        let applied = self.commit(transaction);
        self.known = if applied.is_ok() { Knowledge::Whole } else { Knowledge::Nothing };
        applied
    }

    fn cleanup(&mut self) -> Result<(), DataplaneError> {
        self.known = Knowledge::Nothing;
        let batch = write::cleanup(&FAMILIES).map_err(|error| convert(error, None))?;
        self.client.commit(batch).map_err(|error| convert(error, None))
    }
}

/// A kernel error as a dataplane error; `key` is the element at fault, if the kernel named one.
fn convert(error: Error, key: Option<Key>) -> DataplaneError {
    let at_key = key.map(|key| format!(", at {} {key}", key.map())).unwrap_or_default();
    let operation = match &error {
        Error::Refused { operation, text, .. } => {
            format!(
                "{operation}{at_key}{}",
                text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
            )
        }
        other => other.to_string(),
    };
    // Ranges that overlap look to the kernel like elements that exist, and reading again would not help.
    let ranges =
        matches!(key, Some(Key::PodCidr(_) | Key::NodePod(_) | Key::ServiceCidr(_) | Key::SourceRange(..)));
    let Some(errno) = error.errno() else {
        return DataplaneError::Transport { operation, source: io::Error::other(error) };
    };
    let source = io::Error::from(errno);
    match errno {
        Errno::EPERM | Errno::EACCES => DataplaneError::Permission { operation },
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            DataplaneError::Unsupported { feature: operation }
        }
        Errno::ENOENT | Errno::EEXIST | Errno::EBUSY if !ranges => {
            DataplaneError::Changed { operation: format!("cannot {operation}: {}", errno.desc()) }
        }
        _ if matches!(error, Error::Refused { .. }) => DataplaneError::Refused { operation, source },
        _ => DataplaneError::Transport { operation, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_refused(source: Errno) -> Error {
        Error::Refused { operation: "add a thing".into(), index: None, element: None, text: None, source }
    }

    #[test]
    fn without_permission_the_error_names_the_capability() {
        let error = convert(mk_refused(Errno::EPERM), None);
        assert!(matches!(error, DataplaneError::Permission { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }

    #[test]
    fn only_surprises_about_what_exists_count_as_changes_by_others() {
        for (errno, changed) in [
            (Errno::ENOENT, true),
            (Errno::EEXIST, true),
            (Errno::EBUSY, true),
            (Errno::ENOMEM, false),
            (Errno::EINVAL, false),
        ] {
            let error = convert(mk_refused(errno), None);
            assert_eq!(matches!(error, DataplaneError::Changed { .. }), changed, "{error:?}");
        }
    }
}
