//! `ELBv2`: listeners.
//!
//! Owns: requests and reading answers. Leaves to others: which there should be.
//! Invariant: each listener that is made here forwards to one target group.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::types::builders::ListenerAttributeBuilder;
use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, Certificate, ForwardActionConfig, Listener as Found, ListenerAttribute,
    ProtocolEnum, TargetGroupTuple,
};

use super::super::Sdk;
use super::{failed, incomplete, need, optional, sdk_tags, word};
use crate::cloud::Answer;
use crate::cloud::resources::{Alpn, Id, Listener, ListenerSpec, Tags, TlsSpec, Transport};

impl Sdk {
    pub(crate) async fn listeners(&self, load_balancer: &Id) -> Answer<Vec<Listener>> {
        const OPERATION: &str = "DescribeListeners";
        let mut all = Vec::new();
        let mut marker = None;
        loop {
            let call = self.elb.describe_listeners().load_balancer_arn(&load_balancer.0).set_marker(marker);
            let answer = optional(call.send().await.map_err(|error| failed(OPERATION, error)))?;
            let Some(answer) = answer else { return Ok(Vec::new()) };
            for found in answer.listeners() {
                all.push(read(OPERATION, found)?);
            }
            marker = answer.next_marker().filter(|next| !next.is_empty()).map(str::to_owned);
            if marker.is_none() {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn create_listener(
        &self,
        load_balancer: &Id,
        spec: &ListenerSpec,
        group: &Id,
        tags: &Tags,
    ) -> Answer<Listener> {
        const OPERATION: &str = "CreateListener";
        let ListenerSpec { port, protocol, tls } = spec;
        let mut call = self
            .elb
            .create_listener()
            .load_balancer_arn(&load_balancer.0)
            .port(i32::from(*port))
            .protocol(ProtocolEnum::from(protocol.as_str()))
            .default_actions(forward(group))
            .set_tags(Some(sdk_tags(tags)));
        if let Some(TlsSpec { certificate, policy, alpn }) = tls {
            let certificate = Certificate::builder().certificate_arn(certificate).build();
            call = call.certificates(certificate).ssl_policy(policy).alpn_policy(alpn.as_str());
        }
        let answer = call.send().await.map_err(|error| failed(OPERATION, error))?;
        read(OPERATION, need(OPERATION, "listener", answer.listeners().first())?)
    }

    /// `ModifyListener`; the port stays.
    pub(crate) async fn modify_listener(&self, id: &Id, spec: &ListenerSpec, group: &Id) -> Answer<()> {
        let ListenerSpec { port: _, protocol, tls } = spec;
        let mut call = self
            .elb
            .modify_listener()
            .listener_arn(&id.0)
            .protocol(ProtocolEnum::from(protocol.as_str()))
            .default_actions(forward(group));
        if let Some(TlsSpec { certificate, policy, alpn }) = tls {
            let certificate = Certificate::builder().certificate_arn(certificate).build();
            call = call.certificates(certificate).ssl_policy(policy).alpn_policy(alpn.as_str());
        }
        call.send().await.map(drop).map_err(|error| failed("ModifyListener", error))
    }

    pub(crate) async fn delete_listener(&self, id: &Id) -> Answer<()> {
        let sent = self.elb.delete_listener().listener_arn(&id.0).send().await;
        sent.map(drop).map_err(|error| failed("DeleteListener", error))
    }

    /// `DescribeListenerCertificates`: those beside the default one.
    pub(crate) async fn listener_certificates(&self, id: &Id) -> Answer<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        let mut marker = None;
        loop {
            let call = self.elb.describe_listener_certificates().listener_arn(&id.0).set_marker(marker);
            let answer = call.send().await.map_err(|error| failed("DescribeListenerCertificates", error))?;
            let further = answer.certificates().iter().filter(|it| it.is_default() != Some(true));
            all.extend(further.filter_map(|it| it.certificate_arn().map(str::to_owned)));
            marker = answer.next_marker().filter(|next| !next.is_empty()).map(str::to_owned);
            if marker.is_none() {
                return Ok(all);
            }
        }
    }

    /// `AddListenerCertificates`; those that are there already change nothing.
    pub(crate) async fn add_listener_certificates(&self, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
        let call = self.elb.add_listener_certificates().listener_arn(&id.0);
        let sent = call.set_certificates(Some(sdk_certificates(arns))).send().await;
        sent.map(drop).map_err(|error| failed("AddListenerCertificates", error))
    }

    /// `RemoveListenerCertificates`; those that are not there change nothing.
    pub(crate) async fn remove_listener_certificates(&self, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
        let call = self.elb.remove_listener_certificates().listener_arn(&id.0);
        let sent = call.set_certificates(Some(sdk_certificates(arns))).send().await;
        sent.map(drop).map_err(|error| failed("RemoveListenerCertificates", error))
    }

    pub(crate) async fn listener_attributes(&self, id: &Id) -> Answer<BTreeMap<String, String>> {
        let sent = self.elb.describe_listener_attributes().listener_arn(&id.0).send().await;
        let answer = sent.map_err(|error| failed("DescribeListenerAttributes", error))?;
        let pairs = answer.attributes().iter();
        Ok(pairs.filter_map(|pair| Some((pair.key()?.to_owned(), pair.value()?.to_owned()))).collect())
    }

    pub(crate) async fn modify_listener_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> Answer<()> {
        let pairs = attributes.iter().map(|(key, value)| ListenerAttribute::builder().key(key).value(value));
        let pairs = pairs.map(ListenerAttributeBuilder::build);
        let call = self.elb.modify_listener_attributes().listener_arn(&id.0);
        let sent = call.set_attributes(Some(pairs.collect())).send().await;
        sent.map(drop).map_err(|error| failed("ModifyListenerAttributes", error))
    }
}

fn read(operation: &'static str, found: &Found) -> Answer<Listener> {
    let protocol: Transport = word(operation, "protocol", found.protocol().map(ProtocolEnum::as_str))?;
    let port = found.port().and_then(|port| u16::try_from(port).ok());
    let tls = match protocol {
        Transport::Tls => Some(TlsSpec {
            certificate: found
                .certificates()
                .first()
                .and_then(|it| it.certificate_arn())
                .unwrap_or_default()
                .to_owned(),
            policy: found.ssl_policy().unwrap_or_default().to_owned(),
            alpn: match found.alpn_policy().first() {
                Some(policy) => word(operation, "ALPN policy", Some(policy))?,
                None => Alpn::None,
            },
        }),
        Transport::Tcp | Transport::Udp | Transport::TcpUdp => None,
    };
    let groups = found.default_actions().iter().flat_map(forwards).collect::<Vec<_>>();
    Ok(Listener {
        id: Id(need(operation, "ARN", found.listener_arn())?.to_owned()),
        spec: ListenerSpec { port: port.ok_or_else(|| incomplete(operation, "port"))?, protocol, tls },
        split: groups.len() > 1,
        group: groups.into_iter().next().map(|arn| Id(arn.to_owned())),
    })
}

/// One target group, or several with their weights.
fn forwards(action: &Action) -> Vec<&str> {
    let several = action.forward_config().map(ForwardActionConfig::target_groups).unwrap_or_default();
    let several: Vec<&str> = several.iter().filter_map(TargetGroupTuple::target_group_arn).collect();
    if several.is_empty() { action.target_group_arn().into_iter().collect() } else { several }
}

fn forward(group: &Id) -> Action {
    let mut action = Action::builder().target_group_arn(&group.0);
    action = action.r#type(ActionTypeEnum::Forward);
    action.build()
}

fn sdk_certificates(arns: &BTreeSet<String>) -> Vec<Certificate> {
    arns.iter().map(|arn| Certificate::builder().certificate_arn(arn).build()).collect()
}
