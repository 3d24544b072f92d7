//! The pods of one node: what the API server binds to it runs here, as processes in namespaces of their own.
//!
//! ```text
//! watch spec.nodeName=me ──▶ one worker per pod ──▶ plan(desired, observed) ──▶ network, launch, stop ──▶ status
//!                                    ▲ exits, probe results, spec changes ─────────────┘
//! ```
//! Owns the workers and what they share ([`Host`]). `plan.rs`, `status.rs` and their like are pure; `launch.rs`, `network.rs`,
//! `checks.rs` and `volumes.rs` do I/O. Invariants: one worker per pod UID. A pod leaves the API server only after its
//! last process and its network are gone. Containers die with the agent; a restarted agent starts new ones.

mod checks;
mod desired;
mod environment;
mod etc;
mod event;
mod expansion;
mod fields;
mod ipam;
mod launch;
pub(crate) mod log;
mod network;
mod observed;
mod plan;
mod probing;
pub(crate) mod process;
mod quantity;
mod references;
mod service_links;
pub(crate) mod shelf;
mod status;
mod stopping;
mod thresholds;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};

use crate::images::Rule;

use event::Event;
use ipam::Ipam;
use network::Link;
use shelf::Shelf;
use worker::Worker;

/// State that all pods of a node share.
pub(crate) struct Host {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) ips: Vec<IpAddr>,
    /// Pods' directories, volumes and logs.
    pub(crate) state_dir: PathBuf,
    /// Path of this program.
    pub(crate) exe: PathBuf,
    pub(crate) images: Vec<Rule>,
    pub(crate) services: Store<Service>,
    pub(crate) dns: Option<IpAddr>,
    pub(crate) domain: String,
    /// First pause of a crash loop.
    pub(crate) backoff: SignedDuration,
    /// Set once the controller manager has given the node its ranges, one for each family.
    pub(crate) pod_cidr: watch::Receiver<Option<Vec<IpNet>>>,
    pub(crate) ipam: Mutex<Vec<Ipam>>,
    /// The containers that logs and exec read.
    pub(crate) shelf: Shelf,
    pub(crate) recorder: Recorder,
}

impl Host {
    /// An address of each family for a pod, and the node's own in its range. Waits for the ranges.
    async fn allocate(&self) -> Result<Vec<(IpAddr, IpAddr)>> {
        let mut pod_cidr = self.pod_cidr.clone();
        let ranges = pod_cidr.wait_for(Option::is_some).await.context("wait for the node's podCIDRs")?;
        let ranges = ranges.clone().unwrap_or_default();
        let mut ipam = self.ipam.lock().unwrap_or_else(PoisonError::into_inner);
        if ipam.is_empty() {
            ipam.extend(ranges.into_iter().map(Ipam::new));
        }
        let allocate = |ipam: &mut Ipam| {
            let address = ipam.allocate().context("no free address in one of the node's podCIDRs")?;
            Ok((address, ipam.gateway()))
        };
        ipam.iter_mut().map(allocate).collect()
    }

    fn release(&self, address: IpAddr) {
        for ipam in self.ipam.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            ipam.release(address);
        }
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.state_dir.join("pods").join(uid)
    }
}

/// The first rule whose pattern matches an image's name.
fn find_image<'a>(rules: &'a [Rule], image: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| matches(&rule.image, image))
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| matches(rest, &text[at..]))
        }),
    }
}

/// Runs the node's pods for ever.
pub(crate) async fn run(host: Arc<Host>) -> Result<()> {
    clean_up(&host).await?;
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", host.name));
    let pods = watcher(Api::<Pod>::all(host.client.clone()), config).default_backoff();
    let mut pods = std::pin::pin!(pods.inspect_err(|error| tracing::warn!(%error, "watch pods")));
    let mut workers = Workers { host, senders: BTreeMap::new(), listed: BTreeSet::new() };
    while let Some(event) = pods.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => workers.apply(pod),
            Ok(watcher::Event::InitApply(pod)) => {
                workers.listed.extend(pod.metadata.uid.clone());
                workers.apply(pod);
            }
            Ok(watcher::Event::Delete(pod)) => workers.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            Ok(watcher::Event::Init) => workers.listed.clear(),
            Ok(watcher::Event::InitDone) => workers.forget_unlisted(),
            Err(_logged) => {}
        }
    }
    Ok(())
}

/// The workers by pod UID.
struct Workers {
    host: Arc<Host>,
    senders: BTreeMap<String, mpsc::UnboundedSender<Event>>,
    listed: BTreeSet<String>,
}

impl Workers {
    fn apply(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.senders.retain(|_, sender| !sender.is_closed());
        if let Some(sender) = self.senders.get(&uid) {
            sender.send(Event::Spec(Box::new(pod))).ok();
            return;
        }
        let (sender, events) = mpsc::unbounded_channel();
        let worker = Worker::new(Arc::clone(&self.host), pod, sender.clone(), events);
        self.senders.insert(uid, sender);
        tokio::spawn(worker.run());
    }

    fn gone(&mut self, uid: &str) {
        if let Some(sender) = self.senders.remove(uid) {
            sender.send(Event::Gone).ok();
        }
    }

    fn forget_unlisted(&mut self) {
        let gone: Vec<String> =
            self.senders.keys().filter(|uid| !self.listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.gone(&uid);
        }
    }
}

/// Takes away what an agent before this one left: its containers died with it, networks and directories did not.
async fn clean_up(host: &Host) -> Result<()> {
    let dir = host.state_dir.join("pods");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.context("pod directory")?.path();
        if let Some(link) =
            std::fs::read_to_string(path.join("network")).ok().and_then(|text| Link::parse(&text))
        {
            link.disconnect().await?;
        }
        std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_names_the_program() {
        let rule = |image: &str, program: &str| Rule {
            image: image.to_owned(),
            argv: vec![program.to_owned()],
            root: None,
        };
        let rules =
            [rule("*redis-slave*", "replica"), rule("*redis*", "redis"), rule("gcr.io/*:v?", "never")];
        let program = |image: &str| find_image(&rules, image).map(|rule| rule.argv.concat());
        assert_eq!(program("gcr.io/google/redis-slave:v2").as_deref(), Some("replica"));
        assert_eq!(program("redis").as_deref(), Some("redis"));
        assert_eq!(program("gcr.io/x:v1"), None);
    }
}
