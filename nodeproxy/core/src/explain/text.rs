//! The text of an explanation.

use std::fmt;

use super::{Element, Endpoint, Entrance, Explanation, HealthCheck, Port};
use crate::{
    input::{Service, TrafficPolicy},
    select::{Lists, Standing},
};

/// Reasons why traffic stays on this node, or is refused or dropped here.
pub(super) fn notes(service: &Service, external: bool, lists: &Lists) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |text: &str| notes.push(text.to_owned());
    let (internal_local, external_local) = (
        service.internal_policy == TrafficPolicy::Local,
        external && service.external_policy == TrafficPolicy::Local,
    );
    if internal_local {
        note("internalTrafficPolicy: Local: clients of a ClusterIP get endpoints on this node only");
    }
    if external_local {
        note(
            "externalTrafficPolicy: Local: clients outside get endpoints on this node only and are seen as themselves; pods \
             of this node and the node itself use all",
        );
    }
    if (internal_local || external_local) && lists.local.is_empty() && lists.any {
        note("no endpoint on this node serves, but others do: clients under policy Local hear nothing here");
    }
    if !lists.any {
        note("no endpoint is ready and none that terminates still serves: clients are refused");
    }
    notes
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            service,
            cluster_ips,
            internal_policy,
            external_policy,
            affinity_seconds,
            source_ranges,
            health_check,
            ports,
            elements,
            chains,
            problems,
            kernel,
        } = self;
        writeln!(f, "Service {service}, on node {node}")?;
        writeln!(f, "ClusterIPs {}", join(cluster_ips))?;
        writeln!(f, "policies   internal {internal_policy}, external {external_policy}")?;
        if let Some(seconds) = affinity_seconds {
            writeln!(f, "affinity   ClientIP, {seconds} s")?;
        }
        if !source_ranges.is_empty() {
            writeln!(f, "firewall   spec.loadBalancerSourceRanges: {}", join(source_ranges))?;
        }
        if let Some(check) = health_check {
            writeln!(f, "health     {check}")?;
        }
        for problem in problems {
            writeln!(f, "PROBLEM    {problem}")?;
        }
        for port in ports {
            write!(f, "{port}")?;
        }
        writeln!(f, "chains     {}", if chains.is_empty() { "none".to_owned() } else { chains.join(", ") })?;
        writeln!(f, "elements   {}", elements.len())?;
        for Element { map, key, value } in elements {
            writeln!(f, "  {map} {{ {key} }}: {value}")?;
        }
        kernel.as_ref().map_or(Ok(()), |check| write!(f, "{check}"))
    }
}

fn join<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, protocol, port, node_port, family, frontends, endpoints, notes } = self;
        let named = if name.is_empty() { String::new() } else { format!(" ({name})") };
        let node_port = node_port.map(|number| format!(", node port {number}")).unwrap_or_default();
        writeln!(f, "port       {port}/{protocol}{named}{node_port}, family {family}")?;
        for Entrance { frontend, by, held_by } in frontends {
            let lost = held_by.as_ref().map(|holder| format!("; NOT SERVED, for Service {holder} has it"));
            writeln!(f, "  at {frontend} ({by}){}", lost.unwrap_or_default())?;
        }
        if endpoints.is_empty() {
            writeln!(f, "  no endpoints")?;
        }
        for endpoint in endpoints {
            writeln!(f, "  to {endpoint}")?;
        }
        for note in notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, node, here, cluster, local } = self;
        let node = node.as_deref().unwrap_or("unknown");
        let place = if *here { "this node".to_owned() } else { format!("node {node}") };
        write!(f, "{backend} on {place}: ")?;
        let of = |policy: &str, standing: &Option<Standing>| {
            standing.map(|standing| format!("policy {policy}: {standing}"))
        };
        let both: Vec<_> = of("Cluster", cluster).into_iter().chain(of("Local", local)).collect();
        f.write_str(&both.join("; "))
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, local_endpoints } = self;
        let answer = |count| if count == 0 { "503, so load balancers stay away" } else { "200" };
        write!(f, "node port {port} answers")?;
        for (index, (family, count)) in local_endpoints.iter().enumerate() {
            let separator = if index > 0 { ";" } else { "" };
            write!(f, "{separator} by {family} {}: {count} ready endpoints on this node", answer(*count))?;
        }
        Ok(())
    }
}
