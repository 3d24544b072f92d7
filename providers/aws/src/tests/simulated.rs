//! A cloud without a wire: steps change a view, and what AWS would refuse is refused.
//!
//! Owns: the effects of steps, and AWS's rules among things. Leaves to others: calls and their failures (the emulator).
//! Invariant: nothing is made, used or deleted in an order that AWS forbids; health and life advance by `tick` only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use crate::Quotas;
use crate::cloud::resources::{
    AddressType, Families, GroupShape, Health, Id, LifeState, Listener, ListenerExtras, LoadBalancer, Rule,
    SecurityGroup, Source, SubnetMapping, TargetGroup, Transport,
};
use crate::observed::{Balancer, Group, Share, SyncedHash, View};
use crate::step::{Action, ListenerRef, Named};
use crate::tags;
use crate::translate::{balancer_defaults, group_defaults, mapping};
use crate::wanted::Placement;

/// The cloud of one Service.
#[derive(Clone, Debug, Default)]
pub(super) struct Simulated {
    pub(super) view: View,
    shapes: BTreeMap<String, GroupShape>,
}

type Refused = Result<(), String>;

impl Simulated {
    /// What AWS does by itself in a while.
    pub(super) fn tick(&mut self) {
        for balancer in self.view.load_balancers.values_mut() {
            balancer.described.state = LifeState::Active;
        }
        for health in self.view.groups.values_mut().flat_map(|group| group.targets.values_mut()) {
            *health = Health::Healthy;
        }
    }

    /// Whether some client gets from `rule` to a target behind `port` by this hostname.
    pub(super) fn serves(&self, hostname: &str, port: u16) -> bool {
        let mut found = self.view.load_balancers.values().filter(|it| it.described.hostname == hostname);
        found.any(|balancer| {
            let group = balancer.listeners.get(&port).and_then(|listener| listener.group.as_ref());
            let mut groups = self.view.groups.values().filter(|it| Some(&it.described.id) == group);
            groups.any(|group| !group.targets.is_empty())
        })
    }

    /// The rules in front of this hostname.
    pub(super) fn let_in(&self, hostname: &str) -> BTreeSet<Rule> {
        let balancers = self.view.load_balancers.values().filter(|it| it.described.hostname == hostname);
        let ids: BTreeSet<&Id> = balancers.flat_map(|it| &it.described.security_groups).collect();
        let front = self.view.security_groups.values().filter(|it| ids.contains(&it.id));
        front.flat_map(|security_group| security_group.rules.iter().cloned()).collect()
    }

    pub(super) fn apply(&mut self, action: &Action) -> Refused {
        match action {
            Action::Read
            | Action::Reclaim { .. }
            | Action::ReadPrefixLists(_)
            | Action::ReadSecurityGroups(_) => Ok(()),
            Action::CreateSecurityGroup { .. }
            | Action::Authorize { .. }
            | Action::Revoke { .. }
            | Action::DeleteSecurityGroup(_) => self.security_groups(action),
            Action::CreateTargetGroup(_)
            | Action::SetGroupAttributes { .. }
            | Action::SetHealthCheck { .. }
            | Action::Register { .. }
            | Action::Deregister { .. }
            | Action::DeleteTargetGroup(_) => self.groups(action),
            Action::CreateListener { .. }
            | Action::ModifyListener { .. }
            | Action::DeleteListener { .. }
            | Action::AddCertificates { .. }
            | Action::RemoveCertificates { .. }
            | Action::SetListenerAttributes { .. } => self.listeners(action),
            _ => self.balancers(action),
        }
    }

    fn security_groups(&mut self, action: &Action) -> Refused {
        let security_groups = &mut self.view.security_groups;
        match action {
            Action::CreateSecurityGroup { name, tags } => {
                let security_group = SecurityGroup {
                    id: Id(format!("sg-{name}")),
                    name: name.clone(),
                    rules: BTreeSet::new(),
                    foreign: BTreeSet::new(),
                    tags: tags.clone(),
                };
                none(
                    security_groups.insert(name.clone(), security_group).is_some(),
                    "a group of this name is there",
                )
            }
            Action::Authorize { group, rules } => {
                let security_group = security_groups.get_mut(&group.name).ok_or("no such group")?;
                security_group.rules.extend(rules.iter().cloned());
                let v6 = |rule: &&Rule| matches!(rule.source, Source::Range(IpNet::V6(_)));
                let six = security_group.rules.iter().filter(v6).count();
                none(six.max(security_group.rules.len() - six) > Quotas::default().rules, "too many rules")
            }
            Action::Revoke { group, rules } => {
                let security_group = security_groups.get_mut(&group.name).ok_or("no such group")?;
                security_group.rules.retain(|rule| !rules.contains(rule));
                Ok(())
            }
            Action::DeleteSecurityGroup(group) => {
                let gone = security_groups.remove(&group.name).ok_or("no such group")?;
                let mut balancers = self.view.load_balancers.values();
                none(balancers.any(|it| it.described.security_groups.contains(&gone.id)), "it is in use")
            }
            other => Err(format!("not of a security group: {other:?}")),
        }
    }

    fn groups(&mut self, action: &Action) -> Refused {
        let groups = &mut self.view.groups;
        match action {
            Action::CreateTargetGroup(new) => {
                let id = Id(format!("arn:aws:x:targetgroup/{}", new.name));
                let kind = (new.shape.targets, new.shape.family);
                let described = TargetGroup {
                    id,
                    name: new.name.clone(),
                    kind,
                    port: new.port,
                    load_balancers: BTreeSet::new(),
                    health: new.health.clone(),
                };
                let (attributes, targets) = (group_defaults(new.shape), BTreeMap::new());
                let group = Group { described, member_of: tags::group(&new.tags), attributes, targets };
                self.shapes.insert(new.name.clone(), new.shape);
                none(groups.insert(new.name.clone(), group).is_some(), "a group of this name is there")
            }
            Action::SetGroupAttributes { group, attributes } => {
                groups.get_mut(&group.name).ok_or("no such group")?.attributes.extend(attributes.clone());
                Ok(())
            }
            Action::SetHealthCheck { group, health } => {
                groups.get_mut(&group.name).ok_or("no such group")?.described.health = health.clone();
                Ok(())
            }
            Action::Register { group, targets } => {
                let there = &mut groups.get_mut(&group.name).ok_or("no such group")?.targets;
                there.extend(targets.iter().map(|target| (target.clone(), Health::Initial)));
                Ok(())
            }
            Action::Deregister { group, targets } => {
                let there = &mut groups.get_mut(&group.name).ok_or("no such group")?.targets;
                there.retain(|target, _| !targets.contains(target));
                Ok(())
            }
            Action::DeleteTargetGroup(group) => {
                let gone = groups.remove(&group.name).ok_or("no such group")?.described.id;
                let mut listeners = self.view.load_balancers.values().flat_map(|it| it.listeners.values());
                none(listeners.any(|it| it.group.as_ref() == Some(&gone)), "a listener sends there")
            }
            other => Err(format!("not of a target group: {other:?}")),
        }
    }

    fn ids(&self, groups: &[Named]) -> Result<BTreeSet<Id>, String> {
        let of = |group: &Named| {
            let ours =
                self.view.security_groups.get(&group.name).map(|security_group| security_group.id.clone());
            ours.or_else(|| group.id.clone()).ok_or_else(|| format!("no security group {group}"))
        };
        let ids: BTreeSet<Id> = groups.iter().map(of).collect::<Result<_, _>>()?;
        none(ids.is_empty() || ids.len() > 5, "one to five security groups").map(|()| ids)
    }

    fn balancers(&mut self, action: &Action) -> Refused {
        if let Action::CreateLoadBalancer { security_groups, .. } = action {
            let ids = self.ids(security_groups)?;
            return self.create(action, ids);
        }
        if let Action::DeleteLoadBalancer(named) | Action::DeleteSharedLoadBalancer(named) = action {
            return none(self.view.load_balancers.remove(&named.name).is_none(), "there is none");
        }
        let ids = match action {
            Action::SetSecurityGroups { groups, .. } => Some(self.ids(groups)?),
            _ => None,
        };
        let named = match action {
            Action::SetAttributes { load_balancer, .. }
            | Action::SetSubnets { load_balancer, .. }
            | Action::SetSecurityGroups { load_balancer, .. }
            | Action::SetAddressType { load_balancer, .. }
            | Action::SetFamilies { load_balancer, .. }
            | Action::Mark { load_balancer, .. }
            | Action::MarkDirty { load_balancer, .. }
            | Action::MarkSynced { load_balancer, .. } => load_balancer,
            other => return Err(format!("not of a load balancer: {other:?}")),
        };
        let balancer = self.view.load_balancers.get_mut(&named.name).ok_or("there is none")?;
        match action {
            Action::SetAttributes { attributes, .. } => balancer.attributes.extend(attributes.clone()),
            Action::SetSubnets { placement, .. } => balancer.described.subnets = subnets(placement),
            Action::SetFamilies { families, subnets, .. } => {
                balancer.described.families = *families;
                balancer.described.subnets = prefixed(subnets, *families);
            }
            Action::SetAddressType { kind, .. } => balancer.described.families.kind = *kind,
            Action::Mark { .. } => balancer.extras = Some(extras(&balancer.listeners)),
            Action::MarkDirty { tags, .. } | Action::MarkSynced { tags, .. } => {
                balancer.synced = SyncedHash::after(balancer.synced.as_ref(), tags);
            }
            _ => balancer.described.security_groups = ids.unwrap_or_default(),
        }
        udp_fits(balancer)
    }

    fn create(&mut self, action: &Action, security_groups: BTreeSet<Id>) -> Refused {
        let Action::CreateLoadBalancer { name, scheme, families, placement, tags, .. } = action else {
            return Err("it makes none".to_owned());
        };
        let described = LoadBalancer {
            id: Id(format!("arn:aws:x:loadbalancer/net/{name}")),
            name: name.clone(),
            hostname: format!("{name}.example"),
            scheme: *scheme,
            families: *families,
            subnets: prefixed(&subnets(placement).into_iter().collect::<Vec<_>>(), *families),
            security_groups,
            state: LifeState::Provisioning,
        };
        let balancer = Balancer {
            described,
            attributes: balancer_defaults(),
            listeners: BTreeMap::new(),
            extras: tags::has_extras(tags).then(BTreeMap::new),
            taken: BTreeMap::new(),
            shared: tags::group(tags).map(|group| Share { group, lead: tags::leader(tags) }),
            adopted: false,
            synced: SyncedHash::of(tags),
            polls: 0,
        };
        udp_fits(&balancer)?;
        none(self.view.load_balancers.insert(name.clone(), balancer).is_some(), "the name is taken")
    }

    /// The group's ID, where a listener of `balancer` may send to it.
    fn sendable(&self, balancer: &str, protocol: Transport, group: &Named) -> Result<Id, String> {
        let found = self.view.groups.get(&group.name).ok_or("no such target group")?;
        let shape = self.shapes.get(&group.name).ok_or("no such target group")?;
        let fits = match protocol {
            Transport::Tls => matches!(shape.protocol, Transport::Tcp | Transport::Tls),
            plain => shape.protocol == plain,
        };
        none(!fits, "the protocols do not fit")?;
        let others = self.view.load_balancers.iter().filter(|(name, _)| *name != balancer);
        let mut listeners = others.flat_map(|(_, it)| it.listeners.values());
        none(listeners.any(|it| it.group.as_ref() == Some(&found.described.id)), "another one sends there")?;
        Ok(found.described.id.clone())
    }

    fn listeners(&mut self, action: &Action) -> Refused {
        match action {
            Action::CreateListener { load_balancer, spec, group, tags: _ } => {
                let name = &load_balancer.name;
                let group = self.sendable(name, spec.protocol, group)?;
                let id = Id(format!("{name}/{}", spec.port));
                let balancer = self.view.load_balancers.get_mut(name).ok_or("no such load balancer")?;
                let listener = Listener { id, spec: spec.clone(), group: Some(group), split: false };
                let taken = balancer.listeners.insert(spec.port, listener).is_some();
                none(taken, "the port is taken")?;
                self.refresh(name)
            }
            Action::ModifyListener { id, spec, group } => {
                let (name, port) = self.listener(id)?;
                let group = self.sendable(&name, spec.protocol, group)?;
                none(port != spec.port, "a listener keeps its port")?;
                let balancer = self.view.load_balancers.get_mut(&name).ok_or("no such load balancer")?;
                let listener =
                    Listener { id: id.clone(), spec: spec.clone(), group: Some(group), split: false };
                balancer.listeners.insert(port, listener);
                self.refresh(&name)
            }
            Action::DeleteListener { id, port: _ } => {
                let (name, port) = self.listener(id)?;
                let balancer = self.view.load_balancers.get_mut(&name).ok_or("no such load balancer")?;
                balancer.listeners.remove(&port);
                self.refresh(&name)
            }
            Action::AddCertificates { listener, arns } => {
                self.extras(listener, |extras| extras.certificates.extend(arns.iter().cloned()))
            }
            Action::RemoveCertificates { listener, arns } => {
                self.extras(listener, |extras| extras.certificates.retain(|arn| !arns.contains(arn)))
            }
            Action::SetListenerAttributes { listener, attributes } => {
                self.extras(listener, |extras| extras.attributes.extend(attributes.clone()))
            }
            other => Err(format!("not of a listener: {other:?}")),
        }
    }

    fn listener(&self, id: &Id) -> Result<(String, u16), String> {
        let all = self.view.load_balancers.iter();
        let mut all = all.flat_map(|(name, it)| it.listeners.iter().map(move |found| (name, found)));
        let found = all.find(|(_, (_, listener))| listener.id == *id);
        found.map(|(name, (port, _))| (name.clone(), *port)).ok_or_else(|| format!("no listener {id}"))
    }

    /// Certificates go with TLS, everything with the listener.
    fn refresh(&mut self, name: &str) -> Refused {
        let balancer = self.view.load_balancers.get_mut(name).ok_or("no such load balancer")?;
        udp_fits(balancer)?;
        let old = balancer.extras.take();
        balancer.extras = old.map(|old| {
            let mut fresh = extras(&balancer.listeners);
            for (port, extras) in &mut fresh {
                let kept = old.get(port).cloned().unwrap_or_default();
                extras.attributes.extend(kept.attributes);
                if balancer.listeners[port].spec.protocol == Transport::Tls {
                    extras.certificates = kept.certificates;
                }
            }
            fresh
        });
        Ok(())
    }

    fn extras(&mut self, listener: &ListenerRef, change: impl FnOnce(&mut ListenerExtras)) -> Refused {
        let ListenerRef { load_balancer, port, id: _ } = listener;
        let balancer = self.view.load_balancers.get_mut(&load_balancer.name).ok_or("no load balancer")?;
        let all = balancer.extras.as_mut().ok_or("it is not marked, so nobody would ever look")?;
        let extras = all.get_mut(port).ok_or("no such listener")?;
        change(extras);
        let tls = balancer.listeners[port].spec.protocol == Transport::Tls;
        none(!tls && !extras.certificates.is_empty(), "certificates need TLS")
    }
}

fn extras(listeners: &BTreeMap<u16, Listener>) -> BTreeMap<u16, ListenerExtras> {
    let of = |listener: &Listener| match listener.spec.protocol {
        Transport::Udp => ListenerExtras::default(),
        _ => ListenerExtras {
            certificates: BTreeSet::new(),
            attributes: [("tcp.idle_timeout.seconds".to_owned(), "350".to_owned())].into(),
        },
    };
    listeners.iter().map(|(port, listener)| (*port, of(listener))).collect()
}

/// Prefixes are for both families, and UDP there needs them.
fn udp_fits(balancer: &Balancer) -> Refused {
    let Families { kind, source_nat } = balancer.described.families;
    let mut listeners = balancer.listeners.values();
    let udp = listeners.any(|it| matches!(it.spec.protocol, Transport::Udp | Transport::TcpUdp));
    none(source_nat && kind == AddressType::Ipv4, "prefixes are for both families")?;
    none(udp && !source_nat && kind == AddressType::Dualstack, "UDP over IPv6 needs prefixes")
}

/// With prefixes that AWS chooses where none is.
fn prefixed(subnets: &[SubnetMapping], families: Families) -> BTreeSet<SubnetMapping> {
    let each = (0..).zip(subnets).map(|(n, mapping): (u16, _)| {
        let own = || Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0), 80).unwrap();
        let source_prefix = families.source_nat.then(|| mapping.source_prefix.unwrap_or_else(own));
        SubnetMapping { source_prefix, ..mapping.clone() }
    });
    each.collect()
}

fn subnets(placement: &Placement) -> BTreeSet<SubnetMapping> {
    let zones = ["subnet-a", "subnet-b"];
    match placement {
        Placement::Discovered => zones.iter().map(|subnet| mapping(subnet, None)).collect(),
        Placement::Addressed(addresses) => {
            let pairs = zones.iter().zip(addresses.iter().cloned());
            pairs.map(|(subnet, address)| mapping(subnet, Some(address))).collect()
        }
        Placement::Named(mappings) => mappings.iter().cloned().collect(),
    }
}

fn none(wrong: bool, why: &str) -> Refused {
    if wrong { Err(why.to_owned()) } else { Ok(()) }
}
