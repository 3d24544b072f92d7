//! The downward API: a pod's own fields and resources as text. Pure.
//! Source: "Downward API" page of the Kubernetes documentation. Invariant: an unknown field is an error that names it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::quantity;

/// Sources of a pod's fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
}

impl Fields<'_> {
    /// The field that a `fieldRef` names.
    pub(crate) fn field(&self, path: &str) -> Result<String> {
        let Self { pod, pod_ips, host_ips } = self;
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
        let value = match path {
            "metadata.name" => meta.name.clone().unwrap_or_default(),
            "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
            "metadata.uid" => meta.uid.clone().unwrap_or_default(),
            "metadata.labels" => lines(meta.labels.as_ref()),
            "metadata.annotations" => lines(meta.annotations.as_ref()),
            "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => {
                spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
            }
            "status.podIP" => first(pod_ips),
            "status.podIPs" => list(pod_ips),
            "status.hostIP" => first(host_ips),
            "status.hostIPs" => list(host_ips),
            _ => return self.entry(path),
        };
        Ok(value)
    }

    /// `metadata.labels['key']` and the same of annotations.
    fn entry(&self, path: &str) -> Result<String> {
        let meta = &self.pod.metadata;
        let maps = [("metadata.labels['", &meta.labels), ("metadata.annotations['", &meta.annotations)];
        for (prefix, map) in maps {
            if let Some(key) = path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']")) {
                return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
            }
        }
        bail!("fieldRef {path:?}: no such field of a pod")
    }

    /// The amount that a `resourceFieldRef` names, of this container where it names none.
    pub(crate) fn resource(
        &self,
        selector: &ResourceFieldSelector,
        own: Option<&Container>,
    ) -> Result<String> {
        let ResourceFieldSelector { container_name, divisor, resource } = selector;
        let spec = self.pod.spec.as_ref();
        let named = container_name.as_deref().filter(|name| !name.is_empty());
        let container = match named {
            Some(name) => spec.and_then(|spec| super::desired::container(spec, name)),
            None => own,
        };
        let container =
            container.with_context(|| format!("resourceFieldRef {resource}: no such container"))?;
        let (kind, name) = resource
            .split_once('.')
            .with_context(|| format!("resourceFieldRef {resource:?}: want limits.cpu"))?;
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let (amounts, fallback) = match (kind, name) {
            ("limits", "cpu") => (limits, "2"),
            ("limits", "memory") => (limits, "8Gi"),
            ("limits", _) => (limits, "0"),
            ("requests", _) => (requests, "0"),
            _ => bail!("resourceFieldRef {resource:?}: want limits.… or requests.…"),
        };
        let value =
            amounts.and_then(|amounts| amounts.get(name)).map_or(fallback, |quantity| quantity.0.as_str());
        let divisor = divisor.as_ref().map_or("", |quantity| quantity.0.as_str());
        let amount = quantity::divide(value, divisor);
        Ok(amount
            .with_context(|| format!("resourceFieldRef {resource}: {value:?} / {divisor:?}"))?
            .to_string())
    }
}

/// `key="value"` lines, as the kubelet writes labels to a file.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_entries_and_amounts_are_found_and_unknown_ones_are_named() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "250m"}}}]},
        }))
        .expect("a pod");
        let ips = ["10.0.0.2".parse().expect("an address")];
        let fields = Fields { pod: &pod, pod_ips: &ips, host_ips: &[] };
        assert_eq!(fields.field("metadata.labels['app']").expect("a label"), "x");
        assert_eq!(fields.field("status.podIPs").expect("addresses"), "10.0.0.2");
        assert!(fields.field("spec.nope").expect_err("unknown").to_string().contains("spec.nope"));
        let selector: ResourceFieldSelector =
            serde_json::from_value(json!({"containerName": "a", "resource": "limits.cpu", "divisor": "1m"}))
                .expect("a selector");
        assert_eq!(fields.resource(&selector, None).expect("an amount"), "250");
    }
}
