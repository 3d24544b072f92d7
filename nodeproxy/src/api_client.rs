//! The client of the API server.
//!
//! Owns the address of the API server and the detection of dead connections. The kernel's keepalives detect a
//! dead route or machine. A dead program is detected by the bookmarks that a watch gets each minute and then
//! lacks. Leaves retries to the watches.

use std::time::Duration;

use anyhow::Context;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

use crate::args::ClusterArgs;

/// Longest silences of the API server's side of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the first keepalive probe.
    pub quiet: Duration,
    /// Between two probes.
    pub between: Duration,
    /// With unanswered data, until the connection is closed. Checked at each probe.
    pub unanswered: Duration,
    /// Without anything to read. The watch then resumes at its last version.
    pub idle: Duration,
}

/// A dead machine is detected within 50 s, as by kube-proxy's client.
pub const PATIENCE: Patience = Patience {
    quiet: Duration::from_secs(20),
    between: Duration::from_secs(10),
    unanswered: Duration::from_secs(40),
    idle: Duration::from_secs(90),
};

/// A client of the API server that the flags name.
pub async fn of_flags(cluster: &ClusterArgs) -> anyhow::Result<Client> {
    let config = match &cluster.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read --kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.with_context(|| {
                format!("--kubeconfig {} does not say how to reach a cluster", path.display())
            })?
        }
        None => Config::infer()
            .await
            .context("no way to the API server: set --kubeconfig or KUBECONFIG, or run in a pod")?,
    };
    connect(config, PATIENCE).context("cannot make a client for the API server")
}

/// A client with these limits. It connects on demand.
pub fn connect(config: Config, patience: Patience) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config); // which knows what it can do about it
    }
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp(patience))?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(Some(config.read_timeout.unwrap_or(patience.idle)));
    connector.set_reset_reader_on_write(true); // a pooled connection's rest is no silence
    connector.set_write_timeout(config.write_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(Client::new(service, config.default_namespace))
}

fn tcp(patience: Patience) -> HttpConnector {
    let Patience { quiet, between, unanswered, idle: _ } = patience;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false); // TLS is a layer above
    tcp.set_keepalive(Some(quiet));
    tcp.set_keepalive_interval(Some(between));
    tcp.set_tcp_user_timeout(Some(unanswered));
    tcp
}
