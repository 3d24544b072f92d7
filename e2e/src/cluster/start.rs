//! Starts a cluster bottom-up: network, control plane, nodes, load balancer, Portico.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    Cluster, Options,
    nodes::{Member, Nodes},
};
use crate::{
    account::Account,
    controlplane::{ControlPlane, Credentials, Ranges},
    fabric::{self, Host},
    forward,
    home::Home,
    images,
    load_balancer::LoadBalancer,
    portico,
    process::Crashes,
    tools::Tools,
};

impl Cluster {
    /// Starts a cluster in `home` and waits until all of it works.
    pub async fn start(home: &Home, options: &Options, account: &Account) -> anyhow::Result<Self> {
        let tools = Tools::find()?;
        let crashes = Crashes::new();
        let (load_balancer, outside) = (Host::load_balancer(), Host::outside());
        fabric::create().context("making the cluster's network")?;
        for host in [&load_balancer, &outside] {
            fabric::attach(host).with_context(|| format!("making the network of {}", host.name))?;
        }
        let credentials = Arc::new(Credentials::open(&home.pki())?);
        account.step("starting etcd and kube-apiserver");
        let ranges = Ranges { families: options.families, ..Ranges::default() };
        let started = ControlPlane::start_for(ranges, &tools, home, &credentials, &crashes);
        let (control_plane, client) = Box::pin(started).await?;
        account.step("the API server is ready");

        let mut rules = match &options.images {
            Some(layouts) => images::oci::unpack_all(layouts, &home.path("image-roots"))?,
            None => Vec::new(),
        };
        rules.extend(images::table(&tools));
        images::write(&home.path("images.json"), &rules)?;
        let background = vec![
            spawn("routes to pods", fabric::routes::follow(client.clone())),
            spawn("port of the API server", {
                let socket = home.api_socket();
                async move { forward::inside(&socket).await }
            }),
        ];
        let mut cluster = Self {
            nodes: Nodes::new(Arc::clone(&credentials), options.families),
            guests: Mutex::new(Nodes::new(credentials, options.families)),
            load_balancer: None,
            tools,
            home: home.clone(),
            client,
            crashes,
            control_plane,
            background,
        };
        Box::pin(cluster.populate(options, account)).await?;
        Ok(cluster)
    }

    async fn populate(&mut self, options: &Options, account: &Account) -> anyhow::Result<()> {
        let Options { nodes, families: _, portico, bare, images: _ } = options;
        for number in 1..=*nodes {
            self.nodes.start(&Member::plain(number), &self.tools, &self.home, &self.crashes)?;
        }
        if portico.needs_load_balancer() {
            let started = LoadBalancer::start(&self.tools, &self.home, &self.crashes);
            self.load_balancer = Some(self.crashes.or(started).await?);
        }
        self.crashes.or(self.nodes.ready(&self.client)).await?;
        account.step(format!("{nodes} nodes are ready"));
        if portico.is_empty() {
            return Ok(());
        }
        let token = self.load_balancer.as_ref().map(|lb| lb.token().to_owned());
        if *bare {
            return portico::prepare(self, portico, token.as_deref()).await;
        }
        self.crashes.or(portico::install(self, portico, token.as_deref())).await?;
        account.step(format!("Portico is installed: {portico}"));
        Ok(())
    }
}

/// A background task whose end is a failure worth a line in the log; what depends on it will say so by a deadline.
fn spawn(
    what: &'static str,
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::error!(what, error = format!("{error:#}"), "a background task ended");
        }
    })
}
