//! Deletes tracked UDP flows whose endpoint serves no more.
//!
//! Owns the trait and its implementation over netlink. Leaves to [`portico_proxy_core::flows`] the choice of
//! flows. Invariants: one listing for each family whatever the number of frontends. A flow that is not stale
//! stays.

pub mod settings;

use std::{collections::HashMap, net::IpAddr};

use portico_netlink::{conntrack::Conntrack, nftables::Family as KernelFamily};
use portico_proxy_core::{
    flows::StaleFlows,
    table::{Backend, Family, Frontend, Protocol},
};

/// The kernel's connection tracking, as far as the proxy changes it.
///
/// Contract: deletes exactly the flows for which [`StaleFlows::is_stale`] is true. A missing flow is success.
pub trait Flows: Send {
    /// Deletes stale flows and returns their number.
    fn delete(&mut self, stale: &[StaleFlows]) -> Result<usize, FlowsError>;
}

/// Error of a deletion. Flows time out by themselves after at most some minutes without traffic.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete stale UDP flows")]
pub struct FlowsError(#[from] portico_netlink::Error);

impl FlowsError {
    /// Whether a retry may succeed.
    pub fn retry(&self) -> bool {
        self.0.retry()
    }

    /// One word for a metric label and a log field.
    pub fn reason(&self) -> &'static str {
        self.0.reason()
    }
}

/// Makes the kernel load connection tracking. Its settings do not exist before.
pub fn load() -> Result<(), FlowsError> {
    Conntrack::open()?.count()?;
    Ok(())
}

/// Connection tracking of the process's network namespace.
#[derive(Debug, Default)]
pub struct Kernel;

impl Flows for Kernel {
    fn delete(&mut self, stale: &[StaleFlows]) -> Result<usize, FlowsError> {
        let by_frontend: HashMap<Frontend, &StaleFlows> = stale.iter().map(|s| (s.frontend, s)).collect();
        let mut deleted = 0;
        for (family, kernel_family) in [(Family::V4, KernelFamily::Ip), (Family::V6, KernelFamily::Ip6)] {
            if !stale.iter().any(|s| Family::of(s.frontend.address) == family) {
                continue;
            }
            let mut conntrack = Conntrack::open()?;
            let flows = conntrack.flows(kernel_family, Protocol::Udp as u8, |flow| {
                let (to, from) = (flow.original.destination, flow.reply.source);
                is_stale(&by_frontend, (to.ip(), to.port()), (from.ip(), from.port()))
            })?;
            for flow in &flows {
                deleted += usize::from(conntrack.delete(flow)?);
            }
        }
        Ok(deleted)
    }
}

fn is_stale(stale: &HashMap<Frontend, &StaleFlows>, to: (IpAddr, u16), from: (IpAddr, u16)) -> bool {
    let frontend = Frontend { address: to.0, protocol: Protocol::Udp, port: to.1 };
    let backend = Backend { address: from.0, port: from.1 };
    stale.get(&frontend).is_some_and(|stale| stale.is_stale(&frontend, &backend))
}
