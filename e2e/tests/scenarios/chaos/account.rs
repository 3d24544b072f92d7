//! An account at one of the two clouds, with the nodes of a cluster in it.
//!
//! Owns: seeding nodes and resources of others, and reading from an account what one Service has there. Leaves to others:
//! the emulators. Invariant: an account is read past the proxy, so that no fault touches what the test sees.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use portico_e2e::{
    cloud::{Aws, Cloud, Gce, Place},
    tools::Tools,
};
use serde_json::Value;

use super::desired::Transport;

/// The annotation that says whether a Service's load balancer is internal.
pub(crate) fn scheme(cloud: Cloud, internal: bool) -> (&'static str, &'static str) {
    match (cloud, internal) {
        (Cloud::Aws, true) => ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"),
        (Cloud::Aws, false) => ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internet-facing"),
        (Cloud::Gce, true) => ("networking.gke.io/load-balancer-type", "Internal"),
        (Cloud::Gce, false) => ("networking.gke.io/load-balancer-type", "External"),
    }
}

/// Everything in an account.
pub(crate) type Things = BTreeMap<String, Value>;

/// Resources of one Service in an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    /// Hostnames or addresses of load balancers, with whether they are internal.
    pub(crate) balancers: BTreeMap<String, bool>,
    /// Listeners of these load balancers.
    pub(crate) ports: BTreeSet<(u16, Transport)>,
    /// Number of all other resources.
    pub(crate) others: usize,
}

/// An account with a cluster's nodes in it.
pub(crate) enum CloudAccount {
    Aws(Aws),
    Gce(Gce),
}

impl CloudAccount {
    /// Starts the emulator of a cloud.
    pub(crate) async fn start(cloud: Cloud, tools: &Tools, place: &Place<'_>) -> anyhow::Result<Self> {
        let started = match cloud {
            Cloud::Aws => Aws::start(tools, place).await?.map(Self::Aws),
            Cloud::Gce => Gce::start(tools, place).await?.map(Self::Gce),
        };
        started.with_context(|| format!("no emulator of {cloud}"))
    }

    pub(crate) fn cloud(&self) -> Cloud {
        match self {
            Self::Aws(_) => Cloud::Aws,
            Self::Gce(_) => Cloud::Gce,
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Aws(aws) => aws.url(),
            Self::Gce(gce) => gce.url(),
        }
    }

    pub(crate) fn operator_flags(&self, endpoint: &str) -> Vec<String> {
        match self {
            Self::Aws(aws) => aws.operator_flags(endpoint),
            Self::Gce(gce) => gce.operator_flags(endpoint),
        }
    }

    /// Machines for nodes: name of the Node, its provider ID and address.
    pub(crate) async fn add_nodes(&self, count: u8) -> anyhow::Result<Vec<(String, String, String)>> {
        Ok(match self {
            Self::Aws(aws) => {
                let made = aws.add_instances(count.into()).await?;
                made.iter().map(|it| (it.name.clone(), it.provider_id(), it.address.clone())).collect()
            }
            Self::Gce(gce) => {
                let made = gce.add_instances("node", 10, count).await?;
                made.iter().map(|it| (it.name.clone(), it.provider_id(), it.address.to_string())).collect()
            }
        })
    }

    pub(crate) async fn add_strangers(&self, namespace: &str, count: usize) -> anyhow::Result<()> {
        match self {
            Self::Aws(aws) => aws.add_strangers(namespace, count).await,
            Self::Gce(gce) => gce.add_strangers(namespace, count).await,
        }
    }

    /// Everything there is.
    pub(crate) async fn things(&self) -> anyhow::Result<Things> {
        match self {
            Self::Aws(aws) => aws.things().await,
            Self::Gce(gce) => gce.things().await,
        }
    }

    /// Messages that the cloud's schema does not allow; moto has no such list.
    pub(crate) async fn violations(&self) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Aws(_) => Ok(Vec::new()),
            Self::Gce(gce) => gce.violations().await,
        }
    }

    /// Resources among `things` of the Service with this UID.
    pub(crate) fn owned(&self, things: &Things, uid: &str) -> anyhow::Result<Owned> {
        let mut owned = Owned::default();
        for (id, thing) in things {
            match self {
                Self::Aws(_) if tag(thing, "portico.dev/service-uid") == Some(uid) => {
                    aws_thing(thing, &mut owned).with_context(|| id.clone())?;
                }
                Self::Gce(_) if describes(thing, uid) => {
                    gce_thing(id, thing, &mut owned).with_context(|| id.clone())?;
                }
                _ => {}
            }
        }
        Ok(owned)
    }
}

fn tag<'a>(thing: &'a Value, key: &str) -> Option<&'a str> {
    let tags = thing["Tags"].as_array()?;
    tags.iter().find(|tag| tag["Key"] == key)?["Value"].as_str()
}

fn describes(thing: &Value, uid: &str) -> bool {
    thing["description"].as_str().is_some_and(|text| text.contains(uid))
}

fn port(value: &Value) -> anyhow::Result<u16> {
    let number = value.as_u64().or_else(|| value.as_str()?.split('-').next()?.parse().ok());
    Ok(u16::try_from(number.with_context(|| format!("{value} is no port"))?)?)
}

fn transport(value: &Value) -> anyhow::Result<Transport> {
    match value.as_str() {
        Some("TCP") => Ok(Transport::Tcp),
        Some("UDP") => Ok(Transport::Udp),
        _ => anyhow::bail!("{value} is no protocol that was asked for"),
    }
}

fn aws_thing(thing: &Value, owned: &mut Owned) -> anyhow::Result<()> {
    let Some(hostname) = thing["DNSName"].as_str() else {
        owned.others += 1;
        return Ok(());
    };
    owned.balancers.insert(hostname.to_ascii_lowercase(), thing["Scheme"] == "internal");
    for listener in thing["Listeners"].as_array().into_iter().flatten() {
        owned.ports.insert((port(&listener["Port"])?, transport(&listener["Protocol"])?));
    }
    Ok(())
}

fn gce_thing(path: &str, thing: &Value, owned: &mut Owned) -> anyhow::Result<()> {
    if !path.contains("/forwardingRules/") {
        owned.others += 1;
        return Ok(());
    }
    let address = thing["IPAddress"].as_str().context("a rule without an address")?;
    owned.balancers.insert(address.to_owned(), thing["loadBalancingScheme"] == "INTERNAL");
    for listed in thing["ports"].as_array().into_iter().flatten() {
        owned.ports.insert((port(listed)?, transport(&thing["IPProtocol"])?));
    }
    Ok(())
}
