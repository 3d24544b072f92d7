//! Objects as the API server sends them, and as it should not.

use serde_json::json;

use super::*;

mod table;

/// Decodes an object like a received one, with borrowed texts.
fn read<T: Decode>(object: &serde_json::Value) -> (T, Vec<BadField>) {
    let Decoded { metadata: _, value, bad } = serde_json::from_str(&object.to_string()).expect("an object");
    (value, bad)
}

fn mk_service(spec: &serde_json::Value, status: &serde_json::Value) -> (Service, Vec<BadField>) {
    let metadata = json!({"namespace": "default", "name": "web", "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"fieldsV1": {"f:spec": {}}}]});
    read(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status}),
    )
}

#[test]
fn a_load_balancer_service_is_read_whole() {
    let (service, bad) = mk_service(
        &json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd96::7"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999, "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": [" 192.0.2.1/24 ", ""]
        }),
        &json!({"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb.example"}
        ]}}),
    );
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.load_balancer_vips, ["203.0.113.1".parse::<IpAddr>().expect("an address")]);
    assert_eq!(service.ports[0].node_port, Some(30080));
    assert_eq!(service.ports[1].protocol, Protocol::Udp);
    assert_eq!(service.affinity, Some(10_800));
    assert_eq!(service.source_ranges[0].to_string(), "192.0.2.0/24");
    assert_eq!(service.health_check_node_port, Some(30999));
    assert_eq!(service.created, 1_767_323_045);
}

#[test]
fn headless_and_external_name_services_have_no_address() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.9"}),
    ] {
        assert!(mk_service(&spec, &json!({})).0.cluster_ips.is_empty());
    }
}

#[test]
fn a_bad_field_costs_itself_and_names_object_and_field() {
    let (service, bad) = mk_service(
        &json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}], "externalIPs": ["010.1", "192.0.2.1"]}),
        &json!({}),
    );
    assert_eq!(service.external_ips.len(), 1);
    let text = bad[0].to_string();
    assert!(
        text.contains("Service default/web") && text.contains("spec.externalIPs") && text.contains("010.1"),
        "{text}"
    );
}

#[test]
fn a_source_range_that_cannot_be_read_closes_and_what_kubernetes_reads_is_read() {
    let read = |ranges: &[&str]| {
        let spec =
            json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}], "loadBalancerSourceRanges": ranges});
        let (service, bad) = mk_service(&spec, &json!({}));
        let admits = |ip: &str| {
            let ip: IpAddr = ip.parse().expect("an address");
            service.admitted(Family::of(ip)).is_none_or(|ranges| ranges.iter().any(|net| net.contains(&ip)))
        };
        let admitted: Vec<_> = ["203.0.113.1", "198.51.100.1", "2001:db8::1"].map(admits).into();
        (admitted, bad.len())
    };
    assert_eq!(read(&[]), (vec![true, true, true], 0));
    assert_eq!(read(&["", " "]), (vec![true, true, true], 0));
    assert_eq!(read(&["203.0.113.000/025"]), (vec![true, false, false], 0));
    assert_eq!(read(&["::ffff:203.0.113.0/121"]), (vec![true, false, false], 0));
    assert_eq!(read(&["everybody"]), (vec![false, false, false], 1));
    assert_eq!(read(&["203.0.113.0/25", "10.0.0.0/33"]), (vec![true, false, false], 1));
    assert_eq!(read(&["2001:db8::/32"]), (vec![false, false, true], 0));
    assert_eq!(read(&["0.0.0.0/0"]), (vec![true, true, true], 0));
    assert_eq!(read(&["0.0.0.0/0", "2001:db8:1::/48"]), (vec![true, true, false], 0));
}

#[test]
fn addresses_of_older_clusters_are_read_as_kubernetes_reads_them() {
    let (service, bad) = mk_service(
        &json!({"clusterIPs": ["010.096.000.007"], "ports": [{"port": 80}], "externalIPs": ["::ffff:192.0.2.1"]}),
        &json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.001"}]}}),
    );
    assert_eq!(bad, []);
    let all = [&service.cluster_ips, &service.external_ips, &service.load_balancer_vips]
        .map(|ips| ips[0].to_string());
    assert_eq!(all, ["10.96.0.7", "192.0.2.1", "203.0.113.1"]);
    let (value, bad) = read::<DecodedSlice>(&json!({
        "metadata": {"namespace": "default", "name": "web-x", "labels": {SERVICE_NAME: "web"}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["010.001.000.001"]}, {"addresses": ["::ffff:10.1.0.2"]}]
    }));
    assert_eq!(bad, []);
    let slice = value.slice.expect("a Service's");
    let addresses: Vec<_> = slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.2"]);
}

#[test]
fn absent_conditions_mean_ready() {
    let (value, bad) = read::<DecodedSlice>(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "a", "hints": {"forZones": [{"name": "z"}]}},
            {"addresses": ["nonsense"]},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}
        ]
    }));
    assert!(value.trigger.is_some());
    let slice = value.slice.expect("a Service's");
    assert_eq!((slice.service.to_string(), &*slice.name), ("default/web".to_owned(), "web-x"));
    assert_eq!(bad.len(), 1);
    assert_eq!(slice.endpoints.len(), 2);
    assert!(slice.endpoints[0].ready && slice.endpoints[0].serving && !slice.endpoints[0].terminating);
    assert!(!slice.endpoints[1].ready && slice.endpoints[1].terminating);
    assert_eq!(&*slice.endpoints[0].zone_hints[0], "z");
}

#[test]
fn a_node_on_its_way_out_is_leaving() {
    let (node, bad) = read::<NodeState>(&json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDRs": ["10.1.3.0/24"], "taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.1"}]}
    }));
    assert!(bad.is_empty());
    assert!(node.leaving);
    assert_eq!((node.addresses.len(), node.pod_cidrs.len()), (1, 1));
}

#[test]
fn a_nodes_own_addresses_are_the_first_of_each_family() {
    let addresses = |given: &[(&str, &str)]| {
        let given: Vec<_> = given.iter().map(|(kind, ip)| json!({"type": kind, "address": ip})).collect();
        let (node, bad) =
            read::<NodeState>(&json!({"metadata": {"name": "a"}, "status": {"addresses": given}}));
        let texts: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
        (texts.join(" "), bad.len())
    };
    let (internal, external) = ("InternalIP", "ExternalIP");
    for (given, chosen, bad) in [
        (
            &[(internal, "192.0.2.1"), (internal, "192.0.2.2"), (internal, "2001:db8::1")][..],
            "192.0.2.1 2001:db8::1",
            0,
        ),
        (&[(internal, "2001:db8::1"), (internal, "192.0.2.1")], "2001:db8::1 192.0.2.1", 0),
        (&[(external, "198.51.100.1"), (internal, "192.0.2.1")], "192.0.2.1", 0),
        (&[(external, "2001:db8::9"), (internal, "192.0.2.1")], "192.0.2.1 2001:db8::9", 0),
        (&[(external, "198.51.100.1"), (external, "198.51.100.2")], "198.51.100.1", 0),
        (&[(internal, "nonsense"), (internal, "192.0.2.1")], "192.0.2.1", 1),
        (&[("Hostname", "a")], "", 0),
    ] {
        assert_eq!(addresses(given), (chosen.to_owned(), bad), "{given:?}");
    }
}

#[test]
fn a_slice_of_nobody_or_of_names_or_of_nothing_has_no_endpoints() {
    let slice = |extra: serde_json::Value| {
        let mut object = json!({"metadata": {"namespace": "default", "name": "x"}, "addressType": "IPv4",
            "ports": null, "endpoints": null});
        let fields = extra.as_object().cloned().unwrap_or_default();
        object.as_object_mut().expect("an object").extend(fields);
        read::<DecodedSlice>(&object).0.slice
    };
    assert_eq!(slice(json!({})), None);
    let metadata = json!({"namespace": "default", "name": "x", "labels": {SERVICE_NAME: "web"}});
    let names =
        json!({"metadata": metadata, "addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]});
    assert_eq!(slice(names).map(|slice| slice.endpoints.len()), Some(0));
    assert_eq!(slice(json!({"metadata": metadata})).map(|slice| slice.endpoints.len()), Some(0));
}

proptest::proptest! {
    /// Decoding ends for every input, in an object or an error.
    #[test]
    fn no_text_whatever_ends_the_process(text in ".{0,200}", cut in 0usize..400, byte in proptest::num::u8::ANY) {
        let whole = json!({"metadata": {"namespace": "n", "name": text, "labels": {SERVICE_NAME: text},
            "annotations": {TRIGGER_TIME: text}, "creationTimestamp": text}, "addressType": text,
            "ports": [{"name": text, "port": i64::from(byte) * 1000, "protocol": "UDP"}],
            "endpoints": [{"addresses": [text], "nodeName": text, "hints": {"forZones": [{"name": text}]}}],
            "spec": {"clusterIPs": [text], "ports": [{"port": -1}], "loadBalancerSourceRanges": [text]}});
        let mut bytes = whole.to_string().into_bytes();
        let at = cut % bytes.len();
        bytes[at] = byte;
        for input in [&bytes[..], &bytes[..at]] {
            drop(serde_json::from_slice::<Decoded<Service>>(input));
            drop(serde_json::from_slice::<Decoded<DecodedSlice>>(input));
            drop(serde_json::from_slice::<Decoded<NodeState>>(input));
            drop(serde_json::from_slice::<Decoded<DecodedRanges>>(input));
        }
    }
}
