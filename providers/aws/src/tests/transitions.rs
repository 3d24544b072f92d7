//! Every Service turned into every other, on a cloud without a wire.
//!
//! Owns: the kinds of Services, and what holds on every way between two of them. Leaves to others: what AWS refuses
//! (`simulated`), crashes on the way (`crash`). Invariant: whoever both Services let in, to a port that both have, gets
//! to some target after every single step.

use std::collections::BTreeSet;

use portico_provider::{
    Desired, ExternalTrafficPolicy, HealthCheck, IpFamily, LoadBalancer, Plan, Protocol, ProxyProtocol,
    Replacement, Scheme, SessionAffinity,
};

use super::plans::{mk_base, mk_site};
use super::simulated::Simulated;
use super::{mk_listener, mk_nodes, mk_options, mk_pods, mk_port};
use crate::Quotas;
use crate::capabilities as key;
use crate::cloud::resources::{Kind, Rule};
use crate::execute::{Answered, effect};
use crate::observed::Observed;
use crate::plan::plan;
use crate::report::report;
use crate::step::{Action, Change, New, SecurityGroupChange, Step};
use crate::wanted::Frontend;
use crate::wanted::translate;

/// Rounds of steps; a replacement takes most.
const ROUNDS: usize = 12;

/// Two subnets with an address each, and a prefix for one of them.
pub(super) const CHOSEN_IPV6: [(&str, &str); 4] = [
    (key::SUBNETS, "subnet-a,subnet-b"),
    (key::IPV6_ADDRESSES, "2001:db8:0:1::a,2001:db8:0:2::b"),
    (key::SOURCE_NAT, "on"),
    (key::SOURCE_PREFIXES, "2001:db8:0:1:1::/80,auto_assigned"),
];

fn services() -> Vec<(&'static str, LoadBalancer)> {
    let consenting = LoadBalancer { replacement: Replacement::Allowed, ..mk_base() };
    let mut all = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut LoadBalancer)| {
        let mut service = consenting.clone();
        change(&mut service);
        all.push((name, service));
    };
    let options =
        |pairs: &'static [(&str, &str)]| move |it: &mut LoadBalancer| it.options = mk_options(pairs);
    add("base", &|_| {});
    add("two ports", &|it| {
        it.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Tcp, 443)].into();
    });
    add("udp beside", &|it| {
        it.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 53)].into();
    });
    add("tcp and udp", &|it| {
        it.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 80)].into();
    });
    add("tls", &options(&super::listeners::EXTRAS));
    add("tls swapped", &options(&[(key::CERTIFICATE, "arn:aws:acm:us-east-1:1:certificate/b,arn:c")]));
    add("tls to targets", &options(&[(key::CERTIFICATE, "arn:c"), (key::BACKEND_PROTOCOL, "ssl")]));
    add("internal", &|it| it.scheme = Scheme::Internal);
    add("ranges", &|it| it.source_ranges = ["192.0.2.0/24".parse().unwrap()].into());
    add("many ranges", &|it| {
        it.source_ranges = (0..140).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    });
    add("other many ranges", &|it| {
        it.source_ranges = (80..180).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    });
    add("own groups", &options(&[(key::SECURITY_GROUPS, "sg-user")]));
    add("pods", &|it| {
        it.targets = mk_pods(&["10.0.0.7", "10.0.1.7"], &it.listeners);
        it.health_check = Some(HealthCheck::tcp_traffic());
    });
    add("other nodes", &|it| it.targets = mk_nodes(&["i-8".to_owned(), "i-9".to_owned()]));
    add("local", &|it| {
        it.external_traffic_policy = ExternalTrafficPolicy::Local;
        it.health_check = Some(HealthCheck::local_endpoints(mk_port(31_000)));
    });
    add("proxied", &|it| it.proxy_protocol = ProxyProtocol::V2);
    add("sticky", &|it| {
        it.session_affinity = SessionAffinity::ClientIp { timeout: std::time::Duration::from_hours(3) };
    });
    add("attributes", &options(&[(key::ATTRIBUTES, "load_balancing.cross_zone.enabled=true")]));
    add("dual stack", &|it| it.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6]);
    add("dual stack, udp beside", &|it| {
        it.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6];
        it.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 53)].into();
        it.options = mk_options(&[(key::SOURCE_NAT, "on")]);
    });
    add("dual stack, tcp and udp, chosen", &|it| {
        it.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6];
        it.listeners = [mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 80)].into();
        it.options = mk_options(&CHOSEN_IPV6);
    });
    add("subnets", &options(&[(key::SUBNETS, "subnet-a,subnet-b,subnet-c")]));
    add("addresses", &options(&[(key::EIPS, "eipalloc-1,eipalloc-2")]));
    add("named", &options(&[(key::NAME, "shop")]));
    all
}

fn rules(service: &LoadBalancer) -> BTreeSet<Rule> {
    match translate(service, &Quotas::default()).unwrap().frontend {
        Frontend::Own(rules) => rules,
        Frontend::Given { .. } => BTreeSet::new(),
    }
}

/// Authorise before revoke, register before deregister, create before delete.
fn is_ordered(plan: &Plan<Step>) -> bool {
    let at = |which: fn(&Action) -> bool| -> Vec<usize> {
        let steps = plan.steps().iter().enumerate();
        steps.filter(|(_, planned)| which(&planned.step.action)).map(|(n, _)| n).collect()
    };
    let before = |first: Vec<usize>, then: Vec<usize>| first.last() < then.first() || then.is_empty();
    before(
        at(|action| {
            matches!(action, Action::Modify(Change::SecurityGroup(_, SecurityGroupChange::Authorize(_))))
        }),
        at(|action| {
            matches!(action, Action::Modify(Change::SecurityGroup(_, SecurityGroupChange::Revoke(_))))
        }),
    ) && before(
        at(|action| matches!(action, Action::Register { .. })),
        at(|action| matches!(action, Action::Deregister { .. })),
    ) && before(
        at(|action| matches!(action, Action::Create(_))),
        at(|action| matches!(action, Action::Delete { shared: false, .. })),
    )
}

/// What is to hold after each step.
struct Promise {
    ports: Vec<u16>,
    rules: BTreeSet<Rule>,
}

impl Promise {
    fn between(from: &LoadBalancer, to: &LoadBalancer) -> Self {
        let ports = |service: &LoadBalancer| -> BTreeSet<_> {
            service.listeners.iter().map(portico_provider::Listener::key).collect()
        };
        let kept = ports(from).intersection(&ports(to)).map(|key| key.port.get()).collect();
        Self { ports: kept, rules: rules(from).intersection(&rules(to)).cloned().collect() }
    }

    fn is_kept(&self, cloud: &Simulated, published: &str) -> bool {
        let let_in = cloud.let_in(published);
        self.ports.iter().all(|port| cloud.serves(published, *port)) && self.rules.is_subset(&let_in)
    }
}

fn observed(cloud: &Simulated) -> Option<Observed> {
    (!cloud.view.is_empty()).then(|| Observed::Full(cloud.view.clone()))
}

/// Until there is nothing to do; `published` is what the status shows.
fn drive(
    service: &LoadBalancer,
    cloud: &mut Simulated,
    published: &mut Option<String>,
    promise: Option<&Promise>,
) {
    for _ in 0..ROUNDS {
        let mut desired = service.clone();
        desired.published = report(&Quotas::default(), service, observed(cloud).as_ref())
            .ingress
            .into_iter()
            .map(|ingress| ingress.address)
            .collect();
        if let Some(shown) = desired.published.first() {
            *published = Some(shown.to_string());
        }
        let plan = plan(&mk_site(), Desired::Present(&desired), observed(cloud).as_ref());
        assert!(plan.blocked().is_empty() && plan.additive_first() && is_ordered(&plan), "{plan}");
        if plan.steps().is_empty() && plan.waiting().is_none() {
            return;
        }
        for planned in plan.steps() {
            let before = Observed::Full(cloud.view.clone());
            let done = cloud.apply(&planned.step.action);
            assert_eq!(done, Ok(()), "{} in {plan}", planned.step);
            if let Some(cached) = effect::after(before, &planned.step.action, Answered::Done) {
                assert_eq!(cached, Observed::Full(cloud.view.clone()), "cached after {}", planned.step);
            }
            if let (Some(promise), Some(shown)) = (promise, published.as_ref()) {
                assert!(promise.is_kept(cloud, shown), "{} breaks {shown}: {plan}", planned.step);
            }
        }
        cloud.tick();
    }
    panic!("it does not converge");
}

#[test]
fn every_service_becomes_every_other_and_nobody_is_shut_out_on_the_way() {
    let services = services();
    for (_, from) in &services {
        let (mut before, mut shown) = (Simulated::default(), None);
        drive(from, &mut before, &mut shown, None);
        for (_, to) in &services {
            let (mut cloud, mut shown) = (before.clone(), shown.clone());
            drive(to, &mut cloud, &mut shown, Some(&Promise::between(from, to)));
            assert_eq!(cloud.view.load_balancers.len(), 1);
            let wanted = translate(to, &Quotas::default()).unwrap();
            assert_eq!(
                cloud.view.target_groups.len(),
                wanted.listeners.len(),
                "no target group is left over"
            );
            let let_in = cloud.let_in(shown.as_deref().unwrap());
            assert_eq!(let_in, rules(to));
        }
    }
}

#[test]
fn every_service_is_deleted_without_a_trace() {
    for (name, service) in services() {
        let mut cloud = Simulated::default();
        drive(&service, &mut cloud, &mut None, None);
        let plan = plan(&mk_site(), Desired::Absent(&service.owner), observed(&cloud).as_ref());
        for planned in plan.steps() {
            assert_eq!(cloud.apply(&planned.step.action), Ok(()), "{name}: {}", planned.step);
        }
        assert!(cloud.view.is_empty(), "{name}: {:?}", cloud.view);
    }
}

#[test]
fn without_consent_no_load_balancer_is_made_or_deleted_beside_the_one_that_serves() {
    let services = services();
    for (from_name, from) in &services {
        let mut cloud = Simulated::default();
        drive(from, &mut cloud, &mut None, None);
        for (to_name, to) in &services {
            let to = LoadBalancer { replacement: Replacement::NeedsConsent, ..to.clone() };
            let plan = plan(&mk_site(), Desired::Present(&to), observed(&cloud).as_ref());
            let another = plan.steps().iter().any(|planned| {
                let action = &planned.step.action;
                matches!(
                    action,
                    Action::Create(New::LoadBalancer(_))
                        | Action::Delete { kind: Kind::LoadBalancer, shared: false, .. }
                )
            });
            assert!(!another, "{from_name} to {to_name}: {plan}");
        }
    }
}
