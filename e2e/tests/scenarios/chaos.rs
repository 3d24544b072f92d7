//! Suite `chaos`: a hundred Services, half of them on each cloud, created, changed and deleted in random order. Meanwhile
//! the cloud throttles, fails, drops connections and gives stale answers, and the operator is killed again and again.
//!
//! ```text
//! PORTICO_CHAOS_SEED=7 PORTICO_CHAOS_SERVICES=100
//! API server ◀── portico-operator (a process for each cloud) ──▶ fault proxy ──▶ emulator
//! ```
//! When the faults end, every Service that lives has one load balancer and its address in the status. When all Services are
//! deleted, the account is byte for byte as it was before. It is full of load balancers of other owners that look like ours.
//! A seed fixes the changes to Services and which call of a kind meets which fault, not how processes interleave.

mod account;
mod desired;
mod heartbeat;
mod operator;
mod run;
mod setup;

use std::time::Duration;

use portico_e2e::{cloud::Cloud, scenario};

type Fixture = scenario::Fixture<setup::ChaosSetup>;
type Scenario = scenario::Scenario<setup::ChaosSetup>;

/// Two waits of eight minutes, and what is between them.
const LIMIT: Duration = Duration::from_mins(40);

/// A scenario for each cloud. Their namespaces are short: names at a cloud hold them.
pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("on aws nothing leaks and nothing of others is touched", |f| {
            Box::pin(run::play(Cloud::Aws, f))
        })
        .in_namespace("chaos-aws")
        .needs(&[Cloud::Aws])
        .limit(LIMIT),
        Scenario::new("on gce nothing leaks and nothing of others is touched", |f| {
            Box::pin(run::play(Cloud::Gce, f))
        })
        .in_namespace("chaos-gce")
        .needs(&[Cloud::Gce])
        .limit(LIMIT),
    ]
}
