//! The state of what failed, for a person to read: objects, conditions and events, each node's rules, the end of each log.
//! A part that cannot be read says so and does not hide the others.

use std::fmt::Write as _;

use super::Cluster;
use crate::{portico::NAMESPACE, process};

impl Cluster {
    /// Everything that may explain why something in `namespace` does not work.
    pub async fn dump(&self, namespace: &str) -> String {
        self.dump_where(&["-n", namespace]).await
    }

    /// The same of all namespaces.
    pub async fn dump_all(&self) -> String {
        self.dump_where(&["-A"]).await
    }

    /// `place` says to kubectl which namespaces are meant.
    async fn dump_where(&self, place: &[&str]) -> String {
        let mut text = String::new();
        for args in [
            &["get", "services", "-o", "yaml", "--show-managed-fields=false"][..],
            &["get", "endpointslices,pods", "-o", "wide"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
            &["get", "nodes", "-o", "wide"],
        ] {
            let args = [args, place].concat();
            section(&mut text, &format!("kubectl {}", args.join(" ")), self.kubectl(&args).await);
        }
        for node in self.nodes() {
            let rules =
                process::output(self.from_node(&node.name).command("nft").args(["list", "ruleset"])).await;
            section(&mut text, &format!("nft list ruleset on {}", node.name), rules);
        }
        for component in ["operator", "nodeproxy"] {
            let selector = format!("app.kubernetes.io/component={component}");
            let args = ["-n", NAMESPACE, "logs", "--prefix", "--tail=40", "-l", &selector];
            section(&mut text, &format!("log of portico-{component}"), self.kubectl(&args).await);
        }
        for log in self.logs() {
            section(&mut text, &format!("end of {}", log.display()), Ok(process::tail(&log, 15)));
        }
        text
    }

    /// Log files of what may be at fault: the load balancer and the node agents.
    fn logs(&self) -> Vec<std::path::PathBuf> {
        let names = self.nodes().iter().map(|node| node.name.clone()).chain(["portico-lb".to_owned()]);
        names.map(|name| self.home().logs().join(format!("{name}.log"))).filter(|log| log.is_file()).collect()
    }
}

fn section(text: &mut String, title: &str, content: anyhow::Result<String>) {
    let content = content.unwrap_or_else(|error| format!("(not to be had: {error:#})"));
    let _infallible = write!(text, "\n--- {title}\n{}\n", content.trim_end());
}
