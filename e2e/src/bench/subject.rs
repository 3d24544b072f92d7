//! A node proxy as a plain process, started and cleaned up by its own command line. Pure, apart from
//! checking that its programs are installed.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use crate::{fabric::POD_CIDR, tools::Tools};

/// The node on which the proxies run.
pub const NODE: &str = "node-1";

/// A node has its processors without an API server and etcd. Here they share them, so both proxies get them first. Without
/// the right to a higher priority, `nice` warns and starts its program all the same.
const PRIORITY: [&str; 3] = ["nice", "-n", "-15"];

/// A node proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// portico-nodeproxy, of the same build profile as the bench.
    Portico,
    /// kube-proxy with `--proxy-mode=nftables`.
    KubeProxyNftables,
    /// kube-proxy with `--proxy-mode=iptables`, by whichever backend the machine's `iptables` has.
    KubeProxyIptables,
}

/// The others are compared with this one.
pub const BASELINE: Subject = Subject::KubeProxyNftables;

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portico => "portico",
            Self::KubeProxyNftables => "kube-proxy-nftables",
            Self::KubeProxyIptables => "kube-proxy-iptables",
        })
    }
}

impl Subject {
    /// Program and arguments that make it serve Services on [`NODE`].
    pub fn command(self, tools: &Tools, kubeconfig: &Path) -> Vec<String> {
        let mut command: Vec<_> = PRIORITY.map(str::to_owned).into();
        command.extend(self.program(tools));
        command.extend([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={NODE}"),
            format!("--cluster-cidr={POD_CIDR}"),
            "--metrics-bind-address=127.0.0.1:10249".to_owned(),
        ]);
        if let Some(mode) = self.kube_proxy_mode() {
            command.push(mode.to_owned());
            // Left as they are: these are the machine's, and not part of what is measured.
            command.extend(
                ["max-per-core", "tcp-timeout-established", "tcp-timeout-close-wait"].map(conntrack_as_is),
            );
        }
        command
    }

    /// Program and arguments that take away what it has put into the kernel.
    pub fn cleanup(self, tools: &Tools) -> Vec<String> {
        let mut command = self.program(tools);
        command.push("--cleanup".to_owned());
        command.extend(self.kube_proxy_mode().map(str::to_owned));
        command
    }

    /// Why it cannot run on this machine, with the remedy.
    pub fn obstacle(self, tools: &Tools) -> Option<String> {
        let (program, remedy) = match self {
            Self::Portico => (tools.nodeproxy(), "`cargo build --release -p portico-nodeproxy` builds it"),
            Self::KubeProxyNftables | Self::KubeProxyIptables => {
                (tools.controlplane(), "`make setup` builds it")
            }
        };
        if !program.is_file() {
            return Some(format!("{} is missing: {remedy}", program.display()));
        }
        let needed = match self {
            Self::Portico => None,
            Self::KubeProxyNftables => Some(("nft", "nftables")),
            Self::KubeProxyIptables => Some(("iptables-restore", "iptables")),
        };
        let (name, package) = needed.filter(|(name, _)| !is_on_path(name))?;
        Some(format!("`{name}` is not on PATH: install Debian's package {package}"))
    }

    fn program(self, tools: &Tools) -> Vec<String> {
        match self {
            Self::Portico => vec![tools.nodeproxy().display().to_string()],
            Self::KubeProxyNftables | Self::KubeProxyIptables => {
                vec![tools.controlplane().display().to_string(), "kube-proxy".to_owned()]
            }
        }
    }

    fn kube_proxy_mode(self) -> Option<&'static str> {
        match self {
            Self::Portico => None,
            Self::KubeProxyNftables => Some("--proxy-mode=nftables"),
            Self::KubeProxyIptables => Some("--proxy-mode=iptables"),
        }
    }
}

/// The lines of a rules dump (`nft list ruleset`, `iptables-save`) that belong to a node proxy. Empty after a clean end.
pub fn leftovers(rules: &str) -> Vec<&str> {
    let is_ours = |line: &&str| ["KUBE-", "kube-proxy", "portico"].iter().any(|mark| line.contains(mark));
    rules.lines().map(str::trim).filter(is_ours).collect()
}

fn conntrack_as_is(name: &str) -> String {
    format!("--conntrack-{name}=0")
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.iter().any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_is_told_its_mode_to_run_and_to_clean_up() -> anyhow::Result<()> {
        let tools = Tools::find()?;
        for command in [
            Subject::KubeProxyNftables.command(&tools, Path::new("/x.conf")),
            Subject::KubeProxyNftables.cleanup(&tools),
        ] {
            assert!(command.contains(&"kube-proxy".to_owned()), "{command:?}");
            assert!(command.contains(&"--proxy-mode=nftables".to_owned()), "{command:?}");
        }
        let portico = Subject::Portico.command(&tools, Path::new("/x.conf"));
        assert!(
            portico.iter().any(|word| word.ends_with("portico-nodeproxy"))
                && !portico.join(" ").contains("conntrack"),
            "{portico:?}"
        );
        Ok(())
    }

    #[test]
    fn a_proxys_tables_and_chains_are_leftovers_and_empty_base_chains_are_not() {
        let rules = "table ip nat {\n  chain PREROUTING {\n  }\n}\ntable ip kube-proxy {\n}\n:KUBE-MARK-MASQ - [0:0]\n";
        assert_eq!(leftovers(rules), ["table ip kube-proxy {", ":KUBE-MARK-MASQ - [0:0]"]);
        assert!(leftovers("table ip nat {\n  chain PREROUTING {\n  }\n}\n").is_empty());
    }
}
