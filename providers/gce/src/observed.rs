//! All that exists for one Service, leftovers included.
//!
//! Owns: [`Observed`], and reading it for one Service or for all. Leaves to others: what to do about it (`plan`).
//! Invariants: operations are read before resources, so that what an ended one did is seen; what carries no mark of
//! this cluster is not in here, whatever its name.

pub(crate) mod frontends;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{join_all, try_join, try_join_all};
use portico_provider::{ClusterUid, IpFamily, Owner, ProviderError, ReadMode, ServiceUid};

use crate::cloud::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationFilter, OperationState};
use crate::names;
use crate::refused::{Offer, Place, Refusal};
use crate::resource::{
    Address, AddressRef, BackendService, Backends, Endpoint, ForwardingRule, Groups, Health, Id, Kind,
    Resource, Seen,
};
use crate::subset::Zones;

pub use shared::Shared;
use shared::{counts, sharing, users, without};

/// All that exists for one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The resources that bear this Service's names.
    pub resources: BTreeMap<Id, Resource>,
    /// Endpoints of each endpoint group; an inventory reads none of them, see [`Observed::holds`].
    pub endpoints: BTreeMap<Id, Arc<BTreeMap<Endpoint, Seen>>>,
    /// How many endpoints each group has.
    pub sizes: BTreeMap<Id, usize>,
    /// The latest operation on each resource, unless it was successful. What an operation is about may not exist.
    pub operations: BTreeMap<Id, Operation>,
    /// Nodes that Google refused, for whichever load balancer, by zone; of this process's own cache.
    pub refused: BTreeMap<(String, Endpoint), Refusal>,
    /// Whether the health of nodes was read; a list of instances does not contain it.
    pub asked: bool,
    /// What others have to do with the instance groups among the resources, which are the whole cluster's.
    pub shared: Shared,
    /// What stands under this Service's own names and has lost its description, so that nothing may touch it; only a look at
    /// one Service finds it.
    pub lost: BTreeSet<Id>,
    /// Forwarding rules that send to each backend service, whoever made them.
    pub users: BTreeMap<Id, BTreeSet<String>>,
    /// Addresses that the Service names, as far as they were asked for; `None`: there is none.
    pub named: BTreeMap<String, Option<Address>>,
}

impl Observed {
    /// Whether there is nothing. A failed operation is a cache and no thing.
    pub fn is_empty(&self) -> bool {
        let Self { resources, operations, shared, .. } = self;
        let own = |id: &Id| id.kind != Kind::InstanceGroup || !shared.others;
        !resources.keys().any(own) && !operations.values().any(|it| is_running(it) && own(&it.target))
    }

    /// Adds one of its things, or what has become of it.
    pub(crate) fn take(&mut self, found: Found) {
        let Found { resource, description: _, members, users } = found;
        let id = resource.id();
        if id.kind == Kind::BackendService {
            self.users.insert(id.clone(), users);
        }
        self.sizes.extend(members.map(|count| (id.clone(), count)));
        self.resources.insert(id, resource);
    }

    /// One of its things is gone.
    pub(crate) fn drop(&mut self, id: &Id) {
        self.resources.remove(id);
        self.endpoints.remove(id);
        self.sizes.remove(id);
        self.users.remove(id);
    }

    /// Forwarding rules of others that send to its backend services.
    pub(crate) fn foreign_rules(&self) -> BTreeSet<&str> {
        let own: BTreeSet<&str> = self.rules().map(|rule| rule.name.as_str()).collect();
        let all = self.users.values().flatten().map(String::as_str);
        all.filter(|name| !own.contains(name)).collect()
    }

    /// An operation that is under way.
    pub fn running(&self) -> Option<&Operation> {
        self.operations.values().find(|operation| is_running(operation))
    }

    /// The latest operation on a resource, if it failed.
    pub fn failure(&self, id: &Id) -> Option<(&Operation, &CloudError)> {
        let operation = self.operations.get(id)?;
        match &operation.state {
            OperationState::Failed(error) => Some((operation, error)),
            OperationState::Running | OperationState::Done => None,
        }
    }

    /// Whether the endpoints of its groups were read.
    pub fn is_listed(&self) -> bool {
        let groups = self.resources.keys().filter(|id| id.kind.is_group());
        groups.into_iter().all(|id| self.endpoints.contains_key(id))
    }

    /// Those of some nodes that were refused and are not in the groups of a name.
    pub(crate) fn lacks<'a>(&'a self, groups: &Groups, zones: &Zones) -> Vec<(&'a Place, &'a Refusal)> {
        if !self.is_listed() && self.holds(groups, zones) {
            return Vec::new();
        }
        let lacking = |(zone, node): &Place| {
            zones.get(zone).is_some_and(|nodes| nodes.contains(node)) && !self.has(groups, zone, node)
        };
        self.refused.iter().filter(|(place, _)| lacking(place)).collect()
    }

    fn has(&self, groups: &Groups, zone: &str, node: &Endpoint) -> bool {
        self.endpoints.get(&groups.in_zone(zone)).is_some_and(|present| present.contains_key(node))
    }

    /// The nodes without those that were refused and are not in the groups of a name, but with those that are to be
    /// offered again.
    pub(crate) fn without_refused(&self, groups: &Groups, zones: &Zones) -> Zones {
        let takes = |zone: &String, node: &Endpoint| {
            let refusal = self.refused.get(&(zone.clone(), node.clone()));
            refusal.is_none_or(|refusal| refusal.offer == Offer::Now) || self.has(groups, zone, node)
        };
        let fit = |(zone, nodes): (&String, &BTreeSet<Endpoint>)| {
            (zone.clone(), nodes.iter().filter(|node| takes(zone, node)).cloned().collect())
        };
        zones.iter().map(fit).collect()
    }

    /// Whether the groups of a name hold these nodes and no others, though nobody read them.
    ///
    /// A seal is written after nodes were attached and before others are detached, so that a group always holds at
    /// least what the seal says; as many as that are then those. A seal from before a replacement proves nothing.
    pub(crate) fn holds(&self, groups: &Groups, zones: &Zones) -> bool {
        let mut services = self.services();
        let (Some(service), None) = (services.next(), services.next()) else { return false };
        let as_many = |(zone, nodes): (&String, &BTreeSet<Endpoint>)| {
            self.sizes.get(&groups.in_zone(zone)) == Some(&nodes.len())
        };
        service.synced_hash.as_ref() == Some(&synced_hash(zones)) && zones.iter().all(as_many)
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &ForwardingRule> {
        self.resources.values().filter_map(|resource| match resource {
            Resource::ForwardingRule(rule) => Some(rule),
            _ => None,
        })
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &BackendService> {
        self.resources.values().filter_map(|resource| match resource {
            Resource::BackendService(service) => Some(service),
            _ => None,
        })
    }

    /// The nodes behind its backend services, with what is known of their health; `None`: that was not read.
    pub(crate) fn nodes(&self) -> Option<Vec<(&Endpoint, &Seen)>> {
        let backends = self.services().next().map(|service| service.backends).unwrap_or_default();
        let known = self.is_listed() && (self.asked || backends == Backends::EndpointGroups);
        let own = self.endpoints.iter().filter(|(id, _)| id.kind == backends.kind());
        known.then(|| own.flat_map(|(_, group)| &**group).collect())
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.resources.values().filter_map(|resource| match resource {
            Resource::Address(address) => Some(address),
            _ => None,
        })
    }

    /// Whether something else of ours points at it, so that it cannot be deleted yet.
    pub(crate) fn is_referred_to(&self, id: &Id) -> bool {
        match id.kind {
            Kind::ForwardingRule => false,
            Kind::BackendService => self.rules().any(|rule| rule.backend_service == id.name),
            Kind::HealthCheck => self.services().any(|service| service.health_check == id.name),
            Kind::EndpointGroup | Kind::InstanceGroup => {
                let own = (id.zone.clone().unwrap_or_default(), id.name.clone());
                let refers = |it: &BackendService| it.backends.kind() == id.kind && it.groups.contains(&own);
                self.services().any(refers) || self.shared.used.contains(id)
            }
            Kind::Address => {
                let ip =
                    self.addresses().find(|address| address.name == id.name).and_then(|address| address.ip);
                self.rules().any(|rule| ip.is_some_and(|ip| rule.address == AddressRef::Ip(ip)))
            }
            // Senders are shut out only when nothing listens any more.
            Kind::Firewall => {
                let sources = match self.resources.get(id) {
                    Some(Resource::Firewall(firewall)) => firewall.sources.first(),
                    _ => None,
                };
                let family = sources.map(|source| IpFamily::of(source.addr()));
                self.rules().any(|rule| family.is_none_or(|family| family == rule.family))
            }
        }
    }
}

/// A digest of nodes by zone; a zone without any is none.
pub(crate) fn synced_hash(zones: &Zones) -> String {
    let words: Vec<String> = zones
        .iter()
        .filter(|(_, nodes)| !nodes.is_empty())
        .flat_map(|(zone, nodes)| {
            let nodes = nodes.iter().map(|Endpoint { instance, ip }| format!("{instance} {ip}"));
            std::iter::once(zone.clone()).chain(nodes)
        })
        .collect();
    format!("{:016x}", names::fnv(&words.iter().map(String::as_str).collect::<Vec<_>>()))
}

pub(crate) fn is_running(operation: &Operation) -> bool {
    operation.state == OperationState::Running
}

/// One Service's things. `shares`: whether there may be instance groups in the cluster.
pub(crate) async fn observe<C: Cloud>(
    cloud: &C,
    owner: &Owner,
    read_mode: ReadMode,
    shares: bool,
) -> Result<Option<Observed>, ProviderError> {
    let names = names::Names::of(owner);
    let common = shares.then(|| names::shared_group(&owner.cluster));
    let about = common.as_ref().map(|group| format!("{}|.*/{group}", names.pattern()));
    let about = about.unwrap_or_else(|| names.pattern().to_owned());
    let filter = OperationFilter::About(about);
    let all = names::checks_pattern(&owner.cluster);
    let patterns = Kind::ALL.into_iter().filter_map(|kind| match (kind, &common) {
        (Kind::InstanceGroup, group) => Some((kind, group.clone()?)),
        (Kind::BackendService | Kind::HealthCheck, Some(_)) => Some((kind, all.clone())),
        _ => Some((kind, names.pattern().to_owned())),
    });
    let Listed { found, operations, mut lost } =
        read(cloud, patterns.collect(), &filter, true).await.map_err(error)?;
    lost.retain(|id| names.has(&id.name));
    let mut observed = Observed { shared: sharing(&found, owner), lost, ..Observed::default() };
    for (other, found) in found.into_iter().filter(|(other, _)| other.cluster == owner.cluster) {
        if other.service == owner.service || found.resource.id().kind == Kind::InstanceGroup {
            observed.take(found);
        }
    }
    observed.operations = latest(operations);
    read_endpoints(cloud, &mut observed).await.map_err(error)?;
    // Looks for work alone, and those while something is being made, ask nothing that only people want to know; of
    // instances nothing else tells it.
    let idle = matches!(read_mode, ReadMode::Pending | ReadMode::Full) && observed.running().is_none();
    if idle || observed.services().any(|service| service.backends == Backends::InstanceGroups) {
        ask_health(cloud, &mut observed).await;
        observed.asked = true;
    }
    Ok((!observed.is_empty()).then_some(observed))
}

/// Everything of a cluster, by Service, at the cost of one listing for each kind: endpoints of endpoint groups are not
/// read, instances of the shared groups are, once. Operations on what does not exist belong to nobody and are left out.
pub(crate) async fn inventory<C: Cloud>(
    cloud: &C,
    cluster: &ClusterUid,
    shares: bool,
) -> Result<Vec<(Owner, Observed)>, ProviderError> {
    let pattern = names::cluster_pattern(cluster);
    let patterns = Kind::ALL.map(|kind| (kind, pattern.clone())).to_vec();
    let Listed { mut found, operations, lost: _ } =
        read(cloud, patterns, &OperationFilter::Running, shares).await.map_err(error)?;
    found.retain(|(owner, _)| owner.cluster == *cluster);
    let mut operations = latest(operations);
    let users = users(&found);
    let (groups, found): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, found)| found.resource.id().kind == Kind::InstanceGroup);
    let mut services: BTreeMap<ServiceUid, (Owner, Observed)> = BTreeMap::new();
    for (owner, found) in found {
        let (_, observed) =
            services.entry(owner.service.clone()).or_insert_with(|| (owner, Observed::default()));
        observed.operations.extend(operations.remove_entry(&found.resource.id()));
        observed.take(found);
    }
    if let Some((maker, _)) = groups.first().filter(|_| users.is_empty()) {
        // Nobody has them: whoever they were made for is to take them away.
        services.entry(maker.service.clone()).or_insert_with(|| (maker.clone(), Observed::default()));
    }
    let mut common = Observed::default();
    for (_, found) in groups {
        common.take(found);
    }
    read_endpoints(cloud, &mut common).await.map_err(error)?;
    if !common.resources.is_empty() {
        let counts = counts(&users);
        for (uid, (_, observed)) in &mut services {
            observed.resources.extend(common.resources.clone());
            observed.endpoints.extend(common.endpoints.clone());
            observed.shared = without(&users, &counts, uid);
        }
    }
    Ok(services.into_values().filter(|(_, observed)| !observed.is_empty()).collect())
}

fn error(error: CloudError) -> ProviderError {
    error.during("list load balancers")
}

/// The content of listings.
struct Listed {
    /// Marked resources and their owners.
    found: Vec<(Owner, Found)>,
    operations: Vec<Operation>,
    /// Resources whose mark somebody took off.
    lost: BTreeSet<Id>,
}

/// Resources and operations, by regular expressions for names. Unless they are `shared`, whoever
/// may not list instance groups has none.
async fn read<C: Cloud>(
    cloud: &C,
    patterns: Vec<(Kind, String)>,
    filter: &OperationFilter,
    shared: bool,
) -> Result<Listed, CloudError> {
    let operations = cloud.operations(filter).await?;
    let listed = async |kind: Kind, names: &str| match cloud.list(kind, names).await {
        Err(error) if error.kind == CloudErrorKind::Denied && kind == Kind::InstanceGroup && !shared => {
            Ok(Vec::new())
        }
        answer => answer,
    };
    let lists = try_join_all(patterns.iter().map(|(kind, names)| Box::pin(listed(*kind, names)))).await?;
    let (mut found, mut lost) = (Vec::new(), BTreeSet::new());
    for it in lists.into_iter().flatten() {
        match names::owner_of(&it.description) {
            Some(owner) => found.push((owner, it)),
            None if names::is_lost(&it.description) => {
                lost.insert(it.resource.id());
            }
            None => {}
        }
    }
    Ok(Listed { found, operations, lost })
}

/// One call for each zone, side by side.
pub(crate) async fn read_endpoints<C: Cloud>(cloud: &C, observed: &mut Observed) -> Result<(), CloudError> {
    let groups = observed.resources.keys().filter(|id| id.kind.is_group());
    let asked = groups.map(|id| try_join(cloud.endpoints(id), async { Ok(id.clone()) }));
    let answers = try_join_all(asked).await?;
    observed.endpoints.extend(answers.into_iter().map(|(endpoints, id)| (id, Arc::new(endpoints))));
    Ok(())
}

/// What backend services see of their groups, where a group's own list does not say that all is well, and the weights
/// that it never says. Health is news beside everything else: that it cannot be had changes nothing.
pub(crate) async fn ask_health<C: Cloud>(cloud: &C, observed: &mut Observed) {
    let mut asked = Vec::new();
    for service in observed.services() {
        let six =
            observed.rules().any(|it| it.backend_service == service.name && it.family == IpFamily::IPv6);
        let well = |seen: &Seen| seen.v4 == Health::Healthy && (!six || seen.v6 == Health::Healthy);
        for (zone, name) in &service.groups {
            let id = Id { kind: service.backends.kind(), zone: Some(zone.clone()), name: name.clone() };
            let nodes = observed.endpoints.get(&id);
            if nodes.is_some_and(|nodes| service.weighted && !nodes.is_empty() || !nodes.values().all(well)) {
                asked.push((service.name.clone(), id));
            }
        }
    }
    let answers = asked.iter().map(|(service, group)| Box::pin(cloud.health(service, group)));
    for ((service, group), answer) in asked.iter().zip(join_all(answers).await) {
        match answer {
            Ok(seen) => merge(Arc::make_mut(observed.endpoints.entry(group.clone()).or_default()), &seen),
            Err(error) => tracing::debug!(service, %group, %error, "health is not known"),
        }
    }
}

fn merge(nodes: &mut BTreeMap<Endpoint, Seen>, seen: &BTreeMap<String, Seen>) {
    let better = |now: &mut Health, said: Health| {
        if said != Health::Unknown && *now != Health::Healthy {
            *now = said;
        }
    };
    for (node, now) in nodes {
        if let Some(Seen { v4, v6, weight }) = seen.get(&node.instance) {
            better(&mut now.v4, *v4);
            better(&mut now.v6, *v6);
            now.weight = weight.clone().or(now.weight.take());
        }
    }
}

/// The latest operation on each target, without the successful.
fn latest(operations: Vec<Operation>) -> BTreeMap<Id, Operation> {
    let mut latest: BTreeMap<Id, Operation> = BTreeMap::new();
    for operation in operations {
        let newer = |known: &Operation| {
            (is_running(&operation), &operation.started, &operation.name)
                > (is_running(known), &known.started, &known.name)
        };
        if latest.get(&operation.target).is_none_or(newer) {
            latest.insert(operation.target.clone(), operation);
        }
    }
    latest.retain(|_, operation| operation.state != OperationState::Done);
    latest
}
