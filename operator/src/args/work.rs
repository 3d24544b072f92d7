//! How much is done at a time, how often, and what may be written at all.
//!
//! Owns: these flags, and the limits they make. Leaves to others: keeping to them.
//! Invariant: each default is safe in a cluster of three nodes and in one of a thousand.

use std::time::Duration;

use clap::Args as Group;

use super::duration;
use crate::background::gc::limit;
use crate::cache::node_removal;
use crate::cache::service::ClassRule;
use crate::desired::admission::EndpointScope;
use crate::desired::spec::GroupScope;
use crate::provision::Policy;
use crate::provision::trigger::Drift;
use crate::reconcile::settings::{Scope, Settings};

/// How work is done.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Work")]
pub(crate) struct WorkArgs {
    /// Services reconciled at the same time; provider calls do not count
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: u16,
    /// Load balancers provisioned at the same time; deletions and changes of what serves come before creations
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    provider_concurrency: u16,
    /// From one complete listing of the provider to the next
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) resync: Duration,
    /// Time in which every load balancer is read in full and compared, one after the other; 0s: never
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(crate) audit_interval: Duration,
    /// Reaction to a load balancer that differs from an unchanged Service
    #[arg(long, value_enum, default_value_t)]
    drift: Drift,
    /// Read, plan and report (log, metrics, /plan), and write nothing, neither to the provider nor to the cluster. Takes no lease
    #[arg(long)]
    pub(crate) read_only: bool,
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
    #[command(flatten)]
    pub(crate) orphans: OrphanArgs,
    /// How long provider calls may take to finish on SIGTERM
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub(crate) shutdown_grace: Duration,
}

/// How fast nodes are taken away.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Nodes")]
pub(crate) struct NodeArgs {
    /// How long a node that was ready may be unready and still be a target
    #[arg(long, default_value = "5m", value_parser = duration)]
    unready_grace: Duration,
    /// When more than this share of all target nodes (percent, and at least 3) vanishes at once, they are held
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    node_removal_share: u8,
    /// For how long they are held; 0s: never
    #[arg(long, default_value = "5m", value_parser = duration)]
    node_removal_hold: Duration,
}

/// Flags of the collector of load balancers that no Service claims.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Load balancers that no Service claims")]
#[expect(clippy::struct_field_names, reason = "clap names the flags after them")]
pub(crate) struct OrphanArgs {
    /// How long a load balancer may be claimed by no Service before it is deleted
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) orphan_grace: Duration,
    /// At most so many are deleted in --orphan-window; 0: none
    #[arg(long, default_value_t = 10)]
    orphan_limit: u16,
    /// And at most this share of all load balancers, in percent (but three)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    orphan_share: u8,
    /// The time in which so many are deleted
    #[arg(long, default_value = "10m", value_parser = duration)]
    orphan_window: Duration,
}

impl NodeArgs {
    /// For the node-removal limiter.
    pub(crate) fn limits(&self) -> node_removal::NodeRemovalLimits {
        let Self { unready_grace, node_removal_share, node_removal_hold } = *self;
        node_removal::NodeRemovalLimits {
            unready: unready_grace,
            share: node_removal_share,
            hold: node_removal_hold,
        }
    }
}

impl OrphanArgs {
    /// For the collector.
    pub(crate) fn limits(&self) -> limit::DeletionLimits {
        let Self { orphan_grace: _, orphan_limit, orphan_share, orphan_window } = *self;
        limit::DeletionLimits { count: orphan_limit.into(), share: orphan_share, window: orphan_window }
    }
}

impl WorkArgs {
    /// The settings of the process.
    pub(crate) fn settings(
        &self,
        classes: ClassRule,
        groups: GroupScope,
        endpoints: EndpointScope,
        cluster: portico_provider::ClusterUid,
    ) -> Settings {
        let scope = Scope { classes, cluster, groups, endpoints };
        let policy = Policy {
            resync: self.resync,
            read_only: self.read_only,
            drift: self.drift,
            concurrency: self.provider_concurrency.into(),
        };
        Settings { scope, policy, nodes: self.nodes.limits() }
    }
}
