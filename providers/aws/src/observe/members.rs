//! Reading what a group shares: its load balancer, who else has listeners there, its security groups.
//!
//! Owns: that part of a read, and of the listing. Leaves to others: the Service's own things (`observe`).
//! Invariants: a listener's own tags, read again, say whose it is. A load balancer that a lagging listing lacks is found by its
//! name, and by the resources that this process has created for any member.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{ClusterUid, GroupName, Owner};

use super::Observer;
use crate::cloud::Answer;
use crate::cloud::resources::{Id, Kind, Listener, Tags};
use crate::names;
use crate::observed::{Balancer, Lost, Share, Snapshot, SyncedHash, View};
use crate::tags;

/// Groups in a listing.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    shared: BTreeMap<GroupName, Vec<Id>>,
    members: BTreeMap<Owner, BTreeMap<GroupName, Vec<Option<SyncedHash>>>>,
}

impl Memberships {
    /// Something that is no Service's alone.
    pub(super) fn shared(&mut self, id: &Id, found: &Tags) {
        if let Some(group) = tags::group(found) {
            self.shared.entry(group).or_default().push(id.clone());
        }
    }

    /// A resource of a Service; its target groups show its memberships.
    pub(super) fn member(&mut self, owner: &Owner, kind: Kind, found: &Tags) {
        if let (Kind::TargetGroup, Some(group)) = (kind, tags::group(found)) {
            self.members
                .entry(owner.clone())
                .or_default()
                .entry(group)
                .or_default()
                .push(SyncedHash::of(found));
        }
    }

    /// Gives each member what it shares; what a group without members shared gets an owner that stands for the group.
    pub(super) fn attach(self, cluster: &ClusterUid, services: &mut BTreeMap<Owner, Snapshot>) {
        let Self { shared, members } = self;
        let used: BTreeSet<GroupName> = members.values().flat_map(|groups| groups.keys().cloned()).collect();
        for (owner, groups) in members {
            let snapshot = services.entry(owner).or_default();
            for (group, hashes) in groups {
                put(snapshot, &group, shared.get(&group));
                snapshot.synced =
                    tags::common_hash(hashes.into_iter()).filter(|_| snapshot.load_balancers.len() == 1);
            }
            if snapshot.memberships.len() > 1 {
                snapshot.synced = None;
            }
        }
        for (group, ids) in shared.iter().filter(|(group, _)| !used.contains(*group)) {
            if let Some(owner) = tags::remains(cluster, group) {
                put(services.entry(owner).or_default(), group, Some(ids));
            }
        }
    }
}

fn put(snapshot: &mut Snapshot, group: &GroupName, ids: Option<&Vec<Id>>) {
    snapshot.memberships.insert(group.clone());
    for id in ids.into_iter().flatten() {
        match (id.kind(), id.name()) {
            (Some(Kind::LoadBalancer), Some(name)) => {
                snapshot.load_balancers.insert(name.to_owned(), id.clone());
                snapshot.commons.insert(id.clone());
            }
            (Some(Kind::SecurityGroup), _) => snapshot.security_groups.push(id.clone()),
            _ => {}
        }
    }
    snapshot.security_groups.sort();
}

impl Observer<'_> {
    /// Reads a group into the view of one who is in it, or is to be. `own`: the tags of his own things.
    pub(super) async fn members(
        &self,
        owner: &Owner,
        group: GroupName,
        own: &BTreeMap<Id, Tags>,
        view: &mut View,
    ) -> Answer<()> {
        let listed = self.cloud.tagged(&tags::of_group(&owner.cluster, &group)).await?;
        let listed = listed.into_iter().map(|(id, _)| id).chain(self.cache.ids_of_group(&group));
        let tagged = |id: &Id| matches!(id.kind(), Some(Kind::LoadBalancer | Kind::TargetGroup));
        let mut ids: BTreeSet<Id> = listed.filter(tagged).collect();
        if !ids.iter().any(|id| id.kind() == Some(Kind::LoadBalancer)) {
            let name = names::shared_load_balancer(&owner.cluster, &group, None, 0);
            ids.extend(self.cloud.load_balancer_named(&name).await?.map(|found| found.id));
        }
        let ids: Vec<Id> = ids.into_iter().collect();
        let found = self.batches.tags(&ids).await?;
        let mut members: BTreeSet<Owner> = BTreeSet::new();
        for (id, found) in &found {
            match id.kind() {
                Some(Kind::LoadBalancer) if tags::are_shared(found, &owner.cluster, &group) => {
                    self.shared_balancer(owner, &group, (id, found), own, view).await?;
                }
                Some(Kind::LoadBalancer) => {
                    let lost = |name: &&str| names::is_load_balancer(name, owner, Some(&group));
                    if let Some(name) = id.name().filter(lost) {
                        let lost = Lost { id: id.clone(), group: Some(group.clone()) };
                        view.lost.insert(name.to_owned(), lost);
                    }
                }
                Some(Kind::TargetGroup) if tags::group(found).as_ref() == Some(&group) => {
                    members.extend(tags::owner(found).filter(|it| it.cluster == owner.cluster));
                }
                _ => {}
            }
        }
        let here = view.load_balancers.values().filter(|it| it.group() == Some(&group));
        members.extend(here.flat_map(|it| it.taken.values().flatten().cloned()));
        members.retain(|it| it.service != owner.service);
        for security_group in self.cloud.security_groups(&tags::of_group(&owner.cluster, &group)).await? {
            view.security_groups.insert(security_group.name.clone(), security_group);
        }
        view.memberships.insert(group, members);
        Ok(())
    }

    async fn shared_balancer(
        &self,
        owner: &Owner,
        group: &GroupName,
        (id, found): (&Id, &Tags),
        own: &BTreeMap<Id, Tags>,
        view: &mut View,
    ) -> Answer<()> {
        let Some(described) = self.batches.load_balancer(id).await? else { return Ok(()) };
        let Some(mut balancer) = self.balancer(&without_extras(found), described).await? else {
            return Ok(());
        };
        let all: Vec<Listener> = balancer.listeners.values().cloned().collect();
        Box::pin(self.separate_listeners(owner, &mut balancer, all)).await?;
        if tags::has_extras(found) {
            balancer.extras = Some(self.extras(&balancer.listeners).await?);
        }
        let ours = own.iter().filter(|(id, tags)| {
            id.kind() == Some(Kind::TargetGroup) && tags::group(tags).as_ref() == Some(group)
        });
        balancer.synced = tags::common_hash(ours.map(|(_, tags)| SyncedHash::of(tags)));
        balancer.shared = Some(Share { group: group.clone(), lead: tags::leader(found) });
        view.load_balancers.insert(balancer.described.name.clone(), balancer);
        Ok(())
    }
}

impl Observer<'_> {
    /// Keeps this owner's listeners: by their tags, or by those of the controller that the load balancer was adopted from. The
    /// others of `unclear` are another owner's.
    pub(super) async fn separate_listeners(
        &self,
        owner: &Owner,
        balancer: &mut Balancer,
        unclear: Vec<Listener>,
    ) -> Answer<()> {
        let ids: Vec<Id> = unclear.iter().map(|listener| listener.id.clone()).collect();
        let whose = self.batches.tags(&ids).await?;
        for Listener { id, spec, .. } in unclear {
            // One that is gone by now has no owner.
            let found = whose.get(&id);
            let adopted = |tags| balancer.adopted && tags::were_made_for(tags, owner);
            if !found.is_some_and(|tags| tags::are_of(tags, owner) || adopted(tags)) {
                balancer.listeners.remove(&spec.port);
                balancer.extras.iter_mut().for_each(|extras| drop(extras.remove(&spec.port)));
                balancer.taken.extend(found.map(|tags| (spec.port, tags::owner(tags))));
            }
        }
        Ok(())
    }
}

/// Of others' listeners no certificates are read.
fn without_extras(found: &Tags) -> Tags {
    let kept = found
        .iter()
        .filter(|(key, value)| !tags::has_extras(&Tags::from([((*key).clone(), (*value).clone())])));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}
