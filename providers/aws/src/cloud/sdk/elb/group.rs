//! `ELBv2`: target groups and targets.
//!
//! Owns: requests and reading answers. Leaves to others: which there should be.
//! Invariant: every target is named with its port.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::{
    Matcher, ProtocolEnum, TargetDescription, TargetGroup as Found, TargetGroupAttribute,
    TargetGroupIpAddressTypeEnum, TargetHealthStateEnum, TargetTypeEnum,
};
use portico_provider::IpFamily;

use super::super::Sdk;
use super::{arns, failed, need, optional, sdk_tags, word};
use crate::cloud::Answer;
use crate::cloud::resources::{
    GroupHealth, GroupShape, Health, HealthProtocol, Id, NewGroup, Target, TargetGroup,
};

impl Sdk {
    /// `DescribeTargetGroups` by ARN.
    pub(crate) async fn target_groups(&self, ids: &[Id]) -> Answer<Vec<TargetGroup>> {
        const OPERATION: &str = "DescribeTargetGroups";
        let sent = self.elb.describe_target_groups().set_target_group_arns(Some(arns(ids))).send().await;
        let answer = sent.map_err(|error| failed(OPERATION, error))?;
        answer.target_groups().iter().map(|found| read(OPERATION, found)).collect()
    }

    /// `DescribeTargetGroups` by name.
    pub(crate) async fn target_group_named(&self, name: &str) -> Answer<Option<TargetGroup>> {
        const OPERATION: &str = "DescribeTargetGroups";
        let sent = self.elb.describe_target_groups().names(name).send().await;
        let found = optional(sent.map_err(|error| failed(OPERATION, error)))?;
        let first = found.and_then(|answer| answer.target_groups.unwrap_or_default().into_iter().next());
        first.map(|found| read(OPERATION, &found)).transpose()
    }

    /// `DescribeTargetGroupAttributes`; `None`: there is no such group.
    pub(crate) async fn target_group_attributes(&self, id: &Id) -> Answer<Option<BTreeMap<String, String>>> {
        let sent = self.elb.describe_target_group_attributes().target_group_arn(&id.0).send().await;
        let answer = optional(sent.map_err(|error| failed("DescribeTargetGroupAttributes", error)))?;
        Ok(answer.map(|answer| {
            let attributes = answer.attributes.unwrap_or_default().into_iter();
            attributes.filter_map(|attribute| Some((attribute.key?, attribute.value?))).collect()
        }))
    }

    pub(crate) async fn create_target_group(&self, new: &NewGroup) -> Answer<Id> {
        const OPERATION: &str = "CreateTargetGroup";
        let NewGroup { name, vpc, shape, port, health, tags } = new;
        let GroupShape { protocol, targets, family } = shape;
        let GroupHealth {
            protocol: check,
            port: check_port,
            path,
            codes,
            interval,
            timeout,
            healthy,
            unhealthy,
        } = health;
        let family = match family {
            IpFamily::IPv4 => TargetGroupIpAddressTypeEnum::Ipv4,
            IpFamily::IPv6 => TargetGroupIpAddressTypeEnum::Ipv6,
        };
        let sent = self
            .elb
            .create_target_group()
            .name(name)
            .vpc_id(vpc)
            .protocol(ProtocolEnum::from(protocol.as_str()))
            .port(i32::from(*port))
            .target_type(TargetTypeEnum::from(targets.as_str()))
            .ip_address_type(family)
            .health_check_enabled(true)
            .health_check_protocol(ProtocolEnum::from(check.as_str()))
            .health_check_port(port_word(*check_port))
            .set_health_check_path(path.clone())
            .set_matcher(matcher(codes.as_deref()))
            .health_check_interval_seconds(*interval)
            .health_check_timeout_seconds(*timeout)
            .healthy_threshold_count(*healthy)
            .unhealthy_threshold_count(*unhealthy)
            .set_tags(Some(sdk_tags(tags)))
            .send()
            .await;
        let answer = sent.map_err(|error| failed(OPERATION, error))?;
        let made = answer.target_groups().first().and_then(|made| made.target_group_arn());
        Ok(Id(need(OPERATION, "ARN", made)?.to_owned()))
    }

    /// `ModifyTargetGroup`: the health check.
    pub(crate) async fn modify_health_check(&self, id: &Id, health: &GroupHealth) -> Answer<()> {
        let GroupHealth { protocol, port, path, codes, interval, timeout, healthy, unhealthy } = health;
        let call = self
            .elb
            .modify_target_group()
            .target_group_arn(&id.0)
            .health_check_protocol(ProtocolEnum::from(protocol.as_str()))
            .health_check_port(port_word(*port))
            .set_health_check_path(path.clone())
            .set_matcher(matcher(codes.as_deref()))
            .health_check_interval_seconds(*interval)
            .health_check_timeout_seconds(*timeout)
            .healthy_threshold_count(*healthy)
            .unhealthy_threshold_count(*unhealthy);
        call.send().await.map(drop).map_err(|error| failed("ModifyTargetGroup", error))
    }

    pub(crate) async fn modify_target_group_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> Answer<()> {
        let attributes = attributes
            .iter()
            .map(|(key, value)| TargetGroupAttribute::builder().key(key).value(value).build());
        let call = self.elb.modify_target_group_attributes().target_group_arn(&id.0);
        let sent = call.set_attributes(Some(attributes.collect())).send().await;
        sent.map(drop).map_err(|error| failed("ModifyTargetGroupAttributes", error))
    }

    pub(crate) async fn delete_target_group(&self, id: &Id) -> Answer<()> {
        let sent = self.elb.delete_target_group().target_group_arn(&id.0).send().await;
        sent.map(drop).map_err(|error| failed("DeleteTargetGroup", error))
    }

    /// `DescribeTargetHealth`: every target that is registered or draining.
    pub(crate) async fn target_health(&self, group: &Id) -> Answer<BTreeMap<Target, Health>> {
        let sent = self.elb.describe_target_health().target_group_arn(&group.0).send().await;
        let answer = optional(sent.map_err(|error| failed("DescribeTargetHealth", error)))?;
        let described = answer.and_then(|answer| answer.target_health_descriptions).unwrap_or_default();
        let targets = described.into_iter().filter_map(|described| {
            let target = described.target?;
            let port = u16::try_from(target.port?).ok()?;
            let state = match described.target_health.and_then(|health| health.state) {
                Some(TargetHealthStateEnum::Healthy) => Health::Healthy,
                Some(TargetHealthStateEnum::Draining | TargetHealthStateEnum::UnhealthyDraining) => {
                    Health::Draining
                }
                Some(TargetHealthStateEnum::Initial) => Health::Initial,
                Some(TargetHealthStateEnum::Unused) => Health::Unused,
                _ => Health::Unhealthy,
            };
            Some((Target { id: target.id?, port }, state))
        });
        Ok(targets.collect())
    }

    /// `RegisterTargets`; at most [`resources::TARGETS_A_CALL`].
    pub(crate) async fn register(&self, group: &Id, targets: &[Target]) -> Answer<()> {
        let call =
            self.elb.register_targets().target_group_arn(&group.0).set_targets(Some(described(targets)));
        call.send().await.map(drop).map_err(|error| failed("RegisterTargets", error))
    }

    /// `DeregisterTargets`; at most [`resources::TARGETS_A_CALL`].
    pub(crate) async fn deregister(&self, group: &Id, targets: &[Target]) -> Answer<()> {
        let call =
            self.elb.deregister_targets().target_group_arn(&group.0).set_targets(Some(described(targets)));
        call.send().await.map(drop).map_err(|error| failed("DeregisterTargets", error))
    }
}

fn read(operation: &'static str, found: &Found) -> Answer<TargetGroup> {
    let number = |what, value: Option<i32>| need(operation, what, value);
    let protocol = word(operation, "health check", found.health_check_protocol().map(ProtocolEnum::as_str))?;
    // What an HTTP check left behind means nothing to a TCP one.
    let http = |text: &&str| protocol != HealthProtocol::Tcp && !text.is_empty();
    let health = GroupHealth {
        protocol,
        port: found.health_check_port().and_then(|port| port.parse().ok()),
        path: found.health_check_path().filter(http).map(str::to_owned),
        codes: found.matcher().and_then(Matcher::http_code).filter(http).map(str::to_owned),
        interval: number("health check interval", found.health_check_interval_seconds())?,
        timeout: number("health check timeout", found.health_check_timeout_seconds())?,
        healthy: number("healthy threshold", found.healthy_threshold_count())?,
        unhealthy: number("unhealthy threshold", found.unhealthy_threshold_count())?,
    };
    Ok(TargetGroup {
        id: Id(need(operation, "ARN", found.target_group_arn())?.to_owned()),
        name: need(operation, "name", found.target_group_name())?.to_owned(),
        kind: (
            word(operation, "target type", found.target_type().map(TargetTypeEnum::as_str))?,
            match found.ip_address_type() {
                Some(TargetGroupIpAddressTypeEnum::Ipv6) => IpFamily::IPv6,
                _ => IpFamily::IPv4,
            },
        ),
        port: found.port().and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
        load_balancers: found.load_balancer_arns().iter().cloned().map(Id).collect(),
        health,
    })
}

fn port_word(port: Option<u16>) -> String {
    port.map_or_else(|| "traffic-port".to_owned(), |port| port.to_string())
}

fn matcher(codes: Option<&str>) -> Option<Matcher> {
    codes.map(|codes| Matcher::builder().http_code(codes).build())
}

fn described(targets: &[Target]) -> Vec<TargetDescription> {
    let each =
        |Target { id, port }: &Target| TargetDescription::builder().id(id).port(i32::from(*port)).build();
    targets.iter().map(each).collect()
}
