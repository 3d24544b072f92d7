//! Class parameters at work: defaults that come, go and are wrong.

use super::stage::*;

use crate::classes::{LoadBalancerClassParameters, LoadBalancerClassParametersSpec, SchemeParameter};
use crate::testing::mk_service;

fn parameters(change: impl FnOnce(&mut LoadBalancerClassParametersSpec)) -> LoadBalancerClassParameters {
    let mut spec = LoadBalancerClassParametersSpec {
        load_balancer_class: "portico.dev/fake".to_owned(),
        ..LoadBalancerClassParametersSpec::default()
    };
    change(&mut spec);
    LoadBalancerClassParameters::new("fake", spec)
}

impl Stage {
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
async fn a_changed_default_reaches_every_service_of_the_class_and_an_annotation_overrides_it() {
    use portico_provider::Scheme::{External, Internal};
    let stage = Stage::new();
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    let mut own = mk_service("own");
    let annotations = own.metadata.annotations.get_or_insert_default();
    annotations.insert("portico.dev/scheme".to_owned(), "external".to_owned());
    stage.cluster.apply(own);
    settle().await;
    assert_eq!(stage.schemes(), [External, External]);
    let internal = parameters(|spec| spec.scheme = Some(SchemeParameter::Internal));
    stage.cluster.with(|cluster| cluster.put_parameters(&internal));
    settle().await;
    let of = |name: &str| {
        stage.cloud.with(|cloud| {
            cloud.existing.values().find(|(spec, _)| spec.owner.name.name() == name).unwrap().0.scheme
        })
    };
    assert_eq!((of("web"), of("own")), (Internal, External));
    running.operator.tell_parameters().await;
    assert_eq!(stage.accepted(), "True/Accepted: all of it is a default of the class");
    let writes = stage.costs().2;
    settle().await;
    running.operator.tell_parameters().await;
    assert_eq!(stage.costs().2, writes, "told once, and its own status is no change");
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_is_told_so_and_stops_no_service() {
    let stage = Stage::new();
    let wrong = parameters(|spec| {
        spec.scheme = Some(SchemeParameter::Internal);
        spec.options.insert("fake.example/lb-test-option".to_owned(), "nonsense".to_owned());
        spec.options.insert("portico.dev/adresses".to_owned(), "192.0.2.1".to_owned());
    });
    stage.cluster.with(|cluster| cluster.put_parameters(&wrong));
    let running = stage.start().await;
    stage.cluster.apply(mk_service("web"));
    settle().await;
    assert_eq!(stage.schemes(), [portico_provider::Scheme::Internal], "what is right of it counts");
    assert_eq!(stage.conditions("web")["Accepted"], "True/Accepted");
    running.operator.tell_parameters().await;
    let told = stage.accepted();
    assert!(told.starts_with("False/"), "{told}");
    for word in ["fake.example/lb-test-option", "that is nonsense", "did you mean portico.dev/addresses?"] {
        assert!(told.contains(word), "{told}");
    }
}
