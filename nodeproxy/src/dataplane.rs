//! The trait of dataplanes: nftables, the userspace proxy, later others, each a folder beside this file.
//!
//! Owns the trait, its errors and their classification. Leaves to [`portico_proxy_core`] the desired state, and
//! to the sync loop the time of reads, commits and repairs.

pub mod nftables;
pub mod userspace;

use std::{fmt, time::Duration};

use portico_proxy_core::{
    input::Lack,
    plan::{State, Transaction},
    table::Family,
};

use crate::health::family_name;

/// Holds forwarding state, and rewrites traffic by it.
///
/// The contract, which the fake keeps too:
/// - [`apply`](Self::apply) is atomic: after an error nothing of the transaction is programmed. A dataplane that has to split
///   a very large one keeps the order of its fields, so that no verdict leads to a missing element. After an error the caller
///   reads again.
/// - `apply` after `read`: it replaces a table that `read` found unusable in the same kernel transaction, without a gap. A
///   table is unusable if its skeleton is missing, foreign, or of another version or configuration. `read` then returns an
///   empty state, and the reason in [`Observed::rebuild`].
/// - After an error nothing in memory is trusted: the caller calls `read`.
/// - [`cleanup`](Self::cleanup) removes everything; absent is success.
/// - No call blocks for longer than a kernel answers. Calls come one at a time, on threads that may wait.
pub trait Dataplane: Send {
    /// Tries the features of this kernel, without a trace.
    fn probe(&mut self) -> Result<Capabilities, DataplaneError>;
    /// Whether nothing of ours exists. Then no traffic depends on it, and some Services may be written before
    /// the others are known. A dataplane that cannot determine it answers false.
    fn is_absent(&mut self) -> Result<bool, DataplaneError> {
        Ok(false)
    }
    /// Reads everything of ours.
    fn read(&mut self) -> Result<Observed, DataplaneError>;
    /// Commits the changes of one transaction, all or none. An empty one still rebuilds a table that `read`
    /// found unusable.
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, DataplaneError>;
    /// Number of the kernel's current ruleset. Each of our transactions adds one, and so do those of other
    /// programs: a number that grew by more than ours means that another program changed something. The loop
    /// calls this twice a second, so a dataplane also retries here what depends on more than transactions: a
    /// port that became free, an address that moved.
    fn generation(&mut self) -> Result<u32, DataplaneError>;
    /// Removes everything of ours.
    fn cleanup(&mut self) -> Result<(), DataplaneError>;
}

/// Result of [`Dataplane::read`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Elements, chains and affinity maps that exist when the next transaction begins.
    pub state: State,
    /// Reason why the next transaction builds the tables from nothing, for a log line; `None` when the skeleton
    /// is right.
    pub rebuild: Option<String>,
}

/// Features of this kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Families whose table works.
    pub families: Vec<Family>,
    /// Rules of other Service proxies beside ours (kube-proxy's tables), in words for a warning.
    pub other_proxies: Vec<String>,
    /// Missing features that the family works without.
    pub degraded: Vec<Degradation>,
}

/// A missing feature of this kernel, and its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degradation {
    /// Family that lacks it.
    pub family: Family,
    /// The feature in one word.
    pub feature: &'static str,
    /// The feature in words, with the kernel option or version.
    pub needs: &'static str,
    /// The effect, in words.
    pub without: &'static str,
    /// The effect on the model's elements, if any.
    pub lack: Option<Lack>,
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, feature: _, needs, without, lack: _ } = self;
        write!(f, "{}: this kernel lacks {needs}: {without}", family_name(*family))
    }
}

/// Cost of one [`Dataplane::apply`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Kernel transactions; more than one only where the socket buffer was too small.
    pub transactions: usize,
    /// Bytes sent to the kernel.
    pub bytes: usize,
    /// Time from the first byte sent to the last answer.
    pub took: Duration,
}

/// Reasons why a call to the dataplane failed.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The process may not change the kernel's tables.
    #[error(
        "no permission to {operation}: the node proxy needs CAP_NET_ADMIN in the node's network namespace"
    )]
    Permission {
        /// The operation, in words.
        operation: String,
    },
    /// The kernel lacks a feature that the proxy cannot work without.
    #[error(
        "this kernel cannot {feature}: nf_tables with concatenated maps, nat, numgen and fib (5.13 or later) is needed"
    )]
    Unsupported {
        /// The feature, in words.
        feature: String,
    },
    /// Another program changed or flushed the kernel's tables since the last read.
    #[error("the kernel's tables changed under us: {operation}")]
    Changed {
        /// The operation that found the change, with the kernel's error.
        operation: String,
    },
    /// The kernel refused an operation.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// The operation, in words.
        operation: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel could not be reached or did not answer.
    #[error("cannot {operation}")]
    Transport {
        /// The operation, in words.
        operation: String,
        /// Error of the system call.
        #[source]
        source: std::io::Error,
    },
}

/// Reaction to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Read again and repair at once.
    Now,
    /// Read again after a growing pause.
    Backoff,
    /// None: only a change of the machine can help.
    Never,
}

impl DataplaneError {
    /// Whether and how soon to retry.
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
