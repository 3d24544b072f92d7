//! Compute Engine through `google-cloud-compute-v1`.
//!
//! Owns: clients, credentials, the calls and the translation of their errors. Leaves to others: when to call.
//! Invariants: with an endpoint given (for tests) it is on loopback or a private network and the credentials are
//! anonymous, so that neither a metadata server nor Google is ever asked. No call is retried here (the operator's scheduler does that) or outlives
//! [`TIMEOUT`].

mod listing;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_compute_v1::client::{
    Addresses, Firewalls, ForwardingRules, GlobalOperations, InstanceGroups, NetworkEndpointGroups,
    RegionBackendServices, RegionHealthChecks, RegionOperations, ZoneOperations,
};
use google_cloud_compute_v1::model;
use google_cloud_gax::retry_policy::NeverRetry;

use super::error::codes;
use super::wire::{self, Urls, groups};
use super::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationFilter};
use crate::resource::{Endpoint, Id, Kind, Resource, Seen};

/// No answer to a single call within this is none.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The clients, one for each collection.
pub struct SdkCloud {
    project: String,
    urls: Urls,
    addresses: Addresses,
    firewalls: Firewalls,
    rules: ForwardingRules,
    services: RegionBackendServices,
    checks: RegionHealthChecks,
    groups: NetworkEndpointGroups,
    instances: InstanceGroups,
    operations: GlobalOperations,
    regional_operations: RegionOperations,
    zonal_operations: ZoneOperations,
}

impl fmt::Debug for SdkCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkCloud").field("project", &self.project).finish_non_exhaustive()
    }
}

macro_rules! client {
    ($client:ident, $endpoint:expr, $credentials:expr) => {{
        let mut builder = $client::builder().with_retry_policy(NeverRetry);
        if let Some(endpoint) = $endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(credentials) = $credentials {
            builder = builder.with_credentials(credentials);
        }
        builder.build().await.map_err(|error| {
            CloudError::new(CloudErrorKind::Credentials, format!("no client can be made: {error}"))
        })?
    }};
}

impl SdkCloud {
    /// Clients of a project and region; `network_project` has the network, where that is another one (Shared VPC).
    /// Without an endpoint: Google's, with Application Default Credentials. The process must have installed rustls' crypto
    /// provider before.
    pub async fn connect(
        project: &str,
        network_project: Option<&str>,
        region: &str,
        endpoint: Option<&str>,
    ) -> Result<Self, CloudError> {
        if endpoint.is_some_and(|endpoint| !is_private(endpoint)) {
            let message =
                "a test endpoint must be http://IP:PORT, with an address of loopback or of a private network";
            return Err(CloudError::new(CloudErrorKind::Invalid, message));
        }
        let credentials: Option<Credentials> = endpoint.map(|_private| anonymous::Builder::new().build());
        Ok(Self {
            project: project.to_owned(),
            urls: Urls {
                region: region.to_owned(),
                network_project: network_project.unwrap_or(project).to_owned(),
            },
            addresses: client!(Addresses, endpoint, credentials.clone()),
            firewalls: client!(Firewalls, endpoint, credentials.clone()),
            rules: client!(ForwardingRules, endpoint, credentials.clone()),
            services: client!(RegionBackendServices, endpoint, credentials.clone()),
            checks: client!(RegionHealthChecks, endpoint, credentials.clone()),
            groups: client!(NetworkEndpointGroups, endpoint, credentials.clone()),
            instances: client!(InstanceGroups, endpoint, credentials.clone()),
            operations: client!(GlobalOperations, endpoint, credentials.clone()),
            regional_operations: client!(RegionOperations, endpoint, credentials.clone()),
            zonal_operations: client!(ZoneOperations, endpoint, credentials),
        })
    }

    fn region(&self) -> &str {
        &self.urls.region
    }

    /// Firewalls are the network's.
    fn network_project(&self) -> &str {
        &self.urls.network_project
    }
}

/// Whether a URL stays on this machine or its private network, by address and not by a name that somebody could resolve
/// otherwise: what is called there without credentials is never Google.
fn is_private(endpoint: &str) -> bool {
    let address = endpoint.strip_prefix("http://").map(|rest| rest.trim_end_matches('/').parse());
    address.is_some_and(|address: Result<SocketAddrV4, _>| {
        address.is_ok_and(|address| address.ip().is_loopback() || address.ip().is_private())
    })
}

async fn bounded<T>(
    call: impl Future<Output = google_cloud_compute_v1::Result<T>> + Send,
) -> Result<T, CloudError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| cloud_error(&error)),
        Err(_elapsed) => {
            Err(CloudError::new(CloudErrorKind::Unavailable, format!("no answer within {TIMEOUT:?}")))
        }
    }
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    error: ErrorStatus,
}

#[derive(serde::Deserialize)]
struct ErrorStatus {
    message: String,
    #[serde(default)]
    errors: Vec<ErrorItem>,
}

#[derive(serde::Deserialize)]
struct ErrorItem {
    #[serde(default)]
    reason: String,
}

/// By HTTP status and the body's own reason: the SDK's status code is `Unknown` for most of Compute Engine's errors.
fn cloud_error(error: &google_cloud_compute_v1::Error) -> CloudError {
    let Some(status) = error.http_status_code() else {
        let kind =
            if error.is_authentication() { CloudErrorKind::Credentials } else { CloudErrorKind::Unavailable };
        return CloudError::new(kind, error.to_string());
    };
    let body = error.http_payload().and_then(|body| serde_json::from_slice::<ErrorBody>(body).ok());
    let (reason, message) = match (body, error.status()) {
        (Some(ErrorBody { error: ErrorStatus { message, errors } }), _) => {
            (errors.into_iter().next().map(|item| item.reason).unwrap_or_default(), message)
        }
        (None, Some(status)) => (reason_in(&format!("{status:?}")), status.message.clone()),
        (None, None) => (String::new(), error.to_string()),
    };
    CloudError::of_http(status, &reason, message)
}

/// The SDK keeps the codes of a body it understood only among the details of its status.
fn reason_in(details: &str) -> String {
    let named = |code: &&str| details.contains(&format!("\"{code}\""));
    codes().find(named).unwrap_or_default().to_owned()
}

/// What a call started; an operation on a kind that is not ours cannot come back from a call of ours.
fn started(operation: model::Operation) -> Result<Operation, CloudError> {
    wire::read_operation(operation).ok_or_else(|| {
        CloudError::new(CloudErrorKind::Unavailable, "an operation without a target came back")
    })
}

fn zone(id: &Id) -> &str {
    id.zone.as_deref().unwrap_or_default()
}

/// One call on a regional collection, up to its answer.
macro_rules! regional {
    ($self:ident, $call:expr) => {
        bounded($call.set_project(&$self.project).set_region($self.region()).send()).await
    };
}

impl Cloud for SdkCloud {
    async fn list(&self, kind: Kind, names: &str) -> Result<Vec<Found>, CloudError> {
        Box::pin(self.list_all(kind, format!("name eq \"{names}\""))).await
    }

    async fn get(&self, id: &Id) -> Result<Option<Found>, CloudError> {
        let name = id.name.as_str();
        let answer = match id.kind {
            Kind::Address => regional!(self, self.addresses.get().set_address(name)).map(wire::read_address),
            Kind::ForwardingRule => {
                regional!(self, self.rules.get().set_forwarding_rule(name)).map(wire::read_forwarding_rule)
            }
            Kind::BackendService => {
                regional!(self, self.services.get().set_backend_service(name)).map(wire::read_backend_service)
            }
            Kind::HealthCheck => {
                regional!(self, self.checks.get().set_health_check(name)).map(wire::read_health_check)
            }
            Kind::Firewall => {
                let call = self.firewalls.get().set_project(self.network_project()).set_firewall(name);
                bounded(call.send()).await.map(wire::read_firewall)
            }
            Kind::EndpointGroup => {
                let call = self.groups.get().set_project(&self.project).set_zone(zone(id));
                bounded(call.set_network_endpoint_group(name).send()).await.map(groups::read_endpoint_group)
            }
            Kind::InstanceGroup => {
                let call = self.instances.get().set_project(&self.project).set_zone(zone(id));
                bounded(call.set_instance_group(name).send()).await.map(groups::read_instance_group)
            }
        };
        match answer {
            Err(CloudError { kind: CloudErrorKind::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(Some(found)) => Ok(Some(found)),
            // Something is there, and it is not of a shape that we make.
            Ok(None) => {
                Err(CloudError::new(CloudErrorKind::Taken, format!("{id} exists and is not Portico's")))
            }
        }
    }

    async fn insert(&self, resource: &Resource, description: &str) -> Result<Operation, CloudError> {
        let answer = match resource {
            Resource::Address(it) => {
                regional!(self, self.addresses.insert().set_body(self.urls.address(it, description)))
            }
            Resource::ForwardingRule(it) => {
                regional!(self, self.rules.insert().set_body(self.urls.forwarding_rule(it, description)))
            }
            Resource::BackendService(it) => {
                regional!(self, self.services.insert().set_body(self.urls.backend_service(it, description)))
            }
            Resource::HealthCheck(it) => {
                regional!(self, self.checks.insert().set_body(wire::health_check(it, description)))
            }
            Resource::Firewall(it) => {
                let call = self.firewalls.insert().set_project(self.network_project());
                bounded(call.set_body(self.urls.firewall(it, description)).send()).await
            }
            Resource::EndpointGroup(it) => {
                let call = self.groups.insert().set_project(&self.project).set_zone(&it.zone);
                bounded(call.set_body(groups::endpoint_group(&self.urls, it, description)).send()).await
            }
            Resource::InstanceGroup(it) => {
                let call = self.instances.insert().set_project(&self.project).set_zone(&it.zone);
                bounded(call.set_body(groups::instance_group(it, description)).send()).await
            }
        };
        answer.and_then(started)
    }

    async fn patch(&self, resource: &Resource) -> Result<Operation, CloudError> {
        let answer = match resource {
            Resource::ForwardingRule(it) => {
                // The other fields of a rule are fixed, and a patch may not even repeat some of them.
                let body = model::ForwardingRule::new().set_allow_global_access(it.global_access);
                regional!(self, self.rules.patch().set_forwarding_rule(&it.name).set_body(body))
            }
            Resource::BackendService(it) => {
                let get = self.services.get().set_backend_service(&it.name);
                let current = regional!(self, get)?;
                // As a whole, with its fingerprint: a patch cannot take a policy away.
                let body = self.urls.backend_service_over(it, current);
                regional!(self, self.services.update().set_backend_service(&it.name).set_body(body))
            }
            Resource::HealthCheck(it) => {
                let body = wire::health_check(it, "").set_or_clear_description(None::<String>);
                regional!(self, self.checks.patch().set_health_check(&it.name).set_body(body))
            }
            Resource::Firewall(it) => {
                let body = self.urls.firewall(it, "").set_or_clear_description(None::<String>);
                let call = self.firewalls.patch().set_project(self.network_project()).set_firewall(&it.name);
                bounded(call.set_body(body).send()).await
            }
            Resource::Address(_) | Resource::EndpointGroup(_) | Resource::InstanceGroup(_) => {
                let message = format!("{} cannot be changed", resource.id());
                Err(CloudError::new(CloudErrorKind::Invalid, message))
            }
        };
        answer.and_then(started)
    }

    async fn delete(&self, id: &Id) -> Result<Operation, CloudError> {
        let name = id.name.as_str();
        let answer = match id.kind {
            Kind::Address => regional!(self, self.addresses.delete().set_address(name)),
            Kind::ForwardingRule => regional!(self, self.rules.delete().set_forwarding_rule(name)),
            Kind::BackendService => regional!(self, self.services.delete().set_backend_service(name)),
            Kind::HealthCheck => regional!(self, self.checks.delete().set_health_check(name)),
            Kind::Firewall => {
                let call = self.firewalls.delete().set_project(self.network_project()).set_firewall(name);
                bounded(call.send()).await
            }
            Kind::EndpointGroup => {
                let call = self.groups.delete().set_project(&self.project).set_zone(zone(id));
                bounded(call.set_network_endpoint_group(name).send()).await
            }
            Kind::InstanceGroup => {
                let call = self.instances.delete().set_project(&self.project).set_zone(zone(id));
                bounded(call.set_instance_group(name).send()).await
            }
        };
        answer.and_then(started)
    }

    async fn endpoints(&self, group: &Id) -> Result<BTreeMap<Endpoint, Seen>, CloudError> {
        match group.kind {
            Kind::InstanceGroup => Box::pin(self.list_instances(group)).await,
            _ => Box::pin(self.list_endpoints(group)).await,
        }
    }

    async fn health(&self, service: &str, group: &Id) -> Result<BTreeMap<String, Seen>, CloudError> {
        let body = model::ResourceGroupReference::new().set_group(groups::group_url(
            group.kind,
            zone(group),
            &group.name,
        ));
        let answer = regional!(self, self.services.get_health().set_backend_service(service).set_body(body));
        answer.map(groups::read_health)
    }

    async fn attach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        if group.kind == Kind::InstanceGroup {
            let instances = endpoints.iter().map(|it| groups::instance(zone(group), it));
            let body = model::InstanceGroupsAddInstancesRequest::new().set_instances(instances);
            let call = self.instances.add_instances().set_project(&self.project).set_zone(zone(group));
            return bounded(call.set_instance_group(&group.name).set_body(body).send())
                .await
                .and_then(started);
        }
        let body = model::NetworkEndpointGroupsAttachEndpointsRequest::new()
            .set_network_endpoints(endpoints.iter().map(groups::endpoint));
        let call = self.groups.attach_network_endpoints().set_project(&self.project).set_zone(zone(group));
        bounded(call.set_network_endpoint_group(&group.name).set_body(body).send()).await.and_then(started)
    }

    async fn detach(&self, group: &Id, endpoints: &[Endpoint]) -> Result<Operation, CloudError> {
        if group.kind == Kind::InstanceGroup {
            let instances = endpoints.iter().map(|it| groups::instance(zone(group), it));
            let body = model::InstanceGroupsRemoveInstancesRequest::new().set_instances(instances);
            let call = self.instances.remove_instances().set_project(&self.project).set_zone(zone(group));
            return bounded(call.set_instance_group(&group.name).set_body(body).send())
                .await
                .and_then(started);
        }
        let body = model::NetworkEndpointGroupsDetachEndpointsRequest::new()
            .set_network_endpoints(endpoints.iter().map(groups::endpoint));
        let call = self.groups.detach_network_endpoints().set_project(&self.project).set_zone(zone(group));
        bounded(call.set_network_endpoint_group(&group.name).set_body(body).send()).await.and_then(started)
    }

    async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, CloudError> {
        let filter = match filter {
            OperationFilter::About(names) => format!("targetLink eq \".*/{names}\""),
            OperationFilter::Running => "status != DONE".to_owned(),
        };
        let mut all = Box::pin(self.list_operations(&self.project, filter.clone())).await?;
        if self.network_project() != self.project {
            all.extend(Box::pin(self.list_operations(self.network_project(), filter)).await?);
        }
        Ok(all)
    }

    async fn operation(&self, accepted: &Operation) -> Result<Option<Operation>, CloudError> {
        let name = accepted.name.as_str();
        let answer = match accepted.target.kind {
            Kind::Address | Kind::ForwardingRule | Kind::BackendService | Kind::HealthCheck => {
                regional!(self, self.regional_operations.get().set_operation(name))
            }
            Kind::Firewall => {
                let call = self.operations.get().set_project(self.network_project());
                bounded(call.set_operation(name).send()).await
            }
            Kind::EndpointGroup | Kind::InstanceGroup => {
                let call = self.zonal_operations.get().set_project(&self.project);
                bounded(call.set_zone(zone(&accepted.target)).set_operation(name).send()).await
            }
        };
        match answer {
            Err(CloudError { kind: CloudErrorKind::NotFound, .. }) => Ok(None),
            answer => answer.and_then(started).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_test_endpoint_is_an_address_of_this_machine_or_a_private_network() {
        for endpoint in [
            "https://compute.googleapis.com",
            "http://127.0.0.1.example.com:80",
            "http://8.8.8.8:80",
            "http://10.0.0.1",
        ] {
            let error = SdkCloud::connect("p", None, "r", Some(endpoint)).await.unwrap_err();
            assert_eq!(error.kind, CloudErrorKind::Invalid, "{endpoint}");
        }
        assert!(["http://127.0.0.1:80", "http://172.30.0.1:9100/"].into_iter().all(is_private));
    }
}
