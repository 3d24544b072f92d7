//! Doing one step, so that doing it again changes nothing.
//!
//! Owns: one `match` on the step, and what makes each call repeatable. Leaves to others: deciding; where subnets are
//! (`execute/place`); targets that AWS refuses (`execute/targets`). Invariant: a thing found by its name is used only if its tags are ours.

mod adopt;
mod listener;
mod place;
mod reclaim;
mod targets;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use portico_provider::{GroupName, Outcome, Owner, ProviderError, Scheme};

use crate::cache::Cache;
use crate::cache::effect::{self, Answered};
use crate::cloud::batches::Batches;
use crate::cloud::resources::{
    AddressType, Families, Id, Kind, ListenerSpec, NewGroup, NewLoadBalancer, Rule, Subnet, Tags,
};
use crate::cloud::{Cloud, CloudError, Trouble, codes};
use crate::observed::Observed;
use crate::plan::Pace;
use crate::provider::Config;
use crate::step::{Action, Named, Step};
use crate::tags;

type Done = Result<Outcome, ProviderError>;

/// Everything a step is done with.
pub(crate) struct Executor<'a, C> {
    pub(crate) cloud: &'a C,
    pub(crate) batches: &'a Batches,
    pub(crate) cache: &'a Cache,
    pub(crate) config: &'a Config,
}

/// Whose a thing is that is made, or found by its name: a Service's, or what its group shares.
#[derive(Clone, Copy)]
struct Maker<'a> {
    owner: &'a Owner,
    group: Option<&'a GroupName>,
}

/// When to go on after something was found that should not have been there.
const SOON: Duration = Duration::from_secs(1);

/// So often what a load balancer needs is waited for, some five minutes, before it counts as somebody else's.
const PATIENCE: u32 = 12;

/// So often AWS holds on to a thing that lets it go by itself.
const HELD: u32 = 2;

/// Things that are found by name.
#[derive(Clone, Copy)]
enum Find {
    LoadBalancer,
    TargetGroup,
    SecurityGroup,
}

/// Takes an expected trouble for done.
fn unless(answer: Result<(), CloudError>, expected: Trouble) -> Result<(), CloudError> {
    match answer {
        Err(error) if error.trouble == expected => Ok(()),
        other => other,
    }
}

impl<C: Cloud> Executor<'_, C> {
    /// Does a step. While it is under way nothing is believed of the Service: an error or a cancelled call leaves it so.
    pub(crate) async fn execute(&self, step: &Step) -> Done {
        let Step { owner, group, action } = step;
        if let Some(group) = group {
            self.cache.joins(owner, group);
        }
        if action.concerns_others() {
            self.cache.invalidate_others(owner);
        }
        let before = self.cache.take(owner);
        let maker = Maker { owner, group: group.as_ref() };
        let (outcome, answered) = match action {
            Action::DeleteLoadBalancer(_)
            | Action::DeleteSharedLoadBalancer(_)
            | Action::DeleteTargetGroup(_)
            | Action::DeleteSecurityGroup(_) => self.delete(owner, action).await?,
            Action::Register { group, targets } => self.register(owner, group, targets).await?,
            Action::CreateLoadBalancer { .. } => Box::pin(self.create_load_balancer(maker, action)).await?,
            // Boxed, as is the next: all the calls below are too deep for a stack otherwise.
            _ => (Outcome::Done, Box::pin(self.change(maker, action)).await?),
        };
        // Others may have made it, and more on it: nothing of this plan holds any more.
        let stops = matches!(action, Action::CreateLoadBalancer { .. } | Action::CreateListener { .. });
        if group.is_some() && stops && answered == Answered::Found {
            let what = "what others have made for its group meanwhile to be read".to_owned();
            return Ok(Outcome::InProgress { retry: SOON, what });
        }
        let now = before.and_then(|before| effect::after(before, action, answered));
        if let Some(now) = now.and_then(|now| self.named_subnets(action, now)) {
            self.cache.store(owner, now);
        }
        Ok(outcome)
    }

    /// A new load balancer is in subnets that a Service may have named; they were read to make it.
    fn named_subnets(&self, action: &Action, now: Observed) -> Option<Observed> {
        match (action, now) {
            (Action::CreateLoadBalancer { .. }, Observed::Full(mut view)) => {
                view.name_subnets(&self.cache.subnets()?);
                Some(Observed::Full(view))
            }
            (_, now) => Some(now),
        }
    }

    async fn change(&self, maker: Maker<'_>, action: &Action) -> Result<Answered, ProviderError> {
        let Maker { owner, group: _ } = maker;
        match action {
            Action::CreateSecurityGroup { name, tags } => {
                return self.create_security_group(maker, name, tags).await;
            }
            Action::CreateTargetGroup(new) => return self.create_target_group(maker, new).await,
            Action::CreateListener { load_balancer, spec, group, tags } => {
                return self.create_listener(maker, load_balancer, spec, group, tags).await;
            }
            Action::Authorize { group, rules } => return self.authorize(maker, group, rules).await,
            Action::Revoke { group, rules } => return self.revoke(maker, group, rules).await,
            Action::SetGroupAttributes { group, attributes } => {
                let id = self.find(maker, group, Find::TargetGroup).await?;
                self.cloud.modify_target_group_attributes(&id, attributes).await?;
            }
            Action::SetHealthCheck { group, health } => {
                let id = self.find(maker, group, Find::TargetGroup).await?;
                self.cloud.modify_health_check(&id, health).await?;
            }
            Action::Deregister { group, targets } => self.deregister(owner, group, targets).await?,
            Action::ModifyListener { id, spec, group } => {
                let group = self.find(maker, group, Find::TargetGroup).await?;
                self.cloud.modify_listener(id, spec, &group).await?;
            }
            Action::DeleteListener { id, port: _ } => {
                unless(self.cloud.delete_listener(id).await, Trouble::NotFound)?;
            }
            Action::SetAttributes { .. }
            | Action::SetSubnets { .. }
            | Action::SetSecurityGroups { .. }
            | Action::SetAddressType { .. }
            | Action::SetFamilies { .. }
            | Action::Mark { .. }
            | Action::MarkDirty { .. }
            | Action::MarkSynced { .. } => Box::pin(self.change_load_balancer(maker, action)).await?,
            Action::AddCertificates { .. }
            | Action::RemoveCertificates { .. }
            | Action::SetListenerAttributes { .. } => self.on_listener(maker, action).await?,
            Action::ReadPrefixLists(ids) => self.read_prefix_lists(ids).await?,
            Action::ReadSecurityGroups(names) => self.read_security_groups(names).await?,
            Action::Adopt { asked, tags } => {
                self.adopt(owner, asked, tags).await?;
                return Ok(Answered::Found);
            }
            Action::Reclaim { thing, tags } => {
                Box::pin(self.reclaim(maker, thing, tags)).await?;
                return Ok(Answered::Found);
            }
            // The belief is gone already; deletions, new targets and load balancers are elsewhere.
            Action::Read
            | Action::CreateLoadBalancer { .. }
            | Action::Register { .. }
            | Action::DeleteSharedLoadBalancer(_)
            | Action::DeleteLoadBalancer(_)
            | Action::DeleteTargetGroup(_)
            | Action::DeleteSecurityGroup(_) => return Ok(Answered::Found),
        }
        Ok(Answered::Done)
    }

    async fn change_load_balancer(&self, maker: Maker<'_>, action: &Action) -> Result<(), ProviderError> {
        match action {
            Action::SetAttributes { load_balancer, attributes } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                self.cloud.modify_load_balancer_attributes(&id, attributes).await?;
            }
            Action::SetSubnets { load_balancer, placement, source_nat } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                // Named ones, whatever the scheme.
                let subnets = self.place(Scheme::External, placement, 0).await?;
                let kind = AddressType::Dualstack;
                let families = source_nat.then_some(Families { kind, source_nat: true });
                self.cloud.set_subnets(&id, &subnets, families).await?;
            }
            Action::SetFamilies { load_balancer, families, subnets } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                self.cloud.set_subnets(&id, subnets, Some(*families)).await?;
            }
            Action::SetSecurityGroups { load_balancer, groups } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                let ids = self.find_all(maker, groups, Find::SecurityGroup).await?;
                let set = self.cloud.set_security_groups(&id, &ids).await;
                set.map_err(|error| self.unless_ours(error, groups))?;
            }
            Action::SetAddressType { load_balancer, kind } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                self.cloud.set_address_type(&id, *kind).await?;
            }
            Action::Mark { load_balancer, tags } => {
                let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
                self.batches.mark(self.cloud, &id, tags).await?;
            }
            Action::MarkDirty { load_balancer, groups, tags } => {
                let ids = self.hash_holders(maker, load_balancer, groups).await?;
                try_join_all(ids.iter().map(|id| self.batches.mark_dirty(self.cloud, id, tags))).await?;
            }
            Action::MarkSynced { load_balancer, groups, tags } => {
                let ids = self.hash_holders(maker, load_balancer, groups).await?;
                try_join_all(ids.iter().map(|id| self.batches.mark_synced(self.cloud, id, tags))).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What carries the seal: the load balancer, or, if a group shares that, these target groups.
    async fn hash_holders(
        &self,
        maker: Maker<'_>,
        load_balancer: &Named,
        groups: &[Named],
    ) -> Result<Vec<Id>, ProviderError> {
        match groups {
            [] => Ok(vec![self.find(maker, load_balancer, Find::LoadBalancer).await?]),
            groups => self.find_all(maker, groups, Find::TargetGroup).await,
        }
    }

    /// The ID of a thing: from the plan, from memory, or by its name, and then with a look at its tags.
    async fn find(&self, maker: Maker<'_>, named: &Named, find: Find) -> Result<Id, ProviderError> {
        let Named { name, id } = named;
        if let Some(id) = id.clone().or_else(|| self.cache.id(maker.owner, name)) {
            return Ok(id);
        }
        let found = self.find_by_name(maker, name, find, None).await?;
        found.ok_or_else(|| {
            ProviderError::unavailable("find by name", format!("{name} is not there (any more)"))
        })
    }

    /// A thing of ours by its name; somebody else's is a conflict. `own`: what is put back where it has lost its tags.
    async fn find_by_name(
        &self,
        maker: Maker<'_>,
        name: &str,
        find: Find,
        own: Option<&Tags>,
    ) -> Result<Option<Id>, ProviderError> {
        let (id, tags) = match find {
            Find::SecurityGroup => match self.cloud.security_group_named(&self.config.vpc, name).await? {
                Some(group) => (group.id, Some(group.tags)),
                None => return Ok(None),
            },
            Find::LoadBalancer => match self.cloud.load_balancer_named(name).await? {
                Some(found) => (found.id, None),
                None => return Ok(None),
            },
            Find::TargetGroup => match self.cloud.target_group_named(name).await? {
                Some(found) => (found.id, None),
                None => return Ok(None),
            },
        };
        let tags = match tags {
            Some(tags) => tags,
            None => self
                .batches
                .tags(self.cloud, std::slice::from_ref(&id))
                .await?
                .remove(&id)
                .unwrap_or_default(),
        };
        let Maker { owner, group } = maker;
        let shared = |group| tags::are_shared(&tags, &owner.cluster, group);
        if tags::are_of(&tags, owner) || group.is_some_and(shared) {
            self.cache.made(owner, name, &id);
            return Ok(Some(id));
        }
        if let Some(own) = own {
            Box::pin(self.put_back(maker, name, &id, &tags, &tags::whose(own))).await?;
            return Ok(Some(id));
        }
        let message = format!("{name} ({id}) is there and not of {owner}: delete or rename it");
        Err(ProviderError::Conflict { operation: "find by name", message })
    }

    async fn find_all(&self, maker: Maker<'_>, all: &[Named], find: Find) -> Result<Vec<Id>, ProviderError> {
        let mut ids = Vec::new();
        for named in all {
            ids.push(self.find(maker, named, find).await?);
        }
        Ok(ids)
    }

    /// A security group that was just made may not be known everywhere yet; only one that a user named is a mistake, and
    /// what was known of names may be it.
    fn unless_ours(&self, error: CloudError, groups: &[Named]) -> CloudError {
        if error.code != "InvalidSecurityGroup" {
            return error;
        }
        self.cache.forget_security_groups();
        let mut given = groups.iter().filter_map(|group| group.id.as_ref().filter(|id| id.0 == group.name));
        let is_given = given.any(|id| error.message.contains(&id.0));
        CloudError { trouble: if is_given { error.trouble } else { Trouble::Unavailable }, ..error }
    }

    async fn create_security_group(
        &self,
        maker: Maker<'_>,
        name: &str,
        tags: &Tags,
    ) -> Result<Answered, ProviderError> {
        let description = match maker.group {
            Some(group) => format!("Clients of group {group}, by Portico"),
            None => format!("Clients of Service {}, by Portico", maker.owner.name),
        };
        let made = self.cloud.create_security_group(&self.config.vpc, name, &description, tags).await;
        let made = made.map(|id| (id.clone(), Answered::Made(id)));
        self.remember(maker, name, made, Find::SecurityGroup, tags).await
    }

    async fn create_target_group(&self, maker: Maker<'_>, new: &NewGroup) -> Result<Answered, ProviderError> {
        let made = self.cloud.create_target_group(new).await;
        let made = made.map(|id| (id.clone(), Answered::Made(id)));
        self.remember(maker, &new.name, made, Find::TargetGroup, &new.tags).await
    }

    /// Of a thing that was made, or was there by that name already.
    async fn remember(
        &self,
        maker: Maker<'_>,
        name: &str,
        made: Result<(Id, Answered), CloudError>,
        find: Find,
        own: &Tags,
    ) -> Result<Answered, ProviderError> {
        match made {
            Ok((id, answered)) => {
                self.cache.made(maker.owner, name, &id);
                Ok(answered)
            }
            Err(error) if error.trouble == Trouble::Duplicate => {
                self.find_by_name(maker, name, find, Some(own)).await?.ok_or(error)?;
                Ok(Answered::Found)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// An address that is in use is waited for a while: AWS holds those of a load balancer that went.
    async fn create_load_balancer(
        &self,
        maker: Maker<'_>,
        action: &Action,
    ) -> Result<(Outcome, Answered), ProviderError> {
        let Action::CreateLoadBalancer {
            name,
            name_is_given,
            scheme,
            families,
            placement,
            security_groups,
            tags,
        } = action
        else {
            return Ok((Outcome::Done, Answered::Refused));
        };
        // AWS answers a second creation like the first: a name of the user's might be somebody else's.
        if *name_is_given && self.find_by_name(maker, name, Find::LoadBalancer, Some(tags)).await?.is_some() {
            return Ok((Outcome::Done, Answered::Found));
        }
        let new = NewLoadBalancer {
            name: name.clone(),
            scheme: *scheme,
            families: *families,
            subnets: self.place(*scheme, placement, Subnet::LEAST).await?,
            security_groups: self.find_all(maker, security_groups, Find::SecurityGroup).await?,
            tags: tags.clone(),
        };
        let made = match self.cloud.create_load_balancer(&new).await {
            Err(error) if error.trouble == Trouble::Taken => {
                let tries = self.cache.held(maker.owner);
                let error = ProviderError::from(error);
                if tries >= PATIENCE {
                    return Err(error);
                }
                let what = format!("AWS to let go of what {name} needs ({error})");
                let retry = Pace(self.config.pace).wait(tries);
                return Ok((Outcome::InProgress { retry, what }, Answered::Refused));
            }
            made => made.map_err(|error| self.unless_ours(error, security_groups)),
        };
        let made = made.map(|described| (described.id.clone(), Answered::LoadBalancer(Box::new(described))));
        Ok((Outcome::Done, self.remember(maker, name, made, Find::LoadBalancer, tags).await?))
    }

    async fn create_listener(
        &self,
        maker: Maker<'_>,
        load_balancer: &Named,
        spec: &ListenerSpec,
        group: &Named,
        tags: &Tags,
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, load_balancer, Find::LoadBalancer).await?;
        let group = self.find(maker, group, Find::TargetGroup).await?;
        // A duplicate is ours, as the load balancer is; the next plan compares it.
        match self.cloud.create_listener(&id, spec, &group, tags).await {
            Ok(listener) => Ok(Answered::Listener(listener)),
            Err(error) if error.trouble == Trouble::Duplicate => Ok(Answered::Found),
            Err(error) => Err(error.into()),
        }
    }

    /// One rule that is there already makes AWS refuse all: then only the missing ones are sent.
    async fn authorize(
        &self,
        maker: Maker<'_>,
        group: &Named,
        rules: &[Rule],
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, group, Find::SecurityGroup).await?;
        match self.cloud.authorize(&id, rules).await {
            Err(error) if error.trouble == Trouble::Duplicate => {
                let present = self.rules(maker, &id).await?;
                let missing: Vec<Rule> =
                    rules.iter().filter(|rule| !present.contains(rule)).cloned().collect();
                if !missing.is_empty() {
                    self.cloud.authorize(&id, &missing).await?;
                }
                Ok(Answered::Found)
            }
            other => Ok(other.map(|()| Answered::Done)?),
        }
    }

    async fn revoke(
        &self,
        maker: Maker<'_>,
        group: &Named,
        rules: &[Rule],
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, group, Find::SecurityGroup).await?;
        match self.cloud.revoke(&id, rules).await {
            Err(error) if error.trouble == Trouble::NotFound => {
                let present = self.rules(maker, &id).await?;
                let stale: Vec<Rule> = rules.iter().filter(|rule| present.contains(rule)).cloned().collect();
                if !stale.is_empty() {
                    self.cloud.revoke(&id, &stale).await?;
                }
                Ok(Answered::Found)
            }
            other => Ok(other.map(|()| Answered::Done)?),
        }
    }

    async fn rules(&self, maker: Maker<'_>, id: &Id) -> Result<BTreeSet<Rule>, ProviderError> {
        let Maker { owner, group } = maker;
        let tags = group.map_or_else(|| tags::identity(owner), |group| tags::shared(&owner.cluster, group));
        let groups = self.cloud.security_groups(&tags::all_of(&tags)).await?;
        Ok(groups.into_iter().find(|group| group.id == *id).map(|group| group.rules).unwrap_or_default())
    }

    async fn read_prefix_lists(&self, ids: &BTreeSet<String>) -> Result<(), ProviderError> {
        let found = match self.cloud.prefix_lists(ids).await {
            Err(error) if error.trouble == Trouble::NotFound => Vec::new(),
            other => other?,
        };
        let unknown: Vec<&str> =
            ids.iter().filter(|id| !found.iter().any(|list| list.id == **id)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let key = crate::capabilities::PREFIX_LISTS;
            let message = format!(
                "not all of these prefix lists are there: {}: correct annotation {key}",
                unknown.join(", ")
            );
            return Err(ProviderError::Invalid { operation: "read prefix lists", message });
        }
        self.cache.saw_prefix_lists(found);
        Ok(())
    }

    /// Names that no security group has, or several, are the user's to correct.
    async fn read_security_groups(&self, names: &BTreeSet<String>) -> Result<(), ProviderError> {
        let found = self.cloud.security_groups_called(&self.config.vpc, names).await?;
        let having = |name: &String| found.iter().filter(move |(its, _)| its == name).count();
        if let Some(name) = names.iter().find(|name| having(name) != 1) {
            let message = format!(
                "annotation {}: {} security groups of {} have tag Name={name}: name one that is there once, or IDs (sg-…)",
                crate::capabilities::SECURITY_GROUPS,
                having(name),
                self.config.vpc
            );
            return Err(ProviderError::Invalid { operation: "read security groups", message });
        }
        self.cache.saw_security_groups(found);
        Ok(())
    }

    /// What something still holds on to is let go by AWS in a while: network interfaces, listeners.
    async fn delete(&self, owner: &Owner, action: &Action) -> Result<(Outcome, Answered), ProviderError> {
        let (named, answer) = match action {
            Action::DeleteLoadBalancer(Named { name, id: Some(id) }) => {
                ((name, id), self.cloud.delete_load_balancer(id).await)
            }
            Action::DeleteSharedLoadBalancer(Named { name, id: Some(id) }) => {
                // Whoever has a listener there by now is not disturbed, whatever was read before.
                if !self.cloud.listeners(id).await?.is_empty() {
                    return Ok((Outcome::Unchanged, Answered::Found));
                }
                ((name, id), self.cloud.delete_load_balancer(id).await)
            }
            Action::DeleteTargetGroup(Named { name, id: Some(id) }) => {
                ((name, id), self.cloud.delete_target_group(id).await)
            }
            Action::DeleteSecurityGroup(Named { name, id: Some(id) }) => {
                ((name, id), self.cloud.delete_security_group(id).await)
            }
            _ => return Ok((Outcome::Done, Answered::Found)),
        };
        let (name, id) = named;
        match unless(answer, Trouble::NotFound) {
            Ok(()) => {
                self.cache.gone(owner, id);
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
                // Whatever holds on to a target group for so long is a load balancer that was not read.
                let unread = held >= HELD && id.kind() == Some(Kind::TargetGroup);
                let answered = if unread { Answered::Found } else { Answered::Refused };
                Ok((Outcome::InProgress { retry, what }, answered))
            }
            // It is deleted unread where tags alone are known: what protects it is read now.
            Err(error) if error.trouble == Trouble::Protected => {
                let what = format!("what protects {name} to be read ({})", error.message);
                let retry = Pace(self.config.pace).wait(self.cache.held(owner));
                Ok((Outcome::InProgress { retry, what }, Answered::Found))
            }
            Err(error) => Err(error.into()),
        }
    }
}
