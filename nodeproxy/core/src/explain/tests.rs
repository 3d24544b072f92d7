//! Content of an explanation.

use super::*;
use crate::{
    input::{Config, Event},
    packets,
    table::Value,
};

fn mk_model() -> Model {
    let mut model = Model::new(Config::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    model
}

fn mk_name(number: u8) -> ServiceName {
    format!("table/service-{number}").parse().expect("a name")
}

#[test]
fn every_element_of_the_model_is_some_services_or_concerns_all() {
    let model = mk_model();
    let mut listed = BTreeSet::new();
    for number in 1..=u8::MAX {
        listed.extend(
            explain(&model, &mk_name(number)).into_iter().flat_map(|e| e.elements).map(|e| (e.map, e.key)),
        );
    }
    for key in model.shadow().desired().elements.keys() {
        let of_all = model.ranges().any(|range| range == *key);
        let own = listed.contains(&(format!("{} {}", key.family(), key.map()), key.to_string()));
        assert!(own != of_all, "{} {key}", key.map());
    }
}

#[test]
fn a_local_policy_without_local_endpoints_says_so() {
    let text = explain(&mk_model(), &mk_name(6)).expect("is served").to_string();
    for part in [
        "externalTrafficPolicy: Local: clients outside get",
        "hear nothing here",
        "at 10.200.0.1:30086/tcp (NodePort)",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn an_unknown_service_has_no_explanation() {
    assert_eq!(explain(&mk_model(), &mk_name(200)), None);
}

#[test]
fn a_contested_address_names_its_holder() {
    let mut model = mk_model();
    let mut other = model.service_named(&mk_name(5)).expect("there").clone();
    other.name = "table/other".parse().expect("a name");
    other.created = 1000;
    other.cluster_ips = vec!["10.96.0.200".parse().expect("an address")];
    other.ports[0].node_port = None;
    model.apply(Event::Service(other));
    let explanation = explain(&model, &"table/other".parse().expect("a name")).expect("is served");
    assert_eq!(explanation.problems.len(), 1);
    let text = explanation.to_string();
    assert!(text.contains("NOT SERVED, for Service table/service-5 has it"), "{text}");
    let kernel = wanted(&model, &explanation.service).check(model.shadow().desired(), None);
    assert!(kernel.agrees(), "the holder's elements are the holder's business: {kernel}");
}

#[test]
fn a_changed_element_of_a_service_is_named_and_that_of_another_is_not() {
    let model = mk_model();
    let mut found = model.shadow().desired().clone();
    let key = |number: u8| Key::ClusterIp([10, 96, 0, number].into());
    assert_eq!(found.elements.remove(&key(1)), Some(Value::Present));
    assert!(wanted(&model, &mk_name(2)).check(&found, None).agrees());
    let check = wanted(&model, &mk_name(1)).check(&found, None);
    let keys: Vec<_> = check.differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["10.96.0.1"]);
}
