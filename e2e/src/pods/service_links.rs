//! The environment variables by which containers find Services, exactly as the kubelet makes them
//! (pkg/kubelet/envvars and `getServiceEnvVarMap` in `kubelet_pods.go` of Kubernetes 1.36; the names are Docker's of 2015).
//! Pure. Invariant: `kubernetes` in `default` is always there, other Services only of the pod's namespace and when wanted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

/// Variables of all Services that a pod of this namespace sees.
pub(crate) fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enabled: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, (&Service, &str)> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(own)) = (&service.metadata.name, &service.metadata.namespace) else { continue };
        let Some(ip) = cluster_ip(service) else { continue };
        if own == namespace && enabled {
            chosen.insert(name, (service, ip));
        } else if own == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert((service, ip));
        }
    }
    let mut variables = BTreeMap::new();
    for (name, (service, ip)) in chosen {
        if let Some(spec) = &service.spec {
            add(&mut variables, name, spec, ip);
        }
    }
    variables
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn add(variables: &mut BTreeMap<String, String>, name: &str, spec: &ServiceSpec, ip: &str) {
    let prefix = variable_name(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let scheme = protocol.to_lowercase();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let url = format!("{scheme}://{host}:{number}");
        if index == 0 {
            variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables
                .insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(port_name)), number.to_string());
        }
        let port_prefix = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.insert(format!("{port_prefix}_PROTO"), scheme);
        variables.insert(format!("{port_prefix}_PORT"), number.to_string());
        variables.insert(format!("{port_prefix}_ADDR"), ip.to_owned());
        variables.insert(port_prefix, url);
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_service(namespace: &str, name: &str, ip: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": [{"port": 6379, "name": "main-port", "protocol": "TCP"}]},
        }))
        .expect("a Service")
    }

    #[test]
    fn the_2015_design_s_redis_master_example_comes_out_word_for_word() {
        let found = variables([&mk_service("d", "redis-master", "10.0.0.11")], "d", true);
        let expect = [
            ("REDIS_MASTER_PORT", "tcp://10.0.0.11:6379"),
            ("REDIS_MASTER_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
            ("REDIS_MASTER_PORT_6379_TCP_ADDR", "10.0.0.11"),
            ("REDIS_MASTER_PORT_6379_TCP_PORT", "6379"),
            ("REDIS_MASTER_PORT_6379_TCP_PROTO", "tcp"),
            ("REDIS_MASTER_SERVICE_HOST", "10.0.0.11"),
            ("REDIS_MASTER_SERVICE_PORT", "6379"),
            ("REDIS_MASTER_SERVICE_PORT_MAIN_PORT", "6379"),
        ];
        let found: Vec<(&str, &str)> =
            found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn other_namespaces_headless_services_and_disabled_links_are_left_out_but_not_kubernetes() {
        let services = [
            mk_service("default", "kubernetes", "10.96.0.1"),
            mk_service("other", "x", "10.0.0.1"),
            mk_service("d", "headless", "None"),
            mk_service("d", "mine", "10.0.0.2"),
        ];
        let hosts = |enabled| -> Vec<String> {
            let all = variables(&services, "d", enabled);
            all.into_keys().filter(|key| key.ends_with("_SERVICE_HOST")).collect()
        };
        assert_eq!(hosts(true), ["KUBERNETES_SERVICE_HOST", "MINE_SERVICE_HOST"]);
        assert_eq!(hosts(false), ["KUBERNETES_SERVICE_HOST"]);
    }
}
