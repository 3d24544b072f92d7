//! What leaves the process when the lease is lost: nothing.

use super::super::*;
use super::stage::*;
use portico_limits::{Limit, Limiter};
use tokio::time::sleep;

use crate::testing::mk_service;

/// One request a second, ten of them in each step.
async fn slow(stage: &Stage) -> Running {
    let limiter = Arc::new(Limiter::new("slow", Limit { burst: 1.0, rate: 1.0 }));
    stage.cloud.with(|cloud| cloud.slow = Some((Arc::clone(&limiter), 10)));
    let running = stage.start().await;
    limiter.behind(Arc::new(running.operator.fence.clone()));
    running
}

fn sent(stage: &Stage) -> u32 {
    stage.cloud.with(|cloud| cloud.sent)
}

#[tokio::test(start_paused = true)]
async fn a_step_of_many_requests_ends_with_the_lease_and_its_load_balancer_is_not_made() {
    let stage = Stage::calm();
    let running = slow(&stage).await;
    stage.cluster.apply(mk_service("web"));
    sleep(Duration::from_millis(3_500)).await;
    let before = sent(&stage);
    assert!((1..10).contains(&before), "it is under way: {before}");
    running.keeper.close();
    sleep(Duration::from_secs(1)).await;
    let owner = crate::testing::mk_owner("web");
    assert!(running.operator.track(&owner, |track| track.phase == Phase::Idle), "given up at once");
    settle().await;
    assert_eq!((sent(&stage), stage.existing().len()), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_ends_it_as_well_and_one_that_comes_back_lets_it_begin_anew() {
    let stage = Stage::calm();
    let running = slow(&stage).await;
    running.keeper.open(Instant::now() + Duration::from_millis(2_500));
    stage.cluster.apply(mk_service("web"));
    settle().await;
    let before = sent(&stage);
    assert!((1..4).contains(&before), "no more than fit: {before}");
    running.keeper.open(Instant::now() + Duration::from_hours(1));
    settle().await;
    settle().await;
    assert_eq!(stage.existing(), ["web"]);
}
