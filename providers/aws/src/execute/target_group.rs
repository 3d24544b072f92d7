//! Target groups: the calls that create and change one, each beside its effect on the cache.
//!
//! Leaves to others: targets (`targets`). Invariant: a group that exists already under its name is used if it is ours.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::ProviderError;

use super::answered::Answered;
use super::{Executor, Maker};
use crate::cloud::resources::{Id, Kind, NewGroup, TargetGroup};
use crate::observed::{Group, Targets, View};
use crate::step::{Named, TargetGroupChange};
use crate::tags;

impl Executor<'_> {
    pub(super) async fn create_target_group(
        &self,
        maker: Maker<'_>,
        new: &NewGroup,
    ) -> Result<Answered, ProviderError> {
        let created = self.cloud.create_target_group(new).await;
        let created = created.map(|id| (id.clone(), Answered::Created(id)));
        self.created(maker, (&new.name, Kind::TargetGroup), created, &new.tags).await
    }

    pub(super) async fn modify_target_group(
        &self,
        maker: Maker<'_>,
        named: &Named,
        change: &TargetGroupChange,
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, named, Kind::TargetGroup).await?;
        match change {
            TargetGroupChange::Attributes(attributes) => {
                self.cloud.modify_target_group_attributes(&id, attributes).await?;
            }
            TargetGroupChange::HealthCheck(health) => self.cloud.modify_health_check(&id, health).await?,
        }
        Ok(Answered::Done)
    }
}

impl TargetGroupChange {
    pub(super) fn apply(&self, view: &mut View, named: &Named) -> Option<()> {
        let group = view.target_groups.get_mut(&named.name)?;
        match self {
            Self::Attributes(attributes) => group.attributes.extend(attributes.clone()),
            Self::HealthCheck(health) => group.described.health = health.clone(),
        }
        Some(())
    }
}

pub(super) fn created(view: &mut View, new: &NewGroup, id: Id) {
    let described = TargetGroup {
        id,
        name: new.name.clone(),
        kind: (new.shape.targets, new.shape.family),
        port: new.port,
        load_balancers: BTreeSet::new(),
        health: new.health.clone(),
    };
    let member_of = tags::group(&new.tags);
    // It has no synced hash, as the Service's others in its group have.
    let behind = view.load_balancers.values_mut();
    let behind = behind.filter(|it| it.shared.is_some() && it.group() == member_of.as_ref());
    behind.for_each(|it| it.synced = None);
    // AWS's defaults, which is also what a plan takes for missing attributes.
    let group = Group { described, member_of, attributes: BTreeMap::new(), targets: Targets::new() };
    view.target_groups.insert(new.name.clone(), group);
}
