//! The scenarios, by subject. Each file lists its own; the last of all looks at what the whole suite left.

mod admission;
mod affinity;
mod annotations;
mod classes;
mod endpoints;
mod families;
mod lifecycle;
mod looking;
mod node_proxy;
mod operator;
mod policies;
mod ports;
mod provisioning;
mod reach;
mod remains;
mod rollout;
mod tracing;
mod userspace;

use super::harness::Scenario;

/// All scenarios, in the order in which they should run.
pub(crate) fn all() -> Vec<Scenario> {
    [
        lifecycle::scenarios(),
        endpoints::scenarios(),
        ports::scenarios(),
        families::scenarios(),
        affinity::scenarios(),
        policies::scenarios(),
        reach::scenarios(),
        classes::scenarios(),
        admission::scenarios(),
        annotations::scenarios(),
        provisioning::scenarios(),
        rollout::scenarios(),
        looking::scenarios(),
        tracing::scenarios(),
        node_proxy::scenarios(),
        userspace::scenarios(),
        operator::scenarios(),
        remains::scenarios(),
    ]
    .concat()
}
