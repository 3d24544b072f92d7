//! The seam to whatever carries packets: nftables, the userspace proxy, later others, each a folder beside this file.
//!
//! Owns the trait, its errors and their classification. Leaves to [`portico_proxy_core`] what should stand, and to
//! the sync loop when to read, apply and repair.

pub mod nftables;
pub mod userspace;

use std::{fmt, time::Duration};

use portico_proxy_core::{
    input::Lack,
    plan::{State, Transaction},
    table::Family,
};

use crate::health::family_name;

/// A place where forwarding state stands and traffic is rewritten by it.
///
/// The contract, which the fake keeps too:
/// - [`apply`](Self::apply) is atomic: on an error nothing of the transaction stands. (A dataplane that has to split a very
///   large one keeps the order of its fields, so that no verdict stands without what it leads to; after an error the caller
///   reads again.)
/// - `apply` after `read`: what `read` found unusable (the fixed skeleton missing, foreign or of another version or
///   configuration) is replaced in the same transaction as the next `apply`, without a gap; `read` then reports an empty
///   state and the reason in [`Observed::rebuild`].
/// - After an error nothing that is kept in memory is trusted: the caller calls `read`.
/// - [`cleanup`](Self::cleanup) removes every trace; the absent is success.
/// - Nothing here blocks for longer than a kernel answers; calls come one at a time, on threads that may wait.
pub trait Dataplane: Send {
    /// What this kernel can do, found by trying, without leaving a trace.
    fn probe(&mut self) -> Result<Capabilities, DataplaneError>;
    /// Whether nothing of ours stands at all, so that nobody's traffic depends on it and some Services may be written before
    /// the others are known. A dataplane that cannot tell says no.
    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        Ok(false)
    }
    /// Everything of ours that stands now.
    fn read(&mut self) -> Result<Observed, DataplaneError>;
    /// Makes the changes of one transaction, all or none. An empty one still rebuilds what `read` asked for.
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError>;
    /// Number of the kernel's current ruleset: each of our transactions adds one, and so does everybody else's, so a number
    /// that grew by more than we added means that somebody changed something, perhaps ours. Asked twice a second, so this is
    /// also when a dataplane mends what depends on more than transactions: a port that became free, an address that moved.
    fn generation(&mut self) -> Result<u32, DataplaneError>;
    /// Removes every trace of ours.
    fn cleanup(&mut self) -> Result<(), DataplaneError>;
}

/// What [`Dataplane::read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Elements, chains and affinity maps that will still stand when the next transaction begins.
    pub state: State,
    /// Why the next transaction starts from nothing, in words for a log line; `None` when the skeleton is right.
    pub rebuild: Option<String>,
}

/// What this kernel can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Families whose table can be made.
    pub families: Vec<Family>,
    /// Other programs' Service rules that stand beside ours (kube-proxy's tables), in words for a warning.
    pub rivals: Vec<String>,
    /// What does not work on this kernel, though the family is served.
    pub degraded: Vec<Degradation>,
}

/// Something that this kernel lacks, and what does not work for want of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degradation {
    /// In this family.
    pub family: Family,
    /// The feature in one word.
    pub feature: &'static str,
    /// The feature in words, with where it comes from.
    pub needs: &'static str,
    /// What does not work.
    pub without: &'static str,
    /// What the model has to know of it.
    pub lack: Option<Lack>,
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, feature: _, needs, without, lack: _ } = self;
        write!(f, "{}: this kernel lacks {needs}: {without}", family_name(*family))
    }
}

/// What one [`Dataplane::apply`] cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Kernel transactions; more than one only where the machine could not take it at once.
    pub transactions: usize,
    /// Bytes sent to the kernel.
    pub bytes: usize,
    /// Time from the first byte sent to the last answer.
    pub took: Duration,
}

/// Why the dataplane did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The process may not change the kernel's tables.
    #[error(
        "no permission to {operation}: the node proxy needs CAP_NET_ADMIN in the node's network namespace"
    )]
    Permission {
        /// What was tried.
        operation: String,
    },
    /// The kernel lacks something that cannot be done without.
    #[error(
        "this kernel cannot {feature}: nf_tables with concatenated maps, nat, numgen and fib (5.13 or later) is needed"
    )]
    Unsupported {
        /// What it cannot do.
        feature: String,
    },
    /// The kernel's tables are not what they were when last read: somebody else changed or flushed them.
    #[error("the kernel's tables changed under us: {operation}")]
    Changed {
        /// The operation that found out, with the kernel's words.
        operation: String,
    },
    /// The kernel refused an operation.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// Which one.
        operation: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel could not be asked or did not answer.
    #[error("cannot {operation}")]
    Transport {
        /// What was tried.
        operation: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
}

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Read again and repair at once.
    Now,
    /// Read again after a growing pause.
    Backoff,
    /// Pointless until somebody changes the machine.
    Never,
}

impl DataplaneError {
    /// Whether and how soon to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Changed { .. } => Retry::Now,
            Self::Refused { .. } | Self::Transport { .. } => Retry::Backoff,
            Self::Permission { .. } | Self::Unsupported { .. } => Retry::Never,
        }
    }

    /// One word for a metric label and a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Permission { .. } => "Permission",
            Self::Unsupported { .. } => "Unsupported",
            Self::Changed { .. } => "Changed",
            Self::Refused { .. } => "Refused",
            Self::Transport { .. } => "Transport",
        }
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, bytes, took } = self;
        write!(f, "{bytes} bytes in {transactions} transaction(s), {took:?}")
    }
}
