//! The provider against emulators/gce, which judges every message by Google's discovery document.
//!
//! Owns: the contract suite, crashes at every call, foreign resources, failed operations. Leaves to others: the pure
//! half (unit tests). Needs `scripts/emulator-gce.sh setup`; without it each test fails, unless `PORTICO_SKIP` names `emulators`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end so, and clippy exempts only #[test] functions"
)]

mod addresses;
mod crash;
mod economy;
mod emulator;
mod fixture;
mod foreign;
mod guards;
mod health;
mod lost;
mod shared;
mod shared_vpc;
mod status;
mod transitions;
mod unfit;
mod watched;

use portico_provider::{Desired, LoadBalancerProvider, ProviderError, ReadMode, contract};

use crate::emulator::Emulator;
use crate::fixture::GceFixture;

#[tokio::test]
async fn the_provider_keeps_every_promise_of_the_contract() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let foreign = fixture.emulator.foreign();
    Box::pin(contract::run(&fixture)).await.unwrap();
    assert_eq!(fixture.emulator.foreign(), foreign, "somebody else's resources were touched");
    fixture.emulator.assert_no_violations();
}

#[test]
fn the_emulator_satisfies_googles_own_clients() {
    let Some(emulator) = Emulator::start() else { return };
    let judged = emulator.python("judge.py").arg(&emulator.url).output().unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

#[tokio::test]
async fn a_failed_operation_is_an_error_with_its_text_and_is_then_tried_again() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let fault = r#"{"match": "regionHealthChecks.insert", "code": "QUOTA_EXCEEDED", "message": "no more", "http": 403}"#;
    fixture.emulator.hook("fault", Some(fault));
    let desired = fixture.desired("failing");
    let wanted = Desired::Present(&desired);
    let provider = fixture.one(&desired.owner.cluster);
    let mut error = None;
    for _ in 0..20 {
        match fixture::round(&provider, wanted).await {
            Ok((true, _)) => break,
            Ok(_) => {}
            Err(failed) => error = Some(failed),
        }
    }
    let error = error.expect("the failure was reported");
    assert!(
        matches!(&error, ProviderError::Exhausted { message, .. } if message.contains("no more")),
        "{error}"
    );
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    assert!(provider.report(&desired, observed.as_ref()).ready);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_quota_is_told_with_its_name_and_limit() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    fixture.emulator.hook("quota", Some(r#"{"forwardingRules": 0}"#));
    let desired = fixture.desired("quota");
    let provider = fixture.one(&desired.owner.cluster);
    let error = fixture::settle(&provider, Desired::Present(&desired)).await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Exhausted { message, .. } if message.contains("FORWARDING_RULES")),
        "{error}"
    );
}

#[tokio::test]
async fn a_foreign_resource_under_our_name_is_an_error_and_stays() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let desired = fixture.desired("squatted");
    let provider = fixture.one(&desired.owner.cluster);
    let plan = provider.plan(Desired::Present(&desired), None);
    let first = plan.steps().first().unwrap().to_owned();
    let name = first.step.to_string().rsplit(' ').next().unwrap().to_owned();
    fixture.emulator.squat(&name);
    let foreign = fixture.emulator.foreign();
    let error = fixture::settle(&provider, Desired::Present(&desired)).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict", "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    fixture::settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert_eq!(fixture.emulator.foreign(), foreign);
}

#[tokio::test]
async fn an_internal_one_has_tcp_and_udp_on_one_address_and_global_access_in_place() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("internal");
    let options = |global: &str| {
        let pairs = [
            ("networking.gke.io/load-balancer-type", "Internal"),
            ("networking.gke.io/internal-load-balancer-allow-global-access", global),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    for global in ["true", "false"] {
        desired.options = options(global);
        let provider = fixture.one(&desired.owner.cluster);
        fixture::settle(&provider, Desired::Present(&desired)).await.unwrap();
        let rules = fixture.emulator.of("forwardingRules");
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert_eq!(rules[0]["IPAddress"], rules[1]["IPAddress"]);
        assert!(rules.iter().all(|rule| rule["allowGlobalAccess"] == (global == "true")), "{rules:?}");
    }
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn an_unchanged_load_balancer_costs_no_write() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let desired = fixture.desired("quiet");
    fixture::settle(&fixture.one(&desired.owner.cluster), Desired::Present(&desired)).await.unwrap();
    let before = fixture.emulator.writes();
    let provider = fixture.one(&desired.owner.cluster);
    let inventory = provider.inventory().await.unwrap();
    let observed = &inventory.services[&desired.owner.service].observed;
    assert!(provider.plan(Desired::Present(&desired), Some(observed)).is_settled());
    fixture::settle(&provider, Desired::Present(&desired)).await.unwrap();
    assert_eq!(fixture.emulator.writes(), before);
}

#[tokio::test]
async fn whoever_may_not_list_instance_groups_needs_none() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let denied =
        r#"{"match": "instanceGroups.aggregatedList", "status": 403, "reason": "forbidden", "times": 9}"#;
    fixture.emulator.hook("fault", Some(denied));
    let desired = fixture.desired("poor");
    let provider = fixture.one(&desired.owner.cluster);
    fixture::settle(&provider, Desired::Present(&desired)).await.unwrap();
    assert_eq!(provider.inventory().await.unwrap().services.len(), 1);
    let sharing = GceFixture { backends: portico_provider_gce::Backends::InstanceGroups, ..fixture };
    let error = sharing.one(&desired.owner.cluster).inventory().await.unwrap_err();
    assert_eq!(error.reason(), "AccessDenied", "{error}");
}

#[tokio::test]
async fn without_nodes_the_load_balancer_stays_and_is_empty() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let mut desired = fixture.desired("scaled-to-zero");
    let provider = fixture.one(&desired.owner.cluster);
    for nodes in [[].as_slice(), &[0, 1, 2], &[], &[2]] {
        desired.targets = fixture::mk_nodes(nodes);
        fixture::settle(&provider, Desired::Present(&desired)).await.unwrap();
        let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
        assert_eq!(
            observed.endpoints.values().flat_map(|group| group.keys()).count(),
            nodes.len(),
            "{observed:?}"
        );
    }
    fixture.emulator.assert_no_violations();
}
