//! The stages of a Service, in the order its type nests them: ClusterIP ⊂ NodePort ⊂ LoadBalancer.
//!
//! ```text
//! up:    cluster_ip ──▶ node_port ──▶ load_balancer        each verifies what it owns and hands on
//! down:  load_balancer ──▶ (node_port, cluster_ip: the API server frees what it allocated)
//! ```
//!
//! Owns: walking them, and [`Work`], what is left to do outside the cluster. Leaves to others: doing it (`reconcile`).
//! Invariant: pure. A stage begins only when the one inside it stands; taking down begins at the outermost.

use std::fmt;

use k8s_openapi::api::core::v1::Service;
use portico_provider::{Backends, Capabilities, ClusterUid, LoadBalancer, Owner};

use crate::cache::service::{ClassRule, ServiceType};
use crate::desired::classes::rules::ClassRules;
use crate::desired::problem::{self, Problem};
use crate::desired::spec::{self, Backing, GroupScope};

mod cluster_ip;
mod load_balancer;
mod node_port;

/// The input of the stages, besides the Service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// Which Services are ours.
    pub(crate) classes: &'a ClassRule,
    /// The provider's capabilities.
    pub(crate) capabilities: &'a Capabilities,
    pub(crate) cluster: &'a ClusterUid,
    /// The rules of its class.
    pub(crate) class: &'a ClassRules,
    /// Whether something of ours is behind it, as far as is known.
    pub(crate) exists: bool,
    /// Which groups it may name.
    pub(crate) groups: GroupScope,
    /// The nodes and pods that may become targets.
    pub(crate) backing: Backing<'a>,
}

/// How a stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as it should be.
    Stands(String),
    /// There is nothing to do, because.
    Nothing(&'static str),
    /// Another component, most likely the API server, has to act first.
    Waiting(&'static str),
    /// The user has to change something.
    Blocked(Vec<Problem>),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stands(what) => f.write_str(what),
            Self::Nothing(because) => write!(f, "nothing to do, because {because}"),
            Self::Waiting(what) => write!(f, "waiting for {what}"),
            Self::Blocked(problems) => write!(f, "blocked: {}", problem::sentence(problems)),
        }
    }
}

/// The work at the provider.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// Nothing: the Service is not ours, and nothing of ours is behind it.
    Nothing,
    /// Ours, but something inside is not there yet; its next event brings it back. Until then only targets change.
    Wait { backends: Box<Backends> },
    /// Ours, once the operator of another class has released what it made; that one's last write brings it back.
    Yield { owner: Owner, to: String },
    /// Ours, once its author says so: another controller serves it, as `shown`. Its status and its metadata are that one's.
    Leave { owner: Owner, shown: String },
    /// Ours, and wrong: what exists stays as it is, but for its targets.
    Refuse { backends: Box<Backends>, problems: Vec<Problem>, warnings: Vec<Problem> },
    /// Create or update the load balancer.
    Provide { load_balancer: Box<LoadBalancer>, backends: Box<Backends>, warnings: Vec<Problem> },
    /// Take away what there is, then our finalizer; where that is held up, its targets still change.
    Release { backends: Box<Backends>, because: &'static str },
}

/// The answer of each stage, and the work that follows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Staged {
    stages: Vec<(&'static str, Standing)>,
    pub(crate) work: Work,
}

impl fmt::Display for Staged {
    /// One line a stage, for `plan`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stages, work: _ } = self;
        let lines: Vec<String> =
            stages.iter().map(|(stage, standing)| format!("{stage}: {standing}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Walks the stages of a Service.
pub(crate) fn walk(service: &Service, context: Context<'_>) -> Staged {
    let owner = match spec::owner(service, context.cluster) {
        Ok(owner) => owner,
        // The API server gives every object a UID and checks its names; no user could fix it.
        Err(_not_from_an_api_server) => {
            let standing = Standing::Nothing("the object has no proper UID or name");
            return Staged { stages: vec![("service", standing)], work: Work::Nothing };
        }
    };
    match load_balancer::role(service, context.classes, context.exists) {
        load_balancer::Role::Release(because) => release(service, owner, context, because),
        load_balancer::Role::None(because) => {
            let mut stages = inner(service, context.capabilities, false);
            stages.push((load_balancer::NAME, Standing::Nothing(because)));
            Staged { stages, work: Work::Nothing }
        }
        load_balancer::Role::Provide => provide(service, owner, context),
        load_balancer::Role::Leave(shown) => {
            let standing = Standing::Waiting("its author to say that Portico shall take it over");
            Staged { stages: vec![(load_balancer::NAME, standing)], work: Work::Leave { owner, shown } }
        }
        load_balancer::Role::Yield(to) => {
            let standing = Standing::Waiting("the operator of its former class to release what it made");
            Staged { stages: vec![(load_balancer::NAME, standing)], work: Work::Yield { owner, to } }
        }
    }
}

fn inner(service: &Service, capabilities: &Capabilities, pods: bool) -> Vec<(&'static str, Standing)> {
    let mut stages = vec![(cluster_ip::NAME, cluster_ip::verify(service))];
    if ServiceType::of(service) >= ServiceType::NodePort {
        stages.push((node_port::NAME, node_port::verify(service, capabilities, pods)));
    }
    stages
}

/// Outermost first: only the load balancer is ours to take down; the API server frees ports and addresses.
fn release(service: &Service, owner: Owner, context: Context<'_>, because: &'static str) -> Staged {
    let standing = Standing::Stands(format!("is taken down, because {because}"));
    let backends = Box::new(backends(service, owner, context));
    Staged { stages: vec![(load_balancer::NAME, standing)], work: Work::Release { backends, because } }
}

fn backends(service: &Service, owner: Owner, context: Context<'_>) -> Backends {
    let Context { classes: _, capabilities, cluster: _, class, exists: _, groups: _, backing } = context;
    spec::backends(service, owner, capabilities, class, backing)
}

fn provide(service: &Service, owner: Owner, context: Context<'_>) -> Staged {
    let Context { classes: _, capabilities, cluster: _, class, exists: _, groups, backing } = context;
    let backends = Box::new(backends(service, owner.clone(), context));
    let spec::Asked { load_balancer, warnings } =
        spec::parse(service, owner, capabilities, class, groups, backing);
    let pods = load_balancer.as_ref().is_ok_and(|load_balancer| load_balancer::targets_pods(load_balancer));
    let mut stages = inner(service, capabilities, pods);
    let waiting = stages.iter().any(|(_, standing)| matches!(standing, Standing::Waiting(_)));
    let mut problems: Vec<Problem> = stages
        .iter()
        .filter_map(
            |(_, standing)| if let Standing::Blocked(problems) = standing { Some(problems) } else { None },
        )
        .flatten()
        .cloned()
        .collect();
    let (standing, work) = match load_balancer {
        _ if waiting => (Standing::Waiting("the stage inside it"), Work::Wait { backends }),
        Ok(load_balancer) if problems.is_empty() => {
            let standing = Standing::Stands(load_balancer::summary(&load_balancer));
            (standing, Work::Provide { load_balancer, backends, warnings })
        }
        asked => {
            problems.extend(asked.err().unwrap_or_default());
            (Standing::Blocked(problems.clone()), Work::Refuse { backends, problems, warnings })
        }
    };
    stages.push((load_balancer::NAME, standing));
    Staged { stages, work }
}

#[cfg(test)]
mod tests;
