//! Adoption: a load balancer that the AWS Load Balancer Controller made for this very Service becomes ours.
//!
//! Owns: the proof that it was made for this Service of this cluster, and the tags that make it ours. Leaves to others:
//! bringing it to what the Service asks (the next plan).
//! Invariants: without that proof nothing is touched. Its listeners, target groups and security group are tagged before itself:
//! after a crash in between the adoption is repeated, and none of them is forgotten.

use portico_provider::{Owner, ProviderError};

use super::Executor;
use super::answered::Answered;
use crate::capabilities as key;
use crate::cloud::Trouble;
use crate::cloud::resources::{Id, LoadBalancer, Tags};
use crate::tags::{self, CONTROLLERS_CLUSTER as CLUSTER, STACK};

const OPERATION: &str = "adopt a load balancer";
const RESOURCE: &str = "service.k8s.aws/resource";

impl Executor<'_> {
    /// `asked`: a name or an ARN.
    pub(super) async fn adopt(
        &self,
        owner: &Owner,
        asked: &str,
        own: &Tags,
    ) -> Result<Answered, ProviderError> {
        let invalid = |message| ProviderError::Invalid { operation: OPERATION, message };
        let Some(cluster) = self.config.cluster_name.as_deref() else {
            let message = format!(
                "annotation {}: the load balancer's tag {CLUSTER} is to be compared with this cluster's name: set \
                 --aws-cluster-name",
                key::ADOPT
            );
            return Err(invalid(message));
        };
        let found = self.asked_for(asked).await?.ok_or_else(|| {
            invalid(format!(
                "annotation {}: there is no load balancer {asked}: correct or remove it",
                key::ADOPT
            ))
        })?;
        let proof = Tags::from([
            (CLUSTER.to_owned(), cluster.to_owned()),
            (STACK.to_owned(), owner.name.to_string()),
        ]);
        let mut ids = vec![found.id.clone()];
        let listeners = self.cloud.listeners(&found.id).await?;
        if let Some(split) = listeners.iter().find(|listener| listener.split) {
            let message = format!(
                "listener {} of {asked} splits its traffic among several target groups, which is not done here: let it send to \
                 one, or leave this Service to the AWS Load Balancer Controller; it is left alone",
                split.spec.port
            );
            return Err(ProviderError::Conflict { operation: OPERATION, message });
        }
        ids.extend(listeners.into_iter().flat_map(|it| std::iter::once(it.id).chain(it.group)));
        let tagged = self.batches.tags(&ids).await?;
        let none = Tags::new();
        let mut whole = proof.clone();
        whole.insert(RESOURCE.to_owned(), "LoadBalancer".to_owned());
        prove(owner, &found, tagged.get(&found.id).unwrap_or(&none), &whole)?;
        for id in ids.iter().filter(|id| **id != found.id) {
            if holds(tagged.get(id).unwrap_or(&none), &proof) {
                self.batches.add_tags(id, own).await?;
            }
        }
        for group in self.cloud.security_groups(&tags::all_of(&proof)).await? {
            if found.security_groups.contains(&group.id) && holds(&group.tags, &proof) {
                self.cloud.add_security_group_tags(&group.id, own).await?;
            }
        }
        let own = own.clone().into_iter().chain(tags::adopted()).collect();
        self.batches.add_tags(&found.id, &own).await?;
        self.cache.created(owner, &found.name, &found.id);
        Ok(Answered::Found)
    }

    /// In a call of its own: whatever AWS minds about a user's words is nobody else's matter.
    async fn asked_for(&self, asked: &str) -> Result<Option<LoadBalancer>, ProviderError> {
        if !is_arn(asked) && !is_name(asked) {
            let message = format!(
                "annotation {}: {asked:?} is neither a load balancer's name (1 to 32 letters, digits and hyphens) nor the \
                 ARN of a Network Load Balancer (arn:aws:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/net/NAME/ID): \
                 correct or remove it",
                key::ADOPT
            );
            return Err(ProviderError::Invalid { operation: OPERATION, message });
        }
        if !is_arn(asked) {
            return Ok(self.cloud.load_balancer_named(asked).await?);
        }
        match self.cloud.load_balancers(&[Id(asked.to_owned())]).await {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.trouble == Trouble::NotFound => Ok(None),
            Err(error) if error.trouble == Trouble::Invalid => {
                let message = format!(
                    "annotation {}: AWS does not take {asked} for a load balancer of this account and region ({}): \
                     correct or remove it",
                    key::ADOPT,
                    error.message
                );
                Err(ProviderError::Invalid { operation: OPERATION, message })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// `arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/net/NAME/ID`.
fn is_arn(text: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let parts: Vec<&str> = text.split(':').collect();
    let [arn, partition, service, region, account, path] = parts.as_slice() else { return false };
    let path: Vec<&str> = path.split('/').collect();
    let ["loadbalancer", "net", name, id] = path.as_slice() else { return false };
    let ours = *arn == "arn" && *service == "elasticloadbalancing" && word(partition) && word(region);
    ours && account.len() == 12 && word(account) && is_name(name) && word(id)
}

fn holds(found: &Tags, wanted: &Tags) -> bool {
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}

/// Whether it is this Service's; anything else is a conflict that says what differs.
fn prove(owner: &Owner, balancer: &LoadBalancer, found: &Tags, proof: &Tags) -> Result<(), ProviderError> {
    let conflict = |message| Err(ProviderError::Conflict { operation: OPERATION, message });
    let name = &balancer.name;
    if let Some(other) = tags::owner(found).filter(|_| !tags::are_of(found, owner)) {
        return conflict(format!("load balancer {name} is of {other}: correct annotation {}", key::ADOPT));
    }
    let differs = proof.iter().find(|(key, value)| found.get(*key) != Some(value));
    let Some((key, value)) = differs else { return Ok(()) };
    let there = found.get(key).map_or("has no such tag".to_owned(), |there| format!("says {there:?}"));
    conflict(format!(
        "load balancer {name} was not made for this Service: tag {key} must be {value:?}, and it {there}: it is left alone"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_or_an_arn_of_a_network_load_balancer_reaches_aws() {
        let of = |path: &str| format!("arn:aws:elasticloadbalancing:eu-west-1:123456789012:{path}");
        assert!(is_arn(&of("loadbalancer/net/web/0123456789abcdef")) && is_name("k8s-shop-web-0123456789"));
        let cn = "arn:aws-cn:elasticloadbalancing:cn-north-1:123456789012:loadbalancer/net/a/0123";
        assert!(is_arn(cn));
        for odd in [
            of("loadbalancer/app/web/0123").as_str(),
            &of("targetgroup/web/0123"),
            &of("loadbalancer/net/web"),
            &of("loadbalancer/net/web/0123/more"),
            &of("loadbalancer/net/we b/0123"),
            "arn:aws:elasticloadbalancing:eu-west-1:12345:loadbalancer/net/web/0123",
            "arn:aws:ec2:eu-west-1:123456789012:loadbalancer/net/web/0123",
            "arn:",
            "",
            "no name",
            "a,b",
        ] {
            assert!(!is_arn(odd) && !is_name(odd), "{odd}");
        }
    }
}
