//! What objects come to, and the file that tells the API server their shape.

use kube::CustomResourceExt;

use super::*;
use crate::testing::{CAPABILITIES, FakeCloud, mk_load_balancer};

const CLASS: &str = "portico.dev/fake";

fn object(name: &str, second: i64, class: &str) -> LoadBalancerClassParameters {
    let spec =
        LoadBalancerClassParametersSpec { load_balancer_class: class.to_owned(), ..Default::default() };
    let mut object = LoadBalancerClassParameters::new(name, spec);
    let time = Timestamp::from_second(second).unwrap();
    object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    object
}

fn resolved(objects: &[LoadBalancerClassParameters]) -> Resolved {
    resolve(CLASS, objects, &FakeCloud::default(), &mk_load_balancer("plain"))
}

#[test]
fn of_several_objects_for_a_class_the_oldest_counts_and_the_others_are_told() {
    let mut old = object("z-old", 1, CLASS);
    old.spec.scheme = Some(SchemeParameter::Internal);
    let mut new = object("a-new", 2, CLASS);
    new.spec.scheme = Some(SchemeParameter::External);
    let other = object("other", 0, "other/class");
    let Resolved { defaults, verdicts } = resolved(&[new, other, old]);
    assert_eq!(defaults["portico.dev/scheme"], "internal");
    let claims: Vec<_> = verdicts.iter().map(|it| (it.name.as_str(), it.claim().1)).collect();
    assert_eq!(claims, [("z-old", "Accepted"), ("a-new", "Conflict")], "and another class is not mentioned");
}

#[test]
fn every_typed_field_is_the_annotation_it_stands_for_and_is_read_as_one() {
    let mut all = object("all", 1, CLASS);
    all.spec.scheme = Some(SchemeParameter::Internal);
    all.spec.target_kind = Some(TargetKindParameter::Pod);
    all.spec.proxy_protocol = Some(ProxyProtocolParameter::V2);
    all.spec.allow_replacement = Some(true);
    all.spec.source_ranges = vec!["10.0.0.0/8".to_owned(), "192.0.2.0/24".to_owned()];
    all.spec.options.insert("portico.dev/test-option".to_owned(), "30s".to_owned());
    let Resolved { defaults, verdicts } = resolved(&[all]);
    assert_eq!(verdicts[0].problems, []);
    assert_eq!(defaults.len(), 6);
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let read = options::read(&defaults, &CAPABILITIES, &mut problems, &mut warnings);
    assert!(problems.is_empty() && warnings.is_empty());
    assert_eq!(read.scheme, portico_provider::Scheme::Internal);
    assert_eq!(read.target_kind, Some(portico_provider::TargetKind::Pod));
    assert_eq!(read.source_ranges.len(), 2);
}

#[test]
fn a_wrong_default_is_left_out_alone() {
    let mut wrong = object("wrong", 1, CLASS);
    wrong.spec.source_ranges = vec!["everybody".to_owned()];
    wrong.spec.allow_replacement = Some(true);
    wrong.spec.options.insert("example.com/else".to_owned(), "x".to_owned());
    let Resolved { defaults, verdicts } = resolved(&[wrong]);
    assert_eq!(defaults.keys().collect::<Vec<_>>(), ["portico.dev/allow-replacement"]);
    let (status, _, message) = verdicts[0].claim();
    assert_eq!(status, "False");
    assert!(message.contains("everybody") && message.contains("example.com/else"), "{message}");
}

#[test]
fn the_charts_crd_is_that_of_the_type() {
    let mut crd = serde_json::to_value(LoadBalancerClassParameters::crd()).unwrap();
    // Helm never touches files in crds/ again; who upgrades applies them by hand, and should see of which version they are.
    crd["metadata"]["labels"] = serde_json::json!({ "app.kubernetes.io/name": "portico" });
    let yaml = serde_saphyr::to_string(&crd).unwrap();
    let text = format!(
        "# Made from the Rust type; PORTICO_UPDATE=1 cargo test -p portico-operator the_charts_crd writes it anew.\n{yaml}"
    );
    crate::testing::golden("helm/portico/crds/loadbalancerclassparameters.yaml", &text);
}
