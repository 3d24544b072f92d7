//! A network that is another project's: the host of a Shared VPC.
//!
//! Owns: what is made in which project. Leaves to others: everything that is the same in one project.
//! Invariant: firewalls are the network's; all else is the project's that the nodes are in.

use std::collections::BTreeSet;

use portico_provider::{Desired, LoadBalancerProvider, NodeTarget, ReadMode, Scheme};

use crate::emulator::{Emulator, REGION};
use crate::fixture::{GceFixture, attempt, mk_nodes, settle};
use crate::unfit::{mk_claim, with};

#[tokio::test]
async fn in_a_shared_vpc_firewalls_are_the_host_projects_and_all_else_is_the_service_projects() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::in_shared_vpc(emulator).await;
    let body = format!(
        r#"{{"name": "node-9", "machineType": "zones/{REGION}-b/machineTypes/e2-small", "networkInterfaces":
        [{{"network": "projects/host/global/networks/shared", "networkIP": "10.130.0.9"}}]}}"#
    );
    fixture.emulator.insert(&format!("zones/{REGION}-b/instances"), &body);
    fixture.emulator.settle();
    let addresses = BTreeSet::from([[10, 130, 0, 9].into()]);
    let node = NodeTarget { addresses, ..mk_claim("node-9", &format!("{REGION}-b"), 9) };
    for scheme in [Scheme::External, Scheme::Internal] {
        let mut desired = fixture.desired(&format!("hosted-{scheme:?}").to_lowercase());
        desired.scheme = scheme;
        desired.targets = with(mk_nodes(&[]), std::slice::from_ref(&node));
        let provider = fixture.one(&desired.owner.cluster);
        // As the operator goes, which polls operations by name: those on firewalls in the host project.
        attempt(&provider, &desired).await.unwrap();
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
        assert!(provider.report(&desired, observed.as_ref()).ready, "{observed:?}");
        let made = fixture.emulator.ours(desired.owner.service.as_str());
        let (firewalls, others): (Vec<_>, Vec<_>) =
            made.into_iter().partition(|path| path.contains("/firewalls/"));
        assert!(firewalls.iter().all(|path| path.starts_with("projects/host/")), "{firewalls:?}");
        assert!(others.iter().all(|path| path.starts_with("projects/project/")), "{others:?}");
        assert_eq!((firewalls.len(), others.len()), (2, 6), "{firewalls:?} {others:?}");
        settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
        assert_eq!(fixture.emulator.ours(""), Vec::<String>::new());
    }
    fixture.emulator.assert_no_violations();
}
