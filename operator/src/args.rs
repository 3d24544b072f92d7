//! The command line, by groups, each checked and turned into what the rest of the crate speaks.
//!
//! Owns: flags, their defaults and what is wrong with them. Leaves to others: acting on them (`run`).
//! Invariant: each group is destructured in full, so that a flag nobody reads does not compile.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as Group, Parser};
use k8s_openapi::jiff::SignedDuration;
use portico_runtime::log::LogArgs;

use crate::cache::service::ClassRule;
use crate::desired::admission::EndpointScope;
use crate::desired::spec::GroupScope;
use crate::process::leader::Candidate;

mod command;
mod provider;
mod running;
mod work;

pub use command::Command;
pub(crate) use command::{GcArgs, Output, PlanArgs, Reach, ServiceName, StatusArgs};
pub(crate) use provider::*;
pub(crate) use work::WorkArgs;

/// Runs the operator.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    pub(crate) classes: ClassArgs,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) election: ElectionArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

/// Which Services are served.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Services")]
pub(crate) struct ClassArgs {
    /// spec.loadBalancerClass of the Services to serve; several by commas, or by the flag given again. Services that name
    /// no class count as the first [default: portico.dev/<provider>]
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    load_balancer_class: Vec<String>,
    /// Serve LoadBalancer Services that name no class, too. Only one controller of a cluster may do so
    #[arg(long)]
    default_class: bool,
    /// Let Services share load balancers with groups of other namespaces (annotation portico.dev/group: namespace/name)
    #[arg(long)]
    groups_across_namespaces: bool,
    /// Send load balancers with pod targets to every address of a Service's EndpointSlices, not only to pods of its namespace:
    /// who may write EndpointSlices can then publish whatever the provider reaches
    #[arg(long)]
    allow_endpoints_without_pods: bool,
}

/// Flags of the leader election.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Leader election")]
pub(crate) struct ElectionArgs {
    /// Whether to work only while holding the lease
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Name of the Lease
    #[arg(long, default_value = "portico-operator")]
    lease_name: String,
    /// Namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    lease_namespace: String,
    /// Unique name of this process among those that share the lease
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// How long others wait after the last renewal they saw
    #[arg(long, default_value = "15s", value_parser = duration)]
    lease_duration: Duration,
    /// How long a leader tries to renew before it ends
    #[arg(long, default_value = "10s", value_parser = duration)]
    lease_renew_deadline: Duration,
    /// From one try to the next
    #[arg(long, default_value = "2s", value_parser = duration)]
    lease_retry_period: Duration,
}

/// Flags of the process.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessArgs {
    /// Address of /livez, /readyz, /metrics and /plan
    #[arg(long, default_value = "[::]:8080")]
    pub(crate) admin_address: SocketAddr,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Flags that contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    /// The timings of the election.
    #[error(
        "--lease-duration {duration:?} must be longer than --lease-renew-deadline {deadline:?}, \
         and that longer than --lease-retry-period {period:?}"
    )]
    LeaseTimings { duration: Duration, deadline: Duration, period: Duration },
    /// Two processes with one name would both lead.
    #[error(
        "--identity (or environment POD_NAME) is missing: leader election needs a name that no other process has"
    )]
    NoIdentity,
    /// A flag whose value cannot be.
    #[error("{flag} must not be {value}")]
    Value { flag: &'static str, value: &'static str },
}

/// The Lease to compete for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Election {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) candidate: Candidate,
}

impl ClassArgs {
    /// Which Services are ours.
    pub(crate) fn rule(self, provider: ProviderKind) -> Result<ClassRule, ArgsError> {
        let Self {
            load_balancer_class,
            default_class,
            groups_across_namespaces: _,
            allow_endpoints_without_pods: _,
        } = self;
        if load_balancer_class.iter().any(String::is_empty) {
            return Err(ArgsError::Value { flag: "--load-balancer-class", value: "empty" });
        }
        let mut classes = load_balancer_class.into_iter();
        let class = classes.next().unwrap_or_else(|| provider.class().to_owned());
        let others = classes.filter(|other| *other != class).collect();
        Ok(ClassRule { class, others, default: default_class })
    }

    /// Which groups a Service may name.
    pub(crate) fn groups(&self) -> GroupScope {
        if self.groups_across_namespaces { GroupScope::Cluster } else { GroupScope::Namespace }
    }
}

impl ClassArgs {
    /// Which endpoints may be pod targets.
    pub(crate) fn endpoints(&self) -> EndpointScope {
        if self.allow_endpoints_without_pods { EndpointScope::Any } else { EndpointScope::Pods }
    }
}

impl ElectionArgs {
    /// The election; `None`: there is none, and this process always leads.
    pub(crate) fn election(self) -> Result<Option<Election>, ArgsError> {
        let Self {
            leader_elect,
            lease_name: name,
            lease_namespace: namespace,
            identity,
            lease_duration: duration,
            lease_renew_deadline: deadline,
            lease_retry_period: period,
        } = self;
        if !leader_elect {
            return Ok(None);
        }
        if duration <= deadline || deadline <= period || period.is_zero() {
            return Err(ArgsError::LeaseTimings { duration, deadline, period });
        }
        let identity = identity.filter(|it| !it.is_empty()).ok_or(ArgsError::NoIdentity)?;
        let candidate =
            Candidate { identity, lease_duration: duration, renew_deadline: deadline, retry_period: period };
        Ok(Some(Election { namespace, name, candidate }))
    }

    /// The name of this process in Events.
    pub(crate) fn instance(&self) -> String {
        self.identity.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| "portico-operator".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |_error| format!("{text:?} is no duration such as 15s, 500ms or 10m");
    text.parse::<SignedDuration>().map_err(wrong).and_then(|span| Duration::try_from(span).map_err(wrong))
}

#[cfg(test)]
mod tests;
