//! Filler Services, written to etcd just as the API server wrote the first of them.
//!
//! For each new Service the API server counts all addresses that are taken, and twice (a metric of its `ipallocator`), so that 30,000
//! of them take it half an hour. The objects in etcd are known in advance: a Service, the address that it has, and its
//! slice. The API server reads JSON from etcd as well as what it writes itself, and watches etcd, so to all other clients they are Services
//! like any other.
//!
//! Owns the copies and the addresses that they get. Leaves to [`Objects`](super::objects::Objects) who is behind them.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, ensure};
use axum::http::Request;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Service, discovery::v1::EndpointSlice, networking::v1::IPAddress},
};
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};

/// Fillers in one transaction: etcd takes 128 changes at once, and each filler is three.
const TOGETHER: usize = 40;
/// Transactions under way at the same time.
const WRITERS: usize = 4;
/// The first address that fillers may have: the API server keeps those below for Services that ask for one.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 96, 16, 0);

/// One filler to be made.
#[derive(Clone, Debug)]
pub struct Filler {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service and its slice.
    pub name: String,
    /// ClusterIP of the Service.
    pub address: Ipv4Addr,
    /// `endpoints` of its slice.
    pub endpoints: Value,
}

/// The three objects of a filler, as the API server has them.
#[derive(Clone, Debug)]
pub struct Pattern {
    service: Value,
    slice: Value,
    address: Value,
}

impl Pattern {
    /// Of a Service that was made through the API server, with a slice of the same name.
    pub async fn of(api: &Client, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let services = Api::<Service>::namespaced(api.clone(), namespace);
        let service = services.get(name).await.with_context(|| format!("reading Service {name}"))?;
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
        let address = address.with_context(|| format!("Service {name} has no ClusterIP"))?;
        let slices = Api::<EndpointSlice>::namespaced(api.clone(), namespace);
        let slice = slices.get(name).await.with_context(|| format!("reading EndpointSlice {name}"))?;
        let addresses = Api::<IPAddress>::all(api.clone());
        let address =
            addresses.get(&address).await.with_context(|| format!("reading IPAddress {address}"))?;
        Ok(Self {
            service: stored(serde_json::to_value(service)?),
            slice: stored(serde_json::to_value(slice)?),
            address: stored(serde_json::to_value(address)?),
        })
    }

    /// Writes fillers; when it returns, etcd has them.
    pub async fn write(&self, etcd: &Client, fillers: &[Filler]) -> anyhow::Result<()> {
        stream::iter(fillers.chunks(TOGETHER))
            .map(|some| async move { put(etcd, some.iter().flat_map(|filler| self.objects(filler))).await })
            .buffer_unordered(WRITERS)
            .try_collect()
            .await
    }

    /// Keys in etcd, and what is there.
    fn objects(&self, filler: &Filler) -> [(String, Value); 3] {
        let Self { service, slice, address } = self;
        let Filler { namespace, name, address: ip, endpoints } = filler;
        let number = ip.to_bits();
        let named = |pattern: &Value, name: Value, kind: u32| {
            let mut object = pattern.clone();
            object["metadata"]["name"] = name;
            object["metadata"]["uid"] = format!("{number:08x}-0000-4000-8000-{kind:012x}").into();
            object
        };
        let mut service = named(service, json!(name), 1);
        service["metadata"]["namespace"] = json!(namespace);
        service["spec"]["clusterIP"] = json!(ip);
        service["spec"]["clusterIPs"] = json!([ip]);
        let mut slice = named(slice, json!(name), 2);
        slice["metadata"]["namespace"] = json!(namespace);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
        slice["endpoints"] = endpoints.clone();
        let mut address = named(address, json!(ip), 3);
        address["spec"]["parentRef"]["name"] = json!(name);
        address["spec"]["parentRef"]["namespace"] = json!(namespace);
        [
            (format!("/registry/services/specs/{namespace}/{name}"), service),
            (format!("/registry/endpointslices/{namespace}/{name}"), slice),
            (format!("/registry/ipaddresses/{ip}"), address),
        ]
    }
}

/// An object as it stands in etcd, where its version is no part of it.
fn stored(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// Puts objects in one transaction, through etcd's JSON gateway.
async fn put(etcd: &Client, objects: impl Iterator<Item = (String, Value)>) -> anyhow::Result<()> {
    let puts = objects.map(|(key, object)| {
        let value = ByteString(serde_json::to_vec(&object)?);
        Ok(json!({"requestPut": {"key": ByteString(key.into_bytes()), "value": value}}))
    });
    let puts = puts.collect::<anyhow::Result<Vec<_>>>()?;
    let body = serde_json::to_vec(&json!({"success": puts}))?;
    let request = Request::post("/v3/kv/txn").header("content-type", "application/json").body(body)?;
    let answer: Value = etcd.request(request).await.context("writing to etcd")?;
    ensure!(answer["succeeded"] == true, "etcd did not take a transaction: {answer}");
    Ok(())
}

/// Addresses that no Service has, in order.
pub async fn free_addresses(api: &Client) -> anyhow::Result<impl Iterator<Item = Ipv4Addr>> {
    let all = Api::<IPAddress>::all(api.clone());
    let all = all.list_metadata(&ListParams::default()).await.context("listing the addresses of Services")?;
    let taken: BTreeSet<Ipv4Addr> =
        all.iter().filter_map(|object| object.metadata.name.as_ref()?.parse().ok()).collect();
    Ok((FIRST.to_bits()..).map(Ipv4Addr::from_bits).filter(move |address| !taken.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_names_and_addresses_of_its_own_and_all_else_of_its_pattern() {
        let pattern = Pattern {
            service: stored(json!({
                "kind": "Service",
                "metadata": {"name": "first", "namespace": "bench", "uid": "a", "resourceVersion": "7", "labels": {"x": "y"}},
                "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "type": "ClusterIP"},
            })),
            slice: json!({"metadata": {"name": "first", "labels": {"kubernetes.io/service-name": "first"}}, "endpoints": []}),
            address: json!({"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": {"name": "first", "resource": "services"}}}),
        };
        let filler = Filler {
            namespace: "bench-1".to_owned(),
            name: "second".to_owned(),
            address: Ipv4Addr::new(10, 96, 16, 1),
            endpoints: json!([{"addresses": ["10.1.0.1"]}]),
        };
        let [(at, service), (_, slice), (ip_at, address)] = pattern.objects(&filler);
        assert_eq!(at, "/registry/services/specs/bench-1/second");
        assert_eq!(ip_at, "/registry/ipaddresses/10.96.16.1");
        assert_eq!(
            service,
            json!({
                "kind": "Service",
                "metadata": {"name": "second", "namespace": "bench-1", "uid": "0a601001-0000-4000-8000-000000000001", "labels": {"x": "y"}},
                "spec": {"clusterIP": "10.96.16.1", "clusterIPs": ["10.96.16.1"], "type": "ClusterIP"},
            })
        );
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "second");
        assert_eq!(slice["endpoints"], filler.endpoints);
        assert_eq!(
            address["spec"]["parentRef"],
            json!({"name": "second", "namespace": "bench-1", "resource": "services"})
        );
    }
}
