//! Doing one step, so that doing it again changes nothing.
//!
//! Owns: one `match` on the step's verb, finding resources by name, deletion. Leaves to others: deciding (`plan`); the calls on
//! each kind of resource and their effect on the cache (`execute/load_balancer`, `listener`, `target_group`,
//! `security_group`). Invariant: a resource found by its name is used only if its tags are ours.

mod adopt;
mod answered;
pub(crate) mod effect;
mod listener;
mod load_balancer;
mod place;
mod restore;
mod security_group;
mod target_group;
mod targets;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use portico_provider::{GroupName, Outcome, Owner, ProviderError};

use crate::cache::Cache;
use crate::cloud::batches::Batches;
use crate::cloud::resources::{Id, Kind, Tags};
use crate::cloud::{CloudError, Sdk, Trouble, codes};
use crate::config::Config;
use crate::observed::Observed;
use crate::plan::Pace;
use crate::step::{Action, Change, Mark, Named, New, Step, Unread};
use crate::tags;
pub(crate) use answered::Answered;

type Done = Result<Outcome, ProviderError>;
type Called = Result<(Outcome, Answered), ProviderError>;

/// Everything a step is done with.
pub(crate) struct Executor<'a> {
    pub(crate) cloud: &'a Sdk,
    pub(crate) batches: &'a Batches,
    pub(crate) cache: &'a Cache,
    pub(crate) config: &'a Config,
}

/// The owner of a resource that is created, or found by its name: a Service, or its group.
#[derive(Clone, Copy)]
struct Maker<'a> {
    owner: &'a Owner,
    group: Option<&'a GroupName>,
}

/// The retry after a resource was found that should not have been there.
const SOON: Duration = Duration::from_secs(1);

/// Tries of a deletion after which what AWS still holds is read again.
const HELD: u32 = 2;

/// Counts an expected trouble as success.
fn unless(answer: Result<(), CloudError>, expected: Trouble) -> Result<(), CloudError> {
    match answer {
        Err(error) if error.trouble == expected => Ok(()),
        other => other,
    }
}

impl Executor<'_> {
    /// Does a step. Until its answer nothing is cached of the Service: an error or a cancelled call leaves it so.
    pub(crate) async fn execute(&self, step: &Step) -> Done {
        let Step { owner, group, action } = step;
        if let Some(group) = group {
            self.cache.joins(owner, group);
        }
        if action.concerns_others() {
            self.cache.invalidate_others(owner);
        }
        let before = self.cache.take(owner);
        let (outcome, answered) = self.call(Maker { owner, group: group.as_ref() }, action).await?;
        // Other members may have created it, and more on it: the rest of this plan is stale.
        let stops = matches!(action, Action::Create(New::LoadBalancer(_) | New::Listener { .. }));
        if group.is_some() && stops && answered == Answered::Found {
            let what = "what other members have created for the group meanwhile to be read".to_owned();
            return Ok(Outcome::InProgress { retry: SOON, what });
        }
        let now = before.and_then(|before| effect::after(before, action, answered));
        if let Some(now) = now.and_then(|now| self.named_subnets(action, now)) {
            self.cache.store(owner, now);
        }
        Ok(outcome)
    }

    /// One arm for each verb. Boxed: the calls below are too deep for a stack otherwise.
    async fn call(&self, maker: Maker<'_>, action: &Action) -> Called {
        let answered = match action {
            Action::Read(unread) => Box::pin(self.read(unread)).await?,
            Action::Adopt { asked, tags } => Box::pin(self.adopt(maker.owner, asked, tags)).await?,
            Action::Restore { resource, tags } => Box::pin(self.restore(maker, resource, tags)).await?,
            Action::Tag { load_balancer, target_groups, mark, tags } => {
                let ids = self.tagged(maker, load_balancer, target_groups).await?;
                Box::pin(self.tag(&ids, *mark, tags)).await?
            }
            Action::Create(New::LoadBalancer(new)) => {
                return Box::pin(self.create_load_balancer(maker, new)).await;
            }
            Action::Create(New::Listener { load_balancer, spec, target_group, tags }) => {
                Box::pin(self.create_listener(maker, load_balancer, spec, target_group, tags)).await?
            }
            Action::Create(New::TargetGroup(new)) => Box::pin(self.create_target_group(maker, new)).await?,
            Action::Create(New::SecurityGroup { name, tags }) => {
                Box::pin(self.create_security_group(maker, name, tags)).await?
            }
            Action::Modify(Change::LoadBalancer(named, change)) => {
                Box::pin(self.modify_load_balancer(maker, named, change)).await?
            }
            Action::Modify(Change::Listener(listener, change)) => {
                Box::pin(self.modify_listener(maker, listener, change)).await?
            }
            Action::Modify(Change::TargetGroup(named, change)) => {
                Box::pin(self.modify_target_group(maker, named, change)).await?
            }
            Action::Modify(Change::SecurityGroup(named, change)) => {
                Box::pin(self.modify_security_group(maker, named, change)).await?
            }
            Action::Register { target_group, targets } => {
                return Box::pin(self.register(maker, target_group, targets)).await;
            }
            Action::Deregister { target_group, targets } => {
                Box::pin(self.deregister(maker, target_group, targets)).await?
            }
            Action::Delete { kind, named, shared } => {
                return Box::pin(self.delete(maker.owner, *kind, named, *shared)).await;
            }
        };
        Ok((Outcome::Done, answered))
    }

    /// A new load balancer is in subnets that a Service may have named; they were read to create it.
    fn named_subnets(&self, action: &Action, now: Observed) -> Option<Observed> {
        match (action, now) {
            (Action::Create(New::LoadBalancer(_)), Observed::Full(mut view)) => {
                view.name_subnets(&self.cache.subnets()?);
                Some(Observed::Full(view))
            }
            (_, now) => Some(now),
        }
    }

    async fn read(&self, unread: &Unread) -> Result<Answered, ProviderError> {
        match unread {
            // The cache is empty already, so that the next read is a full one.
            Unread::All => return Ok(Answered::Found),
            Unread::PrefixLists(ids) => self.read_prefix_lists(ids).await?,
            Unread::SecurityGroups(names) => self.read_security_groups(names).await?,
        }
        Ok(Answered::Done)
    }

    /// The resources that carry a mark: the load balancer, or, if a group shares that, these target groups.
    async fn tagged(
        &self,
        maker: Maker<'_>,
        load_balancer: &Named,
        target_groups: &[Named],
    ) -> Result<Vec<Id>, ProviderError> {
        match target_groups {
            [] => Ok(vec![self.find(maker, load_balancer, Kind::LoadBalancer).await?]),
            groups => self.find_all(maker, groups, Kind::TargetGroup).await,
        }
    }

    async fn tag(&self, ids: &[Id], mark: Mark, tags: &Tags) -> Result<Answered, ProviderError> {
        let batches = self.batches;
        try_join_all(ids.iter().map(async |id| match mark {
            Mark::Dirty => batches.mark_dirty(id, tags).await,
            Mark::Synced => batches.mark_synced(id, tags).await,
            Mark::Note => batches.add_tags(id, tags).await,
        }))
        .await?;
        Ok(Answered::Done)
    }

    /// The ID of a resource: from the plan, from the cache, or by its name, and then its tags are read.
    async fn find(&self, maker: Maker<'_>, named: &Named, kind: Kind) -> Result<Id, ProviderError> {
        let Named { name, id } = named;
        if let Some(id) = id.clone().or_else(|| self.cache.id(maker.owner, name)) {
            return Ok(id);
        }
        let found = self.find_by_name(maker, name, kind, None).await?;
        found.ok_or_else(|| {
            ProviderError::unavailable("find by name", format!("{name} is not there (any more)"))
        })
    }

    async fn find_all(&self, maker: Maker<'_>, all: &[Named], kind: Kind) -> Result<Vec<Id>, ProviderError> {
        let mut ids = Vec::new();
        for named in all {
            ids.push(self.find(maker, named, kind).await?);
        }
        Ok(ids)
    }

    /// A resource of ours by its name; another owner's is a conflict. `own`: tags to restore where they are lost.
    async fn find_by_name(
        &self,
        maker: Maker<'_>,
        name: &str,
        kind: Kind,
        own: Option<&Tags>,
    ) -> Result<Option<Id>, ProviderError> {
        let found = match kind {
            Kind::SecurityGroup => {
                let name = BTreeSet::from([name.to_owned()]);
                let found = self.cloud.security_groups_named(&self.config.vpc, &name).await?;
                found.into_iter().next().map(|found| (found.id, Some(found.tags)))
            }
            Kind::LoadBalancer => self.cloud.load_balancer_named(name).await?.map(|found| (found.id, None)),
            Kind::TargetGroup => self.cloud.target_group_named(name).await?.map(|found| (found.id, None)),
            // Listeners have no names.
            Kind::Listener => None,
        };
        let (id, tags) = match found {
            None => return Ok(None),
            Some((id, Some(tags))) => (id, tags),
            Some((id, None)) => {
                let mut found = self.batches.tags(std::slice::from_ref(&id)).await?;
                let tags = found.remove(&id).unwrap_or_default();
                (id, tags)
            }
        };
        let Maker { owner, group } = maker;
        let shared = |group| tags::are_shared(&tags, &owner.cluster, group);
        if tags::are_of(&tags, owner) || group.is_some_and(shared) {
            self.cache.created(owner, name, &id);
            return Ok(Some(id));
        }
        if let Some(own) = own {
            Box::pin(self.restore_tags(maker, name, &id, &tags, &tags::whose(own))).await?;
            return Ok(Some(id));
        }
        let message = format!("{name} ({id}) is there and not of {owner}: delete or rename it");
        Err(ProviderError::Conflict { operation: "find by name", message })
    }

    /// The answer of a creation; a resource that had the name already is used if it is ours.
    async fn created(
        &self,
        maker: Maker<'_>,
        (name, kind): (&str, Kind),
        created: Result<(Id, Answered), CloudError>,
        own: &Tags,
    ) -> Result<Answered, ProviderError> {
        match created {
            Ok((id, answered)) => {
                self.cache.created(maker.owner, name, &id);
                Ok(answered)
            }
            Err(error) if error.trouble == Trouble::Duplicate => {
                self.find_by_name(maker, name, kind, Some(own)).await?.ok_or(error)?;
                Ok(Answered::Found)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// AWS releases in a while what still uses a resource: network interfaces, listeners.
    async fn delete(&self, owner: &Owner, kind: Kind, named: &Named, shared: bool) -> Called {
        let Named { name, id: Some(id) } = named else { return Ok((Outcome::Done, Answered::Found)) };
        // Listeners that other members have by now stay, whatever was read before.
        if shared && !self.cloud.listeners(id).await?.is_empty() {
            return Ok((Outcome::Unchanged, Answered::Found));
        }
        let answer = match kind {
            Kind::Listener => {
                unless(self.cloud.delete_listener(id).await, Trouble::NotFound)?;
                return Ok((Outcome::Done, Answered::Done));
            }
            Kind::LoadBalancer => self.cloud.delete_load_balancer(id).await,
            Kind::TargetGroup => self.cloud.delete_target_group(id).await,
            Kind::SecurityGroup => self.cloud.delete_security_group(id).await,
        };
        match unless(answer, Trouble::NotFound) {
            Ok(()) => {
                self.cache.deleted(owner, id);
                Ok((Outcome::Done, Answered::Done))
            }
            Err(error) if error.trouble == Trouble::InUse => {
                self.batches.stays(owner);
                let CloudError { operation, trouble: _, code, message } = &error;
                let remedy = codes::meaning(operation, code).1;
                let remedy = remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
                let what = format!("AWS to let go of {name} ({message}{remedy})");
                let held = self.cache.held(owner);
                let retry = Pace(self.config.pace).wait(held);
                // A target group in use for so long is behind a load balancer that was not read.
                let unread = held >= HELD && kind == Kind::TargetGroup;
                let answered = if unread { Answered::Found } else { Answered::Refused };
                Ok((Outcome::InProgress { retry, what }, answered))
            }
            // Where tags alone are known, the protection is read now.
            Err(error) if error.trouble == Trouble::Protected => {
                let what = format!("what protects {name} to be read ({})", error.message);
                let retry = Pace(self.config.pace).wait(self.cache.held(owner));
                Ok((Outcome::InProgress { retry, what }, Answered::Found))
            }
            Err(error) => Err(error.into()),
        }
    }
}
