//! Errors of every call into the kernel: the request, and the kernel's answer.
//!
//! Invariant: an error of [`Error::Refused`] from a batch means that nothing of the batch was applied.

use nix::errno::Errno;

/// Result of a call into the kernel.
pub type Result<T> = std::result::Result<T, Error>;

/// A call into the kernel that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened or set up.
    #[error("cannot open a netlink socket ({step})")]
    Open {
        /// Which step of opening failed.
        step: &'static str,
        /// Error number of the system call.
        #[source]
        source: Errno,
    },
    /// A request could not be handed to the kernel.
    #[error("cannot send to the kernel: {request}")]
    Send {
        /// The request, in words.
        request: String,
        /// Error number of the system call.
        #[source]
        source: Errno,
    },
    /// A reply could not be read.
    #[error("cannot read the kernel's reply to: {request}")]
    Receive {
        /// The request, in words.
        request: String,
        /// Error number of the system call.
        #[source]
        source: Errno,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {seconds} s: {request}")]
    Timeout {
        /// The request, in words.
        request: String,
        /// Seconds that this call waited.
        seconds: u64,
    },
    /// The kernel refused one operation; if it was part of a batch, nothing of the batch was applied.
    #[error("the kernel refused to {operation}{}", kernel_text(.text.as_deref()))]
    Refused {
        /// The operation that failed, for example `add 3 elements to map endpoints in table ip portico`.
        operation: String,
        /// Position of the operation in its batch; `None` if the whole batch was refused when it was committed.
        index: Option<usize>,
        /// Position of the element in the operation, where the kernel named one.
        element: Option<usize>,
        /// Text of the kernel's extended acknowledgement.
        text: Option<String>,
        /// The error number.
        #[source]
        source: Errno,
    },
    /// A dump kept changing under the reader.
    #[error("the kernel's tables changed during each of {tries} attempts to {request}")]
    Interrupted {
        /// The request, in words.
        request: String,
        /// How many attempts were made.
        tries: u32,
    },
    /// Bytes from the kernel that do not have the expected shape.
    #[error("malformed netlink data: {0}")]
    Malformed(String),
    /// A value that does not fit its length field.
    #[error("{0} is longer than a netlink attribute can say (65,535 bytes)")]
    TooLong(String),
}

fn kernel_text(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Error {
    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Receive { source, .. }
            | Self::Refused { source, .. } => Some(*source),
            Self::Timeout { .. } | Self::Interrupted { .. } | Self::Malformed(_) | Self::TooLong(_) => None,
        }
    }

    /// Whether the same call may succeed later although nobody changes anything.
    pub fn retry(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Interrupted { .. } => true,
            Self::Malformed(_) | Self::TooLong(_) => false,
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Receive { source, .. }
            | Self::Refused { source, .. } => !matches!(
                source,
                Errno::EPERM
                    | Errno::EACCES
                    | Errno::EOPNOTSUPP
                    | Errno::EPROTONOSUPPORT
                    | Errno::EAFNOSUPPORT
                    | Errno::EINVAL
            ),
        }
    }

    /// Fixed word for a metric label or a condition reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "KernelTimeout",
            Self::Interrupted { .. } => "KernelDumpInterrupted",
            Self::Malformed(_) => "KernelReplyMalformed",
            Self::TooLong(_) => "RequestTooLong",
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Receive { source, .. }
            | Self::Refused { source, .. } => match source {
                Errno::EPERM | Errno::EACCES => "KernelPermissionDenied",
                Errno::ENOENT => "KernelObjectMissing",
                Errno::EEXIST => "KernelObjectExists",
                Errno::EBUSY => "KernelObjectInUse",
                Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => "KernelFeatureMissing",
                Errno::ENOBUFS | Errno::ENOMEM | Errno::EMSGSIZE => "KernelOutOfBuffers",
                _ => "KernelError",
            },
        }
    }
}
