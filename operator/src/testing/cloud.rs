//! A cloud in memory: load balancers that take their time, fail, or never answer, as tests ask.
//!
//! Owns: the fake provider. Leaves to others: nothing is recorded but what a real cloud would know and bill.
//! Invariant: it keeps the provider's contract; two load balancers for one Service would be two entries.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portico_limits::Limiter;
use portico_provider::{
    Backends, Capabilities, Desired, Effect, Fact, Field, Ingress, IngressAddress, Inventory, IpMode,
    Listener, ListenerKey, LoadBalancer, LoadBalancerProvider, Obstacle, Outcome, Owned, Owner, Plan,
    ProviderError, ReadMode, Report, Scheme, ServiceUid, TargetKind, Targets, Topic, Truth,
};
use tokio::time::{Instant, sleep};

use super::CAPABILITIES;

/// The pause between two polls of the cloud.
const POLL: Duration = Duration::from_secs(2);

/// How long a call is on its way, and its answer again.
const LATENCY: Duration = Duration::from_millis(5);

/// A handle; clones share the cloud.
#[derive(Clone, Default)]
pub(crate) struct FakeCloud {
    state: Arc<Mutex<CloudState>>,
    cut: Arc<AtomicBool>,
}

#[derive(Default)]
pub(crate) struct CloudState {
    /// By a number each creation takes: a second one for the same owner would show.
    pub(crate) existing: BTreeMap<u8, (LoadBalancer, Instant)>,
    next: u8,
    pub(crate) provisioning: Duration,
    /// Answers to the next executions, last first; then all is well.
    pub(crate) failures: Vec<ProviderError>,
    /// Each execution begins with so many requests, which wait for this limiter.
    pub(crate) slow: Option<(Arc<Limiter>, u32)>,
    /// How many of those left.
    pub(crate) sent: u32,
    /// After so many plans one panics.
    pub(crate) panics_after: Option<u32>,
    /// Executions for these never end.
    pub(crate) hanging: HashSet<ServiceUid>,
    /// How long looks wait whose calls come after everybody else's.
    pub(crate) audits_wait: Duration,
    /// Whether nothing at all answers.
    pub(crate) down: bool,
    /// Steps that it refuses.
    pub(crate) refused: Option<Refused>,
    pub(crate) reads: u32,
    /// Executions under way at this moment, and the most there ever were, by group (empty: of none).
    pub(crate) inside: BTreeMap<String, (usize, usize)>,
    /// How closely each go looked.
    pub(crate) read_modes: Vec<ReadMode>,
    /// The best priority that each look's and each step's calls would have had, in their order.
    pub(crate) called_at: Vec<portico_limits::Priority>,
    pub(crate) writes: u32,
}

/// A kind of steps that a cloud refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Changing a load balancer, but for its targets.
    Updates,
    /// Changing targets by themselves.
    Targets,
    Deletions,
}

/// A load balancer as read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FakeLb {
    pub(crate) spec: LoadBalancer,
    number: u8,
    active: bool,
    /// It cannot be deleted.
    protected: bool,
    /// Its listeners that older ones of its group have.
    taken: BTreeSet<ListenerKey>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FakeStep {
    Create(Box<LoadBalancer>),
    Update(u8, Box<LoadBalancer>),
    /// Only its targets.
    Target(u8, Box<LoadBalancer>),
    Delete(Owner),
}

impl fmt::Display for FakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(spec) => write!(f, "create load balancer for {}", spec.owner.name),
            Self::Update(_, spec) => write!(f, "update load balancer of {}", spec.owner.name),
            Self::Target(_, spec) => write!(f, "change targets of {}", spec.owner.name),
            Self::Delete(owner) => write!(f, "delete load balancer of {}", owner.name),
        }
    }
}

fn bare(spec: &LoadBalancer) -> LoadBalancer {
    LoadBalancer { published: BTreeSet::new(), ..spec.clone() }
}

fn nonsense(spec: &LoadBalancer) -> bool {
    let options = format!("{:?}", spec.options);
    options.contains("nonsense") || (options.contains("internal-only") && spec.scheme == Scheme::External)
}

impl CloudState {
    fn of(&self, uid: &ServiceUid) -> Option<FakeLb> {
        let found = self.existing.iter().find(|(_, (spec, _))| spec.owner.service == *uid);
        found.map(|(number, (spec, ready))| FakeLb {
            spec: spec.clone(),
            number: *number,
            active: Instant::now() >= *ready,
            protected: self.refused == Some(Refused::Deletions),
            taken: self.taken(*number, spec),
        })
    }

    fn taken(&self, number: u8, spec: &LoadBalancer) -> BTreeSet<ListenerKey> {
        let of_group = |other: &LoadBalancer| spec.group.is_some() && other.group == spec.group;
        let older = self.existing.range(..number).filter(|(_, (other, _))| of_group(other));
        let theirs: BTreeSet<_> =
            older.flat_map(|(_, (other, _))| other.listeners.iter().map(Listener::key)).collect();
        spec.listeners.iter().map(Listener::key).filter(|key| theirs.contains(key)).collect()
    }

    fn refuses(&self, step: &FakeStep) -> bool {
        match step {
            FakeStep::Update(..) => self.refused == Some(Refused::Updates),
            FakeStep::Target(..) => self.refused == Some(Refused::Targets),
            FakeStep::Create(_) | FakeStep::Delete(_) => false,
        }
    }

    /// Notes that an execution for this group begins, or ends.
    fn enter(&mut self, group: &str, enters: bool) {
        let (now, most) = self.inside.entry(group.to_owned()).or_default();
        *now = if enters { *now + 1 } else { *now - 1 };
        *most = (*most).max(*now);
    }

    fn apply(&mut self, step: &FakeStep) -> Outcome {
        self.writes += 1;
        match step {
            FakeStep::Create(spec) if self.of(&spec.owner.service).is_none() => {
                self.next += 1;
                self.existing.insert(self.next, (bare(spec), Instant::now() + self.provisioning));
                if !self.provisioning.is_zero() {
                    return Outcome::InProgress { retry: POLL, what: "an address".to_owned() };
                }
            }
            FakeStep::Create(_) => {}
            FakeStep::Update(number, spec) | FakeStep::Target(number, spec) => {
                if let Some((old, _)) = self.existing.get_mut(number) {
                    *old = bare(spec);
                }
            }
            FakeStep::Delete(owner) => {
                self.existing.retain(|_, (spec, _)| spec.owner.service != owner.service);
            }
        }
        Outcome::Done
    }
}

impl FakeCloud {
    /// Looks at or changes the cloud behind the operator's back.
    pub(crate) fn with<T>(&self, with: impl FnOnce(&mut CloudState) -> T) -> T {
        with(&mut self.state.lock().unwrap())
    }

    /// Another handle to the same cloud, for another process.
    pub(crate) fn connect(&self) -> Self {
        Self { state: Arc::clone(&self.state), cut: Arc::default() }
    }

    /// The process of this handle is dead: its calls never arrive, and what did is never answered.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    async fn line(&self) {
        sleep(LATENCY).await;
        if self.cut.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }

    fn maybe_panic(&self) {
        let panics = self.with(|state| {
            let left = state.panics_after;
            state.panics_after = left.and_then(|left| left.checked_sub(1));
            left == Some(0)
        });
        assert!(!panics, "a fault of the provider");
    }

    async fn requests(&self) {
        let Some((limiter, count)) = self.with(|state| state.slow.clone()) else { return };
        let request = || async {
            self.with(|state| state.sent += 1);
            self.line().await;
            Ok::<(), ()>(())
        };
        for _ in 0..count {
            let sent = limiter.call(portico_limits::Priority::Provisioning, request, |_| false).await;
            sent.expect("it cannot fail");
        }
    }

    async fn read<T>(&self, read: impl FnOnce(&CloudState) -> T + Send) -> Result<T, ProviderError> {
        self.line().await;
        let answer = self.with(|state| {
            state.reads += 1;
            if state.down { Err(ProviderError::unavailable("read", "down")) } else { Ok(read(state)) }
        });
        self.line().await;
        answer
    }
}

impl LoadBalancerProvider for FakeCloud {
    type Observed = FakeLb;
    type Step = FakeStep;

    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn inventory(&self) -> Result<Inventory<FakeLb>, ProviderError> {
        self.read(|state| {
            let owners = state.existing.values().map(|(spec, _)| spec.owner.clone());
            owners.filter_map(|owner| Some(Owned { observed: state.of(&owner.service)?, owner })).collect()
        })
        .await
    }

    async fn observe(&self, owner: &Owner, read_mode: ReadMode) -> Result<Option<FakeLb>, ProviderError> {
        let best = portico_limits::best();
        let wait = self.with(|state| {
            state.read_modes.push(read_mode);
            state.called_at.push(best);
            if best == portico_limits::Priority::Background { state.audits_wait } else { Duration::ZERO }
        });
        sleep(wait).await;
        self.read(|state| state.of(&owner.service)).await
    }

    fn shares(&self, desired: Desired<'_>, observed: Option<&FakeLb>) -> BTreeSet<String> {
        self.maybe_panic();
        let wanted = match desired {
            Desired::Present(spec) => spec.group.clone(),
            Desired::Absent(_) => None,
        };
        let there = observed.and_then(|lb| lb.spec.group.clone());
        wanted.into_iter().chain(there).map(|group| group.to_string()).collect()
    }

    fn plan(&self, desired: Desired<'_>, observed: Option<&FakeLb>) -> Plan<FakeStep> {
        self.maybe_panic();
        let plan = match desired {
            Desired::Present(spec) if nonsense(spec) => Plan::nothing("it is as desired").block(
                Field::Options,
                Obstacle::Unsupported,
                "that is nonsense",
            ),
            _ => Plan::nothing("it is as desired"),
        };
        let taken = observed.into_iter().flat_map(|lb| &lb.taken);
        let plan = taken.fold(plan, |plan, key| {
            plan.block(Field::Listeners, Obstacle::ListenerConflict, format!("{key} is another's"))
        });
        match (desired, observed) {
            (Desired::Absent(_), Some(lb)) if lb.protected => {
                plan.wait("its protection to be taken off", POLL)
            }
            (Desired::Absent(owner), Some(_)) => {
                plan.step(FakeStep::Delete(owner.clone()), Effect::Destructive, "nobody wants it")
            }
            (Desired::Present(spec), None) => {
                plan.step(FakeStep::Create(Box::new(spec.clone())), Effect::Additive, "there is none")
            }
            (Desired::Present(spec), Some(lb)) if bare(spec) != lb.spec => plan.step(
                FakeStep::Update(lb.number, Box::new(spec.clone())),
                Effect::Destructive,
                "it differs",
            ),
            (Desired::Present(_), Some(lb)) if !lb.active => plan.wait("an address", POLL),
            (Desired::Absent(_), None) | (Desired::Present(_), Some(_)) => plan,
        }
    }

    fn plan_targets(&self, backends: &Backends, observed: &FakeLb) -> Plan<FakeStep> {
        let node_port = |listener: &Listener| backends.listener(listener.key()).and_then(|it| it.node_port);
        let moved = |listener: &Listener| Listener { node_port: node_port(listener), ..listener.clone() };
        let kind = match observed.spec.targets {
            Targets::Nodes(_) => TargetKind::Node,
            Targets::Pods(_) => TargetKind::Pod,
        };
        let spec = LoadBalancer {
            targets: backends.of_kind(kind),
            listeners: observed.spec.listeners.iter().map(moved).collect(),
            ..observed.spec.clone()
        };
        let plan = Plan::nothing("the targets are as offered");
        if spec == observed.spec {
            return plan;
        }
        plan.step(
            FakeStep::Target(observed.number, Box::new(spec)),
            Effect::Destructive,
            "its targets differ",
        )
    }

    fn differing(&self, desired: &LoadBalancer, observed: Option<&FakeLb>) -> BTreeSet<Field> {
        let Some(FakeLb { spec, .. }) = observed else { return BTreeSet::new() };
        let differs = [
            (Field::Listeners, spec.listeners != desired.listeners),
            (Field::Targets, spec.targets != desired.targets),
            (Field::SourceRanges, spec.source_ranges != desired.source_ranges),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
    }

    async fn execute(&self, step: &FakeStep) -> Result<Outcome, ProviderError> {
        self.with(|state| state.called_at.push(portico_limits::best()));
        let owner = match step {
            FakeStep::Create(spec) | FakeStep::Update(_, spec) | FakeStep::Target(_, spec) => &spec.owner,
            FakeStep::Delete(owner) => owner,
        };
        if self.with(|state| state.hanging.contains(&owner.service)) {
            pending::<()>().await;
        }
        self.requests().await;
        let group = self.with(|state| {
            let spec = state.of(&owner.service).map(|lb| lb.spec.group);
            let group = match step {
                FakeStep::Create(spec) | FakeStep::Update(_, spec) | FakeStep::Target(_, spec) => {
                    spec.group.clone()
                }
                FakeStep::Delete(_) => spec.flatten(),
            };
            let group = group.map(|group| group.to_string()).unwrap_or_default();
            state.enter(&group, true);
            group
        });
        self.line().await;
        let answer = self.with(|state| match state.failures.pop() {
            Some(error) => Err(error),
            None if state.down => Err(ProviderError::unavailable("execute", "down")),
            None if state.refuses(step) => {
                Err(ProviderError::Exhausted { operation: "execute", message: "no more of it".to_owned() })
            }
            None => Ok(state.apply(step)),
        });
        self.line().await;
        self.with(|state| state.enter(&group, false));
        answer
    }

    fn report(&self, _desired: &LoadBalancer, observed: Option<&FakeLb>) -> Report {
        let ingress = |lb: &FakeLb| Ingress {
            address: IngressAddress::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, lb.number))),
            ip_mode: Some(IpMode::Vip),
            ports: Vec::new(),
        };
        let active = observed.filter(|lb| lb.active);
        // As of the last read; nobody knows how targets are before there is something that checks them.
        let health = observed.map(|lb| Fact {
            topic: Topic::TargetsHealthy,
            holds: if lb.active { Truth::True } else { Truth::Unknown },
            reason: "Checked".to_owned(),
            message: String::new(),
        });
        Report {
            ingress: active.map(ingress).into_iter().collect(),
            ready: active.is_some(),
            facts: health.into_iter().collect(),
            unread: Vec::new(),
        }
    }

    fn resources(&self, observed: Option<&Self::Observed>) -> BTreeMap<&'static str, Option<String>> {
        BTreeMap::from([("cloud.test/load-balancer", observed.map(|_lb| "lb-1".to_owned()))])
    }
}
