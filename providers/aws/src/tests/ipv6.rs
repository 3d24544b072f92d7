//! UDP over IPv6, and chosen IPv6 addresses: what is refused, what it comes to, and that AWS's rules are kept.
//!
//! Owns: a dual-stack Service's plans word by word, and its life on the emulator. Leaves to others: all ways between
//! Services (`transitions`). Invariant: no UDP listener is on a dual-stack load balancer without source NAT, ever.

use portico_provider::{
    Desired, IpFamily, LoadBalancer, LoadBalancerProvider, Outcome, Owner, Protocol, ReadMode, ServiceName,
};

use super::emulator::Emulator;
use super::plans::{lines, mk_base, mk_site, mk_view, planned};
use super::transitions::CHOSEN_IPV6;
use super::{mk_listener, mk_load_balancer, mk_options};
use crate::Quotas;
use crate::cloud::resources::{AddressType, Families};
use crate::observed::{Balancer, Observed};
use crate::plan::plan;
use crate::wanted::translate;
use crate::{AwsProvider, capabilities as key};

fn mk_dual(base: LoadBalancer, options: &[(&str, &str)]) -> LoadBalancer {
    LoadBalancer {
        ip_families: vec![IpFamily::IPv4, IpFamily::IPv6],
        listeners: [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 53)].into(),
        options: mk_options(options),
        ..base
    }
}

fn refused(options: &[(&str, &str)]) -> String {
    let wrong = translate(&mk_dual(mk_base(), options), &Quotas::default()).unwrap_err();
    wrong.into_iter().map(|(_, message)| message).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_contradicts_is_refused_and_says_which_annotation_to_change() {
    let one = ("2001:db8:0:1::a", "2001:db8:0:1:1::/80");
    let table: [(&[(&str, &str)], &str); 6] = [
        (&[], "enable-prefix-for-ipv6-source-nat to on"),
        (&[(key::SOURCE_NAT, "on"), (key::ADDRESS_TYPE, "ipv4")], "only a dual-stack load balancer needs it"),
        (
            &[(key::IPV6_ADDRESSES, one.0), (key::ADDRESS_TYPE, "ipv4")],
            "only a dual-stack load balancer has any",
        ),
        (&[(key::SOURCE_PREFIXES, one.1), (key::SUBNETS, "a")], "set that to on"),
        (&[(key::SOURCE_NAT, "on"), (key::SOURCE_PREFIXES, one.1)], "1 for 0 subnets"),
        (&[(key::SOURCE_NAT, "on"), (key::IPV6_ADDRESSES, one.0), (key::SUBNETS, "a,b")], "1 for 2 subnets"),
    ];
    for (options, expected) in table {
        let message = refused(options);
        assert!(message.contains(expected), "{options:?}: {message}");
    }
    for odd in ["2001:db8::/64", "2001:db8::1/80", "10.0.0.0/8", "any"] {
        let message = refused(&[(key::SOURCE_NAT, "on"), (key::SOURCE_PREFIXES, odd), (key::SUBNETS, "a")]);
        assert!(message.contains(odd) && message.contains("80 bits"), "{message}");
    }
}

#[test]
fn a_dual_stack_creation_with_udp_reads_like_this() {
    let desired = mk_dual(mk_base(), &CHOSEN_IPV6);
    let created = plan(&mk_site(), Desired::Present(&desired), None);
    assert_eq!(created.to_string(), include_str!("golden/dual-stack.txt").trim_end());
}

#[test]
fn prefixes_come_before_the_udp_listener_and_go_after_it() {
    let ipv4 = LoadBalancer {
        ip_families: vec![IpFamily::IPv4],
        options: mk_options(&[]),
        listeners: [mk_listener(Protocol::Tcp, 80)].into(),
        ..mk_base()
    };
    let dual = mk_dual(mk_base(), &[(key::SOURCE_NAT, "on")]);
    let at = |message: &[String], what: &str| message.iter().position(|line| line.contains(what)).unwrap();
    let message = lines(&planned(&dual, &mk_view(&ipv4)));
    assert!(at(&message, "dualstack with prefixes") < at(&message, "create listener UDP/53"), "{message:?}");
    let message = lines(&planned(&ipv4, &mk_view(&dual)));
    assert!(at(&message, "delete listener 53") < at(&message, "make p-shop-web"), "{message:?}");
}

#[test]
fn another_prefix_is_set_in_place_and_another_address_needs_another_load_balancer() {
    let desired = mk_dual(mk_base(), &CHOSEN_IPV6);
    let mut view = mk_view(&desired);
    let balancer = view.load_balancers.values_mut().next().unwrap();
    balancer.described.subnets = [
        ("subnet-a", "2001:db8:0:1::a", "2001:db8:0:1:1::/80"),
        ("subnet-b", "2001:db8:0:2::b", "2001:db8:0:2:f::/80"),
    ]
    .map(|(subnet, address, prefix)| crate::cloud::resources::SubnetMapping {
        subnet: subnet.to_owned(),
        ipv6_address: Some(address.parse().unwrap()),
        source_prefix: Some(prefix.parse().unwrap()),
        ..Default::default()
    })
    .into();
    let settled = planned(&desired, &view);
    assert!(settled.is_settled(), "what AWS chose for the second is as asked: {settled}");
    let [subnets, addresses, nat, _] = CHOSEN_IPV6;
    let other = (key::SOURCE_PREFIXES, "2001:db8:0:1:2::/80,auto_assigned");
    let message = planned(&mk_dual(mk_base(), &[subnets, addresses, nat, other]), &view);
    assert!(
        message.to_string().contains("dualstack with prefixes") && message.blocked().is_empty(),
        "{message}"
    );
    let moved = (key::IPV6_ADDRESSES, "2001:db8:0:1::c,2001:db8:0:2::d");
    let message = planned(&mk_dual(mk_base(), &[subnets, moved, nat]), &view);
    assert!(message.to_string().contains("ReplacementRequired"), "{message}");
    let half = (key::IPV6_ADDRESSES, "2001:db8:0:1::c,2001:db8:0:2::b");
    let message = planned(&mk_dual(mk_base(), &[subnets, half, nat]), &view);
    assert!(message.to_string().contains("needs 2001:db8:0:2::b"), "the old one holds it: {message}");
}

async fn settle(provider: &AwsProvider, desired: &LoadBalancer) -> Balancer {
    let mut desired = desired.clone();
    let mut mode = ReadMode::Full;
    for _ in 0..40 {
        let observed = provider.observe(&desired.owner, mode).await.unwrap();
        let report = provider.report(&desired, observed.as_ref());
        desired.published = report.ingress.into_iter().map(|ingress| ingress.address).collect();
        let plan = provider.plan(Desired::Present(&desired), observed.as_ref());
        assert!(plan.blocked().is_empty(), "{plan}");
        if plan.is_settled() && mode == ReadMode::Full {
            let Some(Observed::Full(view)) = observed else { panic!("nothing was read") };
            return view.load_balancers.into_values().next().unwrap();
        }
        mode = if plan.is_settled() { ReadMode::Full } else { ReadMode::Pending };
        for planned in plan.steps() {
            if provider.execute(&planned.step).await.unwrap() != Outcome::Done {
                break;
            }
        }
    }
    panic!("it does not settle");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_comes_to_udp_over_ipv6_and_leaves_it_as_aws_allows() {
    let Some(emulator) = Emulator::start().await else { return };
    let owner = Owner {
        cluster: "ipv6".parse().unwrap(),
        service: "uid-ipv6".parse().unwrap(),
        name: ServiceName::new("ipv6", "dns").unwrap(),
    };
    let provider = AwsProvider::new(emulator.sdk.clone(), emulator.config(&owner.cluster)).unwrap();
    let base = mk_load_balancer(owner, &emulator.instances[..2]);
    let within = |n: usize, end: &str| emulator.ipv6[n].replace("::/64", end);
    let (addresses, prefixes) = (
        format!("{},{}", within(0, "::a"), within(1, "::b")),
        format!("{},auto_assigned", within(0, ":1::/80")),
    );
    let chosen = [
        (key::SUBNETS, "net-a,net-b"),
        (key::IPV6_ADDRESSES, addresses.as_str()),
        (key::SOURCE_NAT, "on"),
        (key::SOURCE_PREFIXES, prefixes.as_str()),
    ];
    let dualstack = |source_nat| Families { kind: AddressType::Dualstack, source_nat };

    let made = settle(&provider, &mk_dual(base.clone(), &chosen)).await;
    assert_eq!(made.described.families, dualstack(true));
    let shown: Vec<String> =
        made.described.subnets.iter().filter_map(|it| it.ipv6_address).map(|it| it.to_string()).collect();
    assert_eq!(shown.len(), 2, "{made:?}");
    assert!(made.described.subnets.iter().all(|it| it.source_prefix.is_some()), "{made:?}");

    let tcp_only = LoadBalancer {
        listeners: [mk_listener(Protocol::Tcp, 80)].into(),
        ..mk_dual(base.clone(), &chosen[..2])
    };
    assert_eq!(settle(&provider, &tcp_only).await.described.families, dualstack(false));
    let again = mk_dual(base.clone(), &chosen[..3]);
    assert_eq!(settle(&provider, &again).await.described.families, dualstack(true));

    let outside = [chosen[0], chosen[2], (key::SOURCE_PREFIXES, "2001:db8:0:1:1::/80,auto_assigned")];
    let mut elsewhere = mk_dual(base, &outside);
    elsewhere.owner.service = "uid-outside".parse().unwrap();
    let mut message = String::new();
    for planned in provider.plan(Desired::Present(&elsewhere), None).steps() {
        if let Err(error) = provider.execute(&planned.step).await {
            message = error.to_string();
            break;
        }
    }
    assert!(message.contains("source-nat-ipv6-prefixes") && message.contains(&emulator.ipv6[0]), "{message}");
}
