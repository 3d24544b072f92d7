//! A cloud without a wire: steps change a view, and what AWS would refuse is refused.
//!
//! Owns: the effects of steps, and AWS's rules among things. Leaves to others: calls and their failures (the emulator).
//! Invariant: nothing is made, used or deleted in an order that AWS forbids; health and life advance by `tick` only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use crate::Quotas;
use crate::cloud::resources::{
    AddressType, Families, GroupShape, Health, Id, Kind, LifeState, Listener, ListenerExtras, LoadBalancer,
    Rule, SecurityGroup, Source, SubnetMapping, TargetGroup, Transport,
};
use crate::observed::{Balancer, Group, Share, SyncedHash, View};
use crate::step::{
    Action, Change, ListenerChange, ListenerRef, LoadBalancerChange, Mark, Named, New, PlannedLoadBalancer,
    SecurityGroupChange, TargetGroupChange,
};
use crate::tags;
use crate::wanted::Placement;
use crate::wanted::{balancer_defaults, group_defaults, mapping};

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
        for health in self.view.target_groups.values_mut().flat_map(|group| group.targets.values_mut()) {
            *health = Health::Healthy;
        }
    }

    /// Whether some client gets from `rule` to a target behind `port` by this hostname.
    pub(super) fn serves(&self, hostname: &str, port: u16) -> bool {
        let mut found = self.view.load_balancers.values().filter(|it| it.described.hostname == hostname);
        found.any(|balancer| {
            let group = balancer.listeners.get(&port).and_then(|listener| listener.group.as_ref());
            let mut groups = self.view.target_groups.values().filter(|it| Some(&it.described.id) == group);
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
            Action::Read(_) | Action::Restore { .. } => Ok(()),
            Action::Create(new) => self.create(new),
            Action::Modify(Change::SecurityGroup(named, change)) => self.rules(named, change),
            Action::Modify(Change::TargetGroup(named, change)) => self.target_group(named, change),
            Action::Modify(Change::Listener(listener, change)) => self.listener(listener, change),
            Action::Modify(Change::LoadBalancer(named, change)) => self.load_balancer(named, change),
            Action::Register { target_group, targets } => {
                let groups = &mut self.view.target_groups;
                let there = &mut groups.get_mut(&target_group.name).ok_or("no such group")?.targets;
                there.extend(targets.iter().map(|target| (target.clone(), Health::Initial)));
                Ok(())
            }
            Action::Deregister { target_group, targets } => {
                let groups = &mut self.view.target_groups;
                let there = &mut groups.get_mut(&target_group.name).ok_or("no such group")?.targets;
                there.retain(|target, _| !targets.contains(target));
                Ok(())
            }
            Action::Tag { load_balancer, mark, tags, target_groups: _ } => {
                let all = &mut self.view.load_balancers;
                let balancer = all.get_mut(&load_balancer.name).ok_or("there is none")?;
                match mark {
                    Mark::Note => balancer.extras = Some(extras(&balancer.listeners)),
                    Mark::Dirty | Mark::Synced => {
                        balancer.synced = SyncedHash::after(balancer.synced.as_ref(), tags);
                    }
                }
                udp_fits(balancer)
            }
            Action::Delete { kind, named, shared: _ } => self.delete(*kind, named),
            Action::Adopt { .. } => Err("there is nothing to adopt".to_owned()),
        }
    }

    fn create(&mut self, new: &New) -> Refused {
        match new {
            New::SecurityGroup { name, tags } => {
                let security_group = SecurityGroup {
                    id: Id(format!("sg-{name}")),
                    name: name.clone(),
                    rules: BTreeSet::new(),
                    foreign: BTreeSet::new(),
                    tags: tags.clone(),
                };
                let taken = self.view.security_groups.insert(name.clone(), security_group).is_some();
                none(taken, "a group of this name is there")
            }
            New::TargetGroup(new) => {
                let described = TargetGroup {
                    id: Id(format!("arn:aws:x:targetgroup/{}", new.name)),
                    name: new.name.clone(),
                    kind: (new.shape.targets, new.shape.family),
                    port: new.port,
                    load_balancers: BTreeSet::new(),
                    health: new.health.clone(),
                };
                let (attributes, targets) = (group_defaults(new.shape), BTreeMap::new());
                let group = Group { described, member_of: tags::group(&new.tags), attributes, targets };
                self.shapes.insert(new.name.clone(), new.shape);
                let taken = self.view.target_groups.insert(new.name.clone(), group).is_some();
                none(taken, "a group of this name is there")
            }
            New::LoadBalancer(new) => self.create_load_balancer(new),
            New::Listener { load_balancer, spec, target_group, tags: _ } => {
                let name = &load_balancer.name;
                let group = self.sendable(name, spec.protocol, target_group)?;
                let id = Id(format!("{name}/{}", spec.port));
                let balancer = self.view.load_balancers.get_mut(name).ok_or("no such load balancer")?;
                let listener = Listener { id, spec: spec.clone(), group: Some(group), split: false };
                let taken = balancer.listeners.insert(spec.port, listener).is_some();
                none(taken, "the port is taken")?;
                self.refresh(name)
            }
        }
    }

    fn delete(&mut self, kind: Kind, named: &Named) -> Refused {
        match kind {
            Kind::SecurityGroup => {
                let gone = self.view.security_groups.remove(&named.name).ok_or("no such group")?;
                let mut balancers = self.view.load_balancers.values();
                none(balancers.any(|it| it.described.security_groups.contains(&gone.id)), "it is in use")
            }
            Kind::TargetGroup => {
                let gone = self.view.target_groups.remove(&named.name).ok_or("no such group")?.described.id;
                let mut listeners = self.view.load_balancers.values().flat_map(|it| it.listeners.values());
                none(listeners.any(|it| it.group.as_ref() == Some(&gone)), "a listener sends there")
            }
            Kind::LoadBalancer => {
                none(self.view.load_balancers.remove(&named.name).is_none(), "there is none")
            }
            Kind::Listener => {
                let (name, port) = self.find_listener(named.id.as_ref())?;
                let balancer = self.view.load_balancers.get_mut(&name).ok_or("no such load balancer")?;
                balancer.listeners.remove(&port);
                self.refresh(&name)
            }
        }
    }

    fn rules(&mut self, named: &Named, change: &SecurityGroupChange) -> Refused {
        let security_group = self.view.security_groups.get_mut(&named.name).ok_or("no such group")?;
        match change {
            SecurityGroupChange::Authorize(rules) => {
                security_group.rules.extend(rules.iter().cloned());
                let v6 = |rule: &&Rule| matches!(rule.source, Source::Range(IpNet::V6(_)));
                let six = security_group.rules.iter().filter(v6).count();
                none(six.max(security_group.rules.len() - six) > Quotas::default().rules, "too many rules")
            }
            SecurityGroupChange::Revoke(rules) => {
                security_group.rules.retain(|rule| !rules.contains(rule));
                Ok(())
            }
        }
    }

    fn target_group(&mut self, named: &Named, change: &TargetGroupChange) -> Refused {
        let group = self.view.target_groups.get_mut(&named.name).ok_or("no such group")?;
        match change {
            TargetGroupChange::Attributes(attributes) => group.attributes.extend(attributes.clone()),
            TargetGroupChange::HealthCheck(health) => group.described.health = health.clone(),
        }
        Ok(())
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

    fn load_balancer(&mut self, named: &Named, change: &LoadBalancerChange) -> Refused {
        let ids = match change {
            LoadBalancerChange::SecurityGroups(groups) => self.ids(groups)?,
            _ => BTreeSet::new(),
        };
        let balancer = self.view.load_balancers.get_mut(&named.name).ok_or("there is none")?;
        match change {
            LoadBalancerChange::Attributes(attributes) => balancer.attributes.extend(attributes.clone()),
            LoadBalancerChange::Subnets { placement, .. } => balancer.described.subnets = subnets(placement),
            LoadBalancerChange::Families(families, subnets) => {
                balancer.described.families = *families;
                balancer.described.subnets = prefixed(subnets, *families);
            }
            LoadBalancerChange::AddressType(kind) => balancer.described.families.kind = *kind,
            LoadBalancerChange::SecurityGroups(_) => balancer.described.security_groups = ids,
        }
        udp_fits(balancer)
    }

    fn create_load_balancer(&mut self, new: &PlannedLoadBalancer) -> Refused {
        let PlannedLoadBalancer { name, scheme, families, placement, tags, security_groups, .. } = new;
        let security_groups = self.ids(security_groups)?;
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
        let found = self.view.target_groups.get(&group.name).ok_or("no such target group")?;
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

    fn listener(&mut self, listener: &ListenerRef, change: &ListenerChange) -> Refused {
        match change {
            ListenerChange::Spec(spec, target_group) => {
                let (name, port) = self.find_listener(listener.id.as_ref())?;
                let group = self.sendable(&name, spec.protocol, target_group)?;
                none(port != spec.port || port != listener.port, "a listener keeps its port")?;
                let balancer = self.view.load_balancers.get_mut(&name).ok_or("no such load balancer")?;
                let present = balancer.listeners.get_mut(&port).ok_or("no such listener")?;
                (present.spec, present.group) = (spec.clone(), Some(group));
                self.refresh(&name)
            }
            ListenerChange::AddCertificates(arns) => {
                self.extras(listener, |extras| extras.certificates.extend(arns.iter().cloned()))
            }
            ListenerChange::RemoveCertificates(arns) => {
                self.extras(listener, |extras| extras.certificates.retain(|arn| !arns.contains(arn)))
            }
            ListenerChange::Attributes(attributes) => {
                self.extras(listener, |extras| extras.attributes.extend(attributes.clone()))
            }
        }
    }

    fn find_listener(&self, id: Option<&Id>) -> Result<(String, u16), String> {
        let all = self.view.load_balancers.iter();
        let mut all = all.flat_map(|(name, it)| it.listeners.iter().map(move |found| (name, found)));
        let found = all.find(|(_, (_, listener))| Some(&listener.id) == id);
        found.map(|(name, (port, _))| (name.clone(), *port)).ok_or_else(|| format!("no listener {id:?}"))
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
        let all = balancer.extras.as_mut().ok_or("it is not marked, so nothing would read them")?;
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
