//! The API of portico-lb: the load balancers that exist, whatever the status of Services shows.

use std::fs;

use anyhow::{Context as _, ensure};
use portico_e2e::{cluster::Cluster, fabric::LOAD_BALANCER, load_balancer};
use serde_json::{Value, json};

use super::Fixture;

/// A client of portico-lb's API.
pub(crate) struct PorticoLb {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl PorticoLb {
    /// Authenticates by the token that the cluster gave portico-lb.
    pub(crate) fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let file = cluster.home().path("lb").join("token");
        let token = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let url = format!("http://{LOAD_BALANCER}:{}/v1/load-balancers", load_balancer::PORT);
        Ok(Self { http: reqwest::Client::new(), url, token: token.trim().to_owned() })
    }

    /// All load balancers, as the API gives them.
    pub(crate) async fn list(&self) -> anyhow::Result<Vec<Value>> {
        let answer =
            self.http.get(&self.url).bearer_auth(&self.token).send().await.context("asking portico-lb")?;
        let answer = answer.error_for_status().context("portico-lb's answer")?;
        let body: Value = serde_json::from_slice(&answer.bytes().await?).context("portico-lb's list")?;
        body.as_array().cloned().context("portico-lb's list is not a list")
    }

    /// Those that a scenario's Services own.
    pub(crate) async fn of(&self, fixture: &Fixture) -> anyhow::Result<Vec<Value>> {
        let prefix = format!("{}/", fixture.namespace);
        let owned = |balancer: &Value| {
            balancer["owner"]["name"].as_str().is_some_and(|name| name.starts_with(&prefix))
        };
        Ok(self.list().await?.into_iter().filter(owned).collect())
    }

    /// Changes a scenario's load balancers behind the operator's back: no client is in their source ranges any more.
    pub(crate) async fn deny_all_clients(&self, fixture: &Fixture) -> anyhow::Result<()> {
        for mut balancer in self.of(fixture).await? {
            balancer["spec"]["source_ranges"] = json!(["192.0.2.0/24"]);
            let owner = &balancer["owner"];
            let uid = |part: &str| owner[part].as_str().map(str::to_owned).context("an owner without UIDs");
            let url = format!("{}/{}/{}", self.url, uid("cluster")?, uid("service")?);
            let put = json!({"name": owner["name"], "spec": balancer["spec"], "claim": []});
            let sent = self.http.put(url).bearer_auth(&self.token).json(&put).send().await;
            sent.and_then(reqwest::Response::error_for_status).context("changing a load balancer")?;
        }
        Ok(())
    }

    /// An error unless the scenario's Services own so many.
    pub(crate) async fn holds(&self, fixture: &Fixture, count: usize) -> anyhow::Result<()> {
        let found = self.of(fixture).await?;
        ensure!(
            found.len() == count,
            "portico-lb holds {} load balancers of this namespace, not {count}: {found:#?}",
            found.len()
        );
        Ok(())
    }
}
