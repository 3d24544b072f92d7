//! Reading: everything by tags in one listing, or one Service in full.
//!
//! Owns: both reads. Leaves to others: what to make of them. Invariants: what a listing by tags shows is read again
//! with its own tags, so that a listing that lags cannot make us touch somebody else's thing; what is gone by then is
//! left out.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{ClusterUid, Inventory, Owned, Owner};

use crate::cloud::resources::{
    Health, Id, Kind, Listener, ListenerExtras, LoadBalancer, Tags, TargetGroup, Transport,
};
use crate::cloud::{Answer, Cloud};
use crate::memory::Memory;
use crate::observed::{Balancer, Group, Observed, Snapshot, View};
use crate::tags;

/// Everything of a cluster, by tags: one paged listing.
pub(crate) async fn inventory<C: Cloud>(
    cloud: &C,
    memory: &Memory,
    cluster: &ClusterUid,
) -> Answer<Inventory<Observed>> {
    let mut services: BTreeMap<Owner, Snapshot> = BTreeMap::new();
    for (id, found) in cloud.tagged(&tags::cluster(cluster)).await? {
        let (Some(owner), Some(kind)) = (tags::owner(&found), id.kind()) else { continue };
        let snapshot = services.entry(owner).or_default();
        match kind {
            Kind::LoadBalancer => {
                snapshot.load_balancers += 1;
                // Two are a replacement under way, whatever their seals say.
                snapshot.sealed = tags::sealed(&found).filter(|_| snapshot.load_balancers == 1);
            }
            Kind::TargetGroup | Kind::SecurityGroup => snapshot.others += 1,
        }
    }
    Ok(services.into_iter().map(|(owner, snapshot)| remembered(memory, owner, snapshot)).collect())
}

/// The full view of what has not changed since it was read, by its tags.
fn remembered(memory: &Memory, owner: Owner, snapshot: Snapshot) -> Owned<Observed> {
    let same = |view: &View| {
        let View { load_balancers, groups, firewalls, subnet_names: _ } = view;
        let sealed = load_balancers.values().next().and_then(|balancer| balancer.sealed.as_ref());
        load_balancers.len() == 1
            && snapshot.load_balancers == 1
            && groups.len() + firewalls.len() == snapshot.others
            && sealed.is_some()
            && sealed == snapshot.sealed.as_ref()
    };
    match memory.view(&owner.service).filter(same) {
        Some(view) => Owned { owner, observed: Observed::Full(view) },
        None => Owned { owner, observed: Observed::Snapshot(snapshot) },
    }
}

/// One Service, in full.
pub(crate) async fn observe<C: Cloud>(cloud: &C, memory: &Memory, vpc: &str, owner: &Owner) -> Answer<View> {
    let identity = tags::identity(owner);
    let listed = cloud.tagged(&identity).await?.into_iter().map(|(id, _)| id);
    let ids: BTreeSet<Id> = listed.chain(memory.ids(owner)).collect();
    let of = |kind| ids.iter().filter(move |id| id.kind() == Some(kind)).cloned();
    let tagged: Vec<Id> = of(Kind::LoadBalancer).chain(of(Kind::TargetGroup)).collect();
    let found = if tagged.is_empty() { BTreeMap::new() } else { cloud.tags(&tagged).await? };
    let own = |kind| -> Vec<Id> {
        let ids = found.iter().filter(|(_, found)| tags::are_of(found, owner)).map(|(id, _)| id.clone());
        ids.filter(|id| id.kind() == Some(kind)).collect()
    };
    let mut view = View::default();
    for facts in cloud.load_balancers(&own(Kind::LoadBalancer)).await? {
        let no_tags = Tags::new();
        if let Some(balancer) = balancer(cloud, found.get(&facts.id).unwrap_or(&no_tags), facts).await? {
            view.load_balancers.insert(balancer.facts.name.clone(), balancer);
        }
    }
    for facts in cloud.target_groups(&own(Kind::TargetGroup)).await? {
        if let Some(group) = group(cloud, facts).await? {
            view.groups.insert(group.facts.name.clone(), group);
        }
    }
    for firewall in cloud.security_groups(&identity).await? {
        view.firewalls.insert(firewall.name.clone(), firewall);
    }
    view.subnet_names = subnet_names(cloud, memory, vpc, &view).await?;
    memory.saw(owner, &view);
    Ok(view)
}

/// Sizes of prefix lists, once in a process. Who may not read them is told when a Service names one, and only then.
pub(crate) async fn prefix_lists<C: Cloud>(cloud: &C, memory: &Memory) {
    if memory.prefix_lists().is_none() {
        memory.saw_prefix_lists(cloud.prefix_lists(&BTreeSet::new()).await.unwrap_or_default());
    }
}

/// `None`: it went while we looked.
async fn balancer<C: Cloud>(cloud: &C, found: &Tags, facts: LoadBalancer) -> Answer<Option<Balancer>> {
    let Some(attributes) = cloud.load_balancer_attributes(&facts.id).await? else { return Ok(None) };
    let listeners = cloud.listeners(&facts.id).await?;
    let listeners: BTreeMap<u16, Listener> =
        listeners.into_iter().map(|listener| (listener.spec.port, listener)).collect();
    let extras = if tags::has_extras(found) { Some(extras(cloud, &listeners).await?) } else { None };
    let adopted = tags::is_adopted(found);
    Ok(Some(Balancer { attributes, listeners, extras, adopted, sealed: tags::sealed(found), facts }))
}

/// What listeners have beside their specification.
async fn extras<C: Cloud>(
    cloud: &C,
    listeners: &BTreeMap<u16, Listener>,
) -> Answer<BTreeMap<u16, ListenerExtras>> {
    let mut all = BTreeMap::new();
    for (port, Listener { id, spec, group: _ }) in listeners {
        let certificates = match spec.protocol {
            Transport::Tls => cloud.listener_certificates(id).await?,
            Transport::Tcp | Transport::Udp | Transport::TcpUdp => BTreeSet::new(),
        };
        let attributes = cloud.listener_attributes(id).await?;
        all.insert(*port, ListenerExtras { certificates, attributes });
    }
    Ok(all)
}

/// `None`: it went while we looked.
async fn group<C: Cloud>(cloud: &C, facts: TargetGroup) -> Answer<Option<Group>> {
    let Some(attributes) = cloud.target_group_attributes(&facts.id).await? else { return Ok(None) };
    let mut targets = cloud.target_health(&facts.id).await?;
    targets.retain(|_, health| *health != Health::Draining);
    Ok(Some(Group { facts, attributes, targets }))
}

async fn subnet_names<C: Cloud>(
    cloud: &C,
    memory: &Memory,
    vpc: &str,
    view: &View,
) -> Answer<BTreeMap<String, String>> {
    let used: BTreeSet<&str> = view
        .load_balancers
        .values()
        .flat_map(|balancer| balancer.facts.subnets.iter().map(|mapping| mapping.subnet.as_str()))
        .collect();
    let mut subnets = memory.subnets();
    if !used.iter().all(|id| subnets.iter().any(|subnet| subnet.id == *id)) {
        subnets = cloud.subnets(vpc).await?;
        memory.saw_subnets(&subnets);
    }
    let used = subnets.iter().filter(|subnet| used.contains(subnet.id.as_str()));
    let names = used.filter_map(|subnet| Some((subnet.id.clone(), subnet.tags.get("Name")?.clone())));
    Ok(names.collect())
}
