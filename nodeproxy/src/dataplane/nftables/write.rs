//! Encodes a transaction of the model as batches of the kernel.
//!
//! New chains are committed first, in a batch of their own. A packet notes the current one of two generations
//! of rules when it enters a hook, but every lookup sees the newest elements. If a verdict came in one batch
//! with its chain, a packet in flight could follow it to the chain's previous generation, which is empty. A
//! chain that is one batch older has its rules in both generations. (`nft_do_chain` and
//! `nf_tables_commit_chain` in the kernel; the storm tests show it.)
//!
//! The rest is one batch, unless the machine's socket buffer is too small for it. Then it is several, in the
//! transaction's order, so that no verdict leads to a missing element. A replaced element is deleted and added
//! in one batch. Elements are encoded some hundred at a time, and only the batch itself is a copy.

use std::ops::Range;

use portico_netlink::nftables::{Batch, Table};
use portico_proxy_core::{
    plan::{Put, Transaction},
    table::{Family, Key},
};

use super::{
    Config,
    classes::{self, Classes},
    element, kernel_family,
    names::{self, CLASSES},
    skeleton::{self, Skeleton},
    target,
};

/// Elements that are encoded at once.
const CHUNK: usize = 256;
/// Bytes that two messages of so many elements may need, at most.
const CHUNK_BYTES: usize = 2 * 60_000;

/// A batch, and the elements of its messages.
#[derive(Default)]
pub(super) struct Part {
    /// The batch to commit.
    pub(super) batch: Batch,
    /// Sources of its elements.
    pub(super) origins: Vec<Origin>,
}

/// Source of the elements of one message.
pub(super) struct Origin {
    operation: usize,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Removals(Range<usize>),
    Replaced(Range<usize>),
    Puts(Range<usize>),
}

struct Writer<'a> {
    transaction: &'a Transaction,
    classes: &'a mut Classes,
    parts: Vec<Part>,
    limit: usize,
}

/// Encodes a transaction as batches of at most `limit` bytes, in the order of their commits. `rebuild` names
/// the families whose tables are rebuilt first. Afterwards `classes` are those of the state after the last
/// commit.
pub(super) fn write(
    transaction: &Transaction,
    rebuild: &[Family],
    config: &Config,
    classes: &mut Classes,
    limit: usize,
) -> portico_netlink::Result<Vec<Part>> {
    if !rebuild.is_empty() {
        *classes = Classes::default();
    }
    let mut writer = Writer { transaction, classes, parts: vec![Part::default()], limit };
    for family in rebuild {
        skeleton(&mut writer.room(0).batch, *family, config)?;
    }
    writer.objects_added(config)?;
    if rebuild.is_empty() {
        writer.parts.push(Part::default());
    }
    writer.removals()?;
    writer.puts()?;
    writer.objects_removed()?;
    Ok(writer.parts)
}

/// The key of the element that the kernel's answer to an operation of a part names.
pub(super) fn culprit(
    origins: &[Origin],
    transaction: &Transaction,
    operation: usize,
    element: usize,
) -> Option<Key> {
    let origin = origins.iter().find(|origin| origin.operation == operation)?;
    // A key may be more than one element, and the kernel counts elements.
    let elements = |key: &Key| vec![*key; element::encode(key, None, &Classes::default()).len()];
    origin.source.keys(transaction).flat_map(elements).nth(element)
}

/// Writes the batch that deletes the tables of all families, whether they exist or not.
pub(super) fn cleanup(families: &[Family]) -> portico_netlink::Result<Batch> {
    let mut batch = Batch::new();
    for family in families {
        let table = names::table(kernel_family(*family));
        batch.add_table(&table)?;
        batch.delete_table(&table)?;
    }
    Ok(batch)
}

/// Writes a family's empty table, in place of any existing one.
pub(super) fn skeleton(batch: &mut Batch, family: Family, config: &Config) -> portico_netlink::Result<()> {
    let Skeleton { table, sets, chains } = Skeleton::new(kernel_family(family), config);
    batch.add_table(&table)?;
    batch.delete_table(&table)?;
    batch.add_table(&table)?;
    for set in sets.values() {
        batch.add_set(set)?;
    }
    for (chain, _) in chains.values() {
        batch.add_chain(chain)?;
    }
    batch.add_elements(&table, CLASSES, [classes::external()])?;
    for (_, rules) in chains.values() {
        for rule in rules {
            batch.add_rule(rule)?;
        }
    }
    Ok(())
}

impl Source {
    fn keys<'a>(&self, transaction: &'a Transaction) -> Box<dyn Iterator<Item = &'a Key> + 'a> {
        let Transaction { removals, puts, .. } = transaction;
        match self {
            Self::Removals(range) => Box::new(removals[range.clone()].iter()),
            Self::Puts(range) => Box::new(puts[range.clone()].iter().map(|put| &put.key)),
            Self::Replaced(range) => {
                Box::new(puts[range.clone()].iter().filter(|put| put.was.is_some()).map(|put| &put.key))
            }
        }
    }
}

/// Ranges of at most [`CHUNK`] neighbours whose keys are in the same map of the same family.
fn runs<'a>(length: usize, key: impl Fn(usize) -> &'a Key) -> Vec<Range<usize>> {
    let place = |index| (key(index).family(), key(index).map());
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for index in 0..length {
        match ranges.last_mut() {
            Some(range) if range.len() < CHUNK && place(range.start) == place(index) => range.end = index + 1,
            _ => ranges.push(index..index + 1),
        }
    }
    ranges
}

fn table_of(key: &Key) -> Table {
    names::table(kernel_family(key.family()))
}

impl Writer<'_> {
    /// The current part, with room for `bytes` more if a part can have that.
    fn room(&mut self, bytes: usize) -> &mut Part {
        let fits = |part: &Part| part.batch.is_empty() || part.batch.len() + bytes <= self.limit;
        if !self.parts.last().is_some_and(fits) {
            self.parts.push(Part::default());
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    fn objects_added(&mut self, config: &Config) -> portico_netlink::Result<()> {
        let Transaction { affinity_added, chains_added, .. } = self.transaction;
        for map in affinity_added {
            self.room(CHUNK_BYTES).batch.add_set(&skeleton::affinity_map(map))?;
        }
        for chain in chains_added {
            let family = kernel_family(chain.family);
            let class = self.classes.add(*chain);
            let batch = &mut self.room(CHUNK_BYTES).batch;
            batch.add_chain(&target::chain(family, &chain.target))?;
            for rule in target::rules(family, &chain.target, config.masquerade_mark) {
                batch.add_rule(&rule)?;
            }
            for map in classes::maps(&chain.target) {
                batch.add_elements(&names::table(family), map, [class.clone()])?;
            }
        }
        Ok(())
    }

    fn removals(&mut self) -> portico_netlink::Result<()> {
        let removals = &self.transaction.removals;
        for range in runs(removals.len(), |index| &removals[index]) {
            self.room(CHUNK_BYTES);
            self.delete(&Source::Removals(range))?;
        }
        Ok(())
    }

    fn puts(&mut self) -> portico_netlink::Result<()> {
        let puts = &self.transaction.puts;
        for range in runs(puts.len(), |index| &puts[index].key) {
            // Room for both messages of a chunk: an element is never away between two batches.
            self.room(CHUNK_BYTES);
            self.delete(&Source::Replaced(range.clone()))?;
            self.add(range)?;
        }
        Ok(())
    }

    fn delete(&mut self, source: &Source) -> portico_netlink::Result<()> {
        let transaction = self.transaction;
        let Some(first) = source.keys(transaction).next() else { return Ok(()) };
        let encode = |key| element::encode(key, None, self.classes);
        let elements: Vec<_> = source.keys(transaction).flat_map(encode).collect();
        let Part { batch, origins } = self.room(0);
        let messages = batch.delete_elements(&table_of(first), first.map(), elements)?;
        origins.extend(
            messages.iter().map(|message| Origin { operation: message.operation, source: source.clone() }),
        );
        Ok(())
    }

    fn add(&mut self, range: Range<usize>) -> portico_netlink::Result<()> {
        let puts = &self.transaction.puts[range.clone()];
        let Some(first) = puts.first() else { return Ok(()) };
        let encode = |put: &Put| element::encode(&put.key, Some(&put.value), self.classes);
        let elements: Vec<_> = puts.iter().flat_map(encode).collect();
        let Part { batch, origins } = self.room(0);
        let messages = batch.add_elements(&table_of(&first.key), first.key.map(), elements)?;
        let source = Source::Puts(range);
        origins.extend(
            messages.iter().map(|message| Origin { operation: message.operation, source: source.clone() }),
        );
        Ok(())
    }

    fn objects_removed(&mut self) -> portico_netlink::Result<()> {
        let Transaction { chains_removed, affinity_removed, .. } = self.transaction;
        for chain in chains_removed {
            let table = names::table(kernel_family(chain.family));
            let class = self.classes.remove(chain);
            let batch = &mut self.room(CHUNK_BYTES).batch;
            for map in classes::maps(&chain.target) {
                batch.delete_elements(&table, map, class.clone())?;
            }
            batch.delete_chain(&table, &chain.target.chain())?;
        }
        for map in affinity_removed {
            let table = names::table(kernel_family(map.family));
            self.room(CHUNK_BYTES).batch.delete_set(&table, &map.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use portico_proxy_core::table::{Backend, Frontend, Protocol, Value};

    use super::*;

    fn mk_put(number: u32) -> Put {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number));
        let backend = Value::Backend(Backend { address, port: 1 });
        let key = Key::Endpoint(Frontend { address, protocol: Protocol::Tcp, port: 80 }, 0);
        Put { key, value: backend, was: Some(backend) }
    }

    #[test]
    fn a_transaction_too_large_for_the_socket_is_split_and_no_element_is_away_between_two_parts() {
        let transaction = Transaction { puts: (0..10_000).map(mk_put).collect(), ..Transaction::default() };
        let limit = 212_992;
        let parts = write(
            &transaction,
            &[Family::V4, Family::V6],
            &Config::default(),
            &mut Classes::default(),
            limit,
        )
        .expect("fits");
        assert!(parts.len() > 2, "{} parts", parts.len());
        for Part { batch, origins } in &parts {
            assert!(batch.len() <= limit, "{} bytes", batch.len());
            let replaced: Vec<_> =
                origins.iter().filter(|o| matches!(o.source, Source::Replaced(_))).collect();
            assert_eq!(replaced.len() * 2, origins.len(), "each deletion has its addition beside it");
        }
    }

    #[test]
    fn an_error_at_an_element_names_its_key() {
        let transaction = Transaction { puts: (0..600).map(mk_put).collect(), ..Transaction::default() };
        let parts =
            write(&transaction, &[], &Config::default(), &mut Classes::default(), usize::MAX).expect("fits");
        let [Part { batch: chains, .. }, Part { origins, .. }] = &parts[..] else {
            unreachable!("chains, then the rest")
        };
        assert!(chains.is_empty());
        // Messages: delete and add of the first 256, of the next 256, and so on.
        assert_eq!(culprit(origins, &transaction, 3, 7), Some(mk_put(256 + 7).key));
        assert_eq!(culprit(origins, &transaction, 0, 9), Some(mk_put(9).key));
        assert_eq!(culprit(origins, &transaction, 99, 0), None);
    }
}
