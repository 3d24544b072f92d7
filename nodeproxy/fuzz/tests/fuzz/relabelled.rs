//! A slice whose label changes to another Service, or is removed. Events pass kube's client, the proxy's watches, the decoding of
//! objects and the sync loop into a kernel in memory.

use std::collections::BTreeSet;

use portico_nodeproxy::sync::fake::FakeKernel;
use portico_proxy_core::table::{Frontend, List, Protocol};
use serde_json::{Value, json};

use crate::{
    api::{self, Api, Kind, Step},
    watch::run_loop,
};

const A: &str = "10.96.0.1";
const B: &str = "10.96.0.2";
const ENDPOINT: &str = "10.1.0.1:8080";

fn mk_service(name: &str, cluster_ip: &str) -> (Kind, Step) {
    let object = json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": "2"}, "spec":
        {"clusterIPs": [cluster_ip], "ports": [{"name": "p", "port": 80}]}});
    (Kind::Services, Step::Line(json!({"type": "ADDED", "object": object}).to_string()))
}

/// An event of the slice, labelled with a Service or with none.
fn mk_event(kind: &str, service: Option<&str>) -> String {
    let labels =
        service.map_or_else(|| json!({"app": "web"}), |name| json!({"kubernetes.io/service-name": name}));
    let metadata: Value = json!({"namespace": "shop", "name": "x", "resourceVersion": "3", "labels": labels});
    let object = json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}],
        "endpoints": [{"addresses": ["10.1.0.1"]}]});
    json!({"type": kind, "object": object}).to_string()
}

fn heard(kind: &str, service: Option<&str>) -> (Kind, Step) {
    (Kind::Slices, Step::Line(mk_event(kind, service)))
}

fn missed(kind: &str, service: Option<&str>) -> (Kind, Step) {
    (Kind::Slices, Step::Missed(mk_event(kind, service)))
}

/// Endpoints of a `ClusterIP` in the kernel.
fn endpoints(kernel: &FakeKernel, cluster_ip: &str) -> BTreeSet<String> {
    let address = cluster_ip.parse().expect("an address");
    let frontend = Frontend { address, protocol: Protocol::Tcp, port: 80 };
    kernel.inside().state.slots(&frontend, List::Cluster).iter().map(ToString::to_string).collect()
}

#[test]
fn a_relabelled_slice_serves_the_service_of_its_label_and_no_other() {
    let both = [mk_service("a", A), mk_service("b", B)];
    for (what, steps, serves) in [
        ("a new slice", vec![heard("ADDED", Some("a"))], Some(A)),
        ("its label changes", vec![heard("ADDED", Some("a")), heard("MODIFIED", Some("b"))], Some(B)),
        ("its label is removed", vec![heard("ADDED", Some("a")), heard("MODIFIED", None)], None),
        (
            "its label is removed and comes back",
            vec![heard("ADDED", Some("a")), heard("MODIFIED", None), heard("MODIFIED", Some("b"))],
            Some(B),
        ),
        ("without its label it is deleted", vec![heard("ADDED", Some("a")), heard("DELETED", None)], None),
        (
            "its deletion is the first that is heard of its new label",
            vec![heard("ADDED", Some("a")), heard("DELETED", Some("b"))],
            None,
        ),
        (
            "its label changes unheard",
            vec![heard("ADDED", Some("a")), missed("MODIFIED", Some("b"))],
            Some(B),
        ),
        ("its label is removed unheard", vec![heard("ADDED", Some("a")), missed("MODIFIED", None)], None),
    ] {
        let (api, kernel) =
            (Api::new(api::always(), both.iter().cloned().chain(steps)), FakeKernel::default());
        assert!(run_loop(&api, &kernel, None).is_some(), "{what}: the loop ends by itself only");
        for cluster_ip in [A, B] {
            let expected = (serves == Some(cluster_ip)).then(|| ENDPOINT.to_owned());
            assert_eq!(
                endpoints(&kernel, cluster_ip),
                BTreeSet::from_iter(expected),
                "{what}: at {cluster_ip}"
            );
        }
    }
}
