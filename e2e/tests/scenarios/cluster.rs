//! Suite `cluster`: Services of every type on a dual-stack cluster with provider `local`, from a pod, a node and outside.
//!
//! Each file lists the scenarios of one subject; the last of all checks what the whole suite left.

mod administration;
mod admission;
mod affinity;
mod annotations;
mod classes;
mod endpoints;
mod families;
mod lifecycle;
mod node_proxy;
mod operator;
mod policies;
mod portico_lb;
mod ports;
mod provisioning;
mod reach;
mod release;
mod remains;
mod rollout;
mod setup;
mod tracing;
mod userspace;

use portico_e2e::scenario;

use super::nft;

type Fixture = scenario::Fixture<setup::LocalSetup>;
type Scenario = scenario::Scenario<setup::LocalSetup>;

/// All scenarios, in the order in which they should run.
pub(super) fn scenarios() -> Vec<Scenario> {
    let subjects = [
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
        administration::scenarios(),
        tracing::scenarios(),
        node_proxy::scenarios(),
        userspace::scenarios(),
        operator::scenarios(),
        remains::scenarios(),
    ];
    subjects.into_iter().flatten().collect()
}
