//! Reports to the owner of a Service whose frontend has no socket.
//!
//! Owns the mapping from a frontend, which a dataplane knows, to its Service, which only the model knows: the
//! sync loop answers between two events. Invariant: reporting blocks nobody. A full channel loses an Event, and
//! the log has a line about it.

use std::{fmt, io};

use portico_proxy_core::table::Frontend;
use tokio::sync::mpsc;

use crate::{
    diagnose::Inquiry,
    events::{About, Notice},
};

/// Faults that the channel holds.
pub const BACKLOG: usize = 64;

/// A frontend without a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address, protocol and port that cannot be served.
    pub frontend: Frontend,
    /// Why it cannot be served.
    pub why: Why,
}

/// Reason why a frontend has no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another program has the address and port.
    PortTaken,
    /// This process may not open one more file.
    NoFiles,
    /// The node has no address of the frontend's family on which redirected packets could arrive.
    NoAddress,
    /// The proxy supports TCP and UDP only.
    Protocol,
    /// Any other error of the system call.
    Other(String),
}

impl Why {
    /// The reason for a failed bind.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortTaken,
            _ if super::files::is_exhausted(error) => Self::NoFiles,
            _ => Self::Other(error.to_string()),
        }
    }

    /// Whether a retry may succeed.
    pub fn retry(&self) -> bool {
        !matches!(self, Self::Protocol)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, why } = self;
        write!(f, "{frontend} is not served by the userspace proxy: ")?;
        match why {
            Why::PortTaken => f.write_str(
                "another program on the node has this address and port; end it, or give spec.ports[].nodePort another \
                 number. The proxy tries again every few seconds",
            ),
            Why::NoFiles => f.write_str(
                "the process may not open more files; raise its limit (LimitNOFILE), or use --dataplane=nftables",
            ),
            Why::NoAddress => f.write_str(
                "the node has no global address of its family to which packets could be redirected; give it one",
            ),
            Why::Protocol => {
                f.write_str("it carries TCP and UDP only; --dataplane=nftables carries SCTP")
            }
            Why::Other(error) => write!(f, "the socket could not be opened ({error})"),
        }
    }
}

/// Reports faults to owners of Services until the channel closes.
pub async fn report(
    mut faults: mpsc::Receiver<Fault>,
    inquiries: mpsc::Sender<Inquiry>,
    notices: mpsc::Sender<Notice>,
) {
    while let Some(fault) = faults.recv().await {
        let notices = notices.clone();
        let inquiry: Inquiry = Box::new(move |known| {
            let Some(service) = known.model.service_of(&fault.frontend) else { return };
            let notice = Notice {
                about: About::Service(service.clone()),
                reason: "FailedToListen",
                action: "Listen",
                note: fault.to_string(),
            };
            if notices.try_send(notice).is_err() {
                tracing::debug!(%fault, "no room for an Event");
            }
        });
        if inquiries.send(inquiry).await.is_err() {
            return;
        }
    }
}
