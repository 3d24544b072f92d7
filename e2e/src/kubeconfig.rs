//! kubeconfig files: who speaks to which address with which certificate. They name the certificates by path.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;

use crate::pki::Pair;

/// Writes a kubeconfig for `user` at `path` that reaches the API server at `server` (a URL).
pub fn write(path: &Path, server: &str, ca: &Path, user: &Pair) -> anyhow::Result<PathBuf> {
    let name = "portico";
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": name, "user": {"client-certificate": user.cert, "client-key": user.key}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    let text = serde_json::to_string_pretty(&config)?; // JSON is YAML
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_path_buf())
}

/// A client by the kubeconfig at `path`.
pub async fn client(path: &Path) -> anyhow::Result<kube::Client> {
    let kubeconfig =
        kube::config::Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .with_context(|| format!("using {}", path.display()))?;
    kube::Client::try_from(config).context("making a Kubernetes client")
}
