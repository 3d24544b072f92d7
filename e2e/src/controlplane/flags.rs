//! The command lines of the control plane's components. Pure: what is given is in the arguments.

use std::path::Path;

use super::{Credentials, Ranges};
use crate::{
    fabric::{CONTROL_PLANE, Families, POD_CIDR, POD_CIDR_V6, SERVICE_CIDR, SERVICE_CIDR_V6},
    pki::Pair,
};

/// The name by which an aggregated API server knows the API server.
pub(super) const FRONT_PROXY_NAME: &str = "front-proxy-client";

/// etcd's client URL.
pub(super) const ETCD: &str = "https://127.0.0.1:2379";

/// etcd's, see `e2e/controlplane/etcd.go`. A cluster here is worth less than the time that fsync takes.
pub(super) fn etcd(credentials: &Credentials, data: &Path) -> Vec<String> {
    let Pair { cert, key } = &credentials.etcd;
    vec![
        flag("data-dir", data.display()),
        flag("listen-client-url", ETCD),
        flag("cert-file", cert.display()),
        flag("key-file", key.display()),
        flag("trusted-ca-file", credentials.ca.cert.display()),
        "--unsafe-no-fsync".to_owned(),
    ]
}

/// Flags of kube-apiserver.
pub(super) fn apiserver(credentials: &Credentials, given: Ranges) -> Vec<String> {
    let Ranges { families, node_ports } = given;
    let mut args = vec![
        flag("advertise-address", CONTROL_PLANE),
        flag("bind-address", "0.0.0.0"),
        flag("secure-port", 6443),
        flag("service-cluster-ip-range", ranges(families, SERVICE_CIDR, SERVICE_CIDR_V6)),
        flag("service-node-port-range", node_ports),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("allow-privileged", true),
        flag("kubelet-preferred-address-types", "InternalIP"),
        // No node proxy runs where the API server does: webhooks and aggregated APIs are reached by their endpoints.
        flag("enable-aggregator-routing", true),
        // Tests and benches write thousands of objects from one client; fairness would queue them.
        flag("max-requests-inflight", 4000),
        flag("max-mutating-requests-inflight", 2000),
    ];
    args.extend(apiserver_files(credentials));
    args
}

fn apiserver_files(credentials: &Credentials) -> Vec<String> {
    let Credentials {
        ca,
        front_proxy_ca,
        front_proxy,
        etcd: _,
        apiserver,
        etcd_client,
        kubelet_client,
        admin: _,
        controller_manager: _,
        scheduler: _,
        service_account_key,
    } = credentials;
    vec![
        flag("etcd-servers", ETCD),
        flag("etcd-cafile", ca.cert.display()),
        flag("etcd-certfile", etcd_client.cert.display()),
        flag("etcd-keyfile", etcd_client.key.display()),
        flag("tls-cert-file", apiserver.cert.display()),
        flag("tls-private-key-file", apiserver.key.display()),
        flag("client-ca-file", ca.cert.display()),
        flag("kubelet-certificate-authority", ca.cert.display()),
        flag("kubelet-client-certificate", kubelet_client.cert.display()),
        flag("kubelet-client-key", kubelet_client.key.display()),
        flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        flag("service-account-key-file", service_account_key.cert.display()),
        flag("service-account-signing-key-file", service_account_key.key.display()),
        flag("requestheader-client-ca-file", front_proxy_ca.cert.display()),
        flag("requestheader-allowed-names", FRONT_PROXY_NAME),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("proxy-client-cert-file", front_proxy.cert.display()),
        flag("proxy-client-key-file", front_proxy.key.display()),
    ]
}

/// kube-controller-manager's, with every controller that runs by default.
pub(super) fn controller_manager(
    credentials: &Credentials,
    kubeconfig: &Path,
    families: Families,
) -> Vec<String> {
    let Credentials { ca, service_account_key, .. } = credentials;
    let mut args = vec![
        flag("kubeconfig", kubeconfig.display()),
        flag("authentication-kubeconfig", kubeconfig.display()),
        flag("authorization-kubeconfig", kubeconfig.display()),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", false),
        flag("use-service-account-credentials", true),
        flag("service-account-private-key-file", service_account_key.key.display()),
        flag("root-ca-file", ca.cert.display()),
        flag("cluster-signing-cert-file", ca.cert.display()),
        flag("cluster-signing-key-file", ca.key.display()),
        flag("allocate-node-cidrs", true),
        flag("cluster-cidr", ranges(families, POD_CIDR, POD_CIDR_V6)),
        flag("service-cluster-ip-range", ranges(families, SERVICE_CIDR, SERVICE_CIDR_V6)),
        // Nodes renew their leases every 10 s; one that stopped is found after two misses and some.
        flag("node-monitor-period", "2s"),
        flag("node-monitor-grace-period", "25s"),
        // Thousands of Services are made in one go; the default of 20 requests a second would be the bench's result.
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 1000),
    ];
    args.extend(match families {
        Families::V4 => vec![flag("node-cidr-mask-size", 24)],
        Families::Both => vec![flag("node-cidr-mask-size-ipv4", 24), flag("node-cidr-mask-size-ipv6", 64)],
    });
    args
}

/// The ranges of a cluster's families, the one that is preferred first.
fn ranges(families: Families, v4: &str, v6: &str) -> String {
    match families {
        Families::V4 => v4.to_owned(),
        Families::Both => format!("{v4},{v6}"),
    }
}

/// Flags of kube-scheduler.
pub(super) fn scheduler(kubeconfig: &Path) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig.display()),
        flag("authentication-kubeconfig", kubeconfig.display()),
        flag("authorization-kubeconfig", kubeconfig.display()),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", false),
    ]
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
