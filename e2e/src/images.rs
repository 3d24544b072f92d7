//! The programs that container images stand for on this machine: no image is ever pulled, each name is a local program, or
//! an image that `make images` has built ([`oci`]). The table goes to the node agents as a file,
//! `[{"image": "<glob>", "argv": ["program", …]}, …]`; the first rule that matches an image's name counts, and the container's
//! own `args` follow the rule's argv.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::tools::Tools;

pub mod oci;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which images: `*` stands for any run of characters, slashes included.
    pub image: String,
    /// The program, and its first arguments.
    pub argv: Vec<String>,
    /// The image's files and configuration; none: the program sees the machine's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ImageRoot>,
}

/// An image on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRoot {
    /// Folder of its files.
    pub dir: PathBuf,
    /// The image's environment variables.
    pub env: BTreeMap<String, String>,
    /// User and group of its processes, unless the pod says otherwise.
    pub user: (u32, u32),
}

/// The table for a cluster of these programs.
pub fn table(tools: &Tools) -> Vec<Rule> {
    let program = |path: PathBuf| vec![path.display().to_string()];
    // The guestbook's replicas name no master: its image finds it by the Service's environment variables.
    let replica = [
        "sh",
        "-c",
        r#"exec redis-server --replicaof "$REDIS_MASTER_SERVICE_HOST" "${REDIS_MASTER_SERVICE_PORT:-6379}" --save '' --appendonly no --protected-mode no --dir /tmp "$@""#,
        "redis-server",
    ];
    // Replicas are served at once: the delay waits for more of them to come.
    let redis =
        "redis-server --appendonly no --protected-mode no --dir /tmp --repl-diskless-sync-delay 0 --save";
    let redis: Vec<String> = redis.split(' ').chain([""]).map(str::to_owned).collect();
    let mut backend = program(tools.portico_e2e());
    backend.push("backend".to_owned());
    let rule = |image: &str, argv: Vec<String>| Rule { image: image.to_owned(), argv, root: None };
    let replicas = ["*redisslave*", "*redis-slave*", "*redis-follower*", "*redis-replica*"];
    let mut rules: Vec<_> =
        replicas.map(|image| rule(image, replica.map(str::to_owned).to_vec())).into_iter().collect();
    rules.push(rule("*redis*", redis));
    rules.push(rule("*portico-operator*", program(tools.operator())));
    rules.push(rule("*portico-nodeproxy*", program(tools.nodeproxy())));
    let kube_proxy = vec![tools.controlplane().display().to_string(), "kube-proxy".to_owned()];
    rules.push(rule("kube-proxy", kube_proxy));
    rules.extend(
        ["agnhost", "coredns"]
            .map(|name| rule(&format!("*{name}*"), program(tools.conformance_program(name)))),
    );
    rules.push(rule("*", backend));
    rules
}

/// Writes the table for the node agents.
pub fn write(path: &Path, rules: &[Rule]) -> anyhow::Result<()> {
    fs::write(path, serde_json::to_vec_pretty(rules)?).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_takes_every_image_and_replicas_come_before_masters() -> anyhow::Result<()> {
        let rules = table(&Tools::find()?);
        assert_eq!(rules.last().map(|rule| rule.image.as_str()), Some("*"));
        let position = |image: &str| rules.iter().position(|rule| rule.image == image);
        assert!(position("*redisslave*") < position("*redis*"));
        Ok(())
    }
}
