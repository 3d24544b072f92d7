//! What is remembered of each Service, for as long as there is something to remember it of.
//!
//! Owns: [`Tracks`], by UID, and which of them are of one name. Leaves to others: what is remembered (`progress`).
//! Invariant: of a name whose object is gone, or another one, nothing stays but what a go still works on.

use std::collections::{BTreeSet, HashMap};

use portico_provider::{Owner, ServiceUid};

use crate::cache::service::ServiceKey;
use crate::provision::track::{Phase, Track};

/// A track for each Service that was looked at.
#[derive(Debug, Default)]
pub(crate) struct Tracks {
    tracks: HashMap<ServiceUid, (ServiceKey, Track)>,
    names: HashMap<ServiceKey, BTreeSet<ServiceUid>>,
}

impl Tracks {
    /// That of an owner, from now on.
    pub(crate) fn of(&mut self, owner: &Owner) -> &mut Track {
        let Owner { cluster: _, service, name } = owner;
        let Self { tracks, names } = self;
        let (_, track) = tracks.entry(service.clone()).or_insert_with(|| {
            let (namespace, name) = (name.namespace().to_owned(), name.name().to_owned());
            let key = ServiceKey { namespace, name };
            names.entry(key.clone()).or_default().insert(service.clone());
            (key, Track::default())
        });
        track
    }

    /// One that is there already.
    pub(crate) fn known(&mut self, service: &ServiceUid) -> Option<&mut Track> {
        self.tracks.get_mut(service).map(|(_, track)| track)
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&ServiceUid, &mut Track)> {
        self.tracks.iter_mut().map(|(uid, (_, track))| (uid, track))
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, service: &ServiceUid) -> Option<Track> {
        let (key, track) = self.tracks.remove(service)?;
        if let Some(uids) = self.names.get_mut(&key) {
            uids.remove(service);
            if uids.is_empty() {
                self.names.remove(&key);
            }
        }
        Some(track)
    }

    /// Those of a name that nothing is done for, but for the one that the object of this name has now.
    pub(crate) fn ended(&self, key: &ServiceKey, now: Option<&str>) -> Vec<ServiceUid> {
        let is_idle = |uid: &ServiceUid| self.tracks.get(uid).is_none_or(|(_, it)| it.phase == Phase::Idle);
        let of_name = self.names.get(key).into_iter().flatten();
        of_name.filter(|uid| Some(uid.as_str()) != now && is_idle(uid)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_owner;

    #[test]
    fn what_is_gone_is_forgotten_when_nothing_is_done_for_it_any_more() {
        let mut tracks = Tracks::default();
        let (old, kept) = (mk_owner("web"), mk_owner("other"));
        let new = Owner { service: "uid-new".parse().unwrap(), ..old.clone() };
        tracks.of(&old).phase = Phase::Running;
        for owner in [&new, &kept] {
            tracks.of(owner);
        }
        let key = ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() };
        assert_eq!(tracks.ended(&key, Some("uid-new")), [], "it still runs");
        tracks.of(&old).phase = Phase::Idle;
        assert_eq!(tracks.ended(&key, Some("uid-new")), std::slice::from_ref(&old.service));
        for uid in tracks.ended(&key, None) {
            tracks.remove(&uid);
        }
        assert_eq!((tracks.tracks.len(), tracks.names.len()), (1, 1));
    }
}
