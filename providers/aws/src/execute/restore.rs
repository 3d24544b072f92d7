//! Resources with a name of ours that lost their tags: these are restored where the name proves the owner.
//!
//! Owns: the proof, and what it takes with it. Leaves to others: noticing (`observe/lost`), when (`plan`).
//! The proof: names of target groups and security groups are digests of both UIDs, which nobody chooses. A load balancer's
//! name may be a user's. It counts with a target group behind it whose name is a digest of the UIDs, this very name and its port;
//! a digest counts by itself where nothing is behind it yet.
//! Invariants: a tag that names another owner refutes any proof. Without proof nothing is touched, and the error names the missing
//! tags. Tags that are removed again and again are not restored. The tags of the AWS Load Balancer Controller refute nothing
//! on a load balancer that it made for this very Service: that was adopted, and is restored as adopted.

use std::collections::BTreeSet;

use portico_provider::{Owner, ProviderError};

use super::answered::Answered;
use super::{Executor, Maker};
use crate::cloud::resources::{Id, Kind, Tags};
use crate::names;
use crate::step::Named;
use crate::tags;

const OPERATION: &str = "restore tags";
/// Tries, after which the removal is reported.
const TRIES: u32 = 2;

impl Executor<'_> {
    /// `own`: the tags that make it ours.
    pub(super) async fn restore(
        &self,
        maker: Maker<'_>,
        named: &Named,
        own: &Tags,
    ) -> Result<Answered, ProviderError> {
        let Some(id) = &named.id else { return Ok(Answered::Found) };
        let found = if id.kind() == Some(Kind::SecurityGroup) {
            let name = BTreeSet::from([named.name.clone()]);
            let found = self.cloud.security_groups_named(&self.config.vpc, &name).await?;
            found.into_iter().find(|found| found.id == *id).map(|found| found.tags)
        } else {
            self.batches.tags(std::slice::from_ref(id)).await?.remove(id)
        };
        // It is gone.
        let Some(found) = found else { return Ok(Answered::Found) };
        self.restore_tags(maker, &named.name, id, &found, own).await?;
        Ok(Answered::Found)
    }

    /// The same of a thing whose tags were just read.
    pub(super) async fn restore_tags(
        &self,
        maker: Maker<'_>,
        name: &str,
        id: &Id,
        found: &Tags,
        own: &Tags,
    ) -> Result<(), ProviderError> {
        let Maker { owner, group: _ } = maker;
        let own = &whole(owner, id, found, own);
        let others = tags::of_another(found, own);
        let mut others = others.filter(|(key, _)| !self.is_adopted_by(owner, found, key));
        if let Some((key, says)) = others.next() {
            let message = format!(
                "{name} ({id}) is there, and its tag {key} says {says:?}: correct it, if it is of Service {} ({}), else \
                 delete or rename it",
                owner.name,
                command(id, own)
            );
            return Err(ProviderError::Conflict { operation: OPERATION, message });
        }
        if id.kind() == Some(Kind::LoadBalancer) && !self.is_proven(maker, name, id).await? {
            let message = format!(
                "{name} ({id}) is there without tags {}, and nothing proves that it is of Service {}: if it is, restore them \
                 ({}), else delete or rename it",
                missing(found, own),
                owner.name,
                command(id, own)
            );
            return Err(ProviderError::Conflict { operation: OPERATION, message });
        }
        if self.cache.restores(owner, name) >= TRIES {
            let message = format!(
                "{name} ({id}) loses its tags {} again and again: exempt portico.dev/* from whatever removes them (a tag \
                 policy?), and restore them ({})",
                missing(found, own),
                command(id, own)
            );
            return Err(ProviderError::Conflict { operation: OPERATION, message });
        }
        match id.kind() {
            Some(Kind::SecurityGroup) => self.cloud.add_security_group_tags(id, own).await?,
            _ => self.batches.add_tags(id, own).await?,
        }
        self.cache.created(owner, name, id);
        Ok(())
    }

    /// Whether `key` is the tag of the AWS Load Balancer Controller of this cluster on what it made for this Service.
    fn is_adopted_by(&self, owner: &Owner, found: &Tags, key: &str) -> bool {
        let cluster = self.config.cluster_name.as_ref();
        key == tags::CONTROLLERS_CLUSTER && found.get(key) == cluster && tags::were_made_for(found, owner)
    }

    async fn is_proven(&self, maker: Maker<'_>, name: &str, id: &Id) -> Result<bool, ProviderError> {
        let Maker { owner, group } = maker;
        let listeners = self.cloud.listeners(id).await?;
        let mut behind = listeners.iter().filter_map(|it| Some((it.spec.port, it.group.as_ref()?.name()?)));
        let digest = names::is_load_balancer(name, owner, group);
        let ours = behind.any(|(port, group)| names::is_target_group(group, owner, name, port));
        if ours || !digest || listeners.is_empty() {
            return Ok(ours || digest);
        }
        // Nobody chose its name: whatever of ours it sends to will do, other members' groups, too.
        let groups: Vec<Id> = listeners.into_iter().filter_map(|listener| listener.group).collect();
        let tagged = self.batches.tags(&groups).await?;
        let member = |tags: &Tags| group.is_some() && tags::group(tags).as_ref() == group;
        Ok(tagged.values().any(|tags| tags::are_of(tags, owner) || member(tags)))
    }
}

/// With those of an adopted load balancer: without them the next plan would change what nobody asked for.
fn whole(owner: &Owner, id: &Id, found: &Tags, own: &Tags) -> Tags {
    let was_adopted = id.kind() == Some(Kind::LoadBalancer) && tags::were_made_for(found, owner);
    let adopted = was_adopted.then(tags::adopted).unwrap_or_default();
    own.clone().into_iter().chain(adopted).collect()
}

/// The tags that are not there.
fn missing(found: &Tags, own: &Tags) -> String {
    let missing: Vec<&str> = own.keys().filter(|key| !found.contains_key(*key)).map(String::as_str).collect();
    missing.join(", ")
}

/// How to restore them by hand.
fn command(id: &Id, own: &Tags) -> String {
    let pairs: Vec<String> = own.iter().map(|(key, value)| format!("Key={key},Value={value}")).collect();
    let call = match id.kind() {
        Some(Kind::SecurityGroup) => "aws ec2 create-tags --resources",
        _ => "aws elbv2 add-tags --resource-arns",
    };
    format!("{call} {id} --tags {}", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_can_be_pasted() {
        let own = Tags::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let id = Id("sg-1".to_owned());
        assert_eq!(
            command(&id, &own),
            "aws ec2 create-tags --resources sg-1 --tags Key=a,Value=1 Key=b,Value=2"
        );
        assert_eq!(missing(&Tags::from([("a".to_owned(), "1".to_owned())]), &own), "b");
    }
}
