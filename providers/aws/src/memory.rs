//! What this process has learnt, to save reads: IDs of what it made, the last full view, subnets.
//!
//! Owns: the memory. Leaves to others: reading. Invariant: losing it costs reads and nothing else; an ID from it is
//! believed only for as long as the thing answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portico_provider::{Owner, ServiceUid};

use crate::cloud::resources::{Id, PrefixList, Subnet};
use crate::observed::View;
use crate::plan::PrefixLists;

/// One Service's part.
#[derive(Clone, Debug, Default)]
struct Known {
    ids: BTreeMap<String, Id>,
    view: Option<View>,
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    services: Mutex<BTreeMap<ServiceUid, Known>>,
    subnets: Mutex<Vec<Subnet>>,
    prefix_lists: Mutex<Option<PrefixLists>>,
}

impl Memory {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServiceUid, Known>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thing exists, and so the last view is out of date.
    pub(crate) fn made(&self, owner: &Owner, name: &str, id: &Id) {
        let mut services = self.services();
        let known = services.entry(owner.service.clone()).or_default();
        known.view = None;
        known.ids.insert(name.to_owned(), id.clone());
    }

    /// A thing is gone.
    pub(crate) fn gone(&self, owner: &Owner, id: &Id) {
        if let Some(known) = self.services().get_mut(&owner.service) {
            known.view = None;
            known.ids.retain(|_, kept| kept != id);
        }
    }

    /// Something changed.
    pub(crate) fn changed(&self, owner: &Owner) {
        if let Some(known) = self.services().get_mut(&owner.service) {
            known.view = None;
        }
    }

    /// The ID of a thing by its name.
    pub(crate) fn id(&self, owner: &Owner, name: &str) -> Option<Id> {
        self.services().get(&owner.service)?.ids.get(name).cloned()
    }

    /// Every ID known of this Service; a listing by tags may lag behind.
    pub(crate) fn ids(&self, owner: &Owner) -> BTreeSet<Id> {
        let services = self.services();
        services.get(&owner.service).into_iter().flat_map(|known| known.ids.values().cloned()).collect()
    }

    /// A full view was read.
    pub(crate) fn saw(&self, owner: &Owner, view: &View) {
        if view.is_empty() {
            self.services().remove(&owner.service);
            return;
        }
        let View { load_balancers, groups, firewalls, subnet_names: _ } = view;
        let balancers = load_balancers.iter().map(|(name, it)| (name.clone(), it.facts.id.clone()));
        let groups = groups.iter().map(|(name, it)| (name.clone(), it.facts.id.clone()));
        let firewalls = firewalls.iter().map(|(name, it)| (name.clone(), it.id.clone()));
        let known =
            Known { ids: balancers.chain(groups).chain(firewalls).collect(), view: Some(view.clone()) };
        self.services().insert(owner.service.clone(), known);
    }

    /// The last full view, if nothing was changed since.
    pub(crate) fn view(&self, service: &ServiceUid) -> Option<View> {
        self.services().get(service)?.view.clone()
    }

    /// Sizes of prefix lists, as last read; `None`: never yet.
    pub(crate) fn prefix_lists(&self) -> Option<PrefixLists> {
        self.prefix_lists.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prefix lists were read.
    pub(crate) fn saw_prefix_lists(&self, lists: Vec<PrefixList>) {
        let sizes = lists.into_iter().map(|PrefixList { id, family, most }| (id, (family, most)));
        let mut known = self.prefix_lists.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_default().extend(sizes);
    }

    /// Subnets as last read.
    pub(crate) fn subnets(&self) -> Vec<Subnet> {
        self.subnets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Subnets were read.
    pub(crate) fn saw_subnets(&self, subnets: &[Subnet]) {
        subnets.clone_into(&mut self.subnets.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
