//! Class parameters at work: defaults that come, go and are wrong.

use super::super::*;
use super::fixture::*;

use crate::cache::class_parameters::{
    ClassOptions, LoadBalancerClassParameters, LoadBalancerClassParametersSpec, SchemeParameter,
};
use crate::testing::{mk_service, with};

fn parameters(change: impl FnOnce(&mut LoadBalancerClassParametersSpec)) -> LoadBalancerClassParameters {
    let mut spec = LoadBalancerClassParametersSpec {
        load_balancer_class: "portico.dev/fake".to_owned(),
        ..LoadBalancerClassParametersSpec::default()
    };
    change(&mut spec);
    LoadBalancerClassParameters::new("fake", spec)
}

impl Fixture {
    fn schemes(&self) -> Vec<portico_provider::Scheme> {
        self.cloud.with(|cloud| cloud.existing.values().map(|(spec, _)| spec.scheme).collect())
    }

    fn accepted(&self) -> String {
        let object = self.cluster.with(|cluster| cluster.parameters["fake"].clone());
        let conditions = object.status.unwrap_or_default().conditions;
        let words: Vec<String> =
            conditions.iter().map(|it| format!("{}/{}: {}", it.status, it.reason, it.message)).collect();
        words.join("; ")
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_classes_each_has_its_own_defaults_and_gkes_internal_one_means_internal() {
    use portico_provider::Scheme::{External, Internal};
    let mut fixture = Fixture::new();
    let gke = ["external", "internal"].map(|kind| format!("networking.gke.io/l4-regional-{kind}"));
    fixture.settings.scope.classes.others = gke.iter().cloned().collect();
    let mut object = parameters(|spec| spec.defaults.scheme = Some(SchemeParameter::Internal));
    object.spec.load_balancer_class.clone_from(&gke[0]);
    let _running = fixture.start().await;
    for (name, class) in [("plain", None), ("outside", Some(&gke[0])), ("inside", Some(&gke[1]))] {
        fixture.cluster.apply(with(mk_service(name), |spec| spec.load_balancer_class = class.cloned()));
    }
    settle().await;
    let scheme = |name: &str| {
        fixture.cloud.with(|cloud| {
            let mut all = cloud.existing.values();
            all.find(|(spec, _)| spec.owner.name.name() == name).map(|(spec, _)| spec.scheme).unwrap()
        })
    };
    assert_eq!(["plain", "outside", "inside"].map(scheme), [External, External, Internal]);
    fixture.cluster.with(|cluster| cluster.put_parameters(&object));
    settle().await;
    assert_eq!(["plain", "outside", "inside"].map(scheme), [External, Internal, Internal]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_default_reaches_every_service_of_the_class_and_an_annotation_overrides_it() {
    use portico_provider::Scheme::{External, Internal};
    let fixture = Fixture::new();
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    let mut own = mk_service("own");
    let annotations = own.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "external".to_owned());
    fixture.cluster.apply(own);
    settle().await;
    assert_eq!(fixture.schemes(), [External, External]);
    let internal = parameters(|spec| spec.defaults.scheme = Some(SchemeParameter::Internal));
    fixture.cluster.with(|cluster| cluster.put_parameters(&internal));
    settle().await;
    let of = |name: &str| {
        fixture.cloud.with(|cloud| {
            cloud.existing.values().find(|(spec, _)| spec.owner.name.name() == name).unwrap().0.scheme
        })
    };
    assert_eq!((of("web"), of("own")), (Internal, External));
    class_parameters::report_once(&running.reconciler).await;
    assert_eq!(fixture.accepted(), "True/Accepted: all of it counts for the class");
    let writes = fixture.costs().2;
    settle().await;
    class_parameters::report_once(&running.reconciler).await;
    assert_eq!(fixture.costs().2, writes, "told once, and its own status is no change");
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_has_a_condition_and_stops_no_service() {
    let fixture = Fixture::new();
    let wrong = parameters(|spec| {
        spec.defaults.scheme = Some(SchemeParameter::Internal);
        spec.defaults.options.insert("fake.example/lb-test-option".to_owned(), "nonsense".to_owned());
        spec.defaults.options.insert("portico.dev/adresses".to_owned(), "192.0.2.1".to_owned());
    });
    fixture.cluster.with(|cluster| cluster.put_parameters(&wrong));
    let running = fixture.start().await;
    fixture.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(fixture.schemes(), [portico_provider::Scheme::Internal], "what is right of it counts");
    assert_eq!(fixture.conditions("web")["Accepted"], "True/Accepted");
    class_parameters::report_once(&running.reconciler).await;
    let reported = fixture.accepted();
    assert!(reported.starts_with("False/"), "{reported}");
    for word in ["fake.example/lb-test-option", "that is nonsense", "did you mean portico.dev/addresses?"] {
        assert!(reported.contains(word), "{reported}");
    }
}

fn annotated(name: &str, key: &str, value: &str) -> k8s_openapi::api::core::v1::Service {
    let mut service = mk_service(name);
    service.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    service
}

#[tokio::test(start_paused = true)]
async fn a_forced_value_wins_and_says_so_and_what_is_not_allowed_is_refused_by_name() {
    use portico_provider::Scheme::Internal;
    let fixture = Fixture::new();
    let object = parameters(|spec| {
        spec.forced =
            Some(ClassOptions { scheme: Some(SchemeParameter::Internal), ..ClassOptions::default() });
        let values = vec!["30s".to_owned()];
        spec.allowed = Some([("portico.dev/test-option".to_owned(), values)].into());
    });
    fixture.cluster.with(|cluster| cluster.put_parameters(&object));
    let _running = fixture.start().await;
    fixture.cluster.apply(annotated("open", "portico.dev/scheme", "external"));
    fixture.cluster.apply(annotated("fine", "portico.dev/test-option", "30s"));
    fixture.cluster.apply(annotated("else", "portico.dev/test-option", "5m"));
    settle().await;
    assert_eq!(fixture.schemes(), [Internal, Internal]);
    assert_eq!(fixture.conditions("open")["Accepted"], "True/ForcedByClass");
    assert_eq!(fixture.conditions("fine")["Accepted"], "True/Accepted");
    assert_eq!(fixture.conditions("else")["Accepted"], "False/NotAllowed");
    assert_eq!(fixture.reasons("open").iter().filter(|it| *it == "ForcedByClass").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forced_value_that_cannot_be_lets_nothing_new_through_and_takes_nothing_away() {
    let fixture = Fixture::new();
    let _running = fixture.start().await;
    fixture.cluster.apply(mk_service("old"));
    settle().await;
    let object = parameters(|spec| {
        let options = [("fake.example/lb-test-option".to_owned(), "nonsense".to_owned())].into();
        spec.forced = Some(ClassOptions { options, ..ClassOptions::default() });
    });
    fixture.cluster.with(|cluster| cluster.put_parameters(&object));
    settle().await;
    fixture.cluster.apply(mk_service("new"));
    settle().await;
    assert_eq!(fixture.existing(), ["old"]);
    assert!(!fixture.addresses("old").is_empty());
    for name in ["old", "new"] {
        assert_eq!(fixture.conditions(name)["Accepted"], "False/ClassParametersRejected");
        let service = fixture.cluster.get(name).unwrap();
        let reported = crate::cache::service::our_conditions(&service);
        let accepted = reported.iter().find(|it| it.type_.ends_with("Accepted")).unwrap();
        assert!(accepted.message.contains("LoadBalancerClassParameters fake"), "{}", accepted.message);
    }
}
