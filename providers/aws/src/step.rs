//! The steps of this provider: verbs on resources.
//!
//! Owns: [`Step`], its words, which field of a Service each step is about. Leaves to others: the
//! calls and their effect on the cache (`execute`). Invariant: a step names resources by names that are the same in every
//! process, with the ID where it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portico_provider::{Field, GroupName, Owner, Scheme};

use crate::cloud::resources::{
    AddressType, Families, GroupHealth, Id, Kind, ListenerSpec, NewGroup, Rule, SubnetMapping, Tags, Target,
};
use crate::wanted::Placement;

/// A resource by its name, and by its ARN or ID; `None`: an earlier step of the same plan creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub id: Option<Id>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A resource that exists.
pub(crate) fn named(name: &str, id: &Id) -> Named {
    Named { name: name.to_owned(), id: Some(id.clone()) }
}

/// A listener by its load balancer and port, and by its ARN; `None`: an earlier step of the same plan creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRef {
    pub load_balancer: Named,
    pub port: u16,
    pub id: Option<Id>,
}

impl fmt::Display for ListenerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load_balancer, port, id: _ } = self;
        write!(f, "listener {port} of {load_balancer}")
    }
}

/// A step for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The Service whose resources change.
    pub owner: Owner,
    /// The group whose resources are created, or found by their names; `None`: they are the Service's alone.
    pub group: Option<GroupName>,
    pub action: Action,
}

/// One change, with the reads that make it repeatable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Read(Unread),
    /// Tags another controller's load balancer as ours, if its tags prove that it was created for this Service.
    Adopt {
        /// Its name or ARN.
        asked: String,
        tags: Tags,
    },
    /// Restores the tags of a resource with a name of ours, if that name proves the owner.
    Restore {
        resource: Named,
        tags: Tags,
    },
    Tag {
        load_balancer: Named,
        /// Of a shared load balancer these are tagged instead.
        target_groups: Vec<Named>,
        mark: Mark,
        tags: Tags,
    },
    Create(New),
    Modify(Change),
    Register {
        target_group: Named,
        targets: Vec<Target>,
    },
    /// Their connections drain.
    Deregister {
        target_group: Named,
        targets: Vec<Target>,
    },
    Delete {
        kind: Kind,
        /// Of a listener, the name is its port.
        named: Named,
        /// A load balancer that a group shares: it stays for as long as it has listeners.
        shared: bool,
    },
}

/// Something that a plan needs and nobody has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Everything of the Service.
    All,
    /// How many entries these may have.
    PrefixLists(BTreeSet<String>),
    /// The IDs behind these tags `Name`.
    SecurityGroups(BTreeSet<String>),
}

/// The purpose of a change of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A change begins: the synced hash counts no more.
    Dirty,
    /// Everything is as the hash says.
    Synced,
    /// A note on the load balancer: its group's lead, or that its listeners' extras are compared.
    Note,
}

/// A resource to create. Tags are set in the same call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum New {
    LoadBalancer(Box<PlannedLoadBalancer>),
    Listener { load_balancer: Named, spec: ListenerSpec, target_group: Named, tags: Tags },
    TargetGroup(Box<NewGroup>),
    SecurityGroup { name: String, tags: Tags },
}

/// A load balancer to create, before its subnets are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedLoadBalancer {
    pub name: String,
    /// The user chose the name, so that another owner may have it.
    pub name_is_given: bool,
    pub scheme: Scheme,
    pub families: Families,
    pub placement: Placement,
    pub security_groups: Vec<Named>,
    pub tags: Tags,
}

/// A change of a resource that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    LoadBalancer(Named, LoadBalancerChange),
    Listener(ListenerRef, ListenerChange),
    TargetGroup(Named, TargetGroupChange),
    SecurityGroup(Named, SecurityGroupChange),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadBalancerChange {
    /// Those that differ.
    Attributes(BTreeMap<String, String>),
    /// All subnets, old and new.
    Subnets {
        placement: Placement,
        /// Whether it has prefixes for source NAT.
        source_nat: bool,
    },
    SecurityGroups(Vec<Named>),
    AddressType(AddressType),
    /// The families, with prefixes for UDP over IPv6 or without, and all subnets.
    Families(Families, Vec<SubnetMapping>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerChange {
    Spec(ListenerSpec, Named),
    /// ARNs beside the default certificate.
    AddCertificates(BTreeSet<String>),
    RemoveCertificates(BTreeSet<String>),
    /// Those that differ.
    Attributes(BTreeMap<String, String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetGroupChange {
    /// Those that differ.
    Attributes(BTreeMap<String, String>),
    HealthCheck(GroupHealth),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityGroupChange {
    Authorize(Vec<Rule>),
    Revoke(Vec<Rule>),
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn pairs(attributes: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(", ")
}

fn words<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl Action {
    /// The place among steps with the same effect. `shared`: a group's resources are among those that change.
    pub(crate) fn stage(&self, shared: bool) -> Stage {
        use {LoadBalancerChange as L, SecurityGroupChange as S, TargetGroupChange as T};
        match self {
            Action::Read(_)
            | Action::Adopt { .. }
            | Action::Restore { .. }
            | Action::Tag { mark: Mark::Dirty | Mark::Note, .. } => Stage::Preparation,
            Action::Tag { mark: Mark::Synced, .. } => Stage::Synced,
            Action::Register { .. } => Stage::Registration,
            Action::Deregister { .. } => Stage::Deregistration,
            Action::Create(new) => match new {
                New::SecurityGroup { .. } if shared => Stage::SharedSecurityGroups,
                New::SecurityGroup { .. } => Stage::SecurityGroups,
                New::TargetGroup(_) => Stage::TargetGroups,
                New::LoadBalancer(_) => Stage::LoadBalancer,
                New::Listener { .. } => Stage::Listeners,
            },
            Action::Modify(change) => match change {
                Change::SecurityGroup(_, S::Authorize(_)) if shared => Stage::SharedRules,
                Change::SecurityGroup(_, S::Authorize(_)) => Stage::Rules,
                Change::SecurityGroup(_, S::Revoke(_)) => Stage::RuleRemoval,
                Change::TargetGroup(_, T::Attributes(_)) => Stage::TargetGroupAttributes,
                Change::TargetGroup(_, T::HealthCheck(_)) => Stage::HealthChecks,
                Change::LoadBalancer(_, L::Attributes(_)) => Stage::Attributes,
                Change::LoadBalancer(_, L::Subnets { .. }) => Stage::Subnets,
                Change::LoadBalancer(_, L::SecurityGroups(_)) => Stage::Front,
                // UDP listeners on dual stack need prefixes: these come before them, and go after them.
                Change::LoadBalancer(_, L::Families(families, _)) if !families.source_nat => {
                    Stage::SourceNatRemoval
                }
                Change::LoadBalancer(_, L::AddressType(_) | L::Families(..)) => Stage::Families,
                Change::Listener(_, ListenerChange::Spec(..)) => Stage::ListenerSpecs,
                Change::Listener(_, ListenerChange::AddCertificates(_)) => Stage::Certificates,
                Change::Listener(_, ListenerChange::RemoveCertificates(_)) => Stage::CertificateRemoval,
                Change::Listener(_, ListenerChange::Attributes(_)) => Stage::ListenerAttributes,
            },
            Action::Delete { kind, .. } => match kind {
                Kind::Listener => Stage::ListenerDeletion,
                Kind::LoadBalancer => Stage::LoadBalancerDeletion,
                Kind::TargetGroup => Stage::TargetGroupDeletion,
                Kind::SecurityGroup if shared => Stage::SharedSecurityGroupDeletion,
                Kind::SecurityGroup => Stage::SecurityGroupDeletion,
            },
        }
    }

    /// A note on a load balancer.
    pub(crate) fn note(load_balancer: Named, tags: Tags) -> Self {
        Self::Tag { load_balancer, target_groups: Vec::new(), mark: Mark::Note, tags }
    }

    /// Whether other members of a group see its effect.
    pub(crate) fn concerns_others(&self) -> bool {
        match self {
            Self::Read(_)
            | Self::Register { .. }
            | Self::Deregister { .. }
            | Self::Modify(Change::TargetGroup(..) | Change::Listener(..)) => false,
            Self::Tag { mark, .. } => *mark == Mark::Note,
            Self::Adopt { .. }
            | Self::Restore { .. }
            | Self::Create(_)
            | Self::Modify(Change::LoadBalancer(..) | Change::SecurityGroup(..))
            | Self::Delete { .. } => true,
        }
    }

    /// The field that it brings about; `None`: a read, tags, or the whole load balancer.
    pub(crate) fn field(&self) -> Option<Field> {
        match self {
            Self::Read(_) | Self::Adopt { .. } | Self::Restore { .. } | Self::Tag { .. } => None,
            Self::Create(new) => field_of(new.kind()),
            Self::Modify(change) => Some(change.field()),
            Self::Register { .. } | Self::Deregister { .. } => Some(Field::Targets),
            Self::Delete { kind, .. } => field_of(*kind),
        }
    }
}

fn field_of(kind: Kind) -> Option<Field> {
    match kind {
        Kind::LoadBalancer => None,
        Kind::TargetGroup | Kind::Listener => Some(Field::Listeners),
        Kind::SecurityGroup => Some(Field::SourceRanges),
    }
}

impl New {
    fn kind(&self) -> Kind {
        match self {
            Self::LoadBalancer(_) => Kind::LoadBalancer,
            Self::Listener { .. } => Kind::Listener,
            Self::TargetGroup(_) => Kind::TargetGroup,
            Self::SecurityGroup { .. } => Kind::SecurityGroup,
        }
    }
}

impl Change {
    fn field(&self) -> Field {
        use {LoadBalancerChange as L, TargetGroupChange as T};
        match self {
            Self::LoadBalancer(_, L::Attributes(_) | L::Subnets { .. })
            | Self::TargetGroup(_, T::Attributes(_))
            | Self::Listener(_, ListenerChange::Attributes(_)) => Field::Options,
            Self::LoadBalancer(_, L::SecurityGroups(_)) | Self::SecurityGroup(..) => Field::SourceRanges,
            Self::LoadBalancer(_, L::AddressType(_) | L::Families(..)) => Field::IpFamilies,
            Self::TargetGroup(_, T::HealthCheck(_)) => Field::HealthCheck,
            Self::Listener(
                _,
                ListenerChange::Spec(..)
                | ListenerChange::AddCertificates(_)
                | ListenerChange::RemoveCertificates(_),
            ) => Field::Listeners,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, group: _, action } = self;
        match action {
            Action::Read(Unread::All) => write!(f, "read all that belongs to {}", owner.name),
            Action::Read(Unread::PrefixLists(ids)) => write!(f, "read prefix lists {}", words(ids)),
            Action::Read(Unread::SecurityGroups(names)) => write!(f, "read security groups {}", words(names)),
            Action::Adopt { asked, tags: _ } => write!(f, "adopt load balancer {asked}"),
            Action::Restore { resource, tags: _ } => write!(f, "restore the tags of {resource}"),
            Action::Tag { load_balancer, mark, target_groups, tags } => {
                match (mark, target_groups.as_slice()) {
                    (Mark::Dirty, _) => write!(f, "note on {load_balancer} that a change begins"),
                    (Mark::Synced, []) => write!(f, "note on {load_balancer} that all is done"),
                    (Mark::Synced, _) => {
                        write!(f, "note on its target groups behind {load_balancer} that all is done")
                    }
                    (Mark::Note, _) => write!(f, "note {} on {load_balancer}", pairs(tags)),
                }
            }
            Action::Create(new) => write!(f, "create {new}"),
            Action::Modify(change) => change.fmt(f),
            Action::Register { target_group, targets } => {
                write!(f, "register {} in {target_group}", counted(targets.len(), "target"))
            }
            Action::Deregister { target_group, targets } => {
                write!(f, "deregister {} from {target_group}", counted(targets.len(), "target"))
            }
            Action::Delete { kind, named, shared: false } => write!(f, "delete {kind} {named}"),
            Action::Delete { kind, named, shared: true } => write!(f, "delete shared {kind} {named}"),
        }
    }
}

impl fmt::Display for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadBalancer(new) => {
                let scheme = match new.scheme {
                    Scheme::External => "internet-facing",
                    Scheme::Internal => "internal",
                };
                write!(f, "{scheme} load balancer {}", new.name)?;
                let families = new.families;
                if families.kind == AddressType::Dualstack { write!(f, ", {families}") } else { Ok(()) }
            }
            Self::Listener { load_balancer, spec, target_group, tags: _ } => {
                write!(f, "listener {}/{} of {load_balancer} to {target_group}", spec.protocol, spec.port)
            }
            Self::TargetGroup(new) => {
                write!(f, "target group {} ({}, {})", new.name, new.shape.protocol, new.shape.targets)
            }
            Self::SecurityGroup { name, tags: _ } => write!(f, "security group {name}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use {LoadBalancerChange as L, SecurityGroupChange as S, TargetGroupChange as T};
        match self {
            Self::LoadBalancer(named, L::Attributes(attributes))
            | Self::TargetGroup(named, T::Attributes(attributes)) => {
                write!(f, "set {} on {named}", pairs(attributes))
            }
            Self::LoadBalancer(named, L::Subnets { .. }) => write!(f, "put {named} into more subnets"),
            Self::LoadBalancer(named, L::SecurityGroups(groups)) => {
                write!(f, "put {} in front of {named}", words(groups))
            }
            Self::LoadBalancer(named, L::AddressType(kind)) => write!(f, "make {named} {kind}"),
            Self::LoadBalancer(named, L::Families(families, _)) => write!(f, "make {named} {families}"),
            Self::TargetGroup(named, T::HealthCheck(_)) => write!(f, "change the health check of {named}"),
            Self::Listener(listener, change) => match change {
                ListenerChange::Spec(spec, target_group) => {
                    write!(f, "change listener {} to {}, to {target_group}", spec.port, spec.protocol)
                }
                ListenerChange::AddCertificates(arns) => {
                    write!(f, "add {} to {listener}", counted(arns.len(), "certificate"))
                }
                ListenerChange::RemoveCertificates(arns) => {
                    write!(f, "take {} from {listener}", counted(arns.len(), "certificate"))
                }
                ListenerChange::Attributes(attributes) => {
                    write!(f, "set {} on {listener}", pairs(attributes))
                }
            },
            Self::SecurityGroup(named, S::Authorize(rules)) => {
                write!(f, "allow {} in {named}", words(rules))
            }
            Self::SecurityGroup(named, S::Revoke(rules)) => {
                write!(f, "no longer allow {} in {named}", words(rules))
            }
        }
    }
}

/// The order of steps with the same effect: creators before users, then users before deleters. In a group, a target group is
/// the claim to be a member: created first, deleted last. No client is admitted before the load balancer is known to be the
/// group's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Preparation,
    SecurityGroups,
    Rules,
    TargetGroups,
    TargetGroupAttributes,
    HealthChecks,
    Registration,
    SharedSecurityGroups,
    LoadBalancer,
    Attributes,
    Subnets,
    Front,
    Families,
    SharedRules,
    Listeners,
    ListenerSpecs,
    Certificates,
    ListenerAttributes,
    Deregistration,
    RuleRemoval,
    CertificateRemoval,
    ListenerDeletion,
    SourceNatRemoval,
    LoadBalancerDeletion,
    SharedSecurityGroupDeletion,
    TargetGroupDeletion,
    SecurityGroupDeletion,
    Synced,
}
