//! The tracks of all Services, for as long as there is something to provision.
//!
//! Owns: [`Tracks`], by UID, and the UIDs of each name. Leaves to others: what a track decides (`track`).
//! Invariant: of a name whose object is gone, or another one, nothing stays but the track of an attempt.

use std::collections::{BTreeSet, HashMap};

use portico_provider::{Owner, ServiceUid};

use super::track::Track;
use crate::cache::service::ServiceKey;
use crate::metrics::ServiceState;

/// A track for each Service that was reconciled.
#[derive(Debug, Default)]
pub(crate) struct Tracks {
    tracks: HashMap<ServiceUid, Tracked>,
    names: HashMap<ServiceKey, BTreeSet<ServiceUid>>,
}

#[derive(Debug)]
struct Tracked {
    key: ServiceKey,
    track: Track,
    /// The state that the metrics count the Service by.
    state: Option<ServiceState>,
}

impl Tracks {
    /// The track of an owner, which exists from now on.
    pub(crate) fn of(&mut self, owner: &Owner) -> &mut Track {
        &mut self.tracked(owner).track
    }

    fn tracked(&mut self, owner: &Owner) -> &mut Tracked {
        let Owner { cluster: _, service, name } = owner;
        let Self { tracks, names } = self;
        tracks.entry(service.clone()).or_insert_with(|| {
            let (namespace, name) = (name.namespace().to_owned(), name.name().to_owned());
            let key = ServiceKey { namespace, name };
            names.entry(key.clone()).or_default().insert(service.clone());
            Tracked { key, track: Track::default(), state: None }
        })
    }

    /// Sets a state, and answers with the former one.
    pub(crate) fn set_state(&mut self, owner: &Owner, state: ServiceState) -> Option<ServiceState> {
        self.tracked(owner).state.replace(state)
    }

    /// The track of a Service, if there is one.
    pub(crate) fn known(&mut self, service: &ServiceUid) -> Option<&mut Track> {
        self.tracks.get_mut(service).map(|tracked| &mut tracked.track)
    }

    /// Keys of the group members that others block by one of `names`, except the one that changed these.
    pub(crate) fn waiting_members(
        &mut self,
        names: &BTreeSet<String>,
        changed: &ServiceUid,
    ) -> Vec<ServiceKey> {
        let others = self.tracks.iter_mut().filter(|(uid, _)| *uid != changed);
        let waiting = others.filter_map(|(uid, tracked)| {
            let key = tracked.track.group_changed(names)?;
            tracing::debug!(service = %key, %uid, "requeued: its group changed");
            Some(key)
        });
        waiting.collect()
    }

    /// Drops a track, and answers with its state.
    pub(crate) fn remove(&mut self, service: &ServiceUid) -> Option<ServiceState> {
        let Tracked { key, track: _, state } = self.tracks.remove(service)?;
        if let Some(uids) = self.names.get_mut(&key) {
            uids.remove(service);
            if uids.is_empty() {
                self.names.remove(&key);
            }
        }
        state
    }

    /// UIDs of a name without an attempt, except `now`, the UID of the object that has this name now.
    pub(crate) fn ended(&self, key: &ServiceKey, now: Option<&str>) -> Vec<ServiceUid> {
        let is_idle = |uid: &ServiceUid| self.tracks.get(uid).is_none_or(|it| it.track.is_idle());
        let of_name = self.names.get(key).into_iter().flatten();
        of_name.filter(|uid| Some(uid.as_str()) != now && is_idle(uid)).cloned().collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tracks.len()
    }
}

#[cfg(test)]
mod tests {
    use portico_provider::ReadMode;

    use super::*;
    use crate::provision::trigger::Trigger;
    use crate::provision::want::Want;
    use crate::testing::mk_owner;

    #[test]
    fn what_is_gone_is_forgotten_when_nothing_is_done_for_it_any_more() {
        let mut tracks = Tracks::default();
        let (old, kept) = (mk_owner("web"), mk_owner("other"));
        let new = Owner { service: "uid-new".parse().unwrap(), ..old.clone() };
        let want = Want::absent(old.clone());
        tracks.of(&old).wait(&want, Trigger::Change, (ReadMode::Cached, None));
        for owner in [&new, &kept] {
            tracks.of(owner);
        }
        let key = ServiceKey { namespace: "default".to_owned(), name: "web".to_owned() };
        assert_eq!(tracks.ended(&key, Some("uid-new")), [], "an attempt waits");
        assert!(tracks.of(&old).give_up());
        assert_eq!(tracks.ended(&key, Some("uid-new")), std::slice::from_ref(&old.service));
        for uid in tracks.ended(&key, None) {
            tracks.remove(&uid);
        }
        assert_eq!((tracks.tracks.len(), tracks.names.len()), (1, 1));
    }
}
