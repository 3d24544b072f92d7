//! The periodic listing of everything at the provider, from which all plans start.
//!
//! Owns: its pace. Leaves to others: the read itself (`provision`).
//! Invariant: a listing that fails is tried again sooner than the next one is due.

use std::sync::Arc;

use portico_provider::LoadBalancerProvider;
use tokio::time::sleep;

use crate::backoff;
use crate::cache::service::ClassRule;
use crate::cache::watch::Router;
use crate::provision::Provisioner;

/// Lists again and again, and requeues every Service after each listing. `listed`: the first listing succeeded.
pub(crate) async fn keep_listing<P: LoadBalancerProvider>(
    provisioner: Arc<Provisioner<P>>,
    router: Router,
    classes: ClassRule,
    mut listed: bool,
) {
    let (resync, mut failures) = (provisioner.policy().resync, 0);
    loop {
        failures = if listed { 0 } else { failures + 1 };
        let pause = if listed { resync } else { backoff::delay(&"inventory", failures).min(resync) };
        sleep(pause).await;
        listed = provisioner.list().await;
        if listed {
            router.requeue_all(&classes);
        }
    }
}
