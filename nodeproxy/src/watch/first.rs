//! The first Services, which are listed before all others: the API server's, which pods need to start, and
//! DNS's, which they need to find anything.
//!
//! Owns the choice of these Services and the order. They are sent first, and the lists of all others begin when
//! the loop reports that they are programmed ([`FirstProgrammed`]). Invariant: a failed list delays nobody. Its objects
//! then come with all others.

use futures::future;
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use portico_proxy_core::input::Service;
use tokio::{
    sync::watch,
    time::{Duration, timeout},
};

use super::ours;
use crate::convert::{Decode, Decoded, DecodedSlice};

/// The API server's Service.
const API_SERVER: (&str, &str) = ("default", "kubernetes");
/// Namespace of DNS.
const SYSTEM: &str = "kube-system";
/// Label of every DNS add-on, a convention.
const DNS: &str = "k8s-app=kube-dns";
/// Label of a slice with the name of its Service.
const OWNER: &str = "kubernetes.io/service-name";

/// Timeout of each of these lists.
const WITHIN: Duration = Duration::from_secs(30);

/// True once the first Services are programmed, or if they need not be.
pub type FirstProgrammed = watch::Receiver<bool>;

/// The first objects of a watch, and the signal after which it begins.
pub struct First<T> {
    pub(super) objects: Vec<Decoded<T>>,
    pub(super) after: Option<FirstProgrammed>,
}

impl<T> First<T> {
    /// No objects and no signal.
    pub(super) fn none() -> Self {
        Self { objects: Vec::new(), after: None }
    }
}

/// Lists the first Services and their slices.
pub async fn list(
    client: &Client,
    proxy_name: Option<&str>,
    after: &FirstProgrammed,
) -> (First<Service>, First<DecodedSlice>) {
    let ours = ours(proxy_name);
    let api_server = ListParams::default().labels(&ours).fields(&format!("metadata.name={}", API_SERVER.1));
    let dns = ListParams::default().labels(&format!("{ours},{DNS}"));
    let (mut services, dns) =
        future::join(get::<Service>(client, API_SERVER.0, &api_server), get::<Service>(client, SYSTEM, &dns))
            .await;
    let (of_api_server, of_dns) =
        future::join(slices(client, API_SERVER.0, &services), slices(client, SYSTEM, &dns)).await;
    services.extend(dns);
    let slices = of_api_server.into_iter().chain(of_dns).collect();
    (
        First { objects: services, after: Some(after.clone()) },
        First { objects: slices, after: Some(after.clone()) },
    )
}

async fn slices(
    client: &Client,
    namespace: &str,
    services: &[Decoded<Service>],
) -> Vec<Decoded<DecodedSlice>> {
    let names: Vec<_> = services.iter().map(ResourceExt::name_any).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let owners = ListParams::default().labels(&format!("{OWNER} in ({})", names.join(",")));
    get(client, namespace, &owners).await
}

async fn get<T: Decode>(client: &Client, namespace: &str, which: &ListParams) -> Vec<Decoded<T>> {
    let api: Api<Decoded<T>> = Api::namespaced(client.clone(), namespace);
    let error = match timeout(WITHIN, api.list(which)).await {
        Ok(Ok(list)) => return list.items,
        Ok(Err(error)) => portico_runtime::chain(&error),
        Err(elapsed) => elapsed.to_string(),
    };
    let kind = Decoded::<T>::kind(&());
    tracing::warn!(%kind, namespace, error, "the first Services were not listed; they come with all others");
    Vec::new()
}

/// Waits for the signal, or until its sender is gone.
pub(super) async fn wait(after: Option<FirstProgrammed>) {
    if let Some(mut after) = after {
        // An error means that the loop has ended, and with it the process.
        drop(after.wait_for(|programmed| *programmed).await);
    }
}
