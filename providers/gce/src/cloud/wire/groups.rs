//! Groups of nodes between our words and the SDK's, and what Google sees of the nodes in them.
//!
//! Owns: endpoint groups, instance groups, endpoints, instances, health, weights. Leaves to others: the other kinds (`wire`).
//! Invariant: as there; a node of an instance group has no address.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use google_cloud_compute_v1::model;

use super::{Urls, found, last};
use crate::cloud::Found;
use crate::resource::{
    Endpoint, EndpointGroup, Health, InstanceGroup, Kind, NO_ADDRESS, Place, Resource, Seen, Weight,
};

pub(in crate::cloud) fn endpoint_group(
    urls: &Urls,
    group: &EndpointGroup,
    description: &str,
) -> model::NetworkEndpointGroup {
    let EndpointGroup { name, zone: _, place: Place { network, subnetwork } } = group;
    model::NetworkEndpointGroup::new()
        .set_name(name)
        .set_description(description)
        .set_network_endpoint_type("GCE_VM_IP")
        .set_network(urls.network(network))
        .set_subnetwork(urls.subnetwork(subnetwork))
}

pub(in crate::cloud) fn group_url(kind: Kind, zone: &str, name: &str) -> String {
    format!("zones/{zone}/{}/{name}", kind.collection())
}

pub(in crate::cloud) fn instance_group(
    InstanceGroup { name, zone: _ }: &InstanceGroup,
    description: &str,
) -> model::InstanceGroup {
    model::InstanceGroup::new().set_name(name).set_description(description)
}

pub(in crate::cloud) fn instance(
    zone: &str,
    Endpoint { instance, ip: _ }: &Endpoint,
) -> model::InstanceReference {
    model::InstanceReference::new().set_instance(format!("zones/{zone}/instances/{instance}"))
}

pub(in crate::cloud) fn endpoint(Endpoint { instance, ip }: &Endpoint) -> model::NetworkEndpoint {
    model::NetworkEndpoint::new().set_instance(instance).set_ip_address(ip.to_string())
}

pub(in crate::cloud) fn read_endpoint_group(wire: model::NetworkEndpointGroup) -> Option<Found> {
    let place =
        Place { network: last(wire.network.as_deref()?), subnetwork: last(wire.subnetwork.as_deref()?) };
    let group = EndpointGroup { name: wire.name?, zone: last(wire.zone.as_deref()?), place };
    let members = wire.size.and_then(|size| usize::try_from(size).ok());
    Some(Found { members, ..found(Resource::EndpointGroup(group), wire.description) })
}

/// Of several probes (of protocols, of rules) one that passes is enough.
fn read_states<'a>(mut states: impl Iterator<Item = Option<&'a str>>) -> Health {
    let better = |best, state| match (best, state) {
        (_, Some("HEALTHY")) => ControlFlow::Break(Health::Healthy),
        (_, Some("UNHEALTHY")) => ControlFlow::Continue(Health::Unhealthy),
        (best, _) => ControlFlow::Continue(best),
    };
    let (ControlFlow::Break(health) | ControlFlow::Continue(health)) =
        states.try_fold(Health::Unknown, better);
    health
}

pub(in crate::cloud) fn read_instance_group(wire: model::InstanceGroup) -> Option<Found> {
    let group = InstanceGroup { name: wire.name?, zone: last(wire.zone.as_deref()?) };
    let members = wire.size.and_then(|size| usize::try_from(size).ok());
    Some(Found { members, ..found(Resource::InstanceGroup(group), wire.description) })
}

/// Whether it runs is the health check's to find out.
pub(in crate::cloud) fn read_instance(wire: &model::InstanceWithNamedPorts) -> Option<(Endpoint, Seen)> {
    let instance = last(wire.instance.as_deref()?);
    Some((Endpoint { instance, ip: NO_ADDRESS }, Seen::default()))
}

pub(in crate::cloud) fn read_endpoint(
    wire: model::NetworkEndpointWithHealthStatus,
) -> Option<(Endpoint, Seen)> {
    let all = wire.healths.iter();
    let seen = Seen {
        v4: read_states(all.clone().map(|it| it.health_state.as_ref()?.name())),
        v6: read_states(all.map(|it| it.ipv_6_health_state.as_ref()?.name())),
        weight: None,
    };
    let endpoint = wire.network_endpoint?;
    let ip = endpoint.ip_address?.parse().ok()?;
    Some((Endpoint { instance: last(endpoint.instance.as_deref()?), ip }, seen))
}

/// By instance; each forwarding rule has a state of its own.
pub(in crate::cloud) fn read_health(wire: model::BackendServiceGroupHealth) -> BTreeMap<String, Seen> {
    let mut by_instance: BTreeMap<String, Vec<model::HealthStatus>> = BTreeMap::new();
    for status in wire.health_status {
        let instance = status.instance.as_deref().map(last);
        by_instance.entry(instance.unwrap_or_default()).or_default().push(status);
    }
    let seen = |all: &[model::HealthStatus]| Seen {
        v4: read_states(all.iter().map(|it| it.health_state.as_ref()?.name())),
        v6: read_states(all.iter().map(|it| it.ipv_6_health_state.as_ref()?.name())),
        weight: all.iter().find_map(read_weight),
    };
    by_instance.into_iter().map(|(instance, all)| (instance, seen(&all))).collect()
}

fn read_weight(wire: &model::HealthStatus) -> Option<Weight> {
    let weight = wire.weight.as_deref().and_then(|weight| weight.parse().ok()).map(Weight::Is);
    weight.or_else(|| Some(Weight::Unread(wire.weight_error.as_ref()?.name()?.to_owned())))
}
