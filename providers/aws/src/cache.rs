//! The state of each Service that this process knows: what it has read, and what it has done since and got answered.
//!
//! Owns: the cached state of each Service, and its invalidation. Leaves to others: reading (`observe`), what a step changes
//! (`execute/effect`). Invariants: losing it costs reads and nothing else. A step invalidates the state, and only its answer
//! stores it again, so that an error, a timeout or a cancelled call leaves none. IDs outlive the invalidation.

mod nodes;
mod quota;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portico_provider::{GroupName, Owner, ServiceUid};
use tokio::time::Instant;

use crate::cloud::refusal::Unfit;
use crate::cloud::resources::{Id, PrefixList, Subnet, Target};
use crate::observed::{Observed, Snapshot, SyncedHash, Targets, View};
use crate::plan::{PrefixLists, SecurityGroupNames};
use nodes::Nodes;
use quota::Balancers;
use refused::Refused;

/// A confirmation counts for the rest of the same attempt, whose own steps update the cached state.
const CONFIRMED: Duration = Duration::from_secs(2);
/// A tag policy removes tags more often than this.
const RESTORED: Duration = Duration::from_hours(1);
/// Subnets change with the network, not with Services.
const SUBNETS_STAY: Duration = Duration::from_mins(1);

/// One Service's part.
#[derive(Clone, Debug, Default)]
struct Known {
    ids: BTreeMap<String, Id>,
    /// The groups it is, or was, in.
    groups: BTreeSet<GroupName>,
    cached: Option<Observed>,
    /// When the cached state was last read to be true.
    confirmed: Option<Instant>,
    /// How often the tags of a thing were put back, and when last.
    restored: BTreeMap<String, (u32, Instant)>,
    /// Tries to delete something that AWS still held on to.
    held: u32,
    /// Targets that AWS did not take.
    refused: Refused,
}

#[derive(Debug, Default)]
struct Services {
    known: BTreeMap<ServiceUid, Known>,
    /// A complete listing was read: of whom nothing is known, nothing was there.
    listed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    services: Mutex<Services>,
    subnets: Mutex<Option<(Vec<Subnet>, Instant)>>,
    prefix_lists: Mutex<PrefixLists>,
    security_groups: Mutex<SecurityGroupNames>,
    prefix_lists_asked: AtomicBool,
    listeners_listed: AtomicBool,
    nodes: Mutex<Nodes>,
    balancers: Mutex<Balancers>,
}

impl Cache {
    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, owner: &Owner, with: impl FnOnce(&mut Known) -> T) -> T {
        with(self.services().known.entry(owner.service.clone()).or_default())
    }

    /// A thing exists under this name.
    pub(crate) fn created(&self, owner: &Owner, name: &str, id: &Id) {
        self.with(owner, |known| known.ids.insert(name.to_owned(), id.clone()));
    }

    /// A thing is gone.
    pub(crate) fn deleted(&self, owner: &Owner, id: &Id) {
        self.with(owner, |known| {
            known.held = 0;
            known.ids.retain(|_, kept| kept != id);
        });
    }

    /// Counts a try that found a resource in use; the tries before it.
    pub(crate) fn held(&self, owner: &Owner) -> u32 {
        self.with(owner, |known| {
            known.held += 1;
            known.held - 1
        })
    }

    /// How an offer of targets went. `again`: how long to wait after so many refusals.
    pub(crate) fn offered(
        &self,
        owner: &Owner,
        group: &str,
        taken: &[Target],
        refused: Vec<(Target, Unfit, String)>,
        again: impl Fn(u32) -> Duration,
    ) {
        self.with(owner, |known| known.refused.offered(group, taken, refused, Instant::now(), again));
    }

    /// Whether AWS refused this target before.
    pub(crate) fn was_refused(&self, owner: &Owner, group: &str, target: &Target) -> bool {
        let services = self.services();
        services.known.get(&owner.service).is_some_and(|known| known.refused.knows(group, target))
    }

    /// The same with the targets that AWS refused, and that are not due to be offered again.
    pub(crate) fn with_refused(&self, owner: &Owner, mut observed: Observed) -> Observed {
        if let Some(known) = self.services().known.get(&owner.service) {
            known.refused.show(&mut observed, Instant::now());
        }
        observed
    }

    /// The tags of a thing are about to be put back; how often they were before, not long ago.
    pub(crate) fn restores(&self, owner: &Owner, name: &str) -> u32 {
        self.with(owner, |known| {
            known.restored.retain(|_, (_, last)| last.elapsed() < RESTORED);
            let (tries, last) = known.restored.entry(name.to_owned()).or_insert((0, Instant::now()));
            (*tries, *last) = (*tries + 1, Instant::now());
            *tries - 1
        })
    }

    /// The ID of a thing by its name.
    pub(crate) fn id(&self, owner: &Owner, name: &str) -> Option<Id> {
        self.services().known.get(&owner.service)?.ids.get(name).cloned()
    }

    /// Every ID known of this Service; a listing by tags may lag behind.
    pub(crate) fn ids(&self, owner: &Owner) -> BTreeSet<Id> {
        let services = self.services();
        services.known.get(&owner.service).into_iter().flat_map(|known| known.ids.values().cloned()).collect()
    }

    /// The groups it is known to be, or to have been, in.
    pub(crate) fn groups(&self, owner: &Owner) -> BTreeSet<GroupName> {
        let services = self.services();
        services.known.get(&owner.service).map(|known| known.groups.clone()).unwrap_or_default()
    }

    /// This Service has things of this group.
    pub(crate) fn joins(&self, owner: &Owner, group: &GroupName) {
        self.with(owner, |known| known.groups.insert(group.clone()));
    }

    /// Every ID known of any member of a group.
    pub(crate) fn ids_of_group(&self, group: &GroupName) -> BTreeSet<Id> {
        let services = self.services();
        let members = services.known.values().filter(|known| known.groups.contains(group));
        members.flat_map(|known| known.ids.values().cloned()).collect()
    }

    /// Invalidates the state of the other members of its groups, before this one changes something.
    pub(crate) fn invalidate_others(&self, owner: &Owner) {
        let mut services = self.services();
        let Some(own) = services.known.get(&owner.service).map(|known| known.groups.clone()) else { return };
        let others = services.known.iter_mut().filter(|(uid, _)| **uid != owner.service);
        for (_, other) in others.filter(|(_, other)| !own.is_disjoint(&other.groups)) {
            other.cached = None;
        }
    }

    /// The cached state. After a complete listing, a Service without state has no resources.
    pub(crate) fn cached(&self, owner: &Owner) -> Option<Observed> {
        let services = self.services();
        match services.known.get(&owner.service) {
            Some(known) => known.cached.clone(),
            None => services.listed.then(|| Observed::Full(View::default())),
        }
    }

    /// Whether everything of this Service is known to this process, because it read or made it.
    pub(crate) fn is_known(&self, owner: &Owner) -> bool {
        let services = self.services();
        services.known.get(&owner.service).is_some_and(|known| known.cached.is_some())
    }

    /// The cached state, which is invalidated: its caller changes something.
    pub(crate) fn take(&self, owner: &Owner) -> Option<Observed> {
        let cached = self.cached(owner);
        self.invalidate(owner);
        cached
    }

    /// This is what there is.
    pub(crate) fn store(&self, owner: &Owner, observed: Observed) {
        self.with(owner, |known| known.cached = Some(observed));
    }

    /// Stores a refreshed state, unless it was replaced meanwhile.
    pub(crate) fn refreshed(&self, owner: &Owner, before: &Observed, after: Observed) {
        if self.cached(owner).as_ref() == Some(before) {
            self.store(owner, after);
        }
    }

    /// The cached state was read to be true.
    pub(crate) fn confirmed(&self, owner: &Owner) {
        self.with(owner, |known| known.confirmed = Some(Instant::now()));
    }

    /// Whether that was a moment ago.
    pub(crate) fn is_confirmed(&self, owner: &Owner) -> bool {
        let services = self.services();
        let confirmed = services.known.get(&owner.service).and_then(|known| known.confirmed);
        confirmed.is_some_and(|confirmed| confirmed.elapsed() < CONFIRMED)
    }

    /// The state has to be read.
    pub(crate) fn invalidate(&self, owner: &Owner) {
        self.with(owner, |known| known.cached = None);
    }

    /// Everything was read.
    pub(crate) fn saw(&self, owner: &Owner, view: &View) {
        if view.is_empty() && view.memberships.is_empty() {
            self.services().known.remove(&owner.service);
            return;
        }
        let View { load_balancers, target_groups, security_groups, lost, subnet_names: _, memberships } =
            view;
        let in_groups = memberships.keys().cloned().collect();
        let balancers = load_balancers.iter().map(|(name, it)| (name.clone(), it.described.id.clone()));
        let target_groups = target_groups.iter().map(|(name, it)| (name.clone(), it.described.id.clone()));
        let security_groups = security_groups.iter().map(|(name, it)| (name.clone(), it.id.clone()));
        let lost = lost.iter().map(|(name, lost)| (name.clone(), lost.id.clone()));
        let ids = balancers.chain(target_groups).chain(security_groups).chain(lost).collect();
        self.with(owner, |known| {
            known.ids = ids;
            known.groups = in_groups;
            known.cached = Some(Observed::Full(view.clone()));
        });
    }

    /// Takes in what a listing shows of a Service; answers the state to use. Tags in a listing may lag behind; a difference in
    /// resources replaces the cached state.
    pub(crate) fn listed_one(&self, owner: &Owner, snapshot: Snapshot) -> Observed {
        self.with(owner, |known| {
            // Invalidated, or being changed: only a full read ends that.
            if known.cached.is_none() && !known.ids.is_empty() {
                return Observed::Snapshot(snapshot);
            }
            let same = match &known.cached {
                Some(Observed::Full(view)) => view.snapshot().has_things_of(&snapshot),
                Some(Observed::Snapshot(before)) => before.has_things_of(&snapshot),
                None => false,
            };
            known.groups.extend(snapshot.memberships.iter().cloned());
            let ids = snapshot.load_balancers.iter().chain(&snapshot.target_groups);
            known.ids.extend(ids.map(|(name, id)| (name.clone(), id.clone())));
            match &known.cached {
                Some(cached) if same => cached.clone(),
                _ => {
                    known.cached = Some(Observed::Snapshot(snapshot.clone()));
                    Observed::Snapshot(snapshot)
                }
            }
        })
    }

    /// Security groups by tag `Name`, as far as they were read.
    pub(crate) fn security_groups(&self) -> SecurityGroupNames {
        self.security_groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These have such tags `Name`.
    pub(crate) fn saw_security_groups(&self, found: Vec<(String, Id)>) {
        self.security_groups.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }

    /// Names may be those of others by now.
    pub(crate) fn forget_security_groups(&self) {
        self.security_groups.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sizes of prefix lists, as far as they were read.
    pub(crate) fn prefix_lists(&self) -> PrefixLists {
        self.prefix_lists.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is the first request for all prefix lists.
    pub(crate) fn asks_for_prefix_lists(&self) -> bool {
        !self.prefix_lists_asked.swap(true, Ordering::Relaxed)
    }

    /// Whether any listing so far showed a listener. Without one, a listing proves nothing about listeners.
    pub(crate) fn listed_listeners(&self, some: bool) -> bool {
        self.listeners_listed.fetch_or(some, Ordering::Relaxed) || some
    }

    /// Prefix lists were read.
    pub(crate) fn saw_prefix_lists(&self, lists: Vec<PrefixList>) {
        let sizes = lists.into_iter().map(|PrefixList { id, family, most }| (id, (family, most)));
        self.prefix_lists.lock().unwrap_or_else(PoisonError::into_inner).extend(sizes);
    }

    /// A listing was read to its end.
    pub(crate) fn listed(&self) {
        self.services().listed = true;
    }

    /// Tags prove these targets, of each target group.
    pub(crate) fn targets_are(&self, owner: &Owner, synced: &SyncedHash, targets: BTreeMap<String, Targets>) {
        if let Some(known) = self.services().known.get_mut(&owner.service)
            && let Some(Observed::Snapshot(Snapshot { targets: unknown @ None, synced: Some(found), .. })) =
                &mut known.cached
            && found == synced
        {
            *unknown = Some(targets);
        }
    }

    /// Subnets as last read; `None`: too long ago.
    pub(crate) fn subnets(&self) -> Option<Vec<Subnet>> {
        let subnets = self.subnets.lock().unwrap_or_else(PoisonError::into_inner);
        let (subnets, _) = subnets.as_ref().filter(|(_, read)| read.elapsed() < SUBNETS_STAY)?;
        Some(subnets.clone())
    }

    /// Subnets were read.
    pub(crate) fn saw_subnets(&self, subnets: &[Subnet]) {
        let read = Some((subnets.to_vec(), Instant::now()));
        *self.subnets.lock().unwrap_or_else(PoisonError::into_inner) = read;
    }
}
