//! All that exists for one Service, leftovers included.
//!
//! Owns: [`Observed`], and reading it for one Service or for all. Leaves to others: what to do about it (`plan`).
//! Invariants: operations are read before resources, so that what an ended one did is seen; what carries no mark of
//! this cluster is not in here, whatever its name.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::{try_join, try_join_all};
use portico_provider::{ClusterUid, IpFamily, Owner, ProviderError, ServiceUid};

use crate::cloud::{Cloud, CloudError, Found, Operation, OperationFilter, OperationState};
use crate::names;
use crate::resource::{
    Address, AddressRef, BackendService, Endpoint, ForwardingRule, Health, Id, Kind, Resource,
};
use crate::subset::Zones;

/// All that exists for one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Every resource.
    pub resources: BTreeMap<Id, Resource>,
    /// Endpoints of each endpoint group; an inventory reads none of them, see [`Observed::holds`].
    pub endpoints: BTreeMap<Id, BTreeMap<Endpoint, Health>>,
    /// How many endpoints each group has.
    pub sizes: BTreeMap<Id, usize>,
    /// The latest operation on each resource, unless it was successful. What an operation is about may not exist.
    pub operations: BTreeMap<Id, Operation>,
}

impl Observed {
    /// Whether there is nothing. A failed operation is a memory and no thing.
    pub fn is_empty(&self) -> bool {
        let Self { resources, endpoints: _, sizes: _, operations } = self;
        resources.is_empty() && !operations.values().any(is_running)
    }

    /// Adds one of its things.
    fn take(&mut self, found: Found) {
        let Found { resource, description: _, members } = found;
        let id = resource.id();
        self.sizes.extend(members.map(|count| (id.clone(), count)));
        self.resources.insert(id, resource);
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
        let groups = self.resources.keys().filter(|id| id.kind == Kind::EndpointGroup);
        groups.into_iter().all(|id| self.endpoints.contains_key(id))
    }

    /// Whether the groups of a name hold these nodes and no others, though nobody read them.
    ///
    /// A seal is written after nodes were attached and before others are detached, so that a group always holds at
    /// least what the seal says; as many as that are then those. A seal from before a replacement proves nothing.
    pub(crate) fn holds(&self, group: &str, zones: &Zones) -> bool {
        let mut services = self.services();
        let (Some(service), None) = (services.next(), services.next()) else { return false };
        let as_many = |(zone, nodes): (&String, &BTreeSet<Endpoint>)| {
            let id = Id { kind: Kind::EndpointGroup, zone: Some(zone.clone()), name: group.to_owned() };
            self.sizes.get(&id) == Some(&nodes.len())
        };
        service.seal.as_ref() == Some(&seal(zones)) && zones.iter().all(as_many)
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
            Kind::EndpointGroup => {
                let own = (id.zone.clone().unwrap_or_default(), id.name.clone());
                self.services().any(|service| service.groups.contains(&own))
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

/// A digest of nodes by zone.
pub(crate) fn seal(zones: &Zones) -> String {
    let words: Vec<String> = zones
        .iter()
        .flat_map(|(zone, nodes)| {
            let nodes = nodes.iter().map(|Endpoint { instance, ip }| format!("{instance} {ip}"));
            std::iter::once(zone.clone()).chain(nodes)
        })
        .collect();
    format!("{:016x}", names::fnv(&words.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn is_running(operation: &Operation) -> bool {
    operation.state == OperationState::Running
}

/// One Service's things.
pub(crate) async fn observe<C: Cloud>(cloud: &C, owner: &Owner) -> Result<Option<Observed>, ProviderError> {
    let names = names::Names::of(owner);
    let filter = OperationFilter { names: names.pattern().to_owned(), running_only: false };
    let (found, operations) = read(cloud, names.pattern(), &filter).await.map_err(error)?;
    let mut observed = Observed::default();
    for (other, found) in found {
        if (&other.cluster, &other.service) == (&owner.cluster, &owner.service) {
            observed.take(found);
        }
    }
    observed.operations = latest(operations);
    read_endpoints(cloud, &mut observed).await.map_err(error)?;
    Ok((!observed.is_empty()).then_some(observed))
}

/// Everything of a cluster, by Service, at the cost of one listing for each kind: endpoints of groups are not read.
/// Operations on what does not exist belong to nobody and are left out.
pub(crate) async fn inventory<C: Cloud>(
    cloud: &C,
    cluster: &ClusterUid,
) -> Result<Vec<(Owner, Observed)>, ProviderError> {
    let pattern = names::cluster_pattern(cluster);
    let filter = OperationFilter { names: pattern.clone(), running_only: true };
    let (found, operations) = read(cloud, &pattern, &filter).await.map_err(error)?;
    let mut operations = latest(operations);
    let mut services: BTreeMap<ServiceUid, (Owner, Observed)> = BTreeMap::new();
    for (owner, found) in found.into_iter().filter(|(owner, _)| owner.cluster == *cluster) {
        let (_, observed) =
            services.entry(owner.service.clone()).or_insert_with(|| (owner, Observed::default()));
        observed.operations.extend(operations.remove_entry(&found.resource.id()));
        observed.take(found);
    }
    Ok(services.into_values().collect())
}

fn error(error: CloudError) -> ProviderError {
    error.during("list load balancers")
}

/// Marked resources and their owners, and operations, by one regular expression for names.
async fn read<C: Cloud>(
    cloud: &C,
    names: &str,
    filter: &OperationFilter,
) -> Result<(Vec<(Owner, Found)>, Vec<Operation>), CloudError> {
    let operations = cloud.operations(filter).await?;
    let lists = try_join_all(Kind::ALL.map(|kind| Box::pin(cloud.list(kind, names)))).await?;
    let marked = |found: Found| names::owner_of(&found.description).map(|owner| (owner, found));
    Ok((lists.into_iter().flatten().filter_map(marked).collect(), operations))
}

/// One call for each zone, side by side.
async fn read_endpoints<C: Cloud>(cloud: &C, observed: &mut Observed) -> Result<(), CloudError> {
    let groups = observed.resources.keys().filter(|id| id.kind == Kind::EndpointGroup);
    let asked = groups.map(|id| try_join(cloud.endpoints(id), async { Ok(id.clone()) }));
    let answers = try_join_all(asked).await?;
    observed.endpoints.extend(answers.into_iter().map(|(endpoints, id)| (id, endpoints)));
    Ok(())
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
