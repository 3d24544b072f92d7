//! The packet table with its cluster read from objects of the API server: a field means what becomes of packets.

use portico_proxy_core::{
    input::{Config, Event},
    model::Model,
    oracle,
    packets::{self, CASES},
    table::Family,
};
use serde_json::Value;

use super::*;

fn upper(protocol: Protocol) -> String {
    protocol.to_string().to_uppercase()
}

/// A Service as the API server sends it.
fn mk_service(service: &Service) -> Value {
    let Service { name, created, cluster_ips, external_ips, load_balancer_vips, ports, .. } = service;
    let Service { internal_policy, external_policy, affinity, source_ranges, health_check_node_port, .. } =
        service;
    let vips = load_balancer_vips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
    let proxies = packets::proxy_mode_addresses().into_iter().filter(|(of, _)| of == name);
    let proxies = proxies.map(|(_, ip)| json!({"ip": ip, "ipMode": "Proxy"}));
    let ports = ports.iter().map(|port| {
        let protocol = upper(port.protocol);
        json!({"name": &*port.name, "protocol": protocol, "port": port.port, "nodePort": port.node_port})
    });
    json!({
        "metadata": {"namespace": &*name.namespace, "name": &*name.name,
            "creationTimestamp": Timestamp::from_second(*created).expect("a time").to_string()},
        "spec": {
            "type": "LoadBalancer", "clusterIPs": cluster_ips, "externalIPs": external_ips,
            "ports": ports.collect::<Vec<_>>(),
            "internalTrafficPolicy": internal_policy.to_string(), "externalTrafficPolicy": external_policy.to_string(),
            "sessionAffinity": affinity.map_or("None", |_| "ClientIP"),
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": affinity}},
            "loadBalancerSourceRanges": source_ranges, "healthCheckNodePort": health_check_node_port,
        },
        "status": {"loadBalancer": {"ingress": vips.chain(proxies).collect::<Vec<_>>()}},
    })
}

/// A slice as the API server sends it.
fn mk_slice(slice: &EndpointSlice) -> Value {
    let EndpointSlice { service, name, ports, endpoints } = slice;
    let ports = ports.iter().map(|port| {
        let protocol = upper(port.protocol);
        json!({"name": &*port.name, "protocol": protocol, "port": port.port})
    });
    let hints = |names: &[Name]| names.iter().map(|name| json!({"name": &**name})).collect::<Vec<_>>();
    let is_v4 = endpoints.iter().all(|endpoint| Family::of(endpoint.address) == Family::V4);
    let endpoints = endpoints.iter().map(|endpoint| {
        let Endpoint { address, ready, serving, terminating, node, zone_hints, node_hints } = endpoint;
        json!({
            "addresses": [address], "nodeName": node.as_deref(),
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "hints": {"forZones": hints(zone_hints), "forNodes": hints(node_hints)},
        })
    });
    json!({
        "metadata": {"namespace": &*service.namespace, "name": &**name,
            "labels": {SERVICE_NAME: &*service.name}},
        "addressType": if is_v4 { "IPv4" } else { "IPv6" },
        "ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// An event of the table's cluster, as it would have come from the API server.
fn by_way_of_the_api(event: Event) -> Event {
    match event {
        Event::Service(service) => {
            let (value, bad) = read(&mk_service(&service));
            assert_eq!(bad, []);
            Event::Service(value)
        }
        Event::Slice(slice) => {
            let (value, bad) = read::<DecodedSlice>(&mk_slice(&slice));
            assert_eq!(bad, []);
            Event::Slice(value.slice.expect("a Service's"))
        }
        other => other,
    }
}

#[test]
fn packets_get_what_the_table_says_when_its_cluster_comes_from_the_api_server() {
    let mut model = Model::new(Config::default());
    for event in packets::cluster_events() {
        model.apply(by_way_of_the_api(event));
    }
    for case in CASES {
        assert_eq!(oracle::outcome(&model, &case.packet()), case.outcome(), "{}", case.name);
    }
}
