//! A Kubernetes cluster on one machine: the real control plane, nodes as network namespaces, pods as processes.
//!
//! ```text
//! portico-e2e up|demo|test ──▶ sandbox (namespaces of its own; when its PID 1 ends, all of it is gone)
//!                                ├─ fabric: a bridge that joins control plane, nodes, load balancer and outside host
//!                                ├─ control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//!                                ├─ node-N: node agent ──▶ pods (portico-operator, portico-nodeproxy, backends, redis …)
//!                                ├─ lb: portico-lb, the cloud of this machine
//!                                └─ outside: a client that knows no route into the cluster
//! ```
//!
//! Nothing of the machine's own network, firewall, mounts or sysctls is touched.

pub mod account;
pub mod agent;
pub mod args;
pub mod backend;
pub mod bench;
pub mod cloud;
pub mod cluster;
pub mod conformance;
pub mod controlplane;
pub mod demo;
pub mod enter;
pub mod fabric;
pub mod forward;
pub mod home;
pub mod images;
pub mod kube_proxy;
pub mod kubeconfig;
pub mod load_balancer;
pub mod pki;
mod pods;
pub mod portico;
pub mod probe;
pub mod process;
pub mod runtime;
pub mod sandbox;
pub mod scenario;
pub mod session;
pub mod tools;
pub mod up;
