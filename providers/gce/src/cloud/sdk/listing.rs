//! Lists, paged to the end.
//!
//! Owns: which method lists which kind. Leaves to others: what a listed thing says (`wire`).
//! Invariants: every page is as large as the service allows, so that a listing costs what its pages cost; each page is
//! bounded in time by itself.

use std::collections::BTreeMap;

use google_cloud_compute_v1::model;
use google_cloud_gax::paginator::ItemPaginator;

use super::{SdkCloud, bounded, groups, wire, zone};
use crate::cloud::{CloudError, Found, Operation};
use crate::resource::{Endpoint, Id, Kind, Seen};

/// The most that Compute Engine puts on a page.
const PAGE: u32 = 500;

/// Every item of a list request, as `$read` makes an iterator of it.
macro_rules! items {
    ($request:expr, $read:expr) => {{
        let mut items = $request.set_max_results(PAGE).by_item();
        let mut found = Vec::new();
        while let Some(item) = bounded(async { items.next().await.transpose() }).await? {
            found.extend($read(item));
        }
        Ok(found)
    }};
}

impl SdkCloud {
    /// All of a kind that pass a filter.
    pub(super) async fn list_all(&self, kind: Kind, filter: String) -> Result<Vec<Found>, CloudError> {
        let (project, region) = (&self.project, self.region());
        match kind {
            Kind::Address => {
                let list = self.addresses.list().set_project(project).set_region(region);
                items!(list.set_filter(filter), wire::read_address)
            }
            Kind::ForwardingRule => {
                let list = self.rules.list().set_project(project).set_region(region);
                items!(list.set_filter(filter), wire::read_forwarding_rule)
            }
            Kind::BackendService => {
                let list = self.services.list().set_project(project).set_region(region);
                items!(list.set_filter(filter), wire::read_backend_service)
            }
            Kind::HealthCheck => {
                let list = self.checks.list().set_project(project).set_region(region);
                items!(list.set_filter(filter), wire::read_health_check)
            }
            Kind::Firewall => {
                let list = self.firewalls.list().set_project(self.network_project());
                items!(list.set_filter(filter), wire::read_firewall)
            }
            Kind::InstanceGroup => {
                let list = self.instances.aggregated_list().set_project(&self.project).set_filter(filter);
                items!(list, |(_scope, scoped): (String, model::InstanceGroupsScopedList)| {
                    scoped.instance_groups.into_iter().filter_map(groups::read_instance_group)
                })
            }
            Kind::EndpointGroup => {
                // Of all zones at once; a scope is a zone.
                let list = self.groups.aggregated_list().set_project(project).set_filter(filter);
                items!(list, |(_scope, scoped): (String, model::NetworkEndpointGroupsScopedList)| {
                    scoped.network_endpoint_groups.into_iter().filter_map(groups::read_endpoint_group)
                })
            }
        }
    }

    /// Operations of every scope that pass a filter.
    pub(super) async fn list_operations(
        &self,
        project: &str,
        filter: String,
    ) -> Result<Vec<Operation>, CloudError> {
        let list = self.operations.aggregated_list().set_project(project).set_filter(filter);
        items!(list, |(_scope, scoped): (String, model::OperationsScopedList)| {
            scoped.operations.into_iter().filter_map(wire::read_operation)
        })
    }

    /// Instances of a group.
    pub(super) async fn list_instances(&self, group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        let body = model::InstanceGroupsListInstancesRequest::new().set_instance_state("ALL");
        let list = self.instances.list_instances().set_project(&self.project).set_zone(zone(group));
        let list = list.set_instance_group(&group.name).set_body(body);
        let found: Result<Vec<_>, CloudError> = items!(list, |item| groups::read_instance(&item));
        Ok(found?.into_iter().collect())
    }

    /// Endpoints of a group, with what their probes say.
    pub(super) async fn list_endpoints(&self, group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        let body = model::NetworkEndpointGroupsListEndpointsRequest::new().set_health_status("SHOW");
        let list = self.groups.list_network_endpoints().set_project(&self.project).set_zone(zone(group));
        let list = list.set_network_endpoint_group(&group.name).set_body(body);
        let found: Result<Vec<_>, CloudError> = items!(list, groups::read_endpoint);
        Ok(found?.into_iter().collect())
    }
}
