//! Reading: everything by tags in one listing, or one Service as closely as asked.
//!
//! Owns: what is read, and what is taken from the cache instead. Leaves to others: the cache, the plan. Invariants:
//! each resource of a listing is read again with its own tags, as a listing may lag and show another owner's resource.
//! A resource that is gone by then is left out. Nothing counts as gone without a listing.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{ClusterUid, Desired, GroupName, Inventory, Owned, Owner, ReadMode};

use crate::cache::Cache;
use crate::cloud::batches::Batches;
use crate::cloud::resources::{
    Health, Id, Kind, LifeState, Listener, ListenerExtras, LoadBalancer, Tags, TargetGroup, Transport,
};
use crate::cloud::{Answer, Sdk};
use crate::names;
use crate::observed::{Balancer, Group, Observed, Snapshot, SyncedHash, Targets, View};
use crate::quotas::Quotas;
use crate::tags;

mod behind;
mod lost;
mod members;

use members::Memberships;

/// Nothing at all.
static VOID: View = View {
    load_balancers: BTreeMap::new(),
    target_groups: BTreeMap::new(),
    security_groups: BTreeMap::new(),
    lost: BTreeMap::new(),
    subnet_names: BTreeMap::new(),
    memberships: BTreeMap::new(),
};

/// Everything of a cluster, by tags: one paged listing.
pub(crate) async fn inventory(
    cloud: &Sdk,
    cache: &Cache,
    cluster: &ClusterUid,
) -> Answer<Inventory<Observed>> {
    let mut services: BTreeMap<Owner, Snapshot> = BTreeMap::new();
    let mut memberships = Memberships::default();
    let (mut listeners, mut adopted) = (BTreeMap::<Owner, BTreeSet<Id>>::new(), BTreeSet::new());
    for (id, found) in cloud.tagged(&tags::of_cluster(cluster)).await? {
        let Some(kind) = id.kind() else { continue };
        let Some(owner) = tags::owner(&found) else {
            memberships.shared(&id, &found);
            continue;
        };
        if kind == Kind::Listener {
            listeners.entry(owner).or_default().insert(id);
            continue;
        }
        memberships.member(&owner, kind, &found);
        adopted.extend(tags::is_adopted(&found).then(|| owner.clone()));
        let snapshot = services.entry(owner).or_default();
        match (kind, id.name()) {
            (Kind::LoadBalancer, Some(name)) => {
                snapshot.load_balancers.insert(name.to_owned(), id);
                // Two are a replacement under way, whatever their hashes say.
                snapshot.synced = SyncedHash::of(&found).filter(|_| snapshot.load_balancers.len() == 1);
            }
            (Kind::TargetGroup, Some(name)) => {
                snapshot.target_groups.insert(name.to_owned(), id);
            }
            (_, _) => snapshot.security_groups.push(id),
        }
        snapshot.security_groups.sort();
    }
    memberships.attach(cluster, &mut services);
    let lists_listeners = cache.listed_listeners(!listeners.is_empty());
    for (owner, snapshot) in
        services.iter_mut().filter(|(owner, _)| lists_listeners && !adopted.contains(*owner))
    {
        snapshot.listeners = Some(listeners.remove(owner).unwrap_or_default());
    }
    cache.listed();
    // Whoever waits for a higher quota is brought back by a listing.
    if cache.reached_quota(None).is_some() {
        cache.saw_quota(cloud.most_load_balancers().await.unwrap_or_default());
    }
    let each = services.into_iter().map(|(owner, snapshot)| {
        let observed = cache.listed_one(&owner, snapshot);
        let observed = cache.with_refused(&owner, observed);
        Owned { owner, observed }
    });
    Ok(each.collect())
}

/// Everything that a read needs.
pub(crate) struct Observer<'a> {
    pub(crate) cloud: &'a Sdk,
    pub(crate) batches: &'a Batches,
    pub(crate) cache: &'a Cache,
    /// `vpc-…`.
    pub(crate) vpc: &'a str,
    /// The account's quotas.
    pub(crate) quotas: &'a Quotas,
}

impl Observer<'_> {
    /// One Service, as closely as asked; with the targets that AWS refused a while ago.
    pub(crate) async fn observe(&self, desired: Desired<'_>, mode: ReadMode) -> Answer<Option<Observed>> {
        // Boxed: all the calls below it are too deep a type for the compiler otherwise.
        let seen = Box::pin(self.seen(desired, mode)).await?;
        let has_one = seen.as_ref().is_some_and(|seen| seen.load_balancers() > 0);
        if matches!(desired, Desired::Present(_)) && !has_one && self.cache.asks_for_quota(desired.owner()) {
            // Without the permission, AWS's refusal reports the quota.
            let most = self.batches.most_load_balancers().await;
            self.cache.saw_quota(most.unwrap_or_default());
        }
        Ok(seen.map(|seen| self.cache.with_refused(desired.owner(), seen)))
    }

    async fn seen(&self, desired: Desired<'_>, mode: ReadMode) -> Answer<Option<Observed>> {
        let (owner, group) = match desired {
            Desired::Present(desired) => (&desired.owner, desired.group.as_ref()),
            Desired::Absent(owner) => (owner, None),
        };
        let leaves = matches!(desired, Desired::Absent(_));
        if leaves && mode == ReadMode::Verify {
            self.batches.leaves(owner);
        }
        if mode < ReadMode::Full
            && let Some(cached) = self.cache.cached(owner).filter(|cached| cached.covers(group))
        {
            let refreshed = match (&cached, desired) {
                (Observed::Snapshot(snapshot), Desired::Absent(_)) if mode == ReadMode::Verify => {
                    self.for_deletion(owner, snapshot).await?
                }
                _ => self.refresh(desired, &cached, mode).await?,
            };
            match refreshed {
                Some(Observed::Full(view)) if view.is_empty() && group.is_none() => return Ok(None),
                Some(seen) => {
                    self.cache.refreshed(owner, &cached, seen.clone());
                    return Ok(Some(seen));
                }
                None => self.cache.invalidate(owner),
            }
        }
        let remains = tags::remains_of(owner);
        let view = self.read(owner, group.or(remains.as_ref()), leaves).await?;
        // What has members again is theirs.
        if remains
            .is_some_and(|group| view.memberships.get(&group).is_some_and(|members| !members.is_empty()))
        {
            self.cache.saw(owner, &View::default());
            return Ok(None);
        }
        let nothing = view.is_empty() && group.is_none();
        self.cache.saw(owner, if nothing { &VOID } else { &view });
        Ok((!nothing).then_some(Observed::Full(view)))
    }

    // ---- on top of the cached state; `None`: that is not true any more

    async fn refresh(
        &self,
        desired: Desired<'_>,
        cached: &Observed,
        mode: ReadMode,
    ) -> Answer<Option<Observed>> {
        let owner = desired.owner();
        // Once in an attempt is enough, however many of its plans are destructive; not for deleting everything.
        let confirms = mode >= ReadMode::Verify
            && (matches!(desired, Desired::Absent(_)) || !self.cache.is_confirmed(owner));
        match cached {
            Observed::Full(view) => {
                let synced = view
                    .load_balancers
                    .values()
                    .map(|balancer| (hash_is_on(view, balancer), &balancer.synced));
                if confirms && !self.is_confirmed(owner, &view.snapshot(), synced.collect()).await? {
                    return Ok(None);
                }
                let mut view = view.clone();
                let going_on = mode == ReadMode::Cached || self.poll(&mut view, desired, mode).await?;
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
                    let behind: Vec<Id> = snapshot.target_groups.values().cloned().collect();
                    if snapshot.memberships.is_empty() { vec![id.clone()] } else { behind }
                };
                let synced = snapshot.only().map(|only| (on(only), &snapshot.synced)).into_iter().collect();
                if confirms && !self.is_confirmed(owner, &snapshot, synced).await? {
                    return Ok(None);
                }
                if mode >= ReadMode::Pending {
                    for (name, targets) in snapshot.targets.iter_mut().flatten() {
                        if let Some(id) = snapshot.target_groups.get(name).filter(|_| is_due(targets, mode)) {
                            *targets = self.targets(id).await?;
                        }
                    }
                }
                Ok(Some(Observed::Snapshot(snapshot)))
            }
        }
    }

    /// The resources that tags show, confirmed to be ours; of security groups all there are, as nothing else proves later that none is
    /// left.
    async fn for_deletion(&self, owner: &Owner, snapshot: &Snapshot) -> Answer<Option<Observed>> {
        let is_own = snapshot.memberships.is_empty();
        if !is_own || !self.is_confirmed(owner, snapshot, Vec::new()).await? {
            return Ok(None);
        }
        let found = self.batches.security_groups(owner).await?;
        let mut security_groups: Vec<Id> =
            found.into_iter().map(|security_group| security_group.id).collect();
        security_groups.sort();
        let seen = Snapshot { security_groups, ..snapshot.clone() };
        Ok((!seen.is_empty()).then_some(Observed::Snapshot(seen)))
    }

    /// Whether all is still there, ours, and with the hashes that this process left: another writer changes them.
    async fn is_confirmed(
        &self,
        owner: &Owner,
        snapshot: &Snapshot,
        synced: Vec<(Vec<Id>, &Option<SyncedHash>)>,
    ) -> Answer<bool> {
        let things = snapshot.tagged();
        let ids: Vec<Id> = things.iter().map(|(id, _)| id.clone()).collect();
        let found = self.batches.tags(&ids).await?;
        let as_left = |(on, hash): &(Vec<Id>, &Option<SyncedHash>)| {
            let hashes = on.iter().map(|id| found.get(id).and_then(SyncedHash::of));
            tags::common_hash(hashes) == **hash
        };
        let is_ours = |(id, shared): &(Id, bool)| {
            found.get(id).is_some_and(|tags| {
                if *shared { tags::group(tags).is_some() } else { tags::are_of(tags, owner) }
            })
        };
        let confirmed = things.iter().all(is_ours) && synced.iter().all(as_left);
        if confirmed {
            self.cache.confirmed(owner);
        }
        Ok(confirmed)
    }

    /// Reads what AWS does by itself and had not finished; `false`: something is gone. Targets of a load balancer that was
    /// just found to serve were asked for their health a moment ago at most: the next read shows more for the same call.
    /// Those behind a port that the Service lacks are deregistered, whatever their health.
    async fn poll(&self, view: &mut View, desired: Desired<'_>, mode: ReadMode) -> Answer<bool> {
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
            let Some(described) = self.batches.load_balancer(&balancer.described.id).await? else {
                return Ok(false);
            };
            balancer.described = described;
            balancer.polls = balancer.polls.saturating_add(u32::from(!balancer.serves()));
        }
        for group in view.target_groups.values_mut().filter(|group| used.contains(&group.described.id)) {
            if is_due(&group.targets, mode) {
                group.targets = self.targets(&group.described.id).await?;
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
        let Self { cloud, batches, cache, vpc: _, quotas: _ } = self;
        let known = cache.is_known(owner);
        let listed = if leaves { batches.left(owner).await? } else { batches.owned(owner).await? };
        // Listeners are read with their load balancer.
        let listed = listed.into_iter().map(|(id, _)| id).filter(|id| id.kind() != Some(Kind::Listener));
        let mut ids: BTreeSet<Id> = listed.chain(cache.ids(owner)).collect();
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
        let mut found = batches.tags(&tagged).await?;
        let others: BTreeMap<Id, Tags> =
            found.extract_if(.., |_, found| !tags::are_of(found, owner)).collect();
        let mut view = View::default();
        let mut in_groups: BTreeSet<GroupName> = group.into_iter().cloned().collect();
        for (id, tags) in &found {
            match id.kind() {
                Some(Kind::LoadBalancer) => {
                    if let Some(described) = batches.load_balancer(id).await?
                        && let Some(mut balancer) = self.balancer(tags, described).await?
                    {
                        let unclear = unclear(owner, &balancer);
                        if !unclear.is_empty() {
                            Box::pin(self.separate_listeners(owner, &mut balancer, unclear)).await?;
                        }
                        view.load_balancers.insert(balancer.described.name.clone(), balancer);
                    }
                }
                Some(Kind::TargetGroup) => {
                    if let Some(described) = batches.target_group(id).await?
                        && let Some(group) = self.group(tags, described).await?
                    {
                        in_groups.extend(group.member_of.clone());
                        view.target_groups.insert(group.described.name.clone(), group);
                    }
                }
                Some(Kind::SecurityGroup | Kind::Listener) | None => {}
            }
        }
        for security_group in batches.security_groups(owner).await? {
            view.security_groups.insert(security_group.name.clone(), security_group);
        }
        for group in in_groups {
            self.members(owner, group, &found, &mut view).await?;
        }
        // Boxed, as is the separation of listeners: rare, and deep.
        Box::pin(self.lost(owner, &others, leaves, &mut view)).await?;
        self.name_subnets(&mut view).await?;
        Ok(view)
    }

    /// `None`: it was deleted meanwhile.
    async fn balancer(&self, found: &Tags, described: LoadBalancer) -> Answer<Option<Balancer>> {
        let Some(attributes) = self.cloud.load_balancer_attributes(&described.id).await? else {
            return Ok(None);
        };
        let listeners = self.cloud.listeners(&described.id).await?;
        let listeners: BTreeMap<u16, Listener> =
            listeners.into_iter().map(|listener| (listener.spec.port, listener)).collect();
        let extras = if tags::has_extras(found) { Some(self.extras(&listeners).await?) } else { None };
        let (adopted, synced) = (tags::is_adopted(found), SyncedHash::of(found));
        let polls = u32::from(described.state == LifeState::Provisioning);
        let taken = BTreeMap::new();
        Ok(Some(Balancer {
            described,
            attributes,
            listeners,
            extras,
            taken,
            shared: None,
            adopted,
            synced,
            polls,
        }))
    }

    /// Certificates beside the default one, and attributes, of each listener.
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

    /// `None`: it was deleted meanwhile.
    async fn group(&self, found: &Tags, described: TargetGroup) -> Answer<Option<Group>> {
        let Some(attributes) = self.cloud.target_group_attributes(&described.id).await? else {
            return Ok(None);
        };
        let targets = self.targets(&described.id).await?;
        Ok(Some(Group { described, member_of: tags::group(found), attributes, targets }))
    }

    async fn name_subnets(&self, view: &mut View) -> Answer<()> {
        let mut subnets = self.cache.subnets().unwrap_or_default();
        if !view.subnets().iter().all(|id| subnets.iter().any(|subnet| subnet.id == *id)) {
            subnets = self.batches.subnets(self.vpc).await?;
            self.cache.saw_subnets(&subnets);
        }
        view.name_subnets(&subnets);
        Ok(())
    }

    /// Sizes of prefix lists, once in a process, with its first read in full. A missing permission is
    /// reported when a Service names one, and only then.
    async fn size_prefix_lists(&self) {
        if self.cache.asks_for_prefix_lists() {
            let all = self.cloud.prefix_lists(&BTreeSet::new()).await;
            self.cache.saw_prefix_lists(all.unwrap_or_default());
        }
    }
}

/// Listeners whose owner only their own tags show: on a load balancer of this owner's, those that do not send to the
/// target group that is made for their port.
fn unclear(owner: &Owner, balancer: &Balancer) -> Vec<Listener> {
    let evident = |Listener { spec, group, .. }: &Listener| {
        let name = group.as_ref().and_then(Id::name);
        name.is_some_and(|name| names::is_target_group(name, owner, &balancer.described.name, spec.port))
    };
    balancer.listeners.values().filter(|listener| !evident(listener)).cloned().collect()
}

/// The resources that carry a Service's synced hash: a load balancer of its own, or its target groups behind a shared one.
fn hash_is_on(view: &View, balancer: &Balancer) -> Vec<Id> {
    match balancer.group() {
        None => vec![balancer.described.id.clone()],
        group => {
            let own = view.target_groups.values().filter(|it| it.member_of.as_ref() == group);
            own.map(|it| it.described.id.clone()).collect()
        }
    }
}

/// Whether targets are worth a read: for taking some away, when one has not been asked yet; else when one is not well.
fn is_due(targets: &Targets, mode: ReadMode) -> bool {
    targets.values().any(|health| match health {
        Health::Initial | Health::Unused => true,
        Health::Unhealthy => mode < ReadMode::Verify,
        Health::Healthy | Health::Draining | Health::Refused(_) => false,
    })
}
