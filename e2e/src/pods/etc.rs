//! A pod's /etc/hosts, /etc/resolv.conf and host name, as the kubelet writes them.
//! Source: "DNS for Services and Pods" and "Adding entries to Pod /etc/hosts" of the Kubernetes documentation.
//! Invariant: a pod on the node's network keeps the machine's resolv.conf, unless its dnsPolicy says otherwise.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::enter::Bind;

use super::Host;

/// The pod's host name: its own, or the node's where it shares the node's network.
pub(super) fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return node.to_owned();
    }
    let own =
        spec.and_then(|spec| spec.hostname.clone()).or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let mut short: String = own.chars().take(63).collect(); // Linux allows 64, DNS 63
    short.truncate(short.trim_end_matches(['-', '.']).len());
    short
}

/// Writes the files and says where they are shown.
pub(super) fn write(host: &Host, pod: &Pod, spec: &PodSpec, ips: &[IpAddr], dir: &Path) -> Result<Vec<Bind>> {
    let etc = dir.join("etc");
    fs::create_dir_all(&etc).with_context(|| format!("make {}", etc.display()))?;
    let mut files = vec![("hosts", hosts(pod, spec, ips, &host.name))];
    files.push(("hostname", format!("{}\n", hostname(pod, &host.name))));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    files.extend(resolv_conf(spec, namespace, host.dns, &host.domain).map(|text| ("resolv.conf", text)));
    files
        .into_iter()
        .map(|(name, text)| {
            let source = etc.join(name);
            if !fs::read_to_string(&source).is_ok_and(|old| old == text) {
                fs::write(&source, text).with_context(|| format!("write {}", source.display()))?;
            }
            Ok(Bind { source, target: Path::new("/etc").join(name), read_only: false })
        })
        .collect()
}

fn hosts(pod: &Pod, spec: &PodSpec, ips: &[IpAddr], node: &str) -> String {
    let head = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
    ];
    let mut lines: Vec<String> = head.map(str::to_owned).to_vec();
    let name = hostname(pod, node);
    let names = match spec.subdomain.as_deref().zip(pod.metadata.namespace.as_deref()) {
        Some((subdomain, namespace)) => format!("{name}.{subdomain}.{namespace}.svc.cluster.local\t{name}"),
        None => name,
    };
    for ip in ips {
        lines.push(format!("{ip}\t{names}"));
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        lines.push(format!("{}\t{names}", alias.ip));
    }
    joined(&lines)
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// None: the machine's.
fn resolv_conf(spec: &PodSpec, namespace: &str, dns: Option<IpAddr>, domain: &str) -> Option<String> {
    let on_node = spec.host_network == Some(true);
    let mut lines = Vec::new();
    let cluster = match spec.dns_policy.as_deref() {
        Some("None") => false,
        Some("Default") => return None,
        Some("ClusterFirstWithHostNet") => true,
        _ if on_node => return None,
        _ => true,
    };
    let config = spec.dns_config.as_ref();
    let mut searches = Vec::new();
    let mut options = Vec::new();
    if cluster {
        lines.push(format!("nameserver {}", dns?));
        searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]);
        options.push("ndots:5".to_owned());
    }
    if let Some(config) = config {
        for server in config.nameservers.iter().flatten() {
            lines.push(format!("nameserver {server}"));
        }
        searches.extend(config.searches.iter().flatten().cloned());
        options.extend(config.options.iter().flatten().filter_map(|option| {
            let name = option.name.clone()?;
            Some(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")))
        }));
    }
    for (word, list) in [("search", searches), ("options", options)] {
        if !list.is_empty() {
            lines.push(format!("{word} {}", list.join(" ")));
        }
    }
    Some(joined(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cluster_first_asks_the_cluster_s_dns_and_a_node_s_pod_the_machine_s() {
        let dns = "10.96.0.10".parse().ok();
        let spec = |value| serde_json::from_value::<PodSpec>(value).expect("a spec");
        let own = resolv_conf(&spec(json!({"containers": []})), "d", dns, "cluster.local").expect("its own");
        assert_eq!(
            own,
            "nameserver 10.96.0.10\nsearch d.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&spec(json!({"containers": [], "hostNetwork": true})), "d", dns, "x"), None);
    }
}
