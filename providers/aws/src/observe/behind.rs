//! Targets of a Service whose tags say that all else is as it was finished: read by themselves, or known from others.
//!
//! Owns: that part of a read. Leaves to others: what tags say (`plan/by_tags`), the Service's other things (`observe`).
//! Invariant: the nodes of a synced hash come from targets that were read and agree with it, never from what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::LoadBalancer;

use super::Observer;
use crate::cloud::resources::{Health, Target};
use crate::cloud::{Answer, Trouble};
use crate::observed::{Snapshot, Targets};
use crate::plan::{Behind, behind};
use crate::wanted::digest;

/// The targets of each group, by its name; `None`: a group is gone.
type Found = Option<BTreeMap<String, Targets>>;

impl Observer<'_> {
    /// The same with its targets; `None`: something else has to be read as well.
    pub(super) async fn with_targets(
        &self,
        desired: &LoadBalancer,
        snapshot: &Snapshot,
    ) -> Answer<Option<Snapshot>> {
        let Some(behind) = behind(self.quotas, desired, snapshot) else { return Ok(None) };
        let on_nodes = behind.target_groups.values().all(|group| group.node_port.is_some());
        let found =
            if on_nodes { self.nodes_behind(&behind).await? } else { self.read_behind(&behind).await? };
        Ok(found.map(|targets| Snapshot { targets: Some(targets), ..snapshot.clone() }))
    }

    /// Of all Services with the same hash the first one reads, and the others wait for it.
    async fn nodes_behind(&self, behind: &Behind) -> Answer<Found> {
        let synced = self.cache.nodes_of_hash(&behind.synced);
        let mut read = None;
        let learnt = synced.get_or_try_init(async || {
            read = self.read_behind(behind).await.map_err(Some)?;
            read.as_ref().and_then(|all| the_same_nodes(behind, all)).ok_or(None)
        });
        match learnt.await {
            Err(Some(error)) => Err(error),
            Ok(nodes) if read.is_none() => Ok(Some(on_nodes(behind, nodes))),
            Ok(_) | Err(None) => Ok(read),
        }
    }

    /// One call for each target group.
    async fn read_behind(&self, behind: &Behind) -> Answer<Found> {
        let mut all = BTreeMap::new();
        for (name, group) in &behind.target_groups {
            match self.targets(&group.id).await {
                Err(error) if error.trouble == Trouble::NotFound => return Ok(None),
                targets => drop(all.insert(name.clone(), targets?)),
            }
        }
        Ok(Some(all))
    }
}

/// The nodes behind each of the groups, if the hash says that these are all.
fn the_same_nodes(behind: &Behind, all: &BTreeMap<String, Targets>) -> Option<BTreeSet<String>> {
    let mut each = all.values().map(|targets| targets.keys().map(|target| target.id.clone()).collect());
    let first: BTreeSet<String> = each.next()?;
    (each.all(|nodes| nodes == first) && digest(&first) == behind.synced).then_some(first)
}

/// The same nodes behind another Service: what was registered before this process began is taken for asked.
fn on_nodes(behind: &Behind, nodes: &BTreeSet<String>) -> BTreeMap<String, Targets> {
    let each = behind.target_groups.iter().map(|(name, group)| {
        let at = |id: &String| group.node_port.map(|port| (Target { id: id.clone(), port }, Health::Healthy));
        (name.clone(), nodes.iter().filter_map(at).collect())
    });
    each.collect()
}
