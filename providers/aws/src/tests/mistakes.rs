//! What AWS refuses, on the emulator: whose fault it is, by which annotation, and when it is tried again.
//!
//! Owns: a Service's way through refusals that only AWS's answer can report. Leaves to others: what each code means
//! (`cloud/codes`), what is refused before any call (`controller`).
//! Invariant: nothing here loops: each refusal is an error with its retry, or something that is waited for with a remedy.

use std::time::Duration;

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Outcome, Owner, ProviderError, ReadMode, Retry, ServiceName,
};

use super::emulator::Emulator;
use super::{mk_load_balancer, mk_options};
use crate::AwsProvider;
use crate::capabilities as key;

fn mk_owner(name: &str) -> Owner {
    Owner {
        cluster: "mistakes".parse().unwrap(),
        service: format!("uid-{name}").parse().unwrap(),
        name: ServiceName::new("mistakes", name).unwrap(),
    }
}

fn mk_asking(emulator: &Emulator, name: &str, pairs: &[(&str, &str)]) -> LoadBalancer {
    let base = mk_load_balancer(mk_owner(name), &emulator.instances[..1]);
    LoadBalancer { options: mk_options(pairs), ..base }
}

fn mk_provider(emulator: &Emulator) -> AwsProvider {
    AwsProvider::new(emulator.sdk.clone(), emulator.config(&mk_owner("x").cluster)).unwrap()
}

/// A Service's name, its annotations, and the report.
type Mistake<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// Until all is done, or a step fails, or only a read is left: then what is waited for, and how long.
async fn attempt(
    provider: &AwsProvider,
    desired: Desired<'_>,
) -> Result<Option<(String, Duration)>, ProviderError> {
    let mut waited = None;
    for _ in 0..12 {
        let observed = provider.observe(desired.owner(), ReadMode::Full).await?;
        let plan = provider.plan(desired, observed.as_ref());
        assert!(plan.blocked().is_empty(), "{plan}");
        if plan.steps().is_empty() && plan.waiting().is_none() {
            return Ok(None);
        }
        waited = plan.waiting().map(|waiting| (waiting.what.clone(), waiting.retry));
        for planned in plan.steps() {
            if let Outcome::InProgress { retry, what } = provider.execute(&planned.step).await? {
                waited = Some((what, retry));
                break;
            }
        }
    }
    Ok(waited)
}

/// The reason, the retry, and the words.
async fn refused(provider: &AwsProvider, desired: &LoadBalancer) -> (&'static str, Retry, String) {
    match attempt(provider, Desired::Present(desired)).await {
        Err(error) => (error.reason(), error.retry(), error.to_string()),
        Ok(waiting) => panic!("taken, and waits for {waiting:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_value_is_reported_with_its_annotation_and_not_retried_hot() {
    let Some(emulator) = Emulator::start().await else { return };
    let provider = mk_provider(&emulator);
    let gone = "arn:aws:acm:us-east-1:123456789012:certificate/gone";
    let table: [Mistake<'_>; 5] = [
        ("certificate", &[(key::CERTIFICATE, gone)], key::CERTIFICATE),
        ("unknown", &[(key::SECURITY_GROUPS, "sg-0123456789abcdef0")], key::SECURITY_GROUPS),
        ("typo", &[(key::SECURITY_GROUPS, "typo")], "have tag Name=typo"),
        ("nowhere", &[(key::SUBNETS, "net-nowhere")], key::SUBNETS),
        ("allocation", &[(key::SUBNETS, "net-a"), (key::EIPS, "eipalloc-0")], key::EIPS),
    ];
    for (name, pairs, words) in table {
        let (reason, retry, message) = refused(&provider, &mk_asking(&emulator, name, pairs)).await;
        assert_eq!((reason, retry), ("InvalidRequest", Retry::Never), "{name}: {message}");
        assert!(message.contains(words) && message.contains("annotation"), "{name}: {message}");
    }
    let codes = [
        ("CreateTargetGroup", "TooManyTags", "InvalidRequest", Retry::Never, key::TAGS),
        (
            "CreateTargetGroup",
            "AccessDenied",
            "AccessDenied",
            Retry::After(Duration::from_mins(1)),
            "grant it",
        ),
        ("CreateTargetGroup", "ExpiredToken", "CredentialsRejected", Retry::Backoff, "new ones"),
        ("CreateTargetGroup", "RequestExpired", "CredentialsRejected", Retry::Backoff, "clock"),
        ("CreateTargetGroup", "OptInRequired", "AccountNotReady", Retry::Backoff, "owner"),
    ];
    for (number, (action, code, reason, retry, words)) in codes.into_iter().enumerate() {
        emulator.run(&["fault", action, code, "1"]);
        let desired = mk_asking(&emulator, &format!("code-{number}"), &[]);
        let (found, again, message) = refused(&provider, &desired).await;
        assert_eq!((found, again), (reason, retry), "{code}: {message}");
        assert!(message.contains(words), "{code}: {message}");
        emulator.run(&["clear"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn security_groups_are_found_by_their_names() {
    let Some(emulator) = Emulator::start().await else { return };
    let provider = mk_provider(&emulator);
    let mine = emulator.run(&["group", &emulator.vpc, "mine"]).as_str().unwrap().to_owned();
    let desired = mk_asking(&emulator, "named", &[(key::SECURITY_GROUPS, "mine,")]);
    assert_eq!(attempt(&provider, Desired::Present(&desired)).await.unwrap(), None);
    let made = emulator.account("list").to_string();
    assert!(
        made.contains(&format!(r#""SecurityGroups": ["{mine}"]"#))
            || made.contains(&format!(r#""SecurityGroups":["{mine}"]"#)),
        "{made}"
    );
    emulator.run(&["group", &emulator.vpc, "twice"]);
    emulator.run(&["group", &emulator.vpc, "twice"]);
    let ambiguous = mk_asking(&emulator, "twice", &[(key::SECURITY_GROUPS, "twice")]);
    let (reason, _, message) = refused(&provider, &ambiguous).await;
    assert!(reason == "InvalidRequest" && message.contains("2 security groups"), "{reason}: {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_aws_still_holds_is_waited_for_and_one_of_others_is_a_conflict_in_the_end() {
    let Some(emulator) = Emulator::start().await else { return };
    let provider = mk_provider(&emulator);
    let address = emulator.run(&["address"]).as_str().unwrap().to_owned();
    let asking = [(key::SUBNETS, "net-a"), (key::EIPS, address.as_str())];
    let first = mk_asking(&emulator, "first", &asking);
    assert_eq!(attempt(&provider, Desired::Present(&first)).await.unwrap(), None);

    let second = mk_asking(&emulator, "second", &asking);
    let (what, retry) = attempt(&provider, Desired::Present(&second)).await.unwrap().unwrap();
    assert!(what.contains(key::EIPS) && what.contains("release it"), "{what}");
    assert!(retry >= Duration::from_secs(6), "it is not asked for at once again: {retry:?}");
    let (reason, retry, message) = refused(&provider, &second).await;
    assert_eq!((reason, retry), ("Conflict", Retry::Never), "{message}");

    assert_eq!(attempt(&provider, Desired::Absent(&first.owner)).await.unwrap(), None);
    let provider = mk_provider(&emulator);
    assert_eq!(attempt(&provider, Desired::Present(&second)).await.unwrap(), None, "AWS let it go meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_thing_from_going_is_named_with_the_remedy() {
    let Some(emulator) = Emulator::start().await else { return };
    let provider = mk_provider(&emulator);
    let desired = mk_asking(&emulator, "shared", &[]);
    assert_eq!(attempt(&provider, Desired::Present(&desired)).await.unwrap(), None);
    let all = emulator.account("list");
    let of_it = |prefix: &str| {
        let mut ids = all.as_object().unwrap().iter().filter(|(id, thing)| {
            id.contains(prefix) && thing["Tags"].to_string().contains("mistakes/shared")
        });
        ids.next().unwrap().0.clone()
    };
    let (arn, group) = (of_it(":loadbalancer/"), of_it("sg-"));
    emulator.run(&["share", &arn]);
    emulator.run(&["refer", &group]);
    let (what, _) = attempt(&provider, Desired::Absent(&desired.owner)).await.unwrap().unwrap();
    assert!(what.contains("endpoint service (PrivateLink)"), "{what}");
    emulator.run(&["unshare", &arn]);
    let (what, _) = attempt(&provider, Desired::Absent(&desired.owner)).await.unwrap().unwrap();
    assert!(what.contains(&group) && what.contains("a rule of another security group"), "{what}");
    emulator.run(&["unrefer", &group]);
    assert_eq!(attempt(&provider, Desired::Absent(&desired.owner)).await.unwrap(), None);
}
