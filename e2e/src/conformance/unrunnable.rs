//! Tests that are not run on this machine, whatever the proxy, and why. Owns the list; pure.

/// A part of tests' names, as a regular expression, and why such tests cannot run here.
pub(super) const UNRUNNABLE: &[(&str, &str)] = &[
    (r"\[Disruptive\]", "restarts components of a node over SSH, which the nodes here do not have"),
    (r"[Ss][Cc][Tt][Pp]", "this kernel has no SCTP sockets"),
    (r"\[Feature:Networking-(IPv4|IPv6|DNS)\]", "needs the internet"),
    (
        r"\[Feature:(Networking-Performance|PerformanceDNS|SystemVerification)\]",
        "a load test, with programs of its own",
    ),
    (r"\[Feature:KubeProxyNFAcct\]", "asks for kube-proxy's iptables mode and its metrics"),
    (r"DNS configMap", "changes the configuration of plugins that this CoreDNS is built without"),
    (r"evicted pods", "the node agent in the kubelet's place does not evict pods"),
];

/// One expression that matches all of them.
pub(super) fn pattern() -> String {
    UNRUNNABLE.iter().map(|(pattern, _)| *pattern).collect::<Vec<_>>().join("|")
}
