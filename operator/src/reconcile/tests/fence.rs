//! Nothing is sent after the lease is lost.

use super::super::*;
use super::fixture::*;
use portico_limits::{Limit, Limiter};
use tokio::time::sleep;

use crate::testing::mk_service;

/// One request a second, ten of them in each step.
async fn slow(fixture: &Fixture) -> Running {
    let limiter = Arc::new(Limiter::new("slow", Limit { burst: 1.0, rate: 1.0 }));
    fixture.cloud.with(|cloud| cloud.slow = Some((Arc::clone(&limiter), 10)));
    let running = fixture.start().await;
    limiter.behind(Arc::new(running.fence.clone()));
    running
}

fn sent(fixture: &Fixture) -> u32 {
    fixture.cloud.with(|cloud| cloud.sent)
}

#[tokio::test(start_paused = true)]
async fn a_step_of_many_requests_ends_with_the_lease_and_its_load_balancer_is_not_made() {
    let fixture = Fixture::calm();
    let running = slow(&fixture).await;
    fixture.cluster.apply(mk_service("web"));
    sleep(Duration::from_millis(3_500)).await;
    let before = sent(&fixture);
    assert!((1..10).contains(&before), "it is under way: {before}");
    running.keeper.close();
    sleep(Duration::from_secs(1)).await;
    let owner = crate::testing::mk_owner("web");
    assert!(running.reconciler.provisioner.is_idle(&owner), "given up at once");
    settle().await;
    assert_eq!((sent(&fixture), fixture.existing().len()), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_ends_it_as_well_and_one_that_comes_back_lets_it_start_again() {
    let fixture = Fixture::calm();
    let running = slow(&fixture).await;
    running.keeper.open(Instant::now() + Duration::from_millis(2_500));
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    let before = sent(&fixture);
    assert!((1..4).contains(&before), "no more than fit: {before}");
    running.keeper.open(Instant::now() + Duration::from_hours(1));
    settle().await;
    settle().await;
    assert_eq!(fixture.existing(), ["web"]);
}
