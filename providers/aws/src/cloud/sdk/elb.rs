//! `ELBv2`: load balancers and tags; listeners and target groups in their own files.
//!
//! Owns: requests and reading answers. Leaves to others: everything else.
//! Invariant: an answer that lacks what every load balancer has is an error, never a guess.

mod group;
mod listener;

use std::collections::BTreeMap;
use std::str::FromStr;

use aws_sdk_elasticloadbalancingv2::types::{
    EnablePrefixForIpv6SourceNatEnum as SourceNat, IpAddressType, LoadBalancer as Found,
    LoadBalancerAttribute, LoadBalancerSchemeEnum, LoadBalancerStateEnum, LoadBalancerTypeEnum,
    SubnetMapping as Mapping, Tag,
};
use portico_provider::Scheme;

use super::Sdk;
use super::failure::failed;
use crate::cloud::resources::{
    AddressType, Families, Id, LifeState, LoadBalancer, NewLoadBalancer, SubnetMapping, Tags,
};
use crate::cloud::{Answer, CloudError, INCOMPLETE, Trouble};

/// Turns "not there" into `None`.
fn optional<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.trouble == Trouble::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An answer without something that is always in it.
fn incomplete(operation: &'static str, what: &str) -> CloudError {
    let message = format!("the answer has no usable {what}");
    CloudError { operation, trouble: Trouble::Unavailable, code: INCOMPLETE.to_owned(), message }
}

fn word<T: FromStr>(operation: &'static str, what: &str, text: Option<&str>) -> Answer<T> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| incomplete(operation, what))
}

pub(super) fn need<T>(operation: &'static str, what: &str, value: Option<T>) -> Answer<T> {
    value.ok_or_else(|| incomplete(operation, what))
}

fn arns(ids: &[Id]) -> Vec<String> {
    ids.iter().map(|id| id.0.clone()).collect()
}

fn sdk_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

impl Sdk {
    /// `DescribeLoadBalancers` by ARN.
    pub(crate) async fn load_balancers(&self, ids: &[Id]) -> Answer<Vec<LoadBalancer>> {
        const OPERATION: &str = "DescribeLoadBalancers";
        let sent = self.elb.describe_load_balancers().set_load_balancer_arns(Some(arns(ids))).send().await;
        let answer = sent.map_err(|error| failed(OPERATION, error))?;
        answer.load_balancers().iter().map(|found| read(OPERATION, found)).collect()
    }

    /// `DescribeLoadBalancers` by name.
    pub(crate) async fn load_balancer_named(&self, name: &str) -> Answer<Option<LoadBalancer>> {
        const OPERATION: &str = "DescribeLoadBalancers";
        let sent = self.elb.describe_load_balancers().names(name).send().await;
        let found = optional(sent.map_err(|error| failed(OPERATION, error)))?;
        let first = found.and_then(|answer| answer.load_balancers.unwrap_or_default().into_iter().next());
        first.map(|found| read(OPERATION, &found)).transpose()
    }

    /// `DescribeLoadBalancerAttributes`; `None`: there is no such load balancer.
    pub(crate) async fn load_balancer_attributes(&self, id: &Id) -> Answer<Option<BTreeMap<String, String>>> {
        let sent = self.elb.describe_load_balancer_attributes().load_balancer_arn(&id.0).send().await;
        let answer = optional(sent.map_err(|error| failed("DescribeLoadBalancerAttributes", error)))?;
        Ok(answer.map(|answer| {
            let attributes = answer.attributes.unwrap_or_default().into_iter();
            attributes.filter_map(|attribute| Some((attribute.key?, attribute.value?))).collect()
        }))
    }

    pub(crate) async fn create_load_balancer(&self, new: &NewLoadBalancer) -> Answer<LoadBalancer> {
        const OPERATION: &str = "CreateLoadBalancer";
        let NewLoadBalancer {
            name,
            scheme,
            families: Families { kind, source_nat },
            subnets,
            security_groups,
            tags,
        } = new;
        let scheme = match scheme {
            Scheme::External => LoadBalancerSchemeEnum::InternetFacing,
            Scheme::Internal => LoadBalancerSchemeEnum::Internal,
        };
        let groups: Vec<String> = security_groups.iter().map(|id| id.0.clone()).collect();
        let sent = self
            .elb
            .create_load_balancer()
            .name(name)
            .r#type(LoadBalancerTypeEnum::Network)
            .scheme(scheme)
            .ip_address_type(sdk_address_type(*kind))
            .set_enable_prefix_for_ipv6_source_nat(source_nat.then_some(SourceNat::On))
            .set_subnet_mappings(Some(subnets.iter().map(|it| sdk_mapping(it, *source_nat)).collect()))
            .set_security_groups((!groups.is_empty()).then_some(groups))
            .set_tags(Some(sdk_tags(tags)))
            .send()
            .await;
        let answer = sent.map_err(|error| failed(OPERATION, error))?;
        read(OPERATION, need(OPERATION, "load balancer", answer.load_balancers().first())?)
    }

    pub(crate) async fn modify_load_balancer_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> Answer<()> {
        let attributes = attributes
            .iter()
            .map(|(key, value)| LoadBalancerAttribute::builder().key(key).value(value).build());
        let call = self.elb.modify_load_balancer_attributes().load_balancer_arn(&id.0);
        let sent = call.set_attributes(Some(attributes.collect())).send().await;
        sent.map(drop).map_err(|error| failed("ModifyLoadBalancerAttributes", error))
    }

    /// `SetSubnets`, which can change the families in the same call; `None`: they stay, and there is no source NAT.
    pub(crate) async fn set_subnets(
        &self,
        id: &Id,
        subnets: &[SubnetMapping],
        families: Option<Families>,
    ) -> Answer<()> {
        let source_nat = families.is_some_and(|families| families.source_nat);
        let mappings = subnets.iter().map(|it| sdk_mapping(it, source_nat)).collect();
        let call = self.elb.set_subnets().load_balancer_arn(&id.0).set_subnet_mappings(Some(mappings));
        let call = call
            .set_ip_address_type(families.map(|it| sdk_address_type(it.kind)))
            .set_enable_prefix_for_ipv6_source_nat(families.map(|it| sdk_source_nat(it.source_nat)));
        call.send().await.map(drop).map_err(|error| failed("SetSubnets", error))
    }

    pub(crate) async fn set_security_groups(&self, id: &Id, groups: &[Id]) -> Answer<()> {
        let groups = groups.iter().map(|group| group.0.clone()).collect();
        let call = self.elb.set_security_groups().load_balancer_arn(&id.0).set_security_groups(Some(groups));
        call.send().await.map(drop).map_err(|error| failed("SetSecurityGroups", error))
    }

    pub(crate) async fn set_address_type(&self, id: &Id, kind: AddressType) -> Answer<()> {
        let call =
            self.elb.set_ip_address_type().load_balancer_arn(&id.0).ip_address_type(sdk_address_type(kind));
        call.send().await.map(drop).map_err(|error| failed("SetIpAddressType", error))
    }

    /// `DeleteLoadBalancer`, with its listeners.
    pub(crate) async fn delete_load_balancer(&self, id: &Id) -> Answer<()> {
        let sent = self.elb.delete_load_balancer().load_balancer_arn(&id.0).send().await;
        sent.map(drop).map_err(|error| failed("DeleteLoadBalancer", error))
    }

    /// `elbv2:DescribeTags`, by ARN.
    pub(crate) async fn tags(&self, ids: &[Id]) -> Answer<BTreeMap<Id, Tags>> {
        let sent = self.elb.describe_tags().set_resource_arns(Some(arns(ids))).send().await;
        let answer = sent.map_err(|error| failed("DescribeTags", error))?;
        let found = answer.tag_descriptions.unwrap_or_default().into_iter().filter_map(|described| {
            let tags = described.tags.unwrap_or_default().into_iter();
            let tags = tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect();
            Some((Id(described.resource_arn?), tags))
        });
        Ok(found.collect())
    }

    /// `elbv2:DescribeAccountLimits`: how many Network Load Balancers the account may have in the region; `None`: it does
    /// not say.
    pub(crate) async fn most_load_balancers(&self) -> Answer<Option<usize>> {
        let sent = self.elb.describe_account_limits().page_size(400).send().await;
        let answer = sent.map_err(|error| failed("DescribeAccountLimits", error))?;
        let limits = answer.limits.unwrap_or_default();
        let most = limits.into_iter().find(|limit| limit.name.as_deref() == Some("network-load-balancers"));
        Ok(most.and_then(|limit| limit.max?.parse().ok()))
    }

    pub(crate) async fn add_tags(&self, ids: &[Id], tags: &Tags) -> Answer<()> {
        let sent = self
            .elb
            .add_tags()
            .set_resource_arns(Some(arns(ids)))
            .set_tags(Some(sdk_tags(tags)))
            .send()
            .await;
        sent.map(drop).map_err(|error| failed("AddTags", error))
    }
}

fn read(operation: &'static str, found: &Found) -> Answer<LoadBalancer> {
    let zones = found.availability_zones().iter().filter_map(|zone| {
        let address = zone.load_balancer_addresses().first();
        Some(SubnetMapping {
            subnet: zone.subnet_id()?.to_owned(),
            allocation: address.and_then(|it| it.allocation_id()).map(str::to_owned),
            private_address: address.and_then(|it| it.private_ipv4_address()).and_then(|it| it.parse().ok()),
            ipv6_address: address.and_then(|it| it.ipv6_address()).and_then(|it| it.parse().ok()),
            source_prefix: zone.source_nat_ipv6_prefixes().first().and_then(|it| it.parse().ok()),
        })
    });
    let scheme = match found.scheme() {
        Some(LoadBalancerSchemeEnum::Internal) => Scheme::Internal,
        _ => Scheme::External,
    };
    let reason = || found.state().and_then(|state| state.reason()).unwrap_or("no reason given").to_owned();
    let state = match found.state().and_then(|state| state.code()) {
        Some(LoadBalancerStateEnum::Active) => LifeState::Active,
        Some(LoadBalancerStateEnum::ActiveImpaired) => LifeState::Impaired(reason()),
        Some(LoadBalancerStateEnum::Failed) => LifeState::Failed(reason()),
        _ => LifeState::Provisioning,
    };
    Ok(LoadBalancer {
        id: Id(need(operation, "ARN", found.load_balancer_arn())?.to_owned()),
        name: need(operation, "name", found.load_balancer_name())?.to_owned(),
        hostname: need(operation, "DNS name", found.dns_name())?.to_ascii_lowercase(),
        scheme,
        families: Families {
            kind: word(operation, "address type", found.ip_address_type().map(IpAddressType::as_str))?,
            source_nat: found.enable_prefix_for_ipv6_source_nat() == Some(&SourceNat::On),
        },
        subnets: zones.collect(),
        security_groups: found.security_groups().iter().cloned().map(Id).collect(),
        state,
    })
}

/// AWS's word for a prefix of its own choice.
const AUTO_ASSIGNED: &str = "auto_assigned";

fn sdk_mapping(mapping: &SubnetMapping, source_nat: bool) -> Mapping {
    let SubnetMapping { subnet, allocation, private_address, ipv6_address, source_prefix } = mapping;
    let prefix = source_prefix.map_or_else(|| AUTO_ASSIGNED.to_owned(), |prefix| prefix.to_string());
    Mapping::builder()
        .subnet_id(subnet)
        .set_allocation_id(allocation.clone())
        .set_private_ipv4_address(private_address.map(|address| address.to_string()))
        .set_ipv6_address(ipv6_address.map(|address| address.to_string()))
        .set_source_nat_ipv6_prefix(source_nat.then_some(prefix))
        .build()
}

fn sdk_source_nat(on: bool) -> SourceNat {
    if on { SourceNat::On } else { SourceNat::Off }
}

fn sdk_address_type(kind: AddressType) -> IpAddressType {
    match kind {
        AddressType::Ipv4 => IpAddressType::Ipv4,
        AddressType::Dualstack => IpAddressType::Dualstack,
    }
}
