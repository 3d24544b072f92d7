//! Security groups and prefix lists: the calls, each beside its effect on the cache.
//!
//! Owns: repeating a change of rules of which AWS has some already. Leaves to others: which rule is in which group
//! (`plan/security_groups`). Invariant: an error about a group that this process just created is an outage, as AWS may not
//! know it everywhere yet.

use std::collections::BTreeSet;

use portico_provider::ProviderError;

use super::answered::Answered;
use super::{Executor, Maker};
use crate::capabilities as key;
use crate::cloud::resources::{Id, Kind, Rule, SecurityGroup, Tags};
use crate::cloud::{Answer, CloudError, Trouble};
use crate::observed::View;
use crate::step::{Named, SecurityGroupChange};
use crate::tags;

impl Executor<'_> {
    pub(super) async fn create_security_group(
        &self,
        maker: Maker<'_>,
        name: &str,
        tags: &Tags,
    ) -> Result<Answered, ProviderError> {
        let description = match maker.group {
            Some(group) => format!("Clients of group {group}, by Portico"),
            None => format!("Clients of Service {}, by Portico", maker.owner.name),
        };
        let created = self.cloud.create_security_group(&self.config.vpc, name, &description, tags).await;
        let created = created.map(|id| (id.clone(), Answered::Created(id)));
        self.created(maker, (name, Kind::SecurityGroup), created, tags).await
    }

    /// AWS refuses all rules for one that exists already, or is gone: then only the others are sent.
    pub(super) async fn modify_security_group(
        &self,
        maker: Maker<'_>,
        named: &Named,
        change: &SecurityGroupChange,
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, named, Kind::SecurityGroup).await?;
        let (rules, expected, adds) = match change {
            SecurityGroupChange::Authorize(rules) => (rules, Trouble::Duplicate, true),
            SecurityGroupChange::Revoke(rules) => (rules, Trouble::NotFound, false),
        };
        match self.change_rules(&id, rules, adds).await {
            Err(error) if error.trouble == expected => {
                let present = self.rules(maker, &id).await?;
                let left: Vec<Rule> =
                    rules.iter().filter(|rule| present.contains(rule) != adds).cloned().collect();
                if !left.is_empty() {
                    self.change_rules(&id, &left, adds).await?;
                }
                Ok(Answered::Found)
            }
            other => Ok(other.map(|()| Answered::Done)?),
        }
    }

    async fn change_rules(&self, id: &Id, rules: &[Rule], adds: bool) -> Answer<()> {
        if adds { self.cloud.authorize(id, rules).await } else { self.cloud.revoke(id, rules).await }
    }

    async fn rules(&self, maker: Maker<'_>, id: &Id) -> Result<BTreeSet<Rule>, ProviderError> {
        let Maker { owner, group } = maker;
        let tags = group.map_or_else(|| tags::identity(owner), |group| tags::shared(&owner.cluster, group));
        let groups = self.cloud.security_groups(&tags::all_of(&tags)).await?;
        Ok(groups.into_iter().find(|group| group.id == *id).map(|group| group.rules).unwrap_or_default())
    }

    /// A security group that was just created may not be known everywhere yet; one that a user named is a mistake, or the
    /// cached ID of its name is old.
    pub(super) fn unless_ours(&self, error: CloudError, groups: &[Named]) -> CloudError {
        if error.code != "InvalidSecurityGroup" {
            return error;
        }
        self.cache.forget_security_groups();
        let mut given = groups.iter().filter_map(|group| group.id.as_ref().filter(|id| id.0 == group.name));
        let is_given = given.any(|id| error.message.contains(&id.0));
        CloudError { trouble: if is_given { error.trouble } else { Trouble::Unavailable }, ..error }
    }

    /// An unknown ID is the user's to correct.
    pub(super) async fn read_prefix_lists(&self, ids: &BTreeSet<String>) -> Result<(), ProviderError> {
        let found = match self.cloud.prefix_lists(ids).await {
            Err(error) if error.trouble == Trouble::NotFound => Vec::new(),
            other => other?,
        };
        let unknown: Vec<&str> =
            ids.iter().filter(|id| !found.iter().any(|list| list.id == **id)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let message = format!(
                "not all of these prefix lists are there: {}: correct annotation {}",
                unknown.join(", "),
                key::PREFIX_LISTS
            );
            return Err(ProviderError::Invalid { operation: "read prefix lists", message });
        }
        self.cache.saw_prefix_lists(found);
        Ok(())
    }

    /// A name that no security group has, or several, is the user's to correct.
    pub(super) async fn read_security_groups(&self, names: &BTreeSet<String>) -> Result<(), ProviderError> {
        let found = self.cloud.security_groups_called(&self.config.vpc, names).await?;
        let having = |name: &String| found.iter().filter(move |(its, _)| its == name).count();
        if let Some(name) = names.iter().find(|name| having(name) != 1) {
            let message = format!(
                "annotation {}: {} security groups of {} have tag Name={name}: name one that is there once, or IDs (sg-…)",
                key::SECURITY_GROUPS,
                having(name),
                self.config.vpc
            );
            return Err(ProviderError::Invalid { operation: "read security groups", message });
        }
        self.cache.saw_security_groups(found);
        Ok(())
    }
}

impl SecurityGroupChange {
    pub(super) fn apply(&self, view: &mut View, named: &Named) -> Option<()> {
        let present = &mut view.security_groups.get_mut(&named.name)?.rules;
        match self {
            Self::Authorize(rules) => present.extend(rules.iter().cloned()),
            Self::Revoke(rules) => present.retain(|rule| !rules.contains(rule)),
        }
        Some(())
    }
}

pub(super) fn created(view: &mut View, name: &str, tags: &Tags, id: Id) {
    let (rules, foreign) = (BTreeSet::new(), BTreeSet::new());
    let created = SecurityGroup { id, name: name.to_owned(), rules, foreign, tags: tags.clone() };
    view.security_groups.insert(name.to_owned(), created);
}
