//! The provider against its contract, against crashes, and its plans word by word.
//!
//! Owns: what all of these share. Leaves to others: the emulator (`emulator`), faults (`faulty`).
//! Invariant: a test that needs the emulator and cannot have it fails, unless `PORTICO_SKIP` names emulators.

mod adoption;
mod calls;
mod contract;
mod controller;
mod crash;
mod emulator;
mod faulty;
mod foreign;
mod group_calls;
mod groups;
mod ipv6;
mod listeners;
mod lost;
mod mistakes;
mod plans;
mod protected;
mod quotas;
mod refused;
mod reports;
mod security_groups;
mod shared_calls;
mod simulated;
mod targets;
mod transitions;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{
    HealthCheck, Listener, LoadBalancer, NodeName, NodeTarget, Options, Owner, PodTarget, Port, Protocol,
    Targets,
};

fn mk_port(number: u16) -> Port {
    Port::try_from(number).unwrap()
}

fn mk_listener(protocol: Protocol, port: u16) -> Listener {
    Listener {
        protocol,
        port: mk_port(port),
        name: format!("p{port}"),
        node_port: Some(mk_port(30_000 + port)),
    }
}

fn mk_nodes(instances: &[String]) -> Targets {
    let node = |id: &String| NodeTarget {
        name: NodeName(format!("node-{id}")),
        addresses: BTreeSet::new(),
        external_addresses: BTreeSet::new(),
        provider_id: Some(format!("aws:///us-east-1a/{id}")),
        zone: Some("us-east-1a".to_owned()),
        has_ready_endpoints: true,
    };
    Targets::Nodes(instances.iter().map(node).collect())
}

fn mk_pods(addresses: &[&str], listeners: &BTreeSet<Listener>) -> Targets {
    let ports: BTreeMap<_, _> = listeners.iter().map(|listener| (listener.key(), mk_port(8080))).collect();
    let pod = |address: &&str| PodTarget {
        address: address.parse().unwrap(),
        ports: ports.clone(),
        node: None,
        zone: None,
    };
    Targets::Pods(addresses.iter().map(pod).collect())
}

fn mk_options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mk_load_balancer(owner: Owner, instances: &[String]) -> LoadBalancer {
    LoadBalancer {
        health_check: HealthCheck::node_proxy(),
        ..LoadBalancer::plain(owner, [mk_listener(Protocol::Tcp, 80)].into(), mk_nodes(instances))
    }
}
