//! A small true cloud in memory, in two kinds of things (addresses and load balancers), and its provider.
//!
//! Owns: the cloud, its asynchronous provisioning by a clock of its own, and the bugs it can be given.
//! Leaves to others: judging it. Invariant: without a bug it keeps every promise of the trait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::contract::Registered;
use crate::*;

/// How long a load balancer takes to become active.
const PROVISIONING: u64 = 3_000;

/// A broken promise on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// Each creation makes another one.
    RandomNames,
    /// Deleting the absent is an error.
    DeletingTheAbsentFails,
    /// The inventory is the account's, not the cluster's.
    ShowsAllClusters,
    /// Deletes by Service UID alone.
    DeletesAcrossClusters,
    /// "Already deleted", although the address is left (cloud-provider-aws#566).
    LeaksTheAddress,
    /// `observe` sees what the inventory does not.
    HiddenFromInventory,
    /// Source ranges are never compared.
    IgnoresSourceRanges,
    /// Rewrites on every pass.
    NeverSettles,
    /// Takes away before it adds.
    DestructiveFirst,
    /// Does what it cannot.
    AcceptsInternalUdp,
    /// Gives the lowest free address whatever is published.
    ForgetsPublished,
    /// Replaces unasked.
    ReplacesWithoutConsent,
    /// Makes another plan each time.
    Nondeterministic,
    /// Targets change with everything else only.
    FreezesTargets,
    /// Targets change only if nothing else is in the way.
    TargetsNeedTheRest,
    /// Old targets stay beside new ones.
    KeepsLostPorts,
    /// Reports what it has not.
    ReportsNoAddress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balancer {
    owner: Owner,
    spec: LoadBalancer,
    address: IpAddr,
    active_at: u64,
    /// With [`Bug::KeepsLostPorts`]: what was registered once.
    kept: Registered,
}

impl Balancer {
    /// The nodes behind each listener.
    fn registered(&self) -> Registered {
        let Targets::Nodes(nodes) = &self.spec.targets else { return Registered::new() };
        let behind = |listener: &Listener| {
            let port = listener.node_port?;
            let targets = nodes.iter().map(|node| (node.name.to_string(), Some(port)));
            Some((listener.key(), targets.collect()))
        };
        let mut registered: Registered = self.spec.listeners.iter().filter_map(behind).collect();
        for (key, targets) in &self.kept {
            registered.entry(*key).or_default().extend(targets.iter().cloned());
        }
        registered
    }

    /// Keeps the old ports of nodes that are targets still.
    fn keep(&mut self, before: Registered) {
        let now = self.registered();
        self.kept = before;
        self.kept.retain(|key, targets| {
            let nodes: BTreeSet<_> = now.get(key).into_iter().flatten().map(|(node, _port)| node).collect();
            targets.retain(|(node, _port)| nodes.contains(node));
            !targets.is_empty()
        });
    }
}

/// Everything of one Service: load balancers by name, addresses by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) balancers: BTreeMap<String, Balancer>,
    addresses: BTreeMap<String, IpAddr>,
    now: u64,
}

#[derive(Default)]
struct State {
    balancers: BTreeMap<String, Balancer>,
    addresses: BTreeMap<String, (Owner, IpAddr)>,
    now: u64,
    created: u64,
    lose_reply_in: Option<u32>,
    plans: u64,
}

#[derive(Clone)]
pub(super) struct Cloud {
    state: Arc<Mutex<State>>,
    bug: Bug,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Reserve { name: String, owner: Owner, claim: BTreeSet<IpAddr> },
    Create { name: String, spec: LoadBalancer },
    Update { name: String, spec: LoadBalancer },
    Delete { name: String, owner: Owner },
    Release { name: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve { name, .. } => write!(f, "reserve address {name}"),
            Self::Create { name, .. } => write!(f, "create load balancer {name}"),
            Self::Update { name, .. } => write!(f, "update load balancer {name}"),
            Self::Delete { name, .. } => write!(f, "delete load balancer {name}"),
            Self::Release { name } => write!(f, "release address {name}"),
        }
    }
}

impl Cloud {
    pub(super) fn new(bug: Bug) -> Self {
        Self { state: Arc::default(), bug }
    }

    pub(super) fn provider(&self, cluster: &ClusterUid) -> Fake {
        Fake { cloud: self.clone(), cluster: cluster.clone() }
    }

    pub(super) fn pass(&self, duration: Duration) {
        self.lock().now += u64::try_from(duration.as_millis()).unwrap();
    }

    pub(super) fn lose_reply_in(&self, writes: u32) {
        self.lock().lose_reply_in = (writes > 0).then_some(writes);
    }

    /// Names of everything that is this owner's, whatever the provider shows.
    pub(super) fn left(&self, owner: &Owner) -> Vec<String> {
        let state = self.lock();
        let addresses = state.addresses.iter().filter(|(_name, (other, _address))| other == owner);
        let balancers = state.balancers.iter().filter(|(_name, balancer)| balancer.owner == *owner);
        addresses.map(|(name, _)| name.clone()).chain(balancers.map(|(name, _)| name.clone())).collect()
    }

    /// What this owner's load balancers send to.
    pub(super) fn registered(&self, owner: &Owner) -> Registered {
        let state = self.lock();
        let own = state.balancers.values().filter(|balancer| balancer.owner == *owner);
        own.flat_map(Balancer::registered).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

pub(super) struct Fake {
    cloud: Cloud,
    cluster: ClusterUid,
}

/// Deterministic: the scheme cannot change in place, so each has a load balancer of its own.
fn name_of(spec: &LoadBalancer) -> String {
    let Owner { cluster, service, name: _ } = &spec.owner;
    format!("{cluster}/{service}/{:?}", spec.scheme)
}

/// What is written into a load balancer: consent and status are not part of it.
fn written(spec: &LoadBalancer) -> LoadBalancer {
    LoadBalancer { published: BTreeSet::new(), replacement: Replacement::NeedsConsent, ..spec.clone() }
}

const RULES: [FieldRule; Field::ALL.len()] = {
    let mut rules =
        [FieldRule { field: Field::Listeners, mutability: Mutability::Mutable }; Field::ALL.len()];
    let mut index = 0;
    while index < rules.len() {
        let field = Field::ALL[index];
        let mutability = match field {
            Field::Scheme => Mutability::Replace,
            Field::Listeners | Field::Targets | Field::SourceRanges => Mutability::Mutable,
            _ => Mutability::Immutable,
        };
        rules[index] = FieldRule { field, mutability };
        index += 1;
    }
    rules
};

impl LoadBalancerProvider for Fake {
    type Observed = Observed;
    type Step = Step;

    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            protocols: &[Protocol::Tcp, Protocol::Udp],
            mixed_protocols: true,
            target_kinds: &[TargetKind::Node],
            needs_node_ports: true,
            pods_in_place_of_node_ports: false,
            ip_families: &[IpFamily::IPv4],
            status: StatusKind::Ip,
            source_ranges: true,
            session_affinity: false,
            proxy_protocol: false,
            fields: &RULES,
            options: &[],
            option_prefixes: &[],
        }
    }

    async fn inventory(&self) -> Result<Inventory<Observed>, ProviderError> {
        let owners: BTreeSet<Owner> = {
            let state = self.cloud.lock();
            let balancers = state.balancers.values().map(|balancer| balancer.owner.clone());
            balancers.chain(state.addresses.values().map(|(owner, _address)| owner.clone())).collect()
        };
        let all = self.cloud.bug == Bug::ShowsAllClusters;
        let none = self.cloud.bug == Bug::HiddenFromInventory;
        let shown = owners.into_iter().filter(|owner| !none && (all || owner.cluster == self.cluster));
        Ok(shown.filter_map(|owner| Some(Owned { observed: self.read(&owner)?, owner })).collect())
    }

    async fn observe(&self, owner: &Owner, _read_mode: ReadMode) -> Result<Option<Observed>, ProviderError> {
        Ok(self.read(owner))
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&Observed>) -> Plan<Step> {
        let empty = Observed::default();
        let observed = observed.unwrap_or(&empty);
        match desired {
            Desired::Absent(owner) => self.plan_absent(owner, observed),
            Desired::Present(spec) => self.plan_present(spec, observed),
        }
    }

    fn plan_targets(&self, backends: &Backends, observed: &Observed) -> Plan<Step> {
        let mut plan = Plan::nothing("the targets are as offered");
        let refused = match self.cloud.bug {
            Bug::FreezesTargets => return plan,
            Bug::TargetsNeedTheRest => {
                backends.listeners.iter().any(|listener| listener.protocol == Protocol::Udp)
            }
            _ => false,
        };
        for (name, balancer) in observed.balancers.iter().filter(|_balancer| !refused) {
            let mut spec = balancer.spec.clone();
            spec.targets = Targets::Nodes(backends.nodes.clone());
            let node_port =
                |listener: &Listener| backends.listener(listener.key()).and_then(|it| it.node_port);
            let moved = |listener: &Listener| Listener { node_port: node_port(listener), ..listener.clone() };
            spec.listeners = spec.listeners.iter().map(moved).collect();
            if spec != balancer.spec {
                let step = Step::Update { name: name.clone(), spec };
                plan = plan.step(step, Effect::Destructive, "its targets differ");
            }
        }
        plan
    }

    async fn execute(&self, step: &Step) -> Result<Outcome, ProviderError> {
        let mut state = self.cloud.lock();
        let outcome = self.write(&mut state, step)?;
        state.lose_reply_in = state.lose_reply_in.and_then(|left| left.checked_sub(1));
        if state.lose_reply_in == Some(0) {
            state.lose_reply_in = None;
            return Err(ProviderError::unavailable("write", "the connection was cut"));
        }
        Ok(outcome)
    }

    fn report(&self, desired: &LoadBalancer, observed: Option<&Observed>) -> Report {
        let Some(observed) = observed else { return Report::default() };
        let active = |balancer: &&Balancer| balancer.active_at <= observed.now;
        let wanted = observed.balancers.get(&name_of(desired)).filter(active);
        let shown = wanted.or_else(|| observed.balancers.values().find(active));
        let entry = |balancer: &Balancer| Ingress {
            address: IngressAddress::Ip(balancer.address),
            ip_mode: Some(IpMode::Vip),
            ports: Vec::new(),
        };
        let ingress = shown.map(entry).filter(|_ingress| self.cloud.bug != Bug::ReportsNoAddress);
        Report { ready: wanted.is_some(), ingress: ingress.into_iter().collect(), ..Report::default() }
    }
}

impl Fake {
    fn read(&self, owner: &Owner) -> Option<Observed> {
        let state = self.cloud.lock();
        let same = |other: &Owner| other.cluster == owner.cluster && other.service == owner.service;
        let balancers = state.balancers.iter().filter(|(_name, balancer)| same(&balancer.owner));
        let addresses = state.addresses.iter().filter(|(_name, (other, _address))| same(other));
        let observed = Observed {
            balancers: balancers.map(|(name, balancer)| (name.clone(), balancer.clone())).collect(),
            addresses: addresses.map(|(name, (_owner, address))| (name.clone(), *address)).collect(),
            now: state.now,
        };
        let leaks = self.cloud.bug == Bug::LeaksTheAddress && observed.balancers.is_empty();
        let nothing = observed.balancers.is_empty() && observed.addresses.is_empty();
        (!nothing && !leaks).then_some(observed)
    }

    fn plan_absent(&self, owner: &Owner, observed: &Observed) -> Plan<Step> {
        let mut plan = Plan::nothing("nothing is left");
        for name in observed.balancers.keys() {
            let step = Step::Delete { name: name.clone(), owner: owner.clone() };
            plan = plan.step(step, Effect::Destructive, "unwanted");
        }
        for name in observed.addresses.keys().filter(|_name| self.cloud.bug != Bug::LeaksTheAddress) {
            plan = plan.step(Step::Release { name: name.clone() }, Effect::Destructive, "unwanted");
        }
        plan
    }

    fn plan_present(&self, desired: &LoadBalancer, observed: &Observed) -> Plan<Step> {
        let plan = Plan::nothing("it is as desired");
        let udp = desired.listeners.iter().any(|listener| listener.protocol == Protocol::Udp);
        if udp && desired.scheme == Scheme::Internal && self.cloud.bug != Bug::AcceptsInternalUdp {
            return plan.block(Field::Scheme, Obstacle::Unsupported, "internal ones take TCP only");
        }
        let others: Vec<_> = observed.balancers.keys().filter(|name| **name != name_of(desired)).collect();
        let consent =
            desired.replacement == Replacement::Allowed || self.cloud.bug == Bug::ReplacesWithoutConsent;
        if !others.is_empty() && !observed.balancers.contains_key(&name_of(desired)) && !consent {
            return plan.block(Field::Scheme, Obstacle::ReplacementRequired, "another one would be made");
        }
        let plan = self.plan_wanted(plan, desired, observed);
        let plan = Self::plan_unpublished(plan, desired, observed, &others);
        if self.cloud.bug == Bug::Nondeterministic {
            self.cloud.lock().plans += 1;
            let reason = format!("plan {}", self.cloud.lock().plans);
            return plan.wait(reason, Duration::from_secs(1));
        }
        plan
    }

    fn plan_wanted(&self, plan: Plan<Step>, desired: &LoadBalancer, observed: &Observed) -> Plan<Step> {
        let (name, bug) = (name_of(desired), self.cloud.bug);
        let mut spec = written(desired);
        let Some(balancer) = observed.balancers.get(&name) else {
            let claim = if bug == Bug::ForgetsPublished { BTreeSet::new() } else { desired.published_ips() };
            let reserve = Step::Reserve { name: name.clone(), owner: desired.owner.clone(), claim };
            let plan = if bug == Bug::DestructiveFirst {
                plan.step(Step::Release { name: "none".to_owned() }, Effect::Destructive, "first of all")
            } else {
                plan
            };
            let plan = plan.step(reserve, Effect::Additive, "it needs one");
            return plan.step(Step::Create { name, spec }, Effect::Additive, "there is none");
        };
        if bug == Bug::IgnoresSourceRanges {
            spec.source_ranges.clone_from(&balancer.spec.source_ranges);
        }
        let plan = if spec != balancer.spec || bug == Bug::NeverSettles {
            plan.step(Step::Update { name, spec }, Effect::Destructive, "it differs")
        } else {
            plan
        };
        if balancer.active_at > observed.now {
            return plan.wait("it to be active", Duration::from_millis(balancer.active_at - observed.now));
        }
        plan
    }

    fn plan_unpublished(
        plan: Plan<Step>,
        desired: &LoadBalancer,
        observed: &Observed,
        others: &[&String],
    ) -> Plan<Step> {
        let serving =
            observed.balancers.get(&name_of(desired)).is_some_and(|wanted| wanted.active_at <= observed.now);
        let mut plan = plan;
        for other in others {
            let published = desired.published_ips().contains(&observed.balancers[*other].address);
            if serving && !published {
                let delete = Step::Delete { name: (*other).clone(), owner: desired.owner.clone() };
                plan = plan.step(delete, Effect::Destructive, "replaced").step(
                    Step::Release { name: (*other).clone() },
                    Effect::Destructive,
                    "replaced",
                );
            } else {
                plan = plan.wait("the new one to be published", Duration::from_secs(1));
            }
        }
        let stray = observed
            .addresses
            .keys()
            .filter(|name| **name != name_of(desired) && !observed.balancers.contains_key(*name));
        for name in stray {
            plan = plan.step(
                Step::Release { name: name.clone() },
                Effect::Destructive,
                "of a crashed replacement",
            );
        }
        plan
    }

    fn write(&self, state: &mut State, step: &Step) -> Result<Outcome, ProviderError> {
        match step.clone() {
            Step::Reserve { name, owner, claim } => {
                let taken: BTreeSet<IpAddr> =
                    state.addresses.values().map(|(_owner, address)| *address).collect();
                let claimed = claim.into_iter().find(|address| !taken.contains(address));
                let mut lowest = (1..=254).map(|last| IpAddr::from([192, 0, 2, last]));
                let address = claimed.or_else(|| lowest.find(|address| !taken.contains(address))).unwrap();
                state.addresses.entry(name).or_insert((owner, address));
            }
            Step::Create { mut name, spec } => {
                let address = state.addresses[&name].1;
                let active_at = state.now + PROVISIONING;
                state.created += 1;
                if self.cloud.bug == Bug::RandomNames && state.balancers.contains_key(&name) {
                    name = format!("{name}-{}", state.created);
                }
                let made =
                    Balancer { owner: spec.owner.clone(), spec, address, active_at, kept: Registered::new() };
                state.balancers.entry(name).or_insert(made);
                let retry = Duration::from_millis(PROVISIONING);
                return Ok(Outcome::InProgress { retry, what: "it to be active".to_owned() });
            }
            Step::Update { name, spec } => {
                if let Some(balancer) = state.balancers.get_mut(&name) {
                    let before = balancer.registered();
                    balancer.spec = spec;
                    if self.cloud.bug == Bug::KeepsLostPorts {
                        balancer.keep(before);
                    }
                }
            }
            Step::Delete { name, owner } => {
                let across = self.cloud.bug == Bug::DeletesAcrossClusters;
                let gone = state.balancers.extract_if(.., |other, balancer| {
                    *other == name || (across && balancer.owner.service == owner.service)
                });
                if gone.count() == 0 && self.cloud.bug == Bug::DeletingTheAbsentFails {
                    return Err(ProviderError::Invalid {
                        operation: "delete",
                        message: "not found".to_owned(),
                    });
                }
            }
            Step::Release { name } => drop(state.addresses.remove(&name)),
        }
        Ok(Outcome::Done)
    }
}
