//! What an account allows: told with the numbers before anything is made, and raised by flags.
//!
//! Owns: plans under other quotas than AWS's defaults. Leaves to others: reading flags (`crate::quotas`), whether rules fit
//! (`security_groups`). Invariant: a raised quota changes a plan only where it was in the way.

use portico_provider::{
    Desired, LoadBalancer, LoadBalancerProvider, Owner, Plan, Protocol, ReadMode, ServiceName,
};
use serde_json::json;

use super::emulator::Emulator;
use super::plans::{mk_base, mk_site};
use super::{mk_listener, mk_load_balancer, mk_options};
use crate::capabilities as key;
use crate::plan::{Site, plan};
use crate::step::Step;
use crate::{AwsProvider, Quotas, names, tags};

fn planned(quotas: Quotas, desired: &LoadBalancer) -> Plan<Step> {
    plan(&Site { quotas, ..mk_site() }, Desired::Present(desired), None)
}

fn reported(quotas: Quotas, desired: &LoadBalancer) -> String {
    let plan = planned(quotas, desired);
    let messages: Vec<&str> = plan.blocked().iter().map(|blocked| blocked.message.as_str()).collect();
    messages.join("; ")
}

#[test]
fn a_quota_is_reported_with_the_numbers_and_passes_when_it_is_raised() {
    let quotas = Quotas::default();
    let ranges = (0..250).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    let many_ranges = LoadBalancer { source_ranges: ranges, ..mk_base() };
    let listeners = (1..=51).map(|n| mk_listener(Protocol::Tcp, 80 + n)).collect();
    let many_ports = LoadBalancer { listeners, ..mk_base() };
    let arns: Vec<String> = (0..27).map(|n| format!("arn:aws:acm:{n}")).collect();
    let many_certificates =
        LoadBalancer { options: mk_options(&[(key::CERTIFICATE, arns.join(",").as_str())]), ..mk_base() };
    let table = [
        (&many_ranges, "needs 250 rules", "quota 60 × 4", Quotas { rules: 63, ..quotas }),
        (&many_ranges, "--aws-quota", "quota 60 × 4", Quotas { security_groups: 6, ..quotas }),
        (&many_ports, "needs 51 listeners", "quota 50", Quotas { listeners: 51, ..quotas }),
        (&many_certificates, "needs 26 certificates", "quota 25", Quotas { certificates: 26, ..quotas }),
    ];
    for (desired, needs, quota, raised) in table {
        let message = reported(quotas, desired);
        assert!(message.contains(needs) && message.contains(quota), "{message}");
        assert!(planned(quotas, desired).steps().is_empty(), "nothing is made before");
        assert_eq!(reported(raised, desired), "", "{needs}");
    }
}

fn mk_owner(n: usize) -> Owner {
    Owner {
        cluster: "quotas".parse().unwrap(),
        service: format!("uid-quotas-{n}").parse().unwrap(),
        name: ServiceName::new("quotas", &format!("s{n}")).unwrap(),
    }
}

/// A load balancer as a listing shows it.
fn thing(n: usize) -> serde_json::Value {
    let owner = mk_owner(n);
    let name = names::load_balancer(&owner, None, 0);
    let arn = format!("arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/net/{name}/0123");
    json!({"arn": arn, "type": "elasticloadbalancing:loadbalancer", "tags": tags::of(&owner)})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_over_quota_is_reported_before_anything_of_it_is_created() {
    let Some(emulator) = Emulator::start().await else { return };
    let cluster = mk_owner(0).cluster;
    let provider = AwsProvider::new(emulator.sdk.clone(), emulator.config(&cluster)).unwrap();
    let desired = mk_load_balancer(mk_owner(99), &emulator.instances[..2]);
    let wanted = Desired::Present(&desired);
    emulator.quota(50);
    emulator.tagged_only(&json!((0..49).map(thing).collect::<Vec<_>>()));
    provider.inventory().await.unwrap();
    drop(emulator.calls());
    assert_eq!(provider.observe_for(wanted, ReadMode::Cached).await.unwrap(), None);
    assert!(!provider.plan(wanted, None).steps().is_empty(), "there is room for one more");
    assert_eq!(emulator.calls(), [].into(), "and nobody has asked");

    emulator.tagged_only(&json!([thing(49)]));
    provider.inventory().await.unwrap();
    drop(emulator.calls());
    assert_eq!(provider.observe_for(wanted, ReadMode::Cached).await.unwrap(), None);
    let plan = provider.plan(wanted, None);
    let message = plan.blocked().iter().map(|it| it.message.as_str()).collect::<String>();
    assert!(message.contains("needs 1 more Network Load Balancer, quota 50"), "{plan}");
    assert!(plan.steps().is_empty(), "{plan}");
    assert_eq!(emulator.calls(), [("DescribeAccountLimits".to_owned(), 1)].into());

    emulator.quota(60);
    provider.inventory().await.unwrap();
    assert!(provider.plan(wanted, None).blocked().is_empty(), "the quota was raised");
}
