//! Stage transitions, without any cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use portico_provider::TargetKind;

use super::*;
use crate::cache::service::FINALIZER;
use crate::desired::admission::Admission;
use crate::desired::classes::rules::ClassRules;
use crate::desired::spec::GroupScope;
use crate::testing::{CAPABILITIES, CLUSTER, mk_service, own, with};

fn walked_with(service: &Service, capabilities: &Capabilities) -> Staged {
    let classes = ClassRule::one("portico.dev/test", true);
    let cluster: ClusterUid = CLUSTER.parse().unwrap();
    let backing = Backing { nodes: &[], slices: &[], admission: Admission::Any };
    walk(
        service,
        Context {
            classes: &classes,
            capabilities,
            cluster: &cluster,
            class: &ClassRules::default(),
            exists: false,
            groups: GroupScope::Namespace,
            backing,
        },
    )
}

fn walked(service: &Service) -> Staged {
    walked_with(service, &CAPABILITIES)
}

fn of_type(type_: &str) -> Service {
    with(mk_service("web"), |spec| spec.type_ = Some(type_.to_owned()))
}

fn held(mut service: Service) -> Service {
    service.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    own(&mut service, "portico.dev/test", "f:finalizers", &format!("v:\"{FINALIZER}\""));
    service
}

#[test]
fn each_type_walks_the_stages_inside_it_and_says_so() {
    for (type_, lines) in [
        ("ExternalName", "cluster_ip: nothing to do, because an ExternalName is a DNS record only\n"),
        ("ClusterIP", "cluster_ip: 10.96.0.10\n"),
        ("NodePort", "cluster_ip: 10.96.0.10\nnode_port: 30080\n"),
        ("LoadBalancer", "cluster_ip: 10.96.0.10\nnode_port: 30080\nload_balancer: wanted on TCP/80"),
    ] {
        let text = walked(&of_type(type_)).to_string();
        assert!(text.starts_with(lines), "{type_}: {text}");
    }
    let headless = with(of_type("ClusterIP"), |spec| spec.cluster_ip = Some("None".to_owned()));
    assert!(walked(&headless).to_string().contains("a headless Service has no address"));
}

#[test]
fn what_our_finalizer_holds_is_released_when_type_class_or_service_goes() {
    let other_class =
        with(of_type("LoadBalancer"), |spec| spec.load_balancer_class = Some("other/x".to_owned()));
    let mut deleted = of_type("LoadBalancer");
    deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    for (service, why) in [
        (of_type("NodePort"), "spec.type"),
        (of_type("ClusterIP"), "spec.type"),
        (of_type("ExternalName"), "spec.type"),
        (other_class.clone(), "spec.loadBalancerClass"),
        (deleted.clone(), "being deleted"),
    ] {
        assert_eq!(walked(&service).work, Work::Nothing, "without the finalizer there is nothing of ours");
        let Work::Release { because, .. } = walked(&held(service)).work else { panic!("{why}") };
        assert!(because.contains(why), "{because}");
    }
}

#[test]
fn a_stage_waits_for_the_one_inside_it() {
    for unfinished in [
        with(of_type("LoadBalancer"), |spec| spec.cluster_ip = None),
        with(of_type("LoadBalancer"), |spec| spec.ports.as_mut().unwrap()[0].node_port = None),
    ] {
        let staged = walked(&unfinished);
        assert!(matches!(staged.work, Work::Wait { .. }), "{staged}");
    }
}

#[test]
fn declined_node_ports_are_the_users_to_give_where_targets_need_them() {
    let declined = with(of_type("LoadBalancer"), |spec| {
        spec.allocate_load_balancer_node_ports = Some(false);
        spec.ports.as_mut().unwrap()[0].node_port = None;
    });
    let Work::Refuse { problems, .. } = walked(&declined).work else { panic!("node targets need them") };
    assert_eq!(problems[0].reason(), "NodePortsRequired");
    assert!(problems[0].to_string().contains("portico.dev/target-kind: pod"), "{}", problems[0]);
    let passthrough = Capabilities { needs_node_ports: false, ..CAPABILITIES };
    assert!(matches!(walked_with(&declined, &passthrough).work, Work::Provide { .. }));
    let annotated = |kind: &str| {
        let mut service = declined.clone();
        let annotations = service.metadata.annotations.get_or_insert_default();
        annotations.insert("portico.dev/target-kind".to_owned(), kind.to_owned());
        service
    };
    assert!(matches!(walked(&annotated("pod")).work, Work::Provide { .. }));
    // A provider that reaches pods anywhere, and changes to them in place, goes there unasked, but not against the user's word.
    let reaching = Capabilities {
        pods_in_place_of_node_ports: true,
        target_kinds: &[TargetKind::Node, TargetKind::Pod],
        ..CAPABILITIES
    };
    let kind = |service: &Service| match walked_with(service, &reaching).work {
        Work::Provide { load_balancer, .. } => Some(load_balancer.targets.kind()),
        _ => None,
    };
    assert_eq!(kind(&declined), Some(TargetKind::Pod));
    assert_eq!(kind(&annotated("node")), None);
    let allocated = with(declined.clone(), |spec| spec.ports.as_mut().unwrap()[0].node_port = Some(30080));
    assert_eq!(kind(&allocated), Some(TargetKind::Node));
}
