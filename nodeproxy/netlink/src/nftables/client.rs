//! The kernel's nf_tables: commits batches and dumps objects.

use super::{Batch, Chain, Element, Family, Rule, Set, Table, kind};
use crate::{
    Error, Result, Socket,
    attribute::{Reader, Writer},
    message::{self, Reply, netfilter_header},
};

/// A connection to the nf_tables of one network namespace.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::netfilter()? })
    }

    /// Most bytes that one batch may have on this machine ([`Batch::len`]).
    pub fn batch_limit(&self) -> usize {
        self.socket.send_limit()
    }

    /// Makes all changes of a batch, or none.
    ///
    /// The kernel answers each operation that fails and the last one; the error is the first operation's.
    pub fn commit(&mut self, batch: Batch) -> Result<()> {
        self.transact(batch, true)
    }

    /// Asks whether the kernel would take a batch, and changes nothing.
    pub fn check(&mut self, batch: Batch) -> Result<()> {
        self.transact(batch, false)
    }

    fn transact(&mut self, mut batch: Batch, commit: bool) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let what = format!("commit a batch of {} operations", batch.messages() - 2);
        let first = self.socket.sequences(batch.messages());
        self.socket.send(&what, batch.finish(first, commit))?;
        let last = batch.messages() - 2;
        let mut failure: Option<(usize, Reply)> = None;
        let mut ended = false;
        while !ended {
            self.socket.read(&what, |message| {
                let position = message.sequence.wrapping_sub(first);
                if message.kind != message::ERROR || position > last + 1 {
                    return Ok(()); // an answer to something else
                }
                // Begin's number answers for the whole batch: not permitted, or refused at the moment of commit.
                ended |= position == last || position == 0;
                let (position, reply) = (position as usize, message.reply()?);
                if reply.error.is_some() && failure.as_ref().is_none_or(|(earlier, _)| position < *earlier) {
                    failure = Some((position, reply));
                }
                Ok(())
            })?;
        }
        match failure.and_then(|(position, reply)| reply.error.map(|errno| (position, errno, reply))) {
            None => Ok(()),
            Some((position, errno, reply)) => Err(batch.failure(position, errno, reply)),
        }
    }

    /// Number of the current ruleset: every batch of anybody in this network namespace adds one.
    pub fn generation(&mut self) -> Result<u32> {
        let mut generation = None;
        let kind = kind::GET_GENERATION;
        let sequence = self.socket.sequences(1);
        let mut bytes = Vec::new();
        message::append(&mut bytes, kind, 0, sequence, |w| netfilter_header(w, 0, 0))?;
        let what = "read the ruleset's generation";
        self.socket.send(what, &bytes)?;
        while generation.is_none() {
            self.socket.read(what, |message| {
                if message.sequence == sequence {
                    let id = Reader::find(message.netfilter()?.1, 1)?;
                    generation = Some(id.ok_or_else(|| Error::Malformed("no generation".into()))?.u32()?);
                }
                Ok(())
            })?;
        }
        generation.ok_or_else(|| Error::Malformed("no generation".into()))
    }

    /// All tables of a family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<Table>> {
        self.list("list tables", kind::GET_TABLE, family, |_| {}, Table::decode)
    }

    /// All chains of a table; none if there is no such table.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<Chain>> {
        let what = format!("list chains of table {table}");
        let all = self.list(&what, kind::GET_CHAIN, table.family, |_| {}, Chain::decode)?;
        Ok(all.into_iter().filter(|chain| chain.table == *table).collect())
    }

    /// All rules of a table, in order within each chain; none if there is no such table.
    pub fn rules(&mut self, table: &Table) -> Result<Vec<Rule>> {
        let what = format!("list rules of table {table}");
        self.list(&what, kind::GET_RULE, table.family, |w| w.string(1, &table.name), Rule::decode)
    }

    /// All sets and maps of a table.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<Set>> {
        let what = format!("list sets of table {table}");
        self.list(&what, kind::GET_SET, table.family, |w| w.string(1, &table.name), Set::decode)
    }

    /// All elements of a set or map, each changed by `convert`, which may leave some out.
    pub fn elements<T>(
        &mut self,
        table: &Table,
        set: &str,
        mut convert: impl FnMut(Element) -> Option<T>,
    ) -> Result<Vec<T>> {
        let what = format!("list elements of {set} in table {table}");
        let found = std::cell::RefCell::new(Vec::new());
        let content = |w: &mut Writer| {
            netfilter_header(w, table.family as u8, 0);
            w.string(1, &table.name);
            w.string(2, set);
        };
        self.socket.dump(
            &what,
            kind::GET_ELEMENT,
            content,
            || found.borrow_mut().clear(),
            |message| {
                let (_, attributes) = message.netfilter()?;
                if let Some(list) = Reader::find(attributes, 3)? {
                    for element in list.nested() {
                        found.borrow_mut().extend(convert(Element::decode(&element?)?));
                    }
                }
                Ok(())
            },
        )?;
        Ok(found.into_inner())
    }

    fn list<T>(
        &mut self,
        what: &str,
        kind: u16,
        family: Family,
        filter: impl Fn(&mut Writer),
        decode: impl Fn(u8, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let found = std::cell::RefCell::new(Vec::new());
        let content = |w: &mut Writer| {
            netfilter_header(w, family as u8, 0);
            filter(w);
        };
        self.socket.dump(
            what,
            kind,
            content,
            || found.borrow_mut().clear(),
            |message| {
                let (family, attributes) = message.netfilter()?;
                found.borrow_mut().push(decode(family, attributes)?);
                Ok(())
            },
        )?;
        Ok(found.into_inner())
    }
}
