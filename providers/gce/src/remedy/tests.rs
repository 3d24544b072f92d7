//! What each call's errors are told as, line by line.

use std::collections::BTreeSet;
use std::error::Error;

use portico_provider::{IpFamily, Protocol, Retry, Scheme, ServiceName};

use super::*;
use crate::resource::{Address, Backends, Endpoint, EndpointGroup, ForwardingRule, Forwards, Kind, Place};

fn mk_owner() -> Owner {
    let name = ServiceName::new("shop", "web").unwrap();
    Owner { cluster: "cluster-1".parse().unwrap(), service: "uid-1".parse().unwrap(), name }
}

fn mk_rule(address: AddressRef) -> Call {
    let rule = ForwardingRule {
        name: "rule".to_owned(),
        family: IpFamily::IPv4,
        scheme: Scheme::Internal,
        forwards: Forwards::AllPorts(Protocol::Tcp),
        address,
        backend_service: "service".to_owned(),
        tier: None,
        place: None,
        global_access: false,
    };
    Call::Insert { resource: Resource::ForwardingRule(rule), otherwise: None }
}

fn mk_address() -> Call {
    let address = Address {
        name: "address".to_owned(),
        family: IpFamily::IPv4,
        scheme: Scheme::Internal,
        tier: None,
        subnetwork: Some("sub".to_owned()),
        collection: None,
        shareable: true,
        ip: None,
    };
    Call::Insert { resource: Resource::Address(address), otherwise: None }
}

fn mk_group() -> Call {
    let place = Place { network: "net".to_owned(), subnetwork: "sub".to_owned() };
    let group = EndpointGroup { name: "neg".to_owned(), zone: "z".to_owned(), place };
    Call::Insert { resource: Resource::EndpointGroup(group), otherwise: None }
}

fn mk_delete(kind: Kind) -> Call {
    Call::Delete(Id { kind, zone: None, name: "thing".to_owned() })
}

fn mk_attach() -> Call {
    let group =
        Id { kind: Backends::InstanceGroups.kind(), zone: Some("z".to_owned()), name: "ig".to_owned() };
    Call::Attach { group, endpoints: Vec::<Endpoint>::new() }
}

type Row = (Call, CloudErrorKind, &'static str, &'static str, Retry, &'static [&'static str]);

fn named() -> Call {
    mk_rule(AddressRef::Named("front-door".to_owned()))
}

fn exact() -> Call {
    mk_rule(AddressRef::Ip([198, 51, 100, 7].into()))
}

/// Call, kind and Google's words; the condition's reason, the retry, and what is told beside Google's words.
fn rows() -> Vec<Row> {
    [addresses_and_references(), others()].concat()
}

fn addresses_and_references() -> Vec<Row> {
    use CloudErrorKind as Is;
    vec![
        (
            exact(),
            Is::Invalid,
            "Invalid value for field 'resource.IPAddress': '198.51.100.7'. Specified IP address is in-use and would result in \
             a conflict.",
            "Conflict",
            Retry::Never,
            &["free 198.51.100.7", keys::ADDRESSES, "spec.loadBalancerIP"],
        ),
        (
            named(),
            Is::Taken,
            "IP_IN_USE_BY_ANOTHER_RESOURCE - IP '10.0.0.9' is already being used by another resource.",
            "Conflict",
            Retry::Never,
            &["free address front-door", "SHARED_LOADBALANCER_VIP"],
        ),
        (
            mk_address(),
            Is::Taken,
            "IP '10.0.0.9' is already being used by another resource.",
            "Conflict",
            Retry::Never,
            &["free the address", keys::ADDRESSES],
        ),
        (
            exact(),
            Is::Invalid,
            "Invalid value for field 'resource.IPAddress': '198.51.100.7'. The address is not reserved.",
            "InvalidRequest",
            Retry::Never,
            &["reserve 198.51.100.7", keys::ADDRESSES],
        ),
        (
            exact(),
            Is::Invalid,
            "Invalid value for field 'resource.ports'",
            "InvalidRequest",
            Retry::Never,
            &[],
        ),
        (
            mk_group(),
            Is::NotFound,
            "The resource 'projects/p/regions/r/subnetworks/nowhere' was not found",
            "InvalidRequest",
            Retry::Never,
            &[keys::SUBNET, "--gce-subnetwork"],
        ),
        (
            mk_group(),
            Is::NotFound,
            "The resource 'projects/p/global/networks/nowhere' was not found",
            "InvalidRequest",
            Retry::Never,
            &["--gce-network", "--gce-network-project"],
        ),
        (
            named(),
            Is::NotFound,
            "The resource 'projects/p/regions/r/addresses/front-door' was not found",
            "InvalidRequest",
            Retry::Never,
            &[keys::ADDRESSES],
        ),
        (
            mk_address(),
            Is::NotFound,
            "The resource 'projects/p/regions/r/publicDelegatedPrefixes/x' was not found",
            "InvalidRequest",
            Retry::Never,
            &[keys::COLLECTION_V6],
        ),
        (
            named(),
            Is::NotFound,
            "The resource 'projects/p/regions/r/backendServices/x' was not found",
            "ProviderUnavailable",
            Retry::Backoff,
            &[],
        ),
    ]
}

fn others() -> Vec<Row> {
    use CloudErrorKind as Is;
    let granted = Retry::After(std::time::Duration::from_mins(1));
    let cluster = mk_owner();
    let own = names::Names::of(&cluster).part("ext");
    let by_own: &'static str =
        format!("The resource 'x' is already being used by 'projects/p/regions/r/backendServices/{own}'")
            .leak();
    vec![
        (
            mk_delete(Kind::BackendService),
            Is::InUse,
            "The resource 'x' is already being used by 'projects/p/regions/r/forwardingRules/by-hand'",
            "Conflict",
            Retry::Never,
            &["by-hand is not Portico's", "delete it"],
        ),
        (mk_delete(Kind::HealthCheck), Is::InUse, by_own, "ProviderUnavailable", Retry::Backoff, &[]),
        (
            mk_attach(),
            Is::Taken,
            "Validation failed for instance 'i': instance may belong to at most one load-balanced instance group.",
            "Conflict",
            Retry::Never,
            &["--gce-backends neg", "k8s-ig--"],
        ),
        (
            mk_attach(),
            Is::Denied,
            "Required 'compute.instances.use' permission for 'projects/p/zones/z/instances/i'",
            "AccessDenied",
            granted,
            &["docs/gce.md"],
        ),
        (
            exact(),
            Is::Quota,
            "Quota 'FORWARDING_RULES' exceeded.",
            "QuotaExceeded",
            Retry::Never,
            &["higher quota"],
        ),
        (exact(), Is::RateLimit, "slow down", "Throttled", Retry::Backoff, &[]),
        (exact(), Is::Credentials, "token expired", "CredentialsRejected", Retry::Backoff, &[]),
        (exact(), Is::Account, "billing is disabled", "AccountNotReady", Retry::Backoff, &[]),
        (exact(), Is::Precondition, "fingerprint", "ProviderUnavailable", Retry::Backoff, &[]),
        (exact(), Is::Unavailable, "backend error", "ProviderUnavailable", Retry::Backoff, &[]),
    ]
}

#[test]
fn each_error_of_each_call_has_its_reason_its_retry_and_its_remedy() {
    let owner = mk_owner();
    let mut kinds = BTreeSet::new();
    for (call, kind, message, reason, retry, remedy) in rows() {
        kinds.insert(format!("{kind:?}"));
        let error = during(&call, &owner, CloudError::new(kind, message));
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let reported = format!("{error} {source}");
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{reported}");
        assert!(reason == "Throttled" || reported.contains(message.trim_end_matches('.')), "{reported}");
        for words in remedy {
            assert!(reported.contains(words), "{words} is not in: {reported}");
        }
    }
    assert_eq!(kinds.len(), 11, "NotReady is no error but a wait; each other kind has a row: {kinds:?}");
}
