//! Class parameters at work: defaults that come, go and are wrong.

use super::stage::*;

use crate::classes::{LoadBalancerClassParameters, LoadBalancerClassParametersSpec, SchemeParameter};
use crate::testing::{mk_service, with};

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
async fn of_two_classes_each_has_its_own_defaults_and_gkes_internal_one_means_internal() {
    use portico_provider::Scheme::{External, Internal};
    let mut stage = Stage::new();
    let gke = ["external", "internal"].map(|kind| format!("networking.gke.io/l4-regional-{kind}"));
    stage.settings.classes.others = gke.iter().cloned().collect();
    let mut object = parameters(|spec| spec.scheme = Some(SchemeParameter::Internal));
    object.spec.load_balancer_class.clone_from(&gke[0]);
    let _running = stage.start().await;
    for (name, class) in [("plain", None), ("outside", Some(&gke[0])), ("inside", Some(&gke[1]))] {
        stage.cluster.apply(with(mk_service(name), |spec| spec.load_balancer_class = class.cloned()));
    }
    settle().await;
    let scheme = |name: &str| {
        stage.cloud.with(|cloud| {
            let mut all = cloud.existing.values();
            all.find(|(spec, _)| spec.owner.name.name() == name).map(|(spec, _)| spec.scheme).unwrap()
        })
    };
    assert_eq!(["plain", "outside", "inside"].map(scheme), [External, External, Internal]);
    stage.cluster.with(|cluster| cluster.put_parameters(&object));
    settle().await;
    assert_eq!(["plain", "outside", "inside"].map(scheme), [External, Internal, Internal]);
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
