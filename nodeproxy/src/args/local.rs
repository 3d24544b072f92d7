//! Recognition of pods: kube-proxy's flags, with its names and meanings.
//!
//! Owns the valid combinations of flags. Leaves their effect to [`crate::node`] (addresses) and the dataplane
//! (interfaces).
//!
//! Invariant: after [`LocalArgs::check`] each mode has its value, except `ClusterCIDR`, which works without
//! one.

use clap::{Args as ClapArgs, ValueEnum};
use ipnet::IpNet;
use portico_proxy_core::interface::{BadInterfaceName, InterfaceName, PodInterfaces};

use super::{Unreadable, cidr};

/// Mode, and the value that it needs.
#[derive(Clone, Debug, ClapArgs)]
pub struct LocalArgs {
    /// Ranges of pods' addresses, comma separated. Other clients of a `ClusterIP` are masqueraded, and pods
    /// reach `externalTrafficPolicy: Local` Services from any node. Only with --detect-local-mode=ClusterCIDR.
    #[arg(long, value_delimiter = ',', value_parser = cidr)]
    pub cluster_cidr: Vec<IpNet>,
    /// How to recognise clients that are pods.
    #[arg(long, value_enum, default_value_t = DetectLocalMode::ClusterCidr, ignore_case = true)]
    pub detect_local_mode: DetectLocalMode,
    /// The bridge on which the packets of all pods of this node arrive, and no others. Only with
    /// --detect-local-mode=BridgeInterface.
    #[arg(long)]
    pub pod_bridge_interface: Option<InterfaceName>,
    /// Prefix of the names of all interfaces on which packets of this node's pods arrive, and no others. Only
    /// with --detect-local-mode=InterfaceNamePrefix.
    #[arg(long, value_parser = prefix)]
    pub pod_interface_name_prefix: Option<InterfaceName>,
}

/// How to recognise clients that are pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// By source address, in --cluster-cidr.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By source address, in this node's `spec.podCIDRs`.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By --pod-bridge-interface: pods of this node only.
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By --pod-interface-name-prefix: pods of this node only.
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
    /// No source counts as a pod of this cluster.
    #[value(name = "None")]
    None,
}

impl LocalArgs {
    /// Refuses invalid combinations of flags, with the remedy. `--cluster-cidr` is valid beside any mode,
    /// because the rest of a cluster's configuration often has it.
    pub fn check(&self) -> Result<(), Unreadable> {
        let Self { cluster_cidr: _, detect_local_mode, pod_bridge_interface, pod_interface_name_prefix } =
            self;
        let flags = [
            (
                DetectLocalMode::BridgeInterface,
                "BridgeInterface",
                "--pod-bridge-interface",
                pod_bridge_interface,
                "the bridge that pods are behind, like cni0",
            ),
            (
                DetectLocalMode::InterfaceNamePrefix,
                "InterfaceNamePrefix",
                "--pod-interface-name-prefix",
                pod_interface_name_prefix,
                "how the names of pods' interfaces on the node begin, like veth",
            ),
        ];
        for (mode, name, flag, value, meaning) in flags {
            match (mode == *detect_local_mode, value) {
                (true, None) => {
                    return Err(Unreadable(format!("--detect-local-mode={name} needs {flag}: {meaning}")));
                }
                (false, Some(value)) => {
                    return Err(Unreadable(format!(
                        "{flag}={value} has no effect without --detect-local-mode={name}; set the mode or leave the flag out"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The interfaces of pods, if the mode is by interface.
    pub fn pod_interfaces(&self) -> Option<PodInterfaces> {
        match self.detect_local_mode {
            DetectLocalMode::BridgeInterface => self.pod_bridge_interface.map(PodInterfaces::Named),
            DetectLocalMode::InterfaceNamePrefix => {
                self.pod_interface_name_prefix.map(PodInterfaces::Prefixed)
            }
            DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr | DetectLocalMode::None => None,
        }
    }
}

/// A prefix. iptables writes `veth+` for it and nft `veth*`, so a value with such an end is refused.
fn prefix(text: &str) -> Result<InterfaceName, Unreadable> {
    if let Some(bare) = text.strip_suffix(['*', '+']) {
        return Err(Unreadable(format!("\"{text}\" is a pattern; write the beginning alone: {bare}")));
    }
    text.parse().map_err(|error: BadInterfaceName| Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn parse(args: &[&str]) -> Result<LocalArgs, String> {
        let args = ["portico-nodeproxy"].iter().chain(args);
        let args = Args::try_parse_from(args).map_err(|error| error.to_string())?;
        args.traffic.local.check().map_err(|error| error.to_string())?;
        Ok(args.traffic.local)
    }

    #[test]
    fn each_mode_takes_its_own_flag() {
        for (args, expected) in [
            (&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"][..], Some("cni0")),
            (&["--detect-local-mode=interfacenameprefix", "--pod-interface-name-prefix=veth"], Some("veth*")),
            (&["--cluster-cidr=10.1.0.0/16"], None),
            (&["--detect-local-mode=NodeCIDR", "--cluster-cidr=10.1.0.0/16"], None),
            (&["--detect-local-mode=None"], None),
        ] {
            let interfaces = parse(args).expect("goes together").pod_interfaces();
            assert_eq!(interfaces.map(|interfaces| interfaces.to_string()).as_deref(), expected, "{args:?}");
        }
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused_with_the_remedy() {
        let (bridge, prefix) = ("--pod-bridge-interface=cni0", "--pod-interface-name-prefix=veth");
        for (args, remedy) in [
            (&["--detect-local-mode=BridgeInterface"][..], "needs --pod-bridge-interface"),
            (&["--detect-local-mode=InterfaceNamePrefix"], "needs --pod-interface-name-prefix"),
            (&["--detect-local-mode=BridgeInterface", prefix], "needs --pod-bridge-interface"),
            (
                &["--detect-local-mode=BridgeInterface", bridge, prefix],
                "--detect-local-mode=InterfaceNamePrefix",
            ),
            (&[bridge], "without --detect-local-mode=BridgeInterface"),
            (&["--detect-local-mode=NodeCIDR", prefix], "without --detect-local-mode=InterfaceNamePrefix"),
            (
                &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth*"],
                "alone: veth",
            ),
            (
                &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth+"],
                "alone: veth",
            ),
            (&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix="], "1 to 15 bytes"),
            (
                &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=a-much-too-long-name"],
                "1 to 15 bytes",
            ),
        ] {
            let error = parse(args).expect_err("should be refused");
            assert!(error.contains(remedy), "{args:?}: {error}");
        }
    }
}
