//! Events of nf_tables: the changed tables, one event for each transaction.
//!
//! Every element of every change in the network namespace is an event of its own, so a watcher costs time on
//! busy machines. [`super::Client::generation`] answers for less whether anything changed.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::socket::SockProtocol;

use super::{Table, kind};
use crate::{Errno, Error, Result, Socket, attribute::Reader, message::Message};

/// `NFNLGRP_NFTABLES` is group 7.
const GROUP: u32 = 1 << 6;

/// Summary of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Tables in which it changed something.
    pub tables: BTreeSet<Table>,
    /// Name of the program that made it, as the kernel knows it (15 bytes at most).
    pub program: Option<String>,
    /// Events were lost because they came faster than they were read: any table may have changed.
    pub lost: bool,
}

/// Reports changes from the moment it is opened. Its descriptor is readable when there is something to read.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    pending: Change,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::subscribed(SockProtocol::NetlinkNetFilter, GROUP)?,
            pending: Change::default(),
        })
    }

    /// The transactions whose events have arrived; does not wait.
    pub fn changes(&mut self) -> Result<Vec<Change>> {
        let mut complete = Vec::new();
        loop {
            let pending = &mut self.pending;
            let read = self.socket.try_read("hear of changes to nf_tables", |message| {
                if pending.note(message)? {
                    complete.push(std::mem::take(pending));
                }
                Ok(())
            });
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(complete),
                Err(Error::Receive { source: Errno::ENOBUFS, .. }) => {
                    complete.push(Change { lost: true, ..std::mem::take(&mut self.pending) });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Change {
    /// Notes one event; true if it ends a transaction.
    pub(crate) fn note(&mut self, message: &Message<'_>) -> Result<bool> {
        let (family, attributes) = message.netfilter()?;
        if message.kind == kind::NEW_GENERATION {
            self.program = Reader::find(attributes, 3)?.map(|name| name.string()).transpose()?;
            return Ok(true);
        }
        if message.kind >> 8 == kind::NEW_TABLE >> 8 {
            // Attribute 1 is the table's name in every kind of event; other families are not ours to know.
            self.tables.extend(Table::decode(family, attributes));
        }
        Ok(false)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
