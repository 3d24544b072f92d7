//! `ELBv2`: what a listener has beside its specification: further certificates, attributes.
//!
//! Owns: requests and reading answers. Leaves to others: which there should be.
//! Invariant: the default certificate is never among the further ones, though AWS lists it with them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::{Certificate, ListenerAttribute};

use super::failed;
use crate::cloud::Answer;
use crate::cloud::resources::Id;

pub(crate) async fn certificates(client: &Client, id: &Id) -> Answer<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut marker = None;
    loop {
        let call = client.describe_listener_certificates().listener_arn(&id.0).set_marker(marker);
        let answer = call.send().await.map_err(|error| failed("DescribeListenerCertificates", error))?;
        let further = answer.certificates().iter().filter(|it| it.is_default() != Some(true));
        all.extend(further.filter_map(|it| it.certificate_arn().map(str::to_owned)));
        marker = answer.next_marker().filter(|next| !next.is_empty()).map(str::to_owned);
        if marker.is_none() {
            return Ok(all);
        }
    }
}

fn sdk_certificates(arns: &BTreeSet<String>) -> Vec<Certificate> {
    arns.iter().map(|arn| Certificate::builder().certificate_arn(arn).build()).collect()
}

pub(crate) async fn add_certificates(client: &Client, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
    let call = client.add_listener_certificates().listener_arn(&id.0);
    let sent = call.set_certificates(Some(sdk_certificates(arns))).send().await;
    sent.map(drop).map_err(|error| failed("AddListenerCertificates", error))
}

pub(crate) async fn remove_certificates(client: &Client, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
    let call = client.remove_listener_certificates().listener_arn(&id.0);
    let sent = call.set_certificates(Some(sdk_certificates(arns))).send().await;
    sent.map(drop).map_err(|error| failed("RemoveListenerCertificates", error))
}

pub(crate) async fn attributes(client: &Client, id: &Id) -> Answer<BTreeMap<String, String>> {
    let sent = client.describe_listener_attributes().listener_arn(&id.0).send().await;
    let answer = sent.map_err(|error| failed("DescribeListenerAttributes", error))?;
    let pairs = answer.attributes().iter();
    Ok(pairs.filter_map(|pair| Some((pair.key()?.to_owned(), pair.value()?.to_owned()))).collect())
}

pub(crate) async fn modify_attributes(
    client: &Client,
    id: &Id,
    attributes: &BTreeMap<String, String>,
) -> Answer<()> {
    let pairs = attributes.iter().map(|(key, value)| ListenerAttribute::builder().key(key).value(value));
    let pairs = pairs.map(aws_sdk_elasticloadbalancingv2::types::builders::ListenerAttributeBuilder::build);
    let call = client.modify_listener_attributes().listener_arn(&id.0);
    let sent = call.set_attributes(Some(pairs.collect())).send().await;
    sent.map(drop).map_err(|error| failed("ModifyListenerAttributes", error))
}
