//! The text of a trace.
//!
//! Owns every sentence of it. Invariant: each refusal and each drop names the field that leads to it.

use std::fmt;

use super::{Decision, End, Last, Met, Reason, ServicePort, Standing, Trace, TracedEndpoint};
use crate::{
    claims::ClaimKind,
    input::TrafficPolicy,
    oracle::{ClientKind, Masquerade, Source},
};

/// Reason for the policy that applies to this client.
pub(super) fn policy_reason(met: &Met<'_>, client: ClientKind) -> &'static str {
    match (met.kind, met.service.external_policy, client) {
        (ClaimKind::ClusterIp, _, _) => match met.policy {
            TrafficPolicy::Cluster => "internalTrafficPolicy: Cluster",
            TrafficPolicy::Local => "internalTrafficPolicy: Local",
        },
        (_, TrafficPolicy::Cluster, _) => "externalTrafficPolicy: Cluster",
        (_, TrafficPolicy::Local, ClientKind::Pod) => {
            "externalTrafficPolicy: Local is for clients outside; a pod of this node uses all endpoints"
        }
        (_, TrafficPolicy::Local, ClientKind::FarPod) if met.policy == TrafficPolicy::Cluster => {
            "externalTrafficPolicy: Local, and no endpoint here; a pod of another node is then not dropped, but uses all endpoints"
        }
        (_, TrafficPolicy::Local, ClientKind::Node) => {
            "externalTrafficPolicy: Local is for clients outside; the node itself uses all endpoints"
        }
        (_, TrafficPolicy::Local, ClientKind::FarPod | ClientKind::Outside) => "externalTrafficPolicy: Local",
    }
}

/// Reason for the outcome.
pub(super) fn because(decision: &Decision<'_>) -> String {
    match &decision.reason {
        Reason::Served => match decision.chances() {
            1 if decision.keeps => "session affinity: this client keeps its last endpoint".to_owned(),
            1 => "the Service has one endpoint for this client".to_owned(),
            count => format!("the Service has {count} endpoints for this client, each with the same chance"),
        },
        Reason::SourceRange => "the source is in none of spec.loadBalancerSourceRanges".to_owned(),
        Reason::NoEndpoints => "no endpoint of the Service is ready, and none that terminates still serves".to_owned(),
        Reason::NoLocalEndpoints => {
            "the policy keeps traffic on this node, which has no endpoint that serves, while other nodes have; a client that \
             tries again may reach one of those"
                .to_owned()
        }
        Reason::NoSuchPort(service) => {
            format!("the address is a ClusterIP of Service {service}, which has no such port and protocol")
        }
        Reason::Unallocated(range) => {
            format!("the address is in the range {range} of ClusterIPs, and no Service has it")
        }
        Reason::Elsewhere => {
            "no Service that this proxy serves has this address and port; routing and other rules decide".to_owned()
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            from,
            interface,
            client,
            to,
            service,
            result,
            reason: _,
            because,
            endpoints,
            path,
            kernel,
        } = self;
        match (interface, client) {
            // Pods of other nodes arrive on the same interfaces as other clients.
            (Some(name), ClientKind::Outside) => {
                write!(f, "{from} on interface {name} (neither a pod of this node nor this node)")?;
            }
            (Some(name), _) => write!(f, "{from} on interface {name} ({client})")?,
            (None, _) => write!(f, "{from} ({client})")?,
        }
        writeln!(f, " to {to}, on node {node}")?;
        if let Some(service) = service {
            write!(f, "{service}")?;
        }
        writeln!(f, "result     {result}: {because}")?;
        let (used, unused): (Vec<_>, Vec<_>) = endpoints.iter().partition(|target| target.sees.is_some());
        for target in &used {
            writeln!(f, "  {target}")?;
        }
        for target in &unused {
            writeln!(f, "  {target}")?;
        }
        writeln!(f, "tables")?;
        for step in path {
            writeln!(f, "  {step}")?;
        }
        kernel.as_ref().map_or(Ok(()), |check| write!(f, "{check}"))
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            name,
            port,
            by,
            waiting,
            policy: _,
            policy_reason,
            source_ranges,
            affinity_seconds,
            last,
            masquerade,
        } = self;
        let named = if name.is_empty() { String::new() } else { format!(" ({name})") };
        writeln!(f, "Service    {service}, port {port}{named}, by its {by}")?;
        for waiting in waiting {
            writeln!(
                f,
                "           Service {waiting} claims the same address and port, and does not get it"
            )?;
        }
        writeln!(f, "policy     {policy_reason}")?;
        if !source_ranges.is_empty() {
            let ranges: Vec<_> = source_ranges.iter().map(ToString::to_string).collect();
            writeln!(f, "firewall   spec.loadBalancerSourceRanges: {}", ranges.join(", "))?;
        }
        if let Some(seconds) = affinity_seconds {
            writeln!(
                f,
                "affinity   a client that was here less than {seconds} s ago, at whichever address of the Service, keeps its \
                 endpoint as long as that is one of those below with a chance"
            )?;
        }
        match last {
            Some(Last { backend, kept: true }) => {
                writeln!(f, "affinity   the client's entry names {backend}, which it keeps")?;
            }
            Some(Last { backend, kept: false }) => writeln!(
                f,
                "affinity   the client's entry names {backend}, which it may not use here: it is balanced again"
            )?,
            None => {}
        }
        masquerade
            .map_or(Ok(()), |masquerade| writeln!(f, "source     replaced by this node's: {masquerade}"))
    }
}

impl fmt::Display for TracedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, node, here, standing, probability, sees, source_addresses } = self;
        let place = match (here, node) {
            (true, _) => "on this node".to_owned(),
            (false, Some(node)) => format!("on node {node}"),
            (false, None) => "on no known node".to_owned(),
        };
        let addresses: Vec<_> = source_addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" or ");
        let backend = backend.to_string(); // padding is for strings
        write!(f, "{:>6.2} %  {backend:<22} {place}", probability * 100.0)?;
        match sees {
            Some(Source::Preserved) => write!(f, ", sees {addresses}")?,
            Some(Source::Masqueraded) if addresses.is_empty() => f.write_str(", sees this node")?,
            Some(Source::Masqueraded) => write!(f, ", sees this node ({addresses})")?,
            None => {}
        }
        if *standing == Standing::Ready && sees.is_some() { Ok(()) } else { write!(f, "; {standing}") }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::NotOurs => "not ours",
        })
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "a pod of this node",
            Self::FarPod => "a pod, of another node as far as is known",
            Self::Node => "this node itself",
            Self::Outside => "neither a pod nor this node",
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Fallback => "terminating, but still serving, and no endpoint is ready",
            Self::NotReady => "not ready",
            Self::Terminating => "terminating, and others are ready",
            Self::OtherNode => "not on this node",
            Self::HintedToOtherNode => "hinted to other nodes",
            Self::HintedToOtherZone => "hinted to other zones",
        })
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxied => "--dataplane=userspace, whose connections to endpoints are its own",
            Self::All => "--masquerade-all",
            Self::NoPod => "the client of a ClusterIP is no pod",
            Self::NoPodHere => "the client of a ClusterIP is no pod of this node",
            Self::ClusterPolicy => "externalTrafficPolicy: Cluster, so the endpoint may be on another node",
            Self::OwnNode => "the node's own connection",
            Self::FarPod => "a pod of another node must be answered through this one",
        })
    }
}
