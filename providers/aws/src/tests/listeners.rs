//! Plans about listeners: certificates by SNI, attributes, and what nobody asked for.
//!
//! Owns: their order, line by line. Leaves to others: whether AWS agrees (`contract`, which varies by `EXTRAS`).
//! Invariant: each plan is the difference of two Services and nothing else.

use portico_provider::{LoadBalancer, Options};

use super::mk_options;
use super::plans::{lines, mk_base, mk_view, planned};
use crate::Quotas;
use crate::capabilities as key;
use crate::wanted::translate;

/// Several certificates and an attribute, of a listener on port 80.
pub(super) const EXTRAS: [(&str, &str); 2] = [
    (key::CERTIFICATE, "arn:aws:acm:us-east-1:1:certificate/a,arn:aws:acm:us-east-1:1:certificate/b"),
    (
        "service.beta.kubernetes.io/aws-load-balancer-listener-attributes.TLS-80",
        "tcp.idle_timeout.seconds=60",
    ),
];

fn mk_with(options: Options) -> LoadBalancer {
    LoadBalancer { options, ..mk_base() }
}

fn certificates(arns: &str) -> LoadBalancer {
    mk_with(mk_options(&[(key::CERTIFICATE, arns)]))
}

#[test]
fn a_certificate_that_becomes_the_default_one_is_served_all_the_time() {
    let plan = planned(&certificates("arn:b,arn:a"), &mk_view(&certificates("arn:a,arn:b")));
    let message = lines(&plan);
    assert!(message[1].starts_with("2. add 1 certificate to listener 80"), "{plan}");
    assert!(message[2].starts_with("3. change listener 80 to TLS"), "{plan}");
    assert!(message[3].starts_with("4. take 1 certificate from listener 80"), "{plan}");
    assert!(plan.additive_first());
}

#[test]
fn a_listener_takes_further_certificates_only_once_it_ends_tls() {
    let plan = planned(&certificates("arn:a,arn:b"), &mk_view(&mk_base()));
    let message = plan.to_string();
    let at = |what: &str| message.find(what).unwrap_or_else(|| panic!("no {what}: {message}"));
    assert!(at("note portico.dev/listener-extras") < at("change listener 80 to TLS"));
    assert!(at("change listener 80 to TLS") < at("add 1 certificate"), "{message}");
}

#[test]
fn what_is_not_asked_for_any_more_returns_to_its_default() {
    let view = mk_view(&mk_with(mk_options(&EXTRAS)));
    let message = planned(&certificates("arn:aws:acm:us-east-1:1:certificate/a"), &view).to_string();
    assert!(message.contains("take 1 certificate from listener 80"), "{message}");
    assert!(message.contains("set tcp.idle_timeout.seconds=350 on listener 80"), "{message}");
    let plain = planned(&mk_base(), &view).to_string();
    assert!(!plain.contains("certificate from"), "they go with TLS: {plain}");
}

#[test]
fn who_asks_for_nothing_is_not_marked_and_an_attribute_must_name_its_listener() {
    let view = mk_view(&mk_base());
    assert!(view.load_balancers.values().all(|balancer| balancer.extras.is_none()));
    for (end, remedy) in [("TLS-80", "end it in TCP-80"), ("TCP-81", "the Service has no port 81")] {
        let name = format!("{}{end}", key::LISTENER_ATTRIBUTES_OF);
        let wrong = translate(&mk_with(mk_options(&[(&name, "a=b")])), &Quotas::default()).unwrap_err();
        assert!(wrong[0].1.contains(end) && wrong[0].1.contains(remedy), "{wrong:?}");
    }
}
