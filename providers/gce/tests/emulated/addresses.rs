//! Addresses that the user asks for: those that cannot be had, and those that one has already.
//!
//! Owns: which plans are blocked with a remedy, and which errors name the annotation. Leaves to others: using them
//! (`transitions`). Invariant: a plan that cannot work makes nothing and takes nothing away.

use portico_provider::{
    Desired, Field, LoadBalancer, LoadBalancerProvider, Obstacle, ReadMode, Replacement, Scheme,
};

use crate::emulator::{Emulator, REGION, STATIC, is_write};
use crate::fixture::{GceFixture, Provider, settle};

const NAMES: &str = "networking.gke.io/load-balancer-ip-addresses";

fn options(pairs: &[(&str, &str)]) -> portico_provider::Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn reserve(fixture: &GceFixture, body: &str) {
    fixture.emulator.insert(&format!("regions/{REGION}/addresses"), body);
    fixture.emulator.settle();
}

/// Why the plan is blocked; nothing is changed on the way there.
async fn blocked(fixture: &GceFixture, provider: &Provider, desired: &LoadBalancer) -> String {
    let before = fixture.emulator.log().len();
    settle(provider, Desired::Present(desired)).await.unwrap();
    let writes: Vec<String> =
        fixture.emulator.log().split_off(before).into_iter().filter(|line| is_write(line)).collect();
    assert!(writes.is_empty(), "{writes:?}");
    let observed = provider.observe_for(Desired::Present(desired), ReadMode::Full).await.unwrap();
    let plan = provider.plan(Desired::Present(desired), observed.as_ref());
    let [blocked] = plan.blocked() else { return format!("not blocked: {plan}") };
    assert_eq!(
        (blocked.field, blocked.obstacle),
        (Field::RequestedAddresses, Obstacle::Unsupported),
        "{plan}"
    );
    blocked.message.clone()
}

#[tokio::test]
async fn a_named_address_that_does_not_fit_blocks_the_plan_with_the_remedy() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let inside =
        format!(r#""addressType": "INTERNAL", "subnetwork": "regions/{REGION}/subnetworks/default""#);
    reserve(&fixture, &format!(r#"{{"name": "single", {inside}}}"#));
    reserve(&fixture, &format!(r#"{{"name": "several", {inside}, "purpose": "SHARED_LOADBALANCER_VIP"}}"#));
    reserve(&fixture, r#"{"name": "standard", "networkTier": "STANDARD"}"#);
    let base = fixture.desired("named");
    let provider = fixture.one(&base.owner.cluster);
    for (scheme, name, remedy) in [
        (Scheme::External, "nowhere", "reserve it, or name another"),
        (Scheme::External, "several", "name one that fits"),
        (Scheme::External, "standard", "annotation cloud.google.com/network-tier"),
        (Scheme::Internal, "user-static", "name one that fits"),
        (Scheme::Internal, "single", "purpose SHARED_LOADBALANCER_VIP"),
    ] {
        let desired = LoadBalancer { scheme, options: options(&[(NAMES, name)]), ..base.clone() };
        let reported = blocked(&fixture, &provider, &desired).await;
        assert!(
            reported.contains(remedy) && reported.contains(NAMES) && reported.contains(name),
            "{reported}"
        );
    }
    let desired = LoadBalancer { scheme: Scheme::Internal, options: options(&[(NAMES, "several")]), ..base };
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    assert_eq!(fixture.emulator.of("forwardingRules").len(), 2);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn the_address_that_one_has_may_be_asked_for_by_name_but_cannot_move_to_another_load_balancer() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let base = LoadBalancer {
        requested_addresses: [STATIC.parse().unwrap()].into(),
        replacement: Replacement::Allowed,
        ..fixture.desired("pinned")
    };
    let provider = fixture.one(&base.owner.cluster);
    settle(&provider, Desired::Present(&base)).await.unwrap();
    let mut desired = base.clone();
    // The same address, by its name.
    desired.requested_addresses.clear();
    desired.options = options(&[(NAMES, "user-static")]);
    let observed = provider.observe_for(Desired::Present(&desired), ReadMode::Full).await.unwrap();
    let plan = provider.plan(Desired::Present(&desired), observed.as_ref());
    assert!(plan.is_settled(), "{plan}");
    // Another tier would need it while the old still serves at it.
    let desired =
        LoadBalancer { options: options(&[("cloud.google.com/network-tier", "Standard")]), ..base.clone() };
    let reported = blocked(&fixture, &provider, &desired).await;
    assert!(reported.contains(STATIC) && reported.contains("Request one, or none"), "{reported}");
    let report =
        provider.report(&base, provider.observe(&base.owner, ReadMode::Full).await.unwrap().as_ref());
    assert!(report.ready, "{report:?}");
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn an_address_that_others_use_and_a_subnetwork_that_is_not_there_are_told_by_annotation() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let first =
        LoadBalancer { requested_addresses: [STATIC.parse().unwrap()].into(), ..fixture.desired("first") };
    let provider = fixture.one(&first.owner.cluster);
    settle(&provider, Desired::Present(&first)).await.unwrap();
    let second =
        LoadBalancer { requested_addresses: [STATIC.parse().unwrap()].into(), ..fixture.desired("second") };
    let error = settle(&provider, Desired::Present(&second)).await.unwrap_err();
    let reported = error.to_string();
    assert!(
        error.reason() == "Conflict" && reported.contains(NAMES) && reported.contains(STATIC),
        "{error:?}"
    );
    let unreserved = LoadBalancer {
        requested_addresses: ["198.51.100.77".parse().unwrap()].into(),
        ..fixture.desired("unreserved")
    };
    let error = settle(&provider, Desired::Present(&unreserved)).await.unwrap_err();
    let reported = error.to_string();
    assert!(error.reason() == "InvalidRequest" && reported.contains("reserve 198.51.100.77"), "{error:?}");
    let nowhere = LoadBalancer {
        scheme: Scheme::Internal,
        options: options(&[("networking.gke.io/load-balancer-subnet", "nowhere")]),
        ..fixture.desired("nowhere")
    };
    let error = settle(&provider, Desired::Present(&nowhere)).await.unwrap_err();
    let reported = error.to_string();
    assert!(error.reason() == "InvalidRequest" && reported.contains("load-balancer-subnet"), "{error:?}");
    fixture.emulator.assert_no_violations();
}
