//! A batch: changes that the kernel makes all at once or not at all.
//!
//! Owns the order of messages, their numbers, and their names in errors. Elements are written in the order of
//! the calls, some 60 KiB to a message, because the list's length field has 16 bits.

use super::{Chain, Element, Family, Rule, Set, Table, kind};
use crate::{
    Errno, Error, Result,
    attribute::{Reader, Writer},
    message::{self, ACK, APPEND, CREATE, EXCLUSIVE, Reply, netfilter_header},
};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// Number of the nf_tables subsystem, which a batch's begin and end carry as resource.
const SUBSYSTEM: u16 = 10;
/// Bytes of elements in one message, at most.
const ELEMENTS_LIMIT: usize = 60_000;
/// Place of the flags in a message header.
const FLAGS: std::ops::Range<usize> = 6..8;
/// Place of the sequence number in a message header.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// A message of a batch.
#[derive(Debug)]
struct Operation {
    /// Offset of its message in the buffer.
    start: usize,
    /// Name of the operation in errors.
    what: String,
}

/// Changes to nf_tables that are made all at once or not at all.
#[derive(Debug)]
pub struct Batch {
    buffer: Vec<u8>,
    operations: Vec<Operation>,
    sets: u32,
}

/// A message of a batch, and its number of elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// Position of the message in the batch, as in [`Error::Refused`].
    pub operation: usize,
    /// How many elements it has.
    pub count: usize,
}

impl Batch {
    /// A batch that changes nothing.
    pub fn new() -> Self {
        let mut batch = Self { buffer: Vec::new(), operations: Vec::new(), sets: 0 };
        batch.mark(BEGIN);
        batch
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes that it sends to the kernel.
    pub fn len(&self) -> usize {
        self.buffer.len() + message::HEADER + message::NETFILTER_HEADER
    }

    /// Adds a table; one that is there already is fine.
    pub fn add_table(&mut self, table: &Table) -> Result<()> {
        self.push(kind::NEW_TABLE, CREATE, table.family, format!("add table {table}"), |w| {
            w.string(1, &table.name);
        })
    }

    /// Deletes a table and all that is in it.
    pub fn delete_table(&mut self, table: &Table) -> Result<()> {
        self.push(kind::DELETE_TABLE, 0, table.family, format!("delete table {table}"), |w| {
            w.string(1, &table.name);
        })
    }

    /// Adds a chain that must not exist yet.
    pub fn add_chain(&mut self, chain: &Chain) -> Result<()> {
        let what = format!("add chain {} to table {}", chain.name, chain.table);
        self.push(kind::NEW_CHAIN, CREATE | EXCLUSIVE, chain.table.family, what, |w| chain.encode(w))
    }

    /// Deletes a chain and its rules. Nothing may point to it.
    pub fn delete_chain(&mut self, table: &Table, name: &str) -> Result<()> {
        let what = format!("delete chain {name} from table {table}");
        self.push(kind::DELETE_CHAIN, 0, table.family, what, |w| {
            w.string(1, &table.name);
            w.string(3, name);
        })
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let what = format!("add a rule to chain {} of table {}", rule.chain, rule.table);
        self.push(kind::NEW_RULE, CREATE | APPEND, rule.table.family, what, |w| rule.encode(w))
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, name: &str) -> Result<()> {
        let what = format!("delete the rules of chain {name} of table {table}");
        self.push(kind::DELETE_RULE, 0, table.family, what, |w| {
            w.string(1, &table.name);
            w.string(2, name);
        })
    }

    /// Adds a set or map that must not exist yet.
    pub fn add_set(&mut self, set: &Set) -> Result<()> {
        self.sets += 1;
        let (id, what) = (self.sets, format!("add set {} to table {}", set.name, set.table));
        self.push(kind::NEW_SET, CREATE | EXCLUSIVE, set.table.family, what, |w| set.encode(w, id))
    }

    /// Deletes a set or map. No rule may use it.
    pub fn delete_set(&mut self, table: &Table, name: &str) -> Result<()> {
        let what = format!("delete set {name} from table {table}");
        self.push(kind::DELETE_SET, 0, table.family, what, |w| {
            w.string(1, &table.name);
            w.string(2, name);
        })
    }

    /// Adds elements that must not exist yet; returns the messages and how many elements each has.
    pub fn add_elements(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) -> Result<Vec<Elements>> {
        self.elements(kind::NEW_ELEMENT, CREATE | EXCLUSIVE, "add", table, set, elements)
    }

    /// Deletes elements, which must exist; returns the messages and how many elements each has.
    pub fn delete_elements(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) -> Result<Vec<Elements>> {
        self.elements(kind::DELETE_ELEMENT, 0, "delete", table, set, elements)
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        verb: &str,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) -> Result<Vec<Elements>> {
        let mut elements = elements.into_iter().peekable();
        let mut messages = Vec::new();
        while elements.peek().is_some() {
            let mut count = 0;
            let operation = self.operations.len();
            self.push(kind, flags, table.family, String::new(), |w| {
                w.string(1, &table.name);
                w.string(2, set);
                w.nested(3, |list| {
                    let start = list.len();
                    while let Some(element) = elements
                        .next_if(|e| count == 0 || list.len() - start + e.encoded_size() <= ELEMENTS_LIMIT)
                    {
                        element.encode(list);
                        count += 1;
                    }
                });
            })?;
            if let Some(last) = self.operations.last_mut() {
                let plural = if count == 1 { "" } else { "s" };
                last.what = format!("{verb} {count} element{plural} of {set} in table {table}");
            }
            messages.push(Elements { operation, count });
        }
        Ok(messages)
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        what: String,
        content: impl FnOnce(&mut Writer),
    ) -> Result<()> {
        let start = self.buffer.len();
        message::append(&mut self.buffer, kind, flags, 0, |w| {
            netfilter_header(w, family as u8, 0);
            content(w);
        })
        .inspect_err(|_too_long| self.buffer.truncate(start))?;
        self.operations.push(Operation { start, what });
        Ok(())
    }

    fn mark(&mut self, kind: u16) {
        let marked = message::append(&mut self.buffer, kind, 0, 0, |w| netfilter_header(w, 0, SUBSYSTEM));
        debug_assert!(marked.is_ok(), "a batch marker is 20 bytes long");
    }

    /// Number of messages, begin and end included.
    pub(super) fn messages(&self) -> u32 {
        u32::try_from(self.operations.len()).unwrap_or(u32::MAX - 2) + 2
    }

    /// Writes sequence numbers from `first` on, requests an answer to the last operation, and ends the batch.
    /// The kernel checks a batch without its end and then undoes it. Returns the bytes to send.
    pub(super) fn finish(&mut self, first: u32, ended: bool) -> &[u8] {
        let end = ended.then_some(self.buffer.len());
        if ended {
            self.mark(END);
        }
        let starts = self.operations.iter().map(|operation| operation.start);
        for (sequence, start) in (first..).zip(std::iter::once(0).chain(starts).chain(end)) {
            self.buffer[start..][SEQUENCE].copy_from_slice(&sequence.to_ne_bytes());
        }
        if let Some(last) = self.operations.last() {
            let flags = &mut self.buffer[last.start..][FLAGS];
            let with_ack = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&with_ack.to_ne_bytes());
        }
        &self.buffer
    }

    /// Says which operation, and which of its elements, an error reply is about. `position` counts messages from the
    /// batch's begin, which is 0.
    pub(crate) fn failure(&self, position: usize, errno: Errno, reply: Reply) -> Error {
        let Some(index) = position.checked_sub(1).filter(|index| *index < self.operations.len()) else {
            let operation = format!("commit a batch of {} operations", self.operations.len());
            return Error::Refused { operation, index: None, element: None, text: reply.text, source: errno };
        };
        let Operation { start, what } = &self.operations[index];
        let element = reply.offset.and_then(|offset| element_at(&self.buffer[*start..], offset));
        Error::Refused {
            operation: what.clone(),
            index: Some(index),
            element,
            text: reply.text,
            source: errno,
        }
    }
}

/// Position among the elements of the message at the start of `bytes` of the one that holds byte `offset`.
fn element_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let message = message::Messages::new(bytes).next()?.ok()?;
    if !matches!(message.kind, kind::NEW_ELEMENT | kind::DELETE_ELEMENT) {
        return None;
    }
    let (_, attributes) = message.netfilter().ok()?;
    let list = Reader::find(attributes, 3).ok()??;
    let first = message::HEADER + message::NETFILTER_HEADER + list.offset + 4;
    let inside = offset.checked_sub(first)?;
    list.nested().flatten().take_while(|element| element.offset <= inside).count().checked_sub(1)
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_element(number: u32) -> Element {
        Element { key: number.to_be_bytes().to_vec(), ..Element::default() }
    }

    #[test]
    fn many_elements_are_split_over_messages_and_none_is_lost() {
        let table = Table { family: Family::Ip, name: "t".into() };
        let mut batch = Batch::new();
        let messages = batch.add_elements(&table, "s", (0..10_000).map(mk_element)).expect("fits");
        assert!(messages.len() > 1, "{messages:?}");
        assert_eq!(messages.iter().map(|m| m.count).sum::<usize>(), 10_000);
    }

    #[test]
    fn an_error_offset_names_the_element_it_points_into() {
        let table = Table { family: Family::Ip, name: "t".into() };
        let mut batch = Batch::new();
        batch.add_elements(&table, "s", (0..3).map(mk_element)).expect("fits");
        let each = 4 + 4 + 4 + 4; // element, key, value: headers; then the number
        let first = 16 + 4 + 8 + 8 + 4; // headers, table name, set name, list
        let reply = |offset| Reply { error: Some(Errno::EEXIST), text: None, offset: Some(offset) };
        for (offset, expected) in
            [(first, 0), (first + each, 1), (first + each + 8, 1), (first + 2 * each, 2)]
        {
            let Error::Refused { element, index, .. } = batch.failure(1, Errno::EEXIST, reply(offset)) else {
                unreachable!("failure() only refuses");
            };
            assert_eq!((index, element), (Some(0), Some(expected)), "offset {offset}");
        }
    }
}
