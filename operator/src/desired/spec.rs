//! A Service of type LoadBalancer, parsed once at the edge into the load balancer it asks for.
//!
//! Owns: every field of `spec` that a load balancer depends on, and what is wrong with it.
//! Leaves to others: whether a provider can do it (its plan says), node ports (the `node_port` stage).
//! Invariant: all problems are found in one pass, so that a user fixes them in one edit.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use portico_provider::{
    Backends, Capabilities, ClusterUid, ExternalTrafficPolicy, GroupName, HealthCheck, IngressAddress,
    InvalidListener, InvalidOwner, IpFamily, Listener, LoadBalancer, NodeTarget, Owner, Port, Protocol,
    ServiceName, SessionAffinity, TargetKind, Targets,
};

use crate::cache::service;
use crate::cache::targets::{self, SliceState};
use crate::desired::admission::Admission;
use crate::desired::classes::rules::{ClassRules, Ruled};
use crate::desired::options::{self, Annotated, GroupRef};
use crate::desired::problem::{Problem, ProblemKind};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const AFFINITY_TIMEOUT_SECONDS: i32 = 10_800;
/// Refused endpoints that a condition names.
const ENDPOINTS_SHOWN: usize = 5;

/// Possible targets in the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backing<'a> {
    /// Nodes that may be targets.
    pub(crate) nodes: &'a [NodeTarget],
    /// The Service's EndpointSlices.
    pub(crate) slices: &'a [SliceState],
    /// Which of their addresses may be pod targets.
    pub(crate) admission: Admission<'a>,
}

impl Backing<'_> {
    /// Addresses that are not to be pod targets.
    pub(crate) fn refused(&self) -> BTreeSet<IpAddr> {
        self.admission.refused(self.slices.iter().flat_map(SliceState::addresses))
    }
}

/// Which groups a Service may share a load balancer with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GroupScope {
    /// Those of its own namespace: whoever may write Services there could as well take each other's.
    #[default]
    Namespace,
    /// Those of any: every namespace trusts every other with its listeners.
    Cluster,
}

/// The load balancer that a Service asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// The load balancer, or everything that is wrong.
    pub(crate) load_balancer: Result<Box<LoadBalancer>, Vec<Problem>>,
    /// Problems that stop nothing.
    pub(crate) warnings: Vec<Problem>,
}

/// The owner of a load balancer of this Service.
pub(crate) fn owner(service: &Service, cluster: &ClusterUid) -> Result<Owner, InvalidOwner> {
    let metadata = &service.metadata;
    Ok(Owner {
        cluster: cluster.clone(),
        service: metadata.uid.as_deref().unwrap_or_default().parse()?,
        name: ServiceName::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )?,
    })
}

/// Reads a Service, under the rules of its class.
pub(crate) fn parse(
    service: &Service,
    owner: Owner,
    capabilities: &Capabilities,
    class: &ClassRules,
    groups: GroupScope,
    backing: Backing<'_>,
) -> Asked {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let Ruled { annotations, spec } = class.apply(service, capabilities, &mut problems, &mut warnings);
    let mut annotated = options::read(&annotations, capabilities, &mut problems, &mut warnings);
    let group = annotated.group.take().and_then(|asked| group(asked, &owner, groups, &mut problems));
    let mut reader = SpecReader { spec: &spec, problems: &mut problems, warnings: &mut warnings };
    let load_balancer =
        reader.load_balancer(owner, annotated, capabilities, backing, service::published(service));
    let load_balancer = LoadBalancer { group, ..load_balancer };
    class.blame(service, &mut problems);
    let load_balancer = if problems.is_empty() { Ok(Box::new(load_balancer)) } else { Err(problems) };
    Asked { load_balancer, warnings }
}

/// Possible targets of this Service, even where other fields are wrong: a field that cannot be read counts as absent.
pub(crate) fn backends(
    service: &Service,
    owner: Owner,
    capabilities: &Capabilities,
    class: &ClassRules,
    backing: Backing<'_>,
) -> Backends {
    let (mut unsaid, mut untold) = (Vec::new(), Vec::new());
    let Ruled { annotations, spec } = class.apply(service, capabilities, &mut unsaid, &mut untold);
    let mut reader = SpecReader { spec: &spec, problems: &mut unsaid, warnings: &mut untold };
    let listeners = reader.listeners();
    let external_traffic_policy = reader.external_traffic_policy();
    Backends {
        owner,
        nodes: targets::nodes(backing.nodes, backing.slices, external_traffic_policy),
        pods: targets::pods(backing.slices, &listeners, &backing.refused()),
        listeners,
        ip_families: reader.ip_families(),
        external_traffic_policy,
        options: options::of_the_provider(&annotations, capabilities),
    }
}

/// Reads `spec` and keeps every problem; after a problem it continues with a harmless value.
struct SpecReader<'a> {
    spec: &'a ServiceSpec,
    problems: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<Problem>,
}

impl SpecReader<'_> {
    fn load_balancer(
        &mut self,
        owner: Owner,
        annotated: Annotated,
        capabilities: &Capabilities,
        backing: Backing<'_>,
        published: BTreeSet<IngressAddress>,
    ) -> LoadBalancer {
        let Annotated {
            addresses,
            proxy_protocol,
            scheme,
            target_kind,
            replacement,
            group: _,
            source_ranges,
            options,
        } = annotated;
        let listeners = self.listeners();
        let external_traffic_policy = self.external_traffic_policy();
        let chosen = target_kind.or_else(|| capabilities.chosen_targets(&options));
        let kind = self.target_kind(chosen, capabilities);
        let targets = match kind {
            TargetKind::Node => {
                Targets::Nodes(targets::nodes(backing.nodes, backing.slices, external_traffic_policy))
            }
            TargetKind::Pod => {
                let refused = backing.refused();
                self.warnings.extend(foreign_endpoints(&refused));
                Targets::Pods(targets::pods(backing.slices, &listeners, &refused))
            }
        };
        LoadBalancer {
            owner,
            health_check: self.health_check(&targets, external_traffic_policy, &listeners),
            targets,
            listeners,
            source_ranges: self.source_ranges(source_ranges),
            session_affinity: self.session_affinity(),
            external_traffic_policy,
            proxy_protocol,
            ip_families: self.ip_families(),
            requested_addresses: self.requested_addresses(addresses),
            scheme,
            replacement,
            group: None,
            options,
            published,
        }
    }

    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(ProblemKind::InvalidField, field, message));
    }

    fn listeners(&mut self) -> BTreeSet<Listener> {
        let ports = self.spec.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            self.refuse("spec.ports", "is empty; a load balancer listens on at least one port");
        }
        let mut listeners: BTreeSet<Listener> = BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            match listener(port) {
                Ok(new) if listeners.iter().any(|old| old.key() == new.key()) => {
                    self.refuse(format!("spec.ports[{index}]"), format!("{} is there twice", new.key()));
                }
                Ok(new) => {
                    listeners.insert(new);
                }
                Err(error) => self.refuse(format!("spec.ports[{index}]"), error.to_string()),
            }
        }
        listeners
    }

    fn external_traffic_policy(&mut self) -> ExternalTrafficPolicy {
        match self.spec.external_traffic_policy.as_deref() {
            None | Some("" | "Cluster") => ExternalTrafficPolicy::Cluster,
            Some("Local") => ExternalTrafficPolicy::Local,
            Some(other) => {
                self.refuse(
                    "spec.externalTrafficPolicy",
                    format!("is {other:?}, but must be Cluster or Local"),
                );
                ExternalTrafficPolicy::Cluster
            }
        }
    }

    fn target_kind(&mut self, asked: Option<TargetKind>, capabilities: &Capabilities) -> TargetKind {
        let kinds = capabilities.target_kinds;
        let pods = capabilities.pods_in_place_of_node_ports
            && service::declined_node_ports(self.spec).next().is_some();
        let preferred =
            if pods { TargetKind::Pod } else { kinds.first().copied().unwrap_or(TargetKind::Node) };
        match asked {
            Some(kind) if !kinds.contains(&kind) => {
                let field = "annotation portico.dev/target-kind";
                let message = "this provider does not reach such targets; remove the annotation";
                self.problems.push(Problem::new(ProblemKind::Unsupported, field, message));
                preferred
            }
            asked => asked.unwrap_or(preferred),
        }
    }

    fn health_check(
        &mut self,
        targets: &Targets,
        policy: ExternalTrafficPolicy,
        listeners: &BTreeSet<Listener>,
    ) -> Option<HealthCheck> {
        let any_tcp = listeners.iter().any(|listener| listener.protocol == Protocol::Tcp);
        match (targets, policy) {
            // Nothing listens on TCP there; what the endpoints say decides.
            (Targets::Pods(_), _) if !any_tcp => None,
            (Targets::Pods(_), _) => Some(HealthCheck::tcp_traffic()),
            (Targets::Nodes(_), ExternalTrafficPolicy::Cluster) => HealthCheck::node_proxy(),
            (Targets::Nodes(_), ExternalTrafficPolicy::Local) => self.local_health_check(),
        }
    }

    fn local_health_check(&mut self) -> Option<HealthCheck> {
        let port = self.spec.health_check_node_port.unwrap_or_default();
        if let Ok(port) = Port::try_from(port) {
            return Some(HealthCheck::local_endpoints(port));
        }
        let message =
            format!("is {port}, but externalTrafficPolicy: Local needs a port; the API server gives one");
        self.refuse("spec.healthCheckNodePort", message);
        None
    }

    fn source_ranges(&mut self, annotated: BTreeSet<IpNet>) -> BTreeSet<IpNet> {
        let ranges = self.spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        if ranges.is_empty() {
            return annotated;
        }
        let parsed = ranges.iter().filter_map(|text| {
            let range = options::parse_range(text.trim());
            if range.is_none() {
                let message = format!("{text:?} is no CIDR such as 192.0.2.0/24");
                self.problems.push(Problem::new(
                    ProblemKind::InvalidField,
                    "spec.loadBalancerSourceRanges",
                    message,
                ));
            }
            range
        });
        parsed.collect()
    }

    fn session_affinity(&mut self) -> SessionAffinity {
        match self.spec.session_affinity.as_deref() {
            None | Some("" | "None") => return SessionAffinity::None,
            Some("ClientIP") => {}
            Some(other) => {
                self.refuse("spec.sessionAffinity", format!("is {other:?}, but must be None or ClientIP"));
                return SessionAffinity::None;
            }
        }
        let config = self.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_TIMEOUT_SECONDS);
        if let Ok(seconds @ 1..=86_400) = u64::try_from(seconds) {
            return SessionAffinity::ClientIp { timeout: Duration::from_secs(seconds) };
        }
        let message = format!("is {seconds}, but must be 1 to 86400");
        self.refuse("spec.sessionAffinityConfig.clientIP.timeoutSeconds", message);
        SessionAffinity::None
    }

    fn ip_families(&mut self) -> Vec<IpFamily> {
        let mut families = Vec::new();
        for family in self.spec.ip_families.iter().flatten() {
            match family.as_str() {
                "IPv4" => families.push(IpFamily::IPv4),
                "IPv6" => families.push(IpFamily::IPv6),
                other => self.refuse("spec.ipFamilies", format!("{other:?} is neither IPv4 nor IPv6")),
            }
        }
        if families.is_empty() {
            // The API server fills it in; before that, the ClusterIP decides.
            let address = self.spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
            families.push(address.map_or(IpFamily::IPv4, IpFamily::of));
        }
        families
    }

    fn requested_addresses(&mut self, annotated: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let field = "spec.loadBalancerIP";
        let legacy = self.spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
        let legacy: Option<IpAddr> = legacy.and_then(|text| {
            text.parse().map_err(|_not_an_address| self.refuse(field, format!("{text:?} is no address"))).ok()
        });
        if let Some(address) = legacy.filter(|address| !annotated.is_empty() && !annotated.contains(address))
        {
            self.refuse(
                field,
                format!("{address} contradicts annotation portico.dev/addresses; keep one of them"),
            );
        }
        let asked = if annotated.is_empty() { legacy.into_iter().collect() } else { annotated };
        let families: BTreeSet<IpFamily> = asked.iter().copied().map(IpFamily::of).collect();
        if families.len() < asked.len() {
            let message = "more than one address of a family; a load balancer has at most one of each";
            self.refuse("annotation portico.dev/addresses", message);
        }
        asked
    }
}

/// The warning about endpoints that are no pods of the namespace.
fn foreign_endpoints(refused: &BTreeSet<IpAddr>) -> Option<Problem> {
    let shown: Vec<String> = refused.iter().take(ENDPOINTS_SHOWN).map(ToString::to_string).collect();
    let more = match refused.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "{}{more}: no pod of this namespace has that address in status.podIPs, so it gets no traffic; remove it from the \
         EndpointSlice, or have an administrator start the operator with --allow-endpoints-without-pods",
        shown.join(", ")
    );
    let problem = || Problem::new(ProblemKind::EndpointsRefused, "EndpointSlices", message);
    (!refused.is_empty()).then(problem)
}

/// The group by its full name, if this Service may be in it.
fn group(
    asked: GroupRef,
    owner: &Owner,
    scope: GroupScope,
    problems: &mut Vec<Problem>,
) -> Option<GroupName> {
    let own = owner.name.namespace();
    let GroupRef { namespace, name } = asked;
    let namespace = namespace.unwrap_or_else(|| own.to_owned());
    if namespace != own && scope == GroupScope::Namespace {
        let message = format!(
            "{namespace}/{name} is a group of another namespace: use one of {own}, or have an administrator start the \
             operator with --groups-across-namespaces"
        );
        problems.push(Problem::new(
            ProblemKind::InvalidAnnotation,
            format!("annotation {}", options::GROUP.key),
            message,
        ));
        return None;
    }
    GroupName::new(&namespace, &name)
}

fn listener(port: &ServicePort) -> Result<Listener, InvalidListener> {
    let node_port = port.node_port.filter(|node_port| *node_port != 0);
    Ok(Listener {
        protocol: port.protocol.as_deref().unwrap_or("TCP").parse()?,
        port: port.port.try_into()?,
        name: port.name.clone().unwrap_or_default(),
        node_port: node_port.map(Port::try_from).transpose()?,
    })
}

#[cfg(test)]
mod tests;
