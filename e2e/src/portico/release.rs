//! A release of the chart by helm itself, with values of the caller's: several on one cluster, changed and uninstalled as
//! users do it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{NAMESPACE, parts::merge};
use crate::{cluster::Cluster, fabric::CONTROL_PLANE, process::output};

/// A release in Portico's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Name of the release, and prefix of its objects.
    pub name: String,
    /// Values beside those that say where the API server is.
    pub values: Value,
}

impl Release {
    /// Installs it from the chart's folder, or changes it to these values, and waits until its pods are ready.
    pub async fn install(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.install_from(&cluster.tools().chart(), cluster).await
    }

    /// Does so from a chart: a folder, or a package.
    pub async fn install_from(&self, chart: &Path, cluster: &Cluster) -> anyhow::Result<()> {
        let Self { name, values } = self;
        let mut all = json!({
            "kubernetesApi": {"host": CONTROL_PLANE, "port": 6443},
            "operator": {"logFormat": "human"},
            "nodeproxy": {"enabled": false, "logFormat": "human"},
        });
        merge(&mut all, values);
        let file = cluster.home().path(&format!("values-{name}.json"));
        fs::write(&file, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let mut helm = helm(cluster);
        helm.args(["upgrade", "--install", name, "--create-namespace", "--wait", "--timeout=150s"])
            .arg(chart)
            .arg("--values")
            .arg(&file);
        output(&mut helm).await.with_context(|| format!("installing release {name}")).map(drop)
    }

    /// Goes back to a revision, and waits until its pods are ready.
    pub async fn roll_back(&self, revision: u32, cluster: &Cluster) -> anyhow::Result<()> {
        let mut helm = helm(cluster);
        helm.args(["rollback", &self.name, &revision.to_string(), "--wait", "--timeout=150s"]);
        output(&mut helm).await.with_context(|| format!("rolling back release {}", self.name)).map(drop)
    }

    /// Uninstalls it, and waits until what helm made is gone.
    pub async fn uninstall(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let mut helm = helm(cluster);
        helm.args(["uninstall", &self.name, "--wait", "--timeout=150s"]);
        output(&mut helm).await.with_context(|| format!("uninstalling release {}", self.name)).map(drop)
    }
}

/// Packs the chart as users get it. Gives the package.
pub async fn package(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let folder = cluster.home().path("package");
    let mut helm = helm(cluster);
    helm.arg("package").arg(cluster.tools().chart()).arg("--destination").arg(&folder);
    output(&mut helm).await.context("packing the chart")?;
    let packed = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
    let packed = packed.filter_map(Result::ok).map(|entry| entry.path()).next();
    packed.with_context(|| format!("no package in {}", folder.display()))
}

fn helm(cluster: &Cluster) -> Command {
    let mut helm = Command::new(cluster.tools().helm());
    helm.args(["--namespace", NAMESPACE])
        .env("KUBECONFIG", cluster.home().admin_kubeconfig())
        .env("HOME", cluster.home().dir()); // its caches
    helm
}
