//! Resources with a name of ours that lost their tags.
//!
//! Owns: noticing it: by the IDs that this process knows, by what sends to a target group of ours, by name before everything
//! counts as gone. Leaves to others: whether it is ours (`execute/restore`). Invariant: what a group shares is none of this
//! Service's own; it costs a read only where something is odd.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{GroupName, Owner};

use super::Observer;
use crate::cloud::Answer;
use crate::cloud::resources::{Id, Tags};
use crate::names;
use crate::observed::{Lost, View};
use crate::tags;

impl Observer<'_> {
    /// `others`: those of the IDs read that do not carry this owner's tags.
    /// `leaves`: this is the last read, so that security groups are searched by name, too.
    pub(super) async fn lost(
        &self,
        owner: &Owner,
        others: &BTreeMap<Id, Tags>,
        leaves: bool,
        view: &mut View,
    ) -> Answer<()> {
        let known = self.cache.groups(owner);
        let groups: BTreeSet<&GroupName> = known.iter().chain(view.memberships.keys()).collect();
        let is_shared = |id: &Id, found: &Tags| {
            let of = |group: &&GroupName| {
                let named = id.name().is_some_and(|name| names::is_load_balancer(name, owner, Some(group)));
                named || tags::are_shared(found, &owner.cluster, group)
            };
            groups.iter().any(of) || view.load_balancers.values().any(|it| it.described.id == *id)
        };
        let lost = others.iter().filter(|(id, found)| !is_shared(id, found));
        let lost: Vec<(String, Id)> =
            lost.filter_map(|(id, _)| Some((id.name()?.to_owned(), id.clone()))).collect();
        view.lost.extend(lost.into_iter().map(|(name, id)| (name, Lost { id, group: None })));
        if leaves {
            self.unlisted_security_groups(owner, view).await?;
        }
        self.strangers(owner, view).await
    }

    /// Security groups in front of a load balancer of ours that bear a name of ours, and are not among ours.
    async fn unlisted_security_groups(&self, owner: &Owner, view: &mut View) -> Answer<()> {
        let own: BTreeSet<&Id> = view.security_groups.values().map(|it| &it.id).collect();
        let shards = (0..self.quotas.shards()).map(|shard| names::security_group(owner, shard));
        let unlisted: BTreeSet<String> =
            shards.filter(|name| !view.security_groups.contains_key(name)).collect();
        let alone = view.load_balancers.values().filter(|it| it.shared.is_none());
        let front: BTreeSet<Id> = alone.flat_map(|it| it.described.security_groups.iter().cloned()).collect();
        if unlisted.is_empty() || front.iter().all(|id| own.contains(id)) {
            return Ok(());
        }
        let found = self.cloud.security_groups_named(self.vpc, &unlisted).await?;
        let lost = found.into_iter().filter(|it| front.contains(&it.id));
        view.lost.extend(lost.map(|it| (it.name, Lost { id: it.id, group: None })));
        Ok(())
    }

    /// Load balancers that send to target groups of ours, and target groups that listeners of ours send to: those that bear a
    /// name of ours, and are not among ours.
    async fn strangers(&self, owner: &Owner, view: &mut View) -> Answer<()> {
        let own: BTreeSet<&Id> = view.load_balancers.values().map(|it| &it.described.id).collect();
        let mut strange = BTreeMap::new();
        for group in view.target_groups.values() {
            for id in group.described.load_balancers.iter().filter(|id| !own.contains(id)) {
                // A user's name counts with a target group that is made for it.
                let ours = |name: &&str| {
                    names::is_load_balancer(name, owner, group.member_of.as_ref())
                        || names::is_target_group(&group.described.name, owner, name, group.described.port)
                };
                if let Some(name) = id.name().filter(ours) {
                    strange.insert(name.to_owned(), Lost { id: id.clone(), group: group.member_of.clone() });
                }
            }
        }
        let groups: BTreeSet<&Id> = view.target_groups.values().map(|it| &it.described.id).collect();
        for (balancer, found) in &view.load_balancers {
            for listener in found.listeners.values() {
                let group = listener.group.as_ref().filter(|id| !groups.contains(id));
                let named = group.and_then(|id| Some((id, id.name()?)));
                let ours = named
                    .filter(|(_, name)| names::is_target_group(name, owner, balancer, listener.spec.port));
                if let Some((id, name)) = ours {
                    strange.insert(name.to_owned(), Lost { id: id.clone(), group: None });
                }
            }
        }
        let ids: Vec<Id> = strange.values().map(|lost| lost.id.clone()).collect();
        if !ids.is_empty() {
            // One that went since is gone, and not lost.
            let there = self.batches.tags(&ids).await?;
            view.lost.extend(strange.into_iter().filter(|(_, lost)| there.contains_key(&lost.id)));
        }
        Ok(())
    }
}
