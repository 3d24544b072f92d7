//! Reviews of objects, and the chart's CRD.

use kube::CustomResourceExt;

use super::*;
use crate::testing::{CAPABILITIES, FakeCloud, mk_owner, mk_service};

const CLASS: &str = "portico.dev/fake";

fn object(name: &str, second: i64, class: &str) -> LoadBalancerClassParameters {
    let spec =
        LoadBalancerClassParametersSpec { load_balancer_class: class.to_owned(), ..Default::default() };
    let mut object = LoadBalancerClassParameters::new(name, spec);
    let time = Timestamp::from_second(second).unwrap();
    object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    object
}

fn plain() -> Plain {
    Plain { service: mk_service("plain"), owner: mk_owner("plain") }
}

fn resolved(objects: &[LoadBalancerClassParameters]) -> Resolved {
    resolve(CLASS, objects, &FakeCloud::default(), &plain())
}

/// Annotations that count for a Service with these, and its problems and warnings.
fn counts(
    rules: &ClassRules,
    says: &[(&str, &str)],
    capabilities: &Capabilities,
) -> (Annotations, String, String) {
    let mut service = mk_service("web");
    service.metadata.annotations =
        Some(says.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let annotations = rules.apply(&service, capabilities, &mut problems, &mut warnings).annotations;
    (annotations, sentence(&problems), sentence(&warnings))
}

#[test]
fn of_several_objects_for_a_class_the_oldest_counts_and_the_others_have_a_condition() {
    let mut old = object("z-old", 1, CLASS);
    old.spec.defaults.scheme = Some(SchemeParameter::Internal);
    let mut new = object("a-new", 2, CLASS);
    new.spec.defaults.scheme = Some(SchemeParameter::External);
    let other = object("other", 0, "other/class");
    let Resolved { rules, reviews } = resolved(&[new, other, old]);
    assert_eq!(counts(&rules, &[], &CAPABILITIES).0["portico.dev/scheme"], "internal");
    let claims: Vec<_> = reviews.iter().map(|it| (it.name.as_str(), it.claim().1)).collect();
    assert_eq!(claims, [("z-old", "Accepted"), ("a-new", "Conflict")], "and another class is not mentioned");
}

#[test]
fn every_typed_field_is_the_annotation_it_stands_for_and_is_read_as_one() {
    let mut all = object("all", 1, CLASS);
    all.spec.defaults.scheme = Some(SchemeParameter::Internal);
    all.spec.defaults.target_kind = Some(TargetKindParameter::Pod);
    all.spec.defaults.proxy_protocol = Some(ProxyProtocolParameter::V2);
    all.spec.defaults.allow_replacement = Some(true);
    all.spec.defaults.source_ranges = vec!["10.0.0.0/8".to_owned(), "192.0.2.0/24".to_owned()];
    all.spec.defaults.options.insert("portico.dev/test-option".to_owned(), "30s".to_owned());
    let Resolved { rules, reviews } = resolved(&[all]);
    let defaults = counts(&rules, &[], &CAPABILITIES).0;
    assert_eq!(reviews[0].problems, []);
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
    wrong.spec.defaults.source_ranges = vec!["everybody".to_owned()];
    wrong.spec.defaults.allow_replacement = Some(true);
    wrong.spec.defaults.options.insert("example.com/else".to_owned(), "x".to_owned());
    let Resolved { rules, reviews } = resolved(&[wrong]);
    assert_eq!(
        counts(&rules, &[], &CAPABILITIES).0.keys().collect::<Vec<_>>(),
        ["portico.dev/allow-replacement"]
    );
    let (status, _, message) = reviews[0].claim();
    assert_eq!(status, "False");
    assert!(message.contains("everybody") && message.contains("example.com/else"), "{message}");
}

/// Every key that a provider reads, families with a port at their end.
fn keys(capabilities: &Capabilities) -> Vec<String> {
    let own = capabilities.options.iter().map(|spec| spec.key);
    let all = options::ANNOTATIONS.iter().map(|spec| spec.key).chain(own);
    all.map(|key| if key.ends_with('.') { format!("{key}80") } else { key.to_owned() }).collect()
}

fn with_rules(change: impl FnOnce(&mut LoadBalancerClassParametersSpec)) -> ClassRules {
    let mut object = object("tenants", 1, CLASS);
    change(&mut object.spec);
    let mut rules = ClassRules::named(object.name_any(), object.spec.allowed.clone());
    for entry in object.spec.forced.iter().flat_map(|forced| annotations(forced, "spec.forced", true)) {
        rules.take(entry.key, entry.value, true);
    }
    rules
}

const TABLES: [Capabilities; 4] = [
    CAPABILITIES,
    portico_provider_aws::CAPABILITIES,
    portico_provider_gce::CAPABILITIES,
    portico_provider_local::CAPABILITIES,
];

#[test]
fn what_a_class_does_not_allow_counts_in_no_annotation_of_any_provider() {
    for (capabilities, key) in TABLES.iter().flat_map(|it| keys(it).into_iter().map(move |key| (it, key))) {
        let allow = |key: &str, values: &[&str]| {
            let values = values.iter().map(|it| (*it).to_owned()).collect();
            with_rules(|spec| spec.allowed = Some(BTreeMap::from([(key.to_owned(), values)])))
        };
        let nothing = with_rules(|spec| spec.allowed = Some(BTreeMap::new()));
        for (rules, value) in [
            (&nothing, "sg-1"),
            (&allow(&key, &["sg-1"]), "sg-2"),
            (&allow(&key, &["sg-1"]), "sg-1,sg-2"),
            (&allow(&key, &["sg-1"]), "sg-11"),
            (&allow(&key, &["team-*"]), "sg-1, team-a"),
            (&allow(&key, &[]), "sg-1"),
            (&allow("portico.dev/nothing*", &["*"]), "sg-1"),
        ] {
            let (annotations, problems, _) = counts(rules, &[(&key, value)], capabilities);
            assert_eq!(annotations.get(&key), None, "{key}={value}");
            assert!(problems.contains(&key) && problems.contains("tenants"), "{key}={value}: {problems}");
        }
        for (rules, value) in [
            (&ClassRules::default(), "sg-2"),
            (&allow(&key, &["sg-1", "sg-2"]), " sg-2, sg-1,"),
            (&allow(&key, &["team-*"]), "team-a"),
            (&allow(&key, &["*"]), "{\"a\": [1, 2]}"),
            (&allow("*", &["*"]), "sg-2"),
        ] {
            let (annotations, problems, _) = counts(rules, &[(&key, value)], capabilities);
            assert_eq!(
                (annotations.get(&key).map(String::as_str), problems.as_str()),
                (Some(value), ""),
                "{key}"
            );
        }
    }
}

#[test]
fn what_a_class_forces_counts_whatever_a_service_says_in_whichever_spelling() {
    for (capabilities, forced) in TABLES.iter().flat_map(|it| keys(it).into_iter().map(move |key| (it, key)))
    {
        let rules = with_rules(|spec| {
            let options = BTreeMap::from([(forced.clone(), "ours".to_owned())]);
            spec.forced = Some(ClassOptions { options, ..ClassOptions::default() });
        });
        let stands_for = |key: &str| capabilities.option(key).map(|spec| spec.default);
        for key in keys(capabilities) {
            let (annotations, problems, warnings) = counts(&rules, &[(&key, "theirs")], capabilities);
            assert_eq!(annotations[&forced], "ours", "{forced} and {key}");
            assert_eq!(problems, "");
            let spelling = key == forced
                || stands_for(&key) == Some(forced.as_str())
                || stands_for(&forced) == Some(key.as_str())
                || (stands_for(&key) == stands_for(&forced)
                    && options::ANNOTATIONS.iter().any(|shared| Some(shared.key) == stands_for(&key)));
            assert!(!spelling || !annotations.values().any(|it| it == "theirs"), "{forced} and {key}");
            assert_eq!(spelling, !warnings.is_empty(), "{forced} and {key}: {warnings}");
            assert!(!spelling || (warnings.contains(&key) && warnings.contains("tenants")), "{warnings}");
        }
    }
}

#[test]
fn fields_of_the_spec_that_say_what_annotations_say_are_under_the_same_rules() {
    let mut service = crate::testing::with(mk_service("web"), |spec| {
        spec.load_balancer_ip = Some("203.0.113.7".to_owned());
        spec.load_balancer_source_ranges = Some(vec!["0.0.0.0/0".to_owned()]);
    });
    service.metadata.annotations = None;
    let ruled = |rules: &ClassRules| {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let spec = rules.apply(&service, &CAPABILITIES, &mut problems, &mut warnings).spec.into_owned();
        (spec.load_balancer_ip, spec.load_balancer_source_ranges, sentence(&problems), sentence(&warnings))
    };
    let (address, ranges, problems, _) = ruled(&with_rules(|spec| spec.allowed = Some(BTreeMap::new())));
    assert_eq!((address, ranges.unwrap().len()), (None, 1), "who may come in is no name of anything");
    assert!(problems.contains("spec.loadBalancerIP") && problems.contains("tenants"), "{problems}");
    let (address, ranges, problems, warnings) = ruled(&with_rules(|spec| {
        let options = BTreeMap::from([("portico.dev/addresses".to_owned(), "203.0.113.9".to_owned())]);
        let source_ranges = vec!["10.0.0.0/8".to_owned()];
        spec.forced = Some(ClassOptions { source_ranges, options, ..ClassOptions::default() });
    }));
    assert_eq!((address, ranges, problems.as_str()), (None, None, ""));
    for word in ["spec.loadBalancerIP", "spec.loadBalancerSourceRanges", "203.0.113.9", "10.0.0.0/8"] {
        assert!(warnings.contains(word), "{warnings}");
    }
}

#[test]
fn what_the_provider_of_a_class_cannot_do_is_in_the_objects_condition_by_its_field() {
    let config = portico_provider_local::Config {
        endpoint: "http://127.0.0.1:9".to_owned(),
        token: String::new(),
        cluster: crate::testing::CLUSTER.parse().unwrap(),
    };
    drop(rustls::crypto::ring::default_provider().install_default()); // another test may have, too
    let local = portico_provider_local::LocalProvider::new(config).unwrap();
    let mut wrong = object("wrong", 1, CLASS);
    wrong.spec.defaults.scheme = Some(SchemeParameter::Internal);
    wrong.spec.defaults.allow_replacement = Some(true);
    wrong.spec.forced = Some(wrong.spec.defaults.clone());
    wrong.spec.allowed = Some(BTreeMap::from([("portico.dev/adresses".to_owned(), Vec::new())]));
    let Resolved { rules, reviews } = resolve(CLASS, &[wrong], &local, &plain());
    let (status, _, message) = reviews[0].claim();
    assert_eq!(status, "False");
    for word in [
        "spec.scheme: ",
        "spec.forced.scheme: ",
        "spec.allowed portico.dev/adresses",
        "did you mean portico.dev/addresses",
    ] {
        assert!(message.contains(word), "{message}");
    }
    assert!(!message.contains("allowReplacement"), "{message}");
    let (annotations, problems, _) = counts(&rules, &[], &portico_provider_local::CAPABILITIES);
    assert_eq!(
        annotations.keys().collect::<Vec<_>>(),
        ["portico.dev/allow-replacement"],
        "what is right counts"
    );
    assert!(problems.contains("LoadBalancerClassParameters wrong spec.forced.scheme"), "{problems}");
}

#[test]
fn an_option_that_needs_another_one_is_right_beside_it_in_any_order() {
    // The fake takes this option on internal load balancers only.
    let mut both = object("both", 1, CLASS);
    both.spec.defaults.options.insert("fake.example/lb-test-option".to_owned(), "internal-only".to_owned());
    assert_eq!(resolved(&[both.clone()]).reviews[0].claim().0, "False");
    let mut after = both.clone();
    both.spec.defaults.scheme = Some(SchemeParameter::Internal);
    assert_eq!(resolved(&[both]).reviews[0].problems, []);
    // Options are tried in the order of their keys, after the typed fields.
    after.spec.defaults.options.insert("portico.dev/scheme".to_owned(), "internal".to_owned());
    assert_eq!(resolved(&[after]).reviews[0].problems, []);
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
