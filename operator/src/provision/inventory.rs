//! Everything that this cluster owns at the provider, as last read: one listing for all Services, renewed by single reads.
//!
//! Owns: [`Inventory`], and which of two reads counts. Leaves to others: reading, planning.
//! Invariant: an older read never replaces a newer one, so a slow listing cannot bring a deleted load balancer
//! back, nor hide one that was made while it ran.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use portico_provider::{Inventory as Listing, Owned, Owner, ServiceUid};
use tokio::time::Instant;

/// Everything this cluster owns, by Service.
#[derive(Debug)]
pub(crate) struct Inventory<O> {
    state: RwLock<InventoryState<O>>,
}

#[derive(Debug)]
struct InventoryState<O> {
    entries: BTreeMap<ServiceUid, InventoryEntry<O>>,
    /// When the last complete listing began.
    listed: Option<Instant>,
}

#[derive(Debug)]
struct InventoryEntry<O> {
    owner: Owner,
    /// `None`: a read showed that nothing is left.
    observed: Option<O>,
    read: Instant,
}

/// The last read of one Service.
#[derive(Debug)]
pub(crate) struct Snapshot<O> {
    /// `None`: nothing exists, as far as is known.
    pub(crate) observed: Option<O>,
    /// When the read began; `None`: a listing did not show the Service, or there was none.
    pub(crate) read: Option<Instant>,
}

impl<O> Default for Inventory<O> {
    fn default() -> Self {
        Self { state: RwLock::new(InventoryState { entries: BTreeMap::new(), listed: None }) }
    }
}

impl<O: Clone> Inventory<O> {
    /// Whether a complete listing has been read. Before that, an empty inventory says nothing.
    pub(crate) fn is_loaded(&self) -> bool {
        self.read().listed.is_some()
    }

    /// The last read of one Service.
    pub(crate) fn snapshot(&self, service: &ServiceUid) -> Snapshot<O> {
        match self.read().entries.get(service) {
            Some(entry) => Snapshot { observed: entry.observed.clone(), read: Some(entry.read) },
            None => Snapshot { observed: None, read: None },
        }
    }

    /// Whether the last read of one Service showed anything.
    pub(crate) fn exists(&self, service: &ServiceUid) -> bool {
        self.read().entries.get(service).is_some_and(|entry| entry.observed.is_some())
    }

    /// Owners of everything that exists.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        let state = self.read();
        let existing = state.entries.values().filter(|entry| entry.observed.is_some());
        existing.map(|entry| entry.owner.clone()).collect()
    }

    /// Takes in a read of one Service that began at `read`.
    pub(crate) fn put(&self, owner: &Owner, observed: Option<O>, read: Instant) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let newer = state.entries.get(&owner.service).is_some_and(|entry| entry.read > read);
        if !newer {
            state
                .entries
                .insert(owner.service.clone(), InventoryEntry { owner: owner.clone(), observed, read });
        }
    }

    /// Takes in a complete listing that began at `read`.
    pub(crate) fn replace(&self, listing: Listing<O>, read: Instant) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.entries.retain(|_, entry| entry.read > read);
        for (service, Owned { owner, observed }) in listing.services {
            state.entries.entry(service).or_insert(InventoryEntry { owner, observed: Some(observed), read });
        }
        state.listed = Some(read);
    }

    fn read(&self) -> RwLockReadGuard<'_, InventoryState<O>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::mk_owner;

    fn listing(owners: &[&Owner]) -> Listing<u8> {
        owners.iter().map(|owner| Owned { owner: (*owner).clone(), observed: 1 }).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_began_earlier_does_not_undo_a_later_read() {
        let (made, deleted, old) = (mk_owner("made"), mk_owner("deleted"), mk_owner("old"));
        let inventory = Inventory::default();
        let began = Instant::now();
        let later = began + Duration::from_secs(1);
        inventory.put(&old, Some(9), began - Duration::from_secs(1));
        inventory.put(&made, Some(2), later);
        inventory.put(&deleted, None, later);
        assert!(!inventory.is_loaded());
        inventory.replace(listing(&[&deleted]), began);
        assert!(inventory.is_loaded());
        assert_eq!(inventory.snapshot(&made.service).observed, Some(2));
        assert_eq!(inventory.snapshot(&deleted.service).observed, None);
        assert_eq!(
            inventory.snapshot(&old.service).observed,
            None,
            "the listing is newer and does not have it"
        );
        inventory.put(&made, Some(3), began);
        assert_eq!(inventory.snapshot(&made.service).observed, Some(2));
        assert_eq!(inventory.owners(), [made]);
    }
}
