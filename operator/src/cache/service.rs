//! A Service as the operator reads it: its key, its type in nesting order, its class, its status.
//!
//! Owns: [`ServiceKey`], [`ServiceType`], [`ClassRule`], and reading a Service's metadata and status.
//! Leaves to others: `spec` in detail (`desired`), annotations (`options`).
//! Invariant: every question has an answer for every Service the API server may send; nothing here fails.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry};
use portico_provider::IngressAddress;

/// Ours alone: upstream's `service.kubernetes.io/load-balancer-cleanup` could be taken off by a cloud controller
/// manager that runs beside us.
pub(crate) const FINALIZER: &str = "portico.dev/load-balancer";

/// The class of the operator whose finalizer it is, written in the same patch. Several Portico operators may serve
/// one cluster, a class each; without this the first to see a Service deleted would let it go for all of them.
pub(crate) const HELD_BY: &str = "portico.dev/held-by";

/// The field manager of a Service's status, the Lease's `spec`, and Events. The finalizer's manager has the class in its name, too.
pub(crate) const FIELD_MANAGER: &str = "portico-operator";

/// Begins the field managers of operators, each with its class.
const MANAGER: &str = "portico-operator/";

/// The class of a provider that makes nothing. Operators of before put their finalizer on its Services all the same: nothing is behind it.
pub(crate) const MAKES_NOTHING: &str = "portico.dev/bare-metal";

/// The condition that a Service waits for another operator or controller to release it. It has a field manager of its own: the
/// rest of the status is the other's.
pub(crate) const RELEASED: &str = "portico.dev/Released";

/// `namespace/name` of a Service: what queues, maps and logs know it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceKey {
    /// `metadata.namespace`.
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
}

impl ServiceKey {
    /// The key of an object; objects from the API server always have both parts.
    pub(crate) fn of(service: &Service) -> Self {
        Self {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

/// `spec.type`, with the headless kind of ClusterIP told apart. The last three nest, each in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServiceType {
    /// A CNAME; there is nothing to forward.
    ExternalName,
    /// `clusterIP: None`; clients get the pods' addresses.
    Headless,
    /// A virtual IP inside the cluster.
    ClusterIp,
    /// And a port on every node.
    NodePort,
    /// And a load balancer before the nodes.
    LoadBalancer,
}

impl ServiceType {
    /// Absent means ClusterIP, as the API server defaults it. A type we do not know is left alone, as ClusterIP is.
    pub(crate) fn of(service: &Service) -> Self {
        let Some(spec) = &service.spec else { return Self::ClusterIp };
        match spec.type_.as_deref() {
            Some("ExternalName") => Self::ExternalName,
            Some("NodePort") => Self::NodePort,
            Some("LoadBalancer") => Self::LoadBalancer,
            _ if spec.cluster_ip.as_deref() == Some("None") => Self::Headless,
            _ => Self::ClusterIp,
        }
    }
}

/// Ports without a node port of a LoadBalancer Service whose user declined them (`allocateLoadBalancerNodePorts: false`).
pub(crate) fn declined_node_ports(spec: &ServiceSpec) -> impl Iterator<Item = &ServicePort> {
    let declined = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.allocate_load_balancer_node_ports == Some(false);
    let ports = spec.ports.iter().flatten().filter(move |_port| declined);
    ports.filter(|port| port.node_port.unwrap_or_default() == 0)
}

/// Which LoadBalancer Services are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassRule {
    /// `spec.loadBalancerClass` that is ours, also where a Service names none.
    pub(crate) class: String,
    /// Others that are ours, too.
    pub(crate) others: BTreeSet<String>,
    /// Whether a Service that names no class is ours, too.
    pub(crate) default: bool,
}

impl ClassRule {
    /// Of one class.
    #[cfg(test)]
    pub(crate) fn one(class: &str, default: bool) -> Self {
        Self { class: class.to_owned(), others: BTreeSet::new(), default }
    }

    /// Every class that is ours.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.class).chain(&self.others).map(String::as_str)
    }

    /// The one that a Service of ours has: what our finalizer on it is held by, and whose defaults it gets. So each
    /// class can be handed over to an operator of its own.
    pub(crate) fn class_of(&self, service: &Service) -> &str {
        let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        self.all().find(|own| Some(*own) == asked).unwrap_or(&self.class)
    }

    fn serves(&self, class: &str) -> bool {
        self.all().any(|own| own == class)
    }

    /// Whether a Service of type LoadBalancer asks for us.
    pub(crate) fn owns(&self, service: &Service) -> bool {
        ServiceType::of(service) == ServiceType::LoadBalancer && self.is_of_class(service)
    }

    /// Whether it is one of ours by its class, whatever its type; a Service of another type has none.
    fn is_of_class(&self, service: &Service) -> bool {
        let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        asked.map_or_else(|| self.default || self.keeps(service), |asked| self.serves(asked))
    }

    /// Whether a Service of no class has something of ours already: it stays ours when this operator ceases to be the default.
    fn keeps(&self, service: &Service) -> bool {
        has_finalizer(service) && holder(service).is_some_and(|holder| self.serves(holder))
    }

    /// Whether there is, or may be, anything of ours behind it.
    pub(crate) fn claims(&self, service: &Service) -> bool {
        self.holds(service) || self.wants(service)
    }

    /// Whether our finalizer holds it: by the API server's record of who put it there, which no annotation changes. Without
    /// a record (an older version's) the annotation counts, unless it contradicts the class. A Service of our class without
    /// the annotation was given up by its holder.
    pub(crate) fn holds(&self, service: &Service) -> bool {
        let other_class = ServiceType::of(service) == ServiceType::LoadBalancer && !self.is_of_class(service);
        if is_held_for_nothing(service) && self.owns(service) {
            return true;
        }
        has_finalizer(service)
            && match (recorded_holder(service), said_holder(service)) {
                (Some(recorded), Some(_)) => self.serves(recorded),
                (Some(recorded), None) => self.serves(recorded) || self.is_of_class(service),
                (None, Some(said)) => self.serves(said) && !other_class,
                (None, None) => self.is_of_class(service),
            }
    }

    /// Whether finalizer, annotation and record all say that it is ours.
    pub(crate) fn marks(&self, service: &Service) -> bool {
        let said = said_holder(service).is_some_and(|said| self.serves(said));
        self.holds(service) && said && !self.takes_over(service)
    }

    /// Whether the record says that the finalizer is another's.
    pub(crate) fn takes_over(&self, service: &Service) -> bool {
        recorded_holder(service).is_some_and(|recorded| !self.serves(recorded))
    }

    /// The class of another Portico operator whose finalizer holds it: that one has to let go first.
    pub(crate) fn held_by_another<'a>(&self, service: &'a Service) -> Option<&'a str> {
        if !has_finalizer(service) || self.holds(service) {
            return None;
        }
        holder(service)
    }

    /// Whether there shall be something of ours behind it.
    pub(crate) fn wants(&self, service: &Service) -> bool {
        self.owns(service) && !is_deleting(service)
    }
}

/// Finalizers of Kubernetes' own, which are no controller's.
const GENERIC_FINALIZERS: [&str; 2] = ["foregroundDeletion", "orphan"];

/// The class whose operator's finalizer it is: by the record, or else by the annotation.
fn holder(service: &Service) -> Option<&str> {
    recorded_holder(service).or(said_holder(service))
}

/// Whether the finalizer was put on it by an operator that makes nothing.
pub(crate) fn is_held_for_nothing(service: &Service) -> bool {
    has_finalizer(service) && holder(service) == Some(MAKES_NOTHING)
}

/// A sign that another controller serves a Service that is ours only since it names no class.
pub(crate) fn served_by_another(service: &Service) -> Option<String> {
    let classless = service.spec.as_ref().is_none_or(|spec| spec.load_balancer_class.is_none());
    if !classless || has_finalizer(service) || !is_unknown_to_us(service) {
        return None;
    }
    let others = service.metadata.finalizers.iter().flatten();
    let finalizer = others.into_iter().find(|it| !GENERIC_FINALIZERS.contains(&it.as_str()));
    match (finalizer, ingress(service).first()) {
        (Some(finalizer), _) => Some(format!("it has the finalizer {finalizer}")),
        (None, Some(_)) => Some("another controller published its address".to_owned()),
        (None, None) => None,
    }
}

/// Whether no Portico operator has said anything of it but that it waits.
fn is_unknown_to_us(service: &Service) -> bool {
    our_conditions(service).is_empty()
}

/// Whether the finalizer of any Portico operator holds it.
pub(crate) fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The field manager of what an operator of this class writes beside the status: the API server records for each field who
/// wrote it. It takes 128 characters; a longer class is not recorded.
pub(crate) fn manager(class: &str) -> String {
    let manager = format!("{MANAGER}{class}");
    if manager.len() <= 128 { manager } else { FIELD_MANAGER.to_owned() }
}

/// Whether an entry of `metadata.managedFields` may say who holds a Service.
pub(crate) fn is_record(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref().is_some_and(|manager| manager.starts_with(MANAGER))
}

/// The class whose operator holds it, by the API server's record: of the annotation, where an operator wrote it last, else of
/// the finalizer.
fn recorded_holder(service: &Service) -> Option<&str> {
    let wrote = |entry: &ManagedFieldsEntry, list: &str, field: &str| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:metadata"));
        fields.and_then(|fields| fields.get(list)?.get(field)).is_some()
    };
    let records = || service.metadata.managed_fields.iter().flatten().filter(|entry| is_record(entry));
    let said = records().find(|entry| wrote(entry, "f:annotations", &format!("f:{HELD_BY}")));
    let held = || records().find(|entry| wrote(entry, "f:finalizers", &format!("v:\"{FINALIZER}\"")));
    said.or_else(held)?.manager.as_deref()?.strip_prefix(MANAGER)
}

/// The holder that the annotation names; anybody may have written it.
fn said_holder(service: &Service) -> Option<&str> {
    service.metadata.annotations.as_ref()?.get(HELD_BY).map(String::as_str)
}

/// Whether its deletion has begun.
pub(crate) fn is_deleting(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_some()
}

/// `status.loadBalancer.ingress`.
pub(crate) fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|load_balancer| load_balancer.ingress.as_deref())
        .unwrap_or_default()
}

/// The addresses in its status, which a provider keeps until others are published.
pub(crate) fn published(service: &Service) -> BTreeSet<IngressAddress> {
    let address = |entry: &LoadBalancerIngress| match (&entry.ip, &entry.hostname) {
        (Some(ip), _) => ip.parse().ok().map(IngressAddress::Ip),
        (None, hostname) => hostname.clone().map(IngressAddress::Hostname),
    };
    ingress(service).iter().filter_map(address).collect()
}

/// Conditions under our domain; others' are none of our business.
pub(crate) fn our_conditions(service: &Service) -> Vec<Condition> {
    service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| is_ours(condition) && condition.type_ != RELEASED)
        .cloned()
        .collect()
}

/// The condition that names whom it waits for.
pub(crate) fn waits_for_release(service: &Service) -> Option<&Condition> {
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == RELEASED)
}

/// Whether a condition is under our domain.
pub(crate) fn is_ours(condition: &Condition) -> bool {
    condition.type_.starts_with("portico.dev/")
}

/// The reference by which Events regard it.
pub(crate) fn reference(service: &Service) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone(),
        uid: service.metadata.uid.clone(),
        resource_version: service.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_service, with};

    #[test]
    fn a_class_is_ours_by_name_or_by_default_and_no_other() {
        let ours = ClassRule::one("portico.dev/local", false);
        let default = ClassRule { default: true, ..ours.clone() };
        let classed = |class: Option<&str>| {
            with(mk_service("web"), |spec| spec.load_balancer_class = class.map(str::to_owned))
        };
        for (class, by_name, by_default) in
            [(None, false, true), (Some("portico.dev/local"), true, true), (Some("other/nlb"), false, false)]
        {
            assert_eq!(ours.owns(&classed(class)), by_name, "{class:?}");
            assert_eq!(default.owns(&classed(class)), by_default, "{class:?}");
        }
        let node_port = with(mk_service("web"), |spec| spec.type_ = Some("NodePort".to_owned()));
        assert!(!default.owns(&node_port), "a class says nothing without the type");
    }

    #[test]
    fn of_several_classes_each_is_ours_and_a_service_is_held_by_its_own() {
        let both =
            ClassRule { others: BTreeSet::from(["b/two".to_owned()]), ..ClassRule::one("a/one", true) };
        let held_by = |class: Option<&str>, holder: &str| {
            let mut service =
                with(mk_service("web"), |spec| spec.load_balancer_class = class.map(str::to_owned));
            service.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            service
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(HELD_BY.to_owned(), holder.to_owned());
            service
        };
        for (class, own) in [(None, "a/one"), (Some("a/one"), "a/one"), (Some("b/two"), "b/two")] {
            let service = held_by(class, own);
            assert!(both.owns(&service) && both.holds(&service), "{class:?}");
            assert_eq!(both.class_of(&service), own, "{class:?}");
        }
        assert!(
            !both.holds(&held_by(Some("c/three"), "a/one")),
            "the class says otherwise, and there is no record"
        );
        let foreign = held_by(Some("c/three"), "c/three");
        assert!(!both.owns(&foreign) && !both.holds(&foreign));
        assert_eq!(both.held_by_another(&held_by(Some("b/two"), "c/three")), Some("c/three"));
        // An operator of one of them takes over only what that one holds.
        assert!(!ClassRule::one("b/two", false).holds(&held_by(None, "a/one")));
    }

    #[test]
    fn types_nest_in_order_and_headless_is_distinct() {
        let typed = |type_: &str, ip: &str| {
            ServiceType::of(&with(mk_service("web"), |spec| {
                spec.type_ = Some(type_.to_owned());
                spec.cluster_ip = Some(ip.to_owned());
            }))
        };
        assert_eq!(typed("ClusterIP", "None"), ServiceType::Headless);
        assert_eq!(typed("ExternalName", ""), ServiceType::ExternalName);
        assert!(typed("ClusterIP", "10.0.0.1") < typed("NodePort", "10.0.0.1"));
        assert!(typed("NodePort", "10.0.0.1") < typed("LoadBalancer", "10.0.0.1"));
    }
}
