//! What this provider does, step by step.
//!
//! Owns: [`Step`] and its words. Leaves to others: doing it (`execute`).
//! Invariant: a step names things by names that are the same in every process, with the ID where it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portico_provider::{Field, GroupName, Owner, Scheme};

use crate::cloud::resources::{
    AddressType, Families, GroupHealth, Id, ListenerSpec, NewGroup, Rule, SubnetMapping, Tags, Target,
};
use crate::wanted::Placement;

/// A thing by its name, and by its ID once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its ARN or ID; `None`: made by an earlier step of the same plan.
    pub id: Option<Id>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A listener by its load balancer and port, and by its ID once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRef {
    /// Whose.
    pub load_balancer: Named,
    /// Its port.
    pub port: u16,
    /// Its ARN; `None`: made by an earlier step of the same plan.
    pub id: Option<Id>,
}

impl fmt::Display for ListenerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load_balancer, port, id: _ } = self;
        write!(f, "listener {port} of {load_balancer}")
    }
}

/// A step: whose it is, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whose things it changes.
    pub owner: Owner,
    /// The group whose things it makes, or finds by their names; `None`: the Service's own.
    pub group: Option<GroupName>,
    /// What it does.
    pub action: Action,
}

/// One call, with the reads that make it repeatable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forgets what is known, so that everything is read.
    Read,
    /// Makes another controller's load balancer ours, if its tags prove that it was made for this Service.
    Adopt {
        /// Its name or ARN.
        asked: String,
        /// Ours.
        tags: Tags,
    },
    /// Puts back the tags of a thing that bears a name of ours and has lost them, if that name proves whose it is.
    Reclaim {
        /// Which.
        thing: Named,
        /// Its tags.
        tags: Tags,
    },
    /// Reads how many entries these prefix lists may have.
    ReadPrefixLists(BTreeSet<String>),
    /// Reads which security groups have these tags `Name`.
    ReadSecurityGroups(BTreeSet<String>),
    /// Notes that a change begins: what was sealed counts no more.
    MarkDirty {
        /// On which.
        load_balancer: Named,
        /// Of a shared one, on these instead.
        groups: Vec<Named>,
        /// What.
        tags: Tags,
    },
    /// Makes a security group.
    CreateSecurityGroup {
        /// Its name.
        name: String,
        /// In the same call.
        tags: Tags,
    },
    /// Lets them in.
    Authorize {
        /// Where.
        group: Named,
        /// Who.
        rules: Vec<Rule>,
    },
    /// Makes a target group.
    CreateTargetGroup(Box<NewGroup>),
    /// Sets attributes of a target group.
    SetGroupAttributes {
        /// Which.
        group: Named,
        /// Those that differ.
        attributes: BTreeMap<String, String>,
    },
    /// Changes a health check.
    SetHealthCheck {
        /// Whose.
        group: Named,
        /// To what.
        health: GroupHealth,
    },
    /// Adds targets.
    Register {
        /// Where.
        group: Named,
        /// Which.
        targets: Vec<Target>,
    },
    /// Makes a load balancer.
    CreateLoadBalancer {
        /// Its name.
        name: String,
        /// Whether the user chose the name, so that it may be somebody else's.
        name_is_given: bool,
        /// Who can reach it.
        scheme: Scheme,
        /// With which families.
        families: Families,
        /// Where.
        placement: Placement,
        /// In front of it.
        security_groups: Vec<Named>,
        /// In the same call.
        tags: Tags,
    },
    /// Sets attributes of a load balancer.
    SetAttributes {
        /// Which.
        load_balancer: Named,
        /// Those that differ.
        attributes: BTreeMap<String, String>,
    },
    /// Adds subnets.
    SetSubnets {
        /// Of which.
        load_balancer: Named,
        /// All of them.
        placement: Placement,
        /// What it has by then.
        source_nat: bool,
    },
    /// Gives or takes prefixes for UDP over IPv6, and changes the families with that.
    SetFamilies {
        /// Of which.
        load_balancer: Named,
        /// To what.
        families: Families,
        /// All of its subnets.
        subnets: Vec<SubnetMapping>,
    },
    /// Changes the security groups.
    SetSecurityGroups {
        /// Of which.
        load_balancer: Named,
        /// All of them.
        groups: Vec<Named>,
    },
    /// Changes the families.
    SetAddressType {
        /// Of which.
        load_balancer: Named,
        /// To what.
        kind: AddressType,
    },
    /// Makes a listener.
    CreateListener {
        /// On which.
        load_balancer: Named,
        /// What.
        spec: ListenerSpec,
        /// Where to.
        group: Named,
        /// In the same call.
        tags: Tags,
    },
    /// Changes a listener.
    ModifyListener {
        /// Which.
        id: Id,
        /// To what.
        spec: ListenerSpec,
        /// Where to.
        group: Named,
    },
    /// Notes on a load balancer what is to be read of it from now on.
    Mark {
        /// Which.
        load_balancer: Named,
        /// The note.
        tags: Tags,
    },
    /// Adds certificates beside the default one.
    AddCertificates {
        /// Where.
        listener: ListenerRef,
        /// ARNs.
        arns: BTreeSet<String>,
    },
    /// Takes certificates away.
    RemoveCertificates {
        /// From where.
        listener: ListenerRef,
        /// ARNs.
        arns: BTreeSet<String>,
    },
    /// Sets attributes of a listener.
    SetListenerAttributes {
        /// Of which.
        listener: ListenerRef,
        /// Those that differ.
        attributes: BTreeMap<String, String>,
    },
    /// Takes targets away; their connections drain.
    Deregister {
        /// From where.
        group: Named,
        /// Which.
        targets: Vec<Target>,
    },
    /// Lets them in no longer.
    Revoke {
        /// Where.
        group: Named,
        /// Who.
        rules: Vec<Rule>,
    },
    /// Deletes a listener.
    DeleteListener {
        /// Which.
        id: Id,
        /// For people.
        port: u16,
    },
    /// Deletes a load balancer and its listeners.
    DeleteLoadBalancer(Named),
    /// Deletes a shared load balancer, unless somebody has a listener there.
    DeleteSharedLoadBalancer(Named),
    /// Deletes a target group.
    DeleteTargetGroup(Named),
    /// Deletes a security group.
    DeleteSecurityGroup(Named),
    /// Notes that all is as a spec asks.
    MarkSynced {
        /// On which.
        load_balancer: Named,
        /// Of a shared one, on these instead.
        groups: Vec<Named>,
        /// What.
        tags: Tags,
    },
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn pairs(attributes: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(", ")
}

fn words<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Action {
    /// Whether other Services see its effect, if it is one on what a group shares.
    pub(crate) fn concerns_others(&self) -> bool {
        match self {
            Self::Read
            | Self::ReadPrefixLists(_)
            | Self::ReadSecurityGroups(_)
            | Self::MarkDirty { .. }
            | Self::MarkSynced { .. }
            | Self::SetGroupAttributes { .. }
            | Self::SetHealthCheck { .. }
            | Self::Register { .. }
            | Self::Deregister { .. }
            | Self::ModifyListener { .. }
            | Self::AddCertificates { .. }
            | Self::RemoveCertificates { .. }
            | Self::SetListenerAttributes { .. } => false,
            Self::Adopt { .. }
            | Self::Reclaim { .. }
            | Self::CreateSecurityGroup { .. }
            | Self::Authorize { .. }
            | Self::CreateTargetGroup(_)
            | Self::CreateLoadBalancer { .. }
            | Self::SetAttributes { .. }
            | Self::SetSubnets { .. }
            | Self::SetSecurityGroups { .. }
            | Self::SetAddressType { .. }
            | Self::SetFamilies { .. }
            | Self::CreateListener { .. }
            | Self::Mark { .. }
            | Self::Revoke { .. }
            | Self::DeleteListener { .. }
            | Self::DeleteLoadBalancer(_)
            | Self::DeleteSharedLoadBalancer(_)
            | Self::DeleteTargetGroup(_)
            | Self::DeleteSecurityGroup(_) => true,
        }
    }

    /// Which field it brings about; `None`: a read, or the whole load balancer.
    pub(crate) fn field(&self) -> Option<Field> {
        match self {
            Self::CreateSecurityGroup { .. }
            | Self::Authorize { .. }
            | Self::Revoke { .. }
            | Self::SetSecurityGroups { .. }
            | Self::DeleteSecurityGroup(_) => Some(Field::SourceRanges),
            Self::CreateTargetGroup(_)
            | Self::DeleteTargetGroup(_)
            | Self::CreateListener { .. }
            | Self::ModifyListener { .. }
            | Self::AddCertificates { .. }
            | Self::RemoveCertificates { .. }
            | Self::DeleteListener { .. } => Some(Field::Listeners),
            Self::Register { .. } | Self::Deregister { .. } => Some(Field::Targets),
            Self::SetHealthCheck { .. } => Some(Field::HealthCheck),
            Self::SetGroupAttributes { .. }
            | Self::SetAttributes { .. }
            | Self::SetListenerAttributes { .. }
            | Self::SetSubnets { .. } => Some(Field::Options),
            Self::SetAddressType { .. } | Self::SetFamilies { .. } => Some(Field::IpFamilies),
            Self::Read
            | Self::MarkDirty { .. }
            | Self::Adopt { .. }
            | Self::Reclaim { .. }
            | Self::ReadPrefixLists(_)
            | Self::ReadSecurityGroups(_)
            | Self::Mark { .. }
            | Self::MarkSynced { .. }
            | Self::CreateLoadBalancer { .. }
            | Self::DeleteSharedLoadBalancer(_)
            | Self::DeleteLoadBalancer(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, group: _, action } = self;
        match action {
            Action::Read => write!(f, "read all that belongs to {}", owner.name),
            Action::MarkDirty { load_balancer, groups: _, tags: _ } => {
                write!(f, "note on {load_balancer} that a change begins")
            }
            Action::CreateSecurityGroup { name, tags: _ } => write!(f, "create security group {name}"),
            Action::Authorize { group, rules } => write!(f, "allow {} in {group}", words(rules)),
            Action::CreateTargetGroup(new) => {
                write!(f, "create target group {} ({}, {})", new.name, new.shape.protocol, new.shape.targets)
            }
            Action::SetGroupAttributes { group, attributes } => {
                write!(f, "set {} on {group}", pairs(attributes))
            }
            Action::SetHealthCheck { group, health: _ } => write!(f, "change the health check of {group}"),
            Action::Register { group, targets } => {
                write!(f, "register {} in {group}", counted(targets.len(), "target"))
            }
            Action::CreateLoadBalancer { name, scheme, families, .. } => {
                let scheme = match scheme {
                    Scheme::External => "internet-facing",
                    Scheme::Internal => "internal",
                };
                write!(f, "create {scheme} load balancer {name}")?;
                if families.kind == AddressType::Dualstack { write!(f, ", {families}") } else { Ok(()) }
            }
            Action::Adopt { asked, tags: _ } => write!(f, "adopt load balancer {asked}"),
            Action::Reclaim { thing, tags: _ } => write!(f, "put back the tags of {thing}"),
            Action::ReadPrefixLists(ids) => {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                write!(f, "read prefix lists {}", ids.join(", "))
            }
            Action::ReadSecurityGroups(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(f, "read security groups {}", names.join(", "))
            }
            Action::SetAttributes { load_balancer, attributes } => {
                write!(f, "set {} on {load_balancer}", pairs(attributes))
            }
            Action::SetFamilies { load_balancer, families, subnets: _ } => {
                write!(f, "make {load_balancer} {families}")
            }
            Action::SetSubnets { load_balancer, placement: _, source_nat: _ } => {
                write!(f, "put {load_balancer} into more subnets")
            }
            Action::SetSecurityGroups { load_balancer, groups } => {
                write!(f, "put {} in front of {load_balancer}", words(groups))
            }
            Action::SetAddressType { load_balancer, kind } => write!(f, "make {load_balancer} {kind}"),
            Action::CreateListener { load_balancer, spec, group, tags: _ } => {
                write!(f, "create listener {}/{} of {load_balancer} to {group}", spec.protocol, spec.port)
            }
            Action::ModifyListener { id: _, spec, group } => {
                write!(f, "change listener {} to {}, to {group}", spec.port, spec.protocol)
            }
            Action::Mark { load_balancer, tags } => write!(f, "note {} on {load_balancer}", pairs(tags)),
            Action::AddCertificates { listener, arns } => {
                write!(f, "add {} to {listener}", counted(arns.len(), "certificate"))
            }
            Action::RemoveCertificates { listener, arns } => {
                write!(f, "take {} from {listener}", counted(arns.len(), "certificate"))
            }
            Action::SetListenerAttributes { listener, attributes } => {
                write!(f, "set {} on {listener}", pairs(attributes))
            }
            Action::Deregister { group, targets } => {
                write!(f, "deregister {} from {group}", counted(targets.len(), "target"))
            }
            Action::Revoke { group, rules } => write!(f, "no longer allow {} in {group}", words(rules)),
            Action::DeleteListener { id: _, port } => write!(f, "delete listener {port}"),
            Action::DeleteLoadBalancer(named) => write!(f, "delete load balancer {named}"),
            Action::DeleteSharedLoadBalancer(named) => write!(f, "delete shared load balancer {named}"),
            Action::DeleteTargetGroup(named) => write!(f, "delete target group {named}"),
            Action::DeleteSecurityGroup(named) => write!(f, "delete security group {named}"),
            Action::MarkSynced { load_balancer, groups, tags: _ } if groups.is_empty() => {
                write!(f, "note on {load_balancer} that all is done")
            }
            Action::MarkSynced { load_balancer, .. } => {
                write!(f, "note on its target groups behind {load_balancer} that all is done")
            }
        }
    }
}
