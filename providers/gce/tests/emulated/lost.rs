//! Things of ours that somebody took the description off, or that somebody else's refer to.
//!
//! Owns: what a user is told of them, and that nothing is made twice or left behind. Leaves to others: things that were never
//! ours (`foreign`). Invariant: a plan and the collector see the same.

use portico_provider::{Desired, LoadBalancer, LoadBalancerProvider, ReadMode, Topic};
use portico_provider_gce::resource::{Id, Kind};

use crate::emulator::{Emulator, REGION, is_write};
use crate::fixture::{GceFixture, Provider, round, settle};

/// Goes on for many rounds, whatever the answers are: what was made, and the last error.
async fn persist(fixture: &GceFixture, provider: &Provider, desired: Desired<'_>) -> (usize, Option<String>) {
    let (mut made, mut error) = (0, None);
    for _ in 0..20 {
        let before = fixture.emulator.ours("").len();
        match round(provider, desired).await {
            Ok((true, _)) => break,
            Ok(_) => {}
            Err(failed) => error = Some((failed.reason(), failed.to_string())),
        }
        fixture.emulator.settle();
        made += fixture.emulator.ours("").len().saturating_sub(before);
    }
    (made, error.map(|(reason, words)| format!("{reason}: {words}")))
}

async fn made(fixture: &GceFixture) -> (LoadBalancer, Provider, Vec<Id>) {
    let desired = fixture.desired("stripped");
    let provider = fixture.one(&desired.owner.cluster);
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let whole = provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap();
    (desired, provider, whole.resources.into_keys().collect())
}

#[tokio::test]
async fn whatever_loses_its_description_is_named_with_the_remedy_and_neither_made_twice_nor_left_behind() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let (desired, provider, all) = made(&fixture).await;
    let (owner, wanted) = (&desired.owner, Desired::Present(&desired));
    let kept = fixture.emulator.hook("save", None).to_string();
    for id in &all {
        for damage in [None, Some(r#"{"portico.dev/cluster-uid": "cluster-1"}"#)] {
            fixture.emulator.hook("restore", Some(&kept));
            let own = fixture.emulator.describe(id, damage).unwrap();
            let (made, error) = persist(&fixture, &provider, wanted).await;
            let error = error.unwrap_or_default();
            assert!(made == 0, "{id}: {made} were made beside it");
            let reported = error.starts_with("Conflict")
                && error.contains(&id.name)
                && error.contains("set its description to");
            assert!(reported, "{id}: {error:?}");

            // The Service goes: nothing is forgotten, and the collector sees the same.
            let (_, error) = persist(&fixture, &provider, Desired::Absent(owner)).await;
            let error = error.unwrap_or_default();
            assert!(error.starts_with("Conflict") && error.contains(&id.name), "{id}, going: {error:?}");
            assert!(
                provider.observe(owner, ReadMode::Full).await.unwrap().is_some(),
                "{id}: nobody would hear of it"
            );
            assert!(provider.inventory().await.unwrap().services.contains_key(&owner.service), "{id}");

            // The remedy works.
            fixture.emulator.describe(id, Some(&own));
            settle(&provider, Desired::Absent(owner)).await.unwrap();
            assert_eq!(fixture.emulator.ours(""), Vec::<String>::new(), "{id}");
        }
    }
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn what_others_took_over_is_left_to_them() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let (desired, provider, all) = made(&fixture).await;
    let address = all.iter().find(|id| id.kind == Kind::Address).unwrap();
    fixture.emulator.describe(address, Some("kept by hand"));
    settle(&provider, Desired::Absent(&desired.owner)).await.unwrap();
    assert_eq!(provider.observe(&desired.owner, ReadMode::Full).await.unwrap(), None);
    fixture.emulator.assert_no_violations();
}

#[tokio::test]
async fn a_rule_of_somebody_elses_on_our_backend_service_stays_and_is_named() {
    let Some(emulator) = Emulator::start() else { return };
    let fixture = GceFixture::new(emulator).await;
    let (desired, provider, all) = made(&fixture).await;
    let service = all.iter().find(|id| id.kind == Kind::BackendService).unwrap();
    let rule = format!(
        r#"{{"name": "by-hand", "IPProtocol": "TCP", "ports": ["443"], "IPAddress": "regions/{REGION}/addresses/user-static",
        "loadBalancingScheme": "EXTERNAL", "backendService": "regions/{REGION}/backendServices/{}"}}"#,
        service.name
    );
    fixture.emulator.insert(&format!("regions/{REGION}/forwardingRules"), &rule);
    fixture.emulator.settle();
    let before = fixture.emulator.log().len();
    settle(&provider, Desired::Present(&desired)).await.unwrap();
    let observed = provider.observe(&desired.owner, ReadMode::Full).await.unwrap();
    assert!(fixture.emulator.log().split_off(before).iter().all(|line| !is_write(line)), "it is left");
    let report = provider.report(&desired, observed.as_ref());
    let foreign = report.facts.iter().find(|fact| fact.topic == Topic::NothingForeign).unwrap();
    assert!(
        report.ready && foreign.reason == "ForeignRule" && foreign.message.contains("by-hand"),
        "{foreign:?}"
    );
    // It holds the backend service: that is told, by its name and with what to do.
    let (_, error) = persist(&fixture, &provider, Desired::Absent(&desired.owner)).await;
    let error = error.unwrap_or_default();
    assert!(error.starts_with("Conflict") && error.contains("by-hand is not Portico's"), "{error}");
    fixture.emulator.assert_no_violations();
}
