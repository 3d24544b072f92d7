//! Calls that Services share: whatever one of them is refused for, the others have their answers.
//!
//! Owns: each way into `Batches`, on a cloud that refuses whatever names one of N. Leaves to others: how a refused call is
//! split (`cloud/batches`). Invariant: nobody's answer is missing but the culprit's.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Outcome, Owner, ProviderError, ReadMode, ServiceName,
};

use super::emulator::Emulator;
use super::faulty::Faults;
use super::{mk_load_balancer, mk_options};
use crate::AwsProvider;
use crate::capabilities as key;
use crate::cloud::batches::Batches;
use crate::cloud::resources::{Id, Kind, Tags};
use crate::tags;

const SERVICES: usize = 5;
/// A code of each trouble that one of many can be the cause of.
const REFUSALS: [&str; 5] =
    ["ValidationError", "LoadBalancerNotFound", "TooManyLoadBalancers", "AccessDenied", "ResourceInUse"];

fn mk_owner(n: usize) -> Owner {
    Owner {
        cluster: "shared-calls".parse().unwrap(),
        service: format!("uid-shared-{n}-").parse().unwrap(),
        name: ServiceName::new("shared", &format!("s{n}")).unwrap(),
    }
}

/// Until it has what it asks for, or fails.
async fn create(provider: &AwsProvider, desired: &LoadBalancer) -> Result<(), ProviderError> {
    let wanted = Desired::Present(desired);
    for _ in 0..20 {
        let observed = provider.observe_for(wanted, ReadMode::Full).await?;
        let plan = provider.plan(wanted, observed.as_ref());
        if plan.steps().is_empty() {
            return Ok(());
        }
        for planned in plan.steps() {
            if let Outcome::InProgress { .. } = provider.execute(&planned.step).await? {
                break;
            }
        }
    }
    panic!("it does not come to rest");
}

/// What each Service asks, whether it has an answer, and what a call for it names.
struct Asked<'a> {
    what: &'static str,
    names: Vec<String>,
    ask: Box<dyn Fn(usize) -> BoxFuture<'a, bool> + 'a>,
}

fn all<'a>(
    batches: &'a Batches,
    owners: &'a [Owner],
    balancers: &'a [Id],
    groups: &'a [Id],
    mark: &'a Tags,
) -> Vec<Asked<'a>> {
    let arns = |ids: &[Id]| ids.iter().map(|id| id.0.clone()).collect::<Vec<_>>();
    let uids: Vec<String> = owners.iter().map(|owner| owner.service.to_string()).collect();
    let asked = |what, names: &Vec<String>, ask| Asked { what, names: names.clone(), ask };
    let (balancer_arns, group_arns) = (arns(balancers), arns(groups));
    vec![
        asked(
            "load balancer",
            &balancer_arns,
            Box::new(move |n| {
                async move { matches!(batches.load_balancer(&balancers[n]).await, Ok(Some(_))) }.boxed()
            }),
        ),
        asked(
            "target group",
            &group_arns,
            Box::new(move |n| {
                async move { matches!(batches.target_group(&groups[n]).await, Ok(Some(_))) }.boxed()
            }),
        ),
        asked(
            "tags",
            &group_arns,
            Box::new(move |n| {
                async move { batches.tags(&groups[n..=n]).await.is_ok_and(|all| all.len() == 1) }.boxed()
            }),
        ),
        asked(
            "mark",
            &balancer_arns,
            Box::new(move |n| async move { batches.add_tags(&balancers[n], mark).await.is_ok() }.boxed()),
        ),
        asked(
            "synced",
            &balancer_arns,
            Box::new(move |n| async move { batches.mark_synced(&balancers[n], mark).await.is_ok() }.boxed()),
        ),
        asked(
            "listing",
            &uids,
            Box::new(move |n| {
                async move { batches.owned(&owners[n]).await.is_ok_and(|all| !all.is_empty()) }.boxed()
            }),
        ),
        asked(
            "proof that nothing is left",
            &uids,
            Box::new(move |n| {
                async move { batches.left(&owners[n]).await.is_ok_and(|all| !all.is_empty()) }.boxed()
            }),
        ),
        asked(
            "security groups",
            &uids,
            Box::new(move |n| {
                async move { batches.security_groups(&owners[n]).await.is_ok_and(|all| !all.is_empty()) }
                    .boxed()
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_of_many_is_refused_for_the_others_have_their_answers() {
    let Some(emulator) = Emulator::start().await else { return };
    let faults = Faults::default();
    let cloud = emulator.faulty(&faults).await;
    let provider = AwsProvider::new(cloud.clone(), emulator.config(&mk_owner(0).cluster)).unwrap();
    let owners: Vec<Owner> = (0..SERVICES).map(mk_owner).collect();
    for owner in &owners {
        create(&provider, &mk_load_balancer(owner.clone(), &emulator.instances[..1])).await.unwrap();
    }
    let (mut balancers, mut groups) = (Vec::new(), Vec::new());
    for owner in &owners {
        for (id, _) in emulator.sdk.tagged(&tags::of_any(std::slice::from_ref(owner))).await.unwrap() {
            match id.kind() {
                Some(Kind::LoadBalancer) => balancers.push(id),
                Some(Kind::TargetGroup) => groups.push(id),
                Some(Kind::SecurityGroup | Kind::Listener) | None => {}
            }
        }
    }
    let batches = Batches::new(cloud, Duration::from_millis(100));
    let mark = Tags::from([("marked".to_owned(), "yes".to_owned())]);
    for Asked { what, names, ask } in all(&batches, &owners, &balancers, &groups, &mark) {
        for code in REFUSALS {
            for (culprit, name) in names.iter().enumerate() {
                faults.refuse(Some((name.as_str(), code)));
                let answered = join_all((0..SERVICES).map(&ask)).await;
                let without: BTreeSet<usize> = (0..SERVICES).filter(|n| !answered[*n]).collect();
                assert_eq!(without, [culprit].into(), "{what}, {code} for {culprit}");
            }
        }
        faults.refuse(None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_words_for_what_to_adopt_are_in_nobody_elses_call() {
    let Some(emulator) = Emulator::start().await else { return };
    let faults = Faults::default();
    let cloud = emulator.faulty(&faults).await;
    let mut config = emulator.config(&mk_owner(0).cluster);
    config.cluster_name = Some("blue".to_owned());
    let provider = AwsProvider::new(cloud, config).unwrap();
    let foreign =
        "arn:aws:elasticloadbalancing:eu-south-2:999999999999:loadbalancer/net/theirs/0123456789abcdef";
    faults.refuse(Some((foreign, "ValidationError")));
    let services = (0..SERVICES).map(|n| {
        let plain = mk_load_balancer(mk_owner(n), &emulator.instances[..1]);
        let asked = match n {
            0 => foreign,
            1 => "arn:x:loadbalancer/net/",
            _ => return plain,
        };
        LoadBalancer { options: mk_options(&[(key::ADOPT, asked)]), ..plain }
    });
    let services: Vec<LoadBalancer> = services.collect();
    let ended = join_all(services.iter().map(|desired| create(&provider, desired))).await;
    for (n, ended) in ended.into_iter().enumerate() {
        match (n, ended) {
            (0 | 1, Err(ProviderError::Invalid { operation: _, message })) => {
                assert!(
                    message.contains(key::ADOPT) && message.contains("correct or remove it"),
                    "{message}"
                );
            }
            (_, ended) => assert!(n > 1 && ended.is_ok(), "{n}: {ended:?}"),
        }
    }
}
