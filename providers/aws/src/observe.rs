//! Reading: everything by tags in one listing, or one Service as closely as asked.
//!
//! Owns: what is read, and what is believed instead. Leaves to others: the memory, what to make of it. Invariants: what
//! a listing by tags shows is read again with its own tags, so that a listing that lags cannot make us touch somebody
//! else's thing; what is gone by then is left out; nothing counts as gone without a listing.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{ClusterUid, Desired, GroupName, Inventory, Owned, Owner, ReadMode};

use crate::cloud::batches::Batches;
use crate::cloud::resources::{
    Health, Id, Kind, LifeState, Listener, ListenerExtras, LoadBalancer, Tags, TargetGroup, Transport,
};
use crate::cloud::{Answer, Cloud};
use crate::memory::Memory;
use crate::names;
use crate::observed::{Balancer, Group, Observed, Seal, Snapshot, Targets, View};
use crate::quotas::Quotas;
use crate::tags;

mod behind;
mod company;
mod lost;

use company::Companies;

/// Nothing at all.
static VOID: View = View {
    load_balancers: BTreeMap::new(),
    groups: BTreeMap::new(),
    firewalls: BTreeMap::new(),
    lost: BTreeMap::new(),
    subnet_names: BTreeMap::new(),
    companies: BTreeMap::new(),
};

/// Everything of a cluster, by tags: one paged listing.
pub(crate) async fn inventory<C: Cloud>(
    cloud: &C,
    memory: &Memory,
    cluster: &ClusterUid,
) -> Answer<Inventory<Observed>> {
    let mut services: BTreeMap<Owner, Snapshot> = BTreeMap::new();
    let mut companies = Companies::default();
    let (mut listeners, mut adopted) = (BTreeMap::<Owner, BTreeSet<Id>>::new(), BTreeSet::new());
    for (id, found) in cloud.tagged(&tags::of_cluster(cluster)).await? {
        let Some(kind) = id.kind() else { continue };
        let Some(owner) = tags::owner(&found) else {
            companies.shared(&id, &found);
            continue;
        };
        if kind == Kind::Listener {
            listeners.entry(owner).or_default().insert(id);
            continue;
        }
        companies.member(&owner, kind, &found);
        adopted.extend(tags::is_adopted(&found).then(|| owner.clone()));
        let snapshot = services.entry(owner).or_default();
        match (kind, id.name()) {
            (Kind::LoadBalancer, Some(name)) => {
                snapshot.load_balancers.insert(name.to_owned(), id);
                // Two are a replacement under way, whatever their seals say.
                snapshot.sealed = Seal::of(&found).filter(|_| snapshot.load_balancers.len() == 1);
            }
            (Kind::TargetGroup, Some(name)) => {
                snapshot.groups.insert(name.to_owned(), id);
            }
            (_, _) => snapshot.firewalls.push(id),
        }
        snapshot.firewalls.sort();
    }
    companies.attach(cluster, &mut services);
    let told = memory.listed_listeners(!listeners.is_empty());
    for (owner, snapshot) in services.iter_mut().filter(|(owner, _)| told && !adopted.contains(*owner)) {
        snapshot.listeners = Some(listeners.remove(owner).unwrap_or_default());
    }
    memory.listed();
    // Whoever waits for a higher quota is brought back by a listing.
    if memory.reached_quota(None).is_some() {
        memory.saw_quota(cloud.most_load_balancers().await.unwrap_or_default());
    }
    let each = services.into_iter().map(|(owner, snapshot)| {
        let observed = memory.listed_one(&owner, snapshot);
        let observed = memory.with_refused(&owner, observed);
        Owned { owner, observed }
    });
    Ok(each.collect())
}

/// Everything that a look needs.
pub(crate) struct Observer<'a, C> {
    pub(crate) cloud: &'a C,
    pub(crate) batches: &'a Batches,
    pub(crate) memory: &'a Memory,
    /// `vpc-…`.
    pub(crate) vpc: &'a str,
    /// What the account allows.
    pub(crate) quotas: &'a Quotas,
}

impl<C: Cloud> Observer<'_, C> {
    /// One Service, as closely as asked; with the targets that AWS refused a while ago.
    pub(crate) async fn observe(&self, desired: Desired<'_>, look: ReadMode) -> Answer<Option<Observed>> {
        // Boxed: all the calls below it are too deep a type for the compiler otherwise.
        let seen = Box::pin(self.seen(desired, look)).await?;
        let has_one = seen.as_ref().is_some_and(|seen| seen.load_balancers() > 0);
        if matches!(desired, Desired::Present(_)) && !has_one && self.memory.asks_for_quota(desired.owner()) {
            // Whoever may not ask is told by AWS's refusal.
            let most = self.batches.most_load_balancers(self.cloud).await;
            self.memory.saw_quota(most.unwrap_or_default());
        }
        Ok(seen.map(|seen| self.memory.with_refused(desired.owner(), seen)))
    }

    async fn seen(&self, desired: Desired<'_>, look: ReadMode) -> Answer<Option<Observed>> {
        let (owner, group) = match desired {
            Desired::Present(desired) => (&desired.owner, desired.group.as_ref()),
            Desired::Absent(owner) => (owner, None),
        };
        let leaves = matches!(desired, Desired::Absent(_));
        if leaves && look == ReadMode::Verify {
            self.batches.leaves(owner);
        }
        if look < ReadMode::Full
            && let Some(believed) = self.memory.belief(owner).filter(|believed| believed.covers(group))
        {
            let looked = match (&believed, desired) {
                (Observed::Snapshot(snapshot), Desired::Absent(_)) if look == ReadMode::Verify => {
                    self.for_deletion(owner, snapshot).await?
                }
                _ => self.look(desired, &believed, look).await?,
            };
            match looked {
                Some(Observed::Full(view)) if view.is_empty() && group.is_none() => return Ok(None),
                Some(seen) => {
                    self.memory.refreshed(owner, &believed, seen.clone());
                    return Ok(Some(seen));
                }
                None => self.memory.doubt(owner),
            }
        }
        let remains = tags::remains_of(owner);
        let view = self.read(owner, group.or(remains.as_ref()), leaves).await?;
        // What has members again is theirs.
        if remains.is_some_and(|group| view.companies.get(&group).is_some_and(|members| !members.is_empty()))
        {
            self.memory.saw(owner, &View::default());
            return Ok(None);
        }
        let nothing = view.is_empty() && group.is_none();
        self.memory.saw(owner, if nothing { &VOID } else { &view });
        Ok((!nothing).then_some(Observed::Full(view)))
    }

    // ---- on top of what is believed; `None`: it is not as it was believed

    async fn look(
        &self,
        desired: Desired<'_>,
        believed: &Observed,
        look: ReadMode,
    ) -> Answer<Option<Observed>> {
        let owner = desired.owner();
        // Once in a go is enough, however many of its plans take something away; not for taking away everything.
        let confirms = look >= ReadMode::Verify
            && (matches!(desired, Desired::Absent(_)) || !self.memory.is_confirmed(owner));
        match believed {
            Observed::Full(view) => {
                let sealed = view
                    .load_balancers
                    .values()
                    .map(|balancer| (sealed_on(view, balancer), &balancer.sealed));
                if confirms && !self.is_confirmed(owner, &view.snapshot(), sealed.collect()).await? {
                    return Ok(None);
                }
                let mut view = view.clone();
                let going_on = look == ReadMode::Cached || self.poll(&mut view, desired, look).await?;
                Ok(going_on.then_some(Observed::Full(view)))
            }
            Observed::Snapshot(snapshot) => {
                // Enough for a change of targets, once those are known.
                let mut snapshot = match (snapshot, desired) {
                    (Snapshot { targets: Some(_), .. }, _) => snapshot.clone(),
                    (_, Desired::Absent(_)) => return Ok(None),
                    (_, Desired::Present(desired)) => match self.with_targets(desired, snapshot).await? {
                        Some(snapshot) => snapshot,
                        None => return Ok(None),
                    },
                };
                let on = |(_, id): (_, &Id)| {
                    let behind: Vec<Id> = snapshot.groups.values().cloned().collect();
                    if snapshot.companies.is_empty() { vec![id.clone()] } else { behind }
                };
                let sealed = snapshot.only().map(|only| (on(only), &snapshot.sealed)).into_iter().collect();
                if confirms && !self.is_confirmed(owner, &snapshot, sealed).await? {
                    return Ok(None);
                }
                if look >= ReadMode::Pending {
                    for (name, targets) in snapshot.targets.iter_mut().flatten() {
                        if let Some(id) = snapshot.groups.get(name).filter(|_| is_due(targets, look)) {
                            *targets = self.targets(id).await?;
                        }
                    }
                }
                Ok(Some(Observed::Snapshot(snapshot)))
            }
        }
    }

    /// What tags show, confirmed to be ours; of security groups all there are, as nothing else proves later that none is
    /// left.
    async fn for_deletion(&self, owner: &Owner, snapshot: &Snapshot) -> Answer<Option<Observed>> {
        let is_own = snapshot.companies.is_empty();
        if !is_own || !self.is_confirmed(owner, snapshot, Vec::new()).await? {
            return Ok(None);
        }
        let found = self.batches.firewalls(self.cloud, owner).await?;
        let mut firewalls: Vec<Id> = found.into_iter().map(|firewall| firewall.id).collect();
        firewalls.sort();
        let seen = Snapshot { firewalls, ..snapshot.clone() };
        Ok((!seen.is_empty()).then_some(Observed::Snapshot(seen)))
    }

    /// Whether all is still there, ours, and sealed as this process left it: another writer would have left his mark.
    async fn is_confirmed(
        &self,
        owner: &Owner,
        snapshot: &Snapshot,
        sealed: Vec<(Vec<Id>, &Option<Seal>)>,
    ) -> Answer<bool> {
        let things = snapshot.tagged();
        let ids: Vec<Id> = things.iter().map(|(id, _)| id.clone()).collect();
        let found = self.batches.tags(self.cloud, &ids).await?;
        let as_left = |(on, seal): &(Vec<Id>, &Option<Seal>)| {
            let seals = on.iter().map(|id| found.get(id).and_then(Seal::of));
            tags::common_seal(seals) == **seal
        };
        let is_ours = |(id, shared): &(Id, bool)| {
            found.get(id).is_some_and(|tags| {
                if *shared { tags::group(tags).is_some() } else { tags::are_of(tags, owner) }
            })
        };
        let confirmed = things.iter().all(is_ours) && sealed.iter().all(as_left);
        if confirmed {
            self.memory.confirmed(owner);
        }
        Ok(confirmed)
    }

    /// Reads what AWS does by itself and had not finished; `false`: something is gone. Targets of a load balancer that was
    /// just found to serve were asked for their health a moment ago at most: the next look tells more for the same call.
    /// Those behind a port that the Service has no longer go, whatever their health.
    async fn poll(&self, view: &mut View, desired: Desired<'_>, look: ReadMode) -> Answer<bool> {
        let stays = |listener: &&Listener| match desired {
            Desired::Present(desired) => {
                desired.listeners.iter().any(|it| it.port.get() == listener.spec.port)
            }
            Desired::Absent(_) => true,
        };
        let serving = view.load_balancers.values().filter(|balancer| balancer.serves());
        let listeners = serving.flat_map(|it| it.listeners.values().filter(stays));
        let used: BTreeSet<Id> = listeners.filter_map(|listener| listener.group.clone()).collect();
        for balancer in view.load_balancers.values_mut().filter(|balancer| !balancer.serves()) {
            let Some(facts) = self.batches.load_balancer(self.cloud, &balancer.facts.id).await? else {
                return Ok(false);
            };
            balancer.facts = facts;
            balancer.looks = balancer.looks.saturating_add(u32::from(!balancer.serves()));
        }
        for group in view.groups.values_mut().filter(|group| used.contains(&group.facts.id)) {
            if is_due(&group.targets, look) {
                group.targets = self.targets(&group.facts.id).await?;
            }
        }
        Ok(true)
    }

    async fn targets(&self, group: &Id) -> Answer<Targets> {
        let mut targets = self.cloud.target_health(group).await?;
        targets.retain(|_, health| *health != Health::Draining);
        Ok(targets)
    }

    // ---- in full

    /// `group`: to be read as well, besides those that it has things of. `leaves`: most likely there is nothing.
    async fn read(&self, owner: &Owner, group: Option<&GroupName>, leaves: bool) -> Answer<View> {
        let Self { cloud, batches, memory, vpc: _, quotas: _ } = self;
        let known = memory.is_known(owner);
        let listed =
            if leaves { batches.left(*cloud, owner).await? } else { batches.owned(*cloud, owner).await? };
        // Listeners are read with their load balancer.
        let listed = listed.into_iter().map(|(id, _)| id).filter(|id| id.kind() != Some(Kind::Listener));
        let mut ids: BTreeSet<Id> = listed.chain(memory.ids(owner)).collect();
        // A fresh process also asks EC2, whose answers lag less than the listing; and for a load balancer's name.
        if ids.is_empty() && known && group.is_none() {
            return Ok(View::default());
        }
        if ids.is_empty() && leaves {
            let named = cloud.load_balancer_named(&names::load_balancer(owner, None, 0)).await?;
            ids.extend(named.map(|found| found.id));
        }
        if !ids.is_empty() {
            self.size_prefix_lists().await;
        }
        let tagged: Vec<Id> =
            ids.iter().filter(|id| id.kind() != Some(Kind::SecurityGroup)).cloned().collect();
        let mut found = batches.tags(*cloud, &tagged).await?;
        let others: BTreeMap<Id, Tags> =
            found.extract_if(.., |_, found| !tags::are_of(found, owner)).collect();
        let mut view = View::default();
        let mut in_groups: BTreeSet<GroupName> = group.into_iter().cloned().collect();
        for (id, tags) in &found {
            match id.kind() {
                Some(Kind::LoadBalancer) => {
                    if let Some(facts) = batches.load_balancer(*cloud, id).await?
                        && let Some(mut balancer) = self.balancer(tags, facts).await?
                    {
                        let unclear = unclear(owner, &balancer);
                        if !unclear.is_empty() {
                            Box::pin(self.tell_apart(owner, &mut balancer, unclear)).await?;
                        }
                        view.load_balancers.insert(balancer.facts.name.clone(), balancer);
                    }
                }
                Some(Kind::TargetGroup) => {
                    if let Some(facts) = batches.target_group(*cloud, id).await?
                        && let Some(group) = self.group(tags, facts).await?
                    {
                        in_groups.extend(group.member_of.clone());
                        view.groups.insert(group.facts.name.clone(), group);
                    }
                }
                Some(Kind::SecurityGroup | Kind::Listener) | None => {}
            }
        }
        for firewall in batches.firewalls(*cloud, owner).await? {
            view.firewalls.insert(firewall.name.clone(), firewall);
        }
        for group in in_groups {
            self.company(owner, group, &found, &mut view).await?;
        }
        // Boxed, as is what tells listeners apart: rare, and deep.
        Box::pin(self.lost(owner, &others, leaves, &mut view)).await?;
        self.name_subnets(&mut view).await?;
        Ok(view)
    }

    /// `None`: it went while we looked.
    async fn balancer(&self, found: &Tags, facts: LoadBalancer) -> Answer<Option<Balancer>> {
        let Some(attributes) = self.cloud.load_balancer_attributes(&facts.id).await? else { return Ok(None) };
        let listeners = self.cloud.listeners(&facts.id).await?;
        let listeners: BTreeMap<u16, Listener> =
            listeners.into_iter().map(|listener| (listener.spec.port, listener)).collect();
        let extras = if tags::has_extras(found) { Some(self.extras(&listeners).await?) } else { None };
        let (adopted, sealed) = (tags::is_adopted(found), Seal::of(found));
        let looks = u32::from(facts.state == LifeState::Provisioning);
        let taken = BTreeMap::new();
        Ok(Some(Balancer {
            facts,
            attributes,
            listeners,
            extras,
            taken,
            shared: None,
            adopted,
            sealed,
            looks,
        }))
    }

    /// What listeners have beside their specification.
    async fn extras(&self, listeners: &BTreeMap<u16, Listener>) -> Answer<BTreeMap<u16, ListenerExtras>> {
        let mut all = BTreeMap::new();
        for (port, Listener { id, spec, group: _, split: _ }) in listeners {
            let certificates = match spec.protocol {
                Transport::Tls => self.cloud.listener_certificates(id).await?,
                Transport::Tcp | Transport::Udp | Transport::TcpUdp => BTreeSet::new(),
            };
            let attributes = self.cloud.listener_attributes(id).await?;
            all.insert(*port, ListenerExtras { certificates, attributes });
        }
        Ok(all)
    }

    /// `None`: it went while we looked.
    async fn group(&self, found: &Tags, facts: TargetGroup) -> Answer<Option<Group>> {
        let Some(attributes) = self.cloud.target_group_attributes(&facts.id).await? else { return Ok(None) };
        let targets = self.targets(&facts.id).await?;
        Ok(Some(Group { facts, member_of: tags::group(found), attributes, targets }))
    }

    async fn name_subnets(&self, view: &mut View) -> Answer<()> {
        let mut subnets = self.memory.subnets().unwrap_or_default();
        if !view.subnets().iter().all(|id| subnets.iter().any(|subnet| subnet.id == *id)) {
            subnets = self.batches.subnets(self.cloud, self.vpc).await?;
            self.memory.saw_subnets(&subnets);
        }
        view.name_subnets(&subnets);
        Ok(())
    }

    /// Sizes of prefix lists, once in a process, with its first read in full. Who may not read them is told when a
    /// Service names one, and only then.
    async fn size_prefix_lists(&self) {
        if self.memory.asks_for_prefix_lists() {
            let all = self.cloud.prefix_lists(&BTreeSet::new()).await;
            self.memory.saw_prefix_lists(all.unwrap_or_default());
        }
    }
}

/// Listeners whose own tags have to tell whose they are: on a load balancer of this owner's, those that do not send to the
/// target group that is made for their port.
fn unclear(owner: &Owner, balancer: &Balancer) -> Vec<Listener> {
    let evident = |Listener { spec, group, .. }: &Listener| {
        let name = group.as_ref().and_then(Id::name);
        name.is_some_and(|name| names::is_target_group(name, owner, &balancer.facts.name, spec.port))
    };
    balancer.listeners.values().filter(|listener| !evident(listener)).cloned().collect()
}

/// What the seal of a Service is on: a load balancer of its own, or its target groups behind a shared one.
fn sealed_on(view: &View, balancer: &Balancer) -> Vec<Id> {
    match balancer.group() {
        None => vec![balancer.facts.id.clone()],
        group => {
            let own = view.groups.values().filter(|it| it.member_of.as_ref() == group);
            own.map(|it| it.facts.id.clone()).collect()
        }
    }
}

/// Whether targets are worth a read: for taking some away, when one has not been asked yet; else when one is not well.
fn is_due(targets: &Targets, look: ReadMode) -> bool {
    targets.values().any(|health| match health {
        Health::Initial | Health::Unused => true,
        Health::Unhealthy => look < ReadMode::Verify,
        Health::Healthy | Health::Draining | Health::Refused(_) => false,
    })
}
