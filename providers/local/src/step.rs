//! The steps of a plan: one call of the daemon each.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use portico_provider::{ListenerKey, Owner};

use crate::api::{Put, Targets};

/// One request to portico-lb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create it, or change it in place.
    Put {
        /// The Service that the load balancer belongs to.
        owner: Owner,
        /// The body of the request.
        put: Box<Put>,
    },
    /// Change where its listeners send.
    PutTargets {
        /// The Service that the load balancer belongs to.
        owner: Owner,
        /// From now on.
        targets: Targets,
    },
    /// Delete the load balancer.
    Delete {
        /// The Service that the load balancer belongs to.
        owner: Owner,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { owner, put } => {
                let ports: Vec<String> = put.spec.listeners.keys().map(ToString::to_string).collect();
                write!(f, "write load balancer of {} with {}", owner.name, ports.join(", "))
            }
            Self::PutTargets { owner, targets } => {
                let one = |(key, targets): (&ListenerKey, &BTreeSet<SocketAddr>)| {
                    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
                    format!(
                        "{key} to {}",
                        if targets.is_empty() { "nothing".to_owned() } else { targets.join(" ") }
                    )
                };
                let all: Vec<String> = targets.iter().map(one).collect();
                write!(f, "send {} for {}", all.join(", "), owner.name)
            }
            Self::Delete { owner } => write!(f, "delete load balancer of {}", owner.name),
        }
    }
}
