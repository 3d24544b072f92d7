//! Deletes UDP flows whose endpoint serves no more: the proxy's own, and the kernel's.
//!
//! Leaves to [`portico_proxy_core::flows`] the choice of flows. The kernel tracks a client's packets to the
//! proxy's socket. Such an entry is stale when it leads to no socket of its frontend any more, whatever
//! endpoint is behind the socket.

use portico_proxy_core::{flows::StaleFlows, table::Frontend};

use super::pools::Sockets;
use crate::conntrack::{Flows, FlowsError};

/// Flows through the proxy's sockets.
pub struct ProxiedFlows {
    sockets: Sockets,
    kernel: Box<dyn Flows>,
    /// Whether the kernel redirects to sockets of ours, and not to endpoints.
    redirected: bool,
}

impl ProxiedFlows {
    /// Flows behind the userspace dataplane.
    pub fn redirected(sockets: Sockets, kernel: Box<dyn Flows>) -> Self {
        Self { sockets, kernel, redirected: true }
    }

    /// Flows behind another dataplane, beside those that come through localhost.
    pub fn beside(sockets: Sockets, kernel: Box<dyn Flows>) -> Self {
        Self { sockets, kernel, redirected: false }
    }

    fn in_kernel(&self, stale: &StaleFlows) -> Option<StaleFlows> {
        let StaleFlows { frontend, keep } = stale;
        let Frontend { address, .. } = frontend;
        if address.is_loopback() {
            return None;
        }
        let keep = if self.redirected { self.sockets.of(*frontend) } else { keep.clone() };
        Some(StaleFlows { frontend: *frontend, keep })
    }
}

impl Flows for ProxiedFlows {
    fn delete(&mut self, stale: &[StaleFlows]) -> Result<usize, FlowsError> {
        let ended: usize = stale.iter().map(|s| self.sockets.keep_flows(s.frontend, &s.keep)).sum();
        let in_kernel: Vec<_> = stale.iter().filter_map(|stale| self.in_kernel(stale)).collect();
        if in_kernel.is_empty() {
            return Ok(ended);
        }
        Ok(ended + self.kernel.delete(&in_kernel)?)
    }
}
