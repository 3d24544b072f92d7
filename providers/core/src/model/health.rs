//! How a target shows that it can take traffic.
//!
//! Owns: the check and the two that Kubernetes implies. Leaves to others: running it.
//! Invariant: intervals are never zero and thresholds never below one (see [`HealthCheck::is_sane`]).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listener::Port;

/// The question that a probe asks a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A TCP connection opens.
    Tcp {
        /// On which port.
        port: ProbePort,
    },
    /// `GET path` answers 200 (as kube-proxy's health servers do).
    Http {
        /// On which port.
        port: ProbePort,
        /// The path, beginning with `/`.
        path: String,
    },
}

/// The port a probe goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbePort {
    /// The port the target's traffic goes to.
    Traffic,
    /// This one, whatever the listener.
    Fixed(Port),
}

/// A probe, how often, and how many answers change a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The request that a node or pod must answer.
    pub probe: Probe,
    /// From one probe of a target to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many good answers in a row make a target healthy.
    pub healthy_threshold: u32,
    /// So many bad answers in a row make it unhealthy.
    pub unhealthy_threshold: u32,
}

/// kube-proxy's own health port (`--healthz-bind-address`), which the node proxy keeps.
const NODE_PROXY_HEALTH_PORT: u16 = 10_256;

impl HealthCheck {
    /// For `externalTrafficPolicy: Local`: `GET /healthz` on `spec.healthCheckNodePort`, which answers 200
    /// exactly where ready endpoints run. 3 s twice: as fast as GKE's dedicated check.
    pub fn local_endpoints(health_check_node_port: Port) -> Self {
        Self::healthz(health_check_node_port)
    }

    /// For `Cluster`: the node proxy's own `/healthz`, which fails while the node is going away
    /// (KEP-3836). It also works for UDP Services, where nothing listens on TCP.
    pub fn node_proxy() -> Option<Self> {
        Port::try_from(NODE_PROXY_HEALTH_PORT).ok().map(Self::healthz)
    }

    /// For pods: a TCP connection to the traffic port.
    pub fn tcp_traffic() -> Self {
        Self::every_three_seconds(Probe::Tcp { port: ProbePort::Traffic })
    }

    fn healthz(port: Port) -> Self {
        Self::every_three_seconds(Probe::Http { port: ProbePort::Fixed(port), path: "/healthz".to_owned() })
    }

    fn every_three_seconds(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 2,
        }
    }

    /// Whether a load balancer could run it: no zero, and an HTTP path that begins with `/`.
    pub fn is_sane(&self) -> bool {
        let Self { probe, interval, timeout, healthy_threshold, unhealthy_threshold } = self;
        let path_ok = match probe {
            Probe::Tcp { port: _ } => true,
            Probe::Http { port: _, path } => {
                path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
            }
        };
        path_ok
            && !interval.is_zero()
            && !timeout.is_zero()
            && *healthy_threshold > 0
            && *unhealthy_threshold > 0
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, interval, timeout, healthy_threshold, unhealthy_threshold } = self;
        match probe {
            Probe::Tcp { port } => write!(f, "TCP on {port}")?,
            Probe::Http { port, path } => write!(f, "HTTP GET {path} on {port}")?,
        }
        write!(
            f,
            " every {interval:?}, timeout {timeout:?}, up after {healthy_threshold}, down after {unhealthy_threshold}"
        )
    }
}

impl fmt::Display for ProbePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traffic => f.write_str("the traffic port"),
            Self::Fixed(port) => write!(f, "port {port}"),
        }
    }
}
