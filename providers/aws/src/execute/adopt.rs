//! Adoption: a load balancer that the AWS Load Balancer Controller made for this very Service becomes ours.
//!
//! Owns: the proof that it was made for this Service of this cluster, and the tags that make it ours. Leaves to others:
//! bringing it to what the Service asks (the next plan).
//! Invariants: without that proof nothing is touched; its target groups and security group are tagged before itself,
//! so that whatever crash comes between, the adoption is repeated and none of them is forgotten.

use portico_provider::{Owner, ProviderError};

use super::Executor;
use crate::capabilities as key;
use crate::cloud::Cloud;
use crate::cloud::resources::{Id, Kind, LoadBalancer, Tags};
use crate::tags;

const OPERATION: &str = "adopt a load balancer";
const CLUSTER: &str = "elbv2.k8s.aws/cluster";
const STACK: &str = "service.k8s.aws/stack";
const RESOURCE: &str = "service.k8s.aws/resource";

impl<C: Cloud> Executor<'_, C> {
    /// `asked`: a name or an ARN.
    pub(super) async fn adopt(&self, owner: &Owner, asked: &str, own: &Tags) -> Result<(), ProviderError> {
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
        ids.extend(listeners.into_iter().filter_map(|listener| listener.group));
        let tagged = self.batches.tags(self.cloud, &ids).await?;
        let none = Tags::new();
        let mut whole = proof.clone();
        whole.insert(RESOURCE.to_owned(), "LoadBalancer".to_owned());
        prove(owner, &found, tagged.get(&found.id).unwrap_or(&none), &whole)?;
        for id in ids.iter().filter(|id| id.kind() == Some(Kind::TargetGroup)) {
            if holds(tagged.get(id).unwrap_or(&none), &proof) {
                self.batches.mark(self.cloud, id, own).await?;
            }
        }
        for group in self.cloud.security_groups(&tags::all_of(&proof)).await? {
            if found.security_groups.contains(&group.id) && holds(&group.tags, &proof) {
                self.cloud.add_security_group_tags(&group.id, own).await?;
            }
        }
        let own = own.clone().into_iter().chain(tags::adopted()).chain(tags::with_extras()).collect();
        self.batches.mark(self.cloud, &found.id, &own).await?;
        self.memory.made(owner, &found.name, &found.id);
        Ok(())
    }

    async fn asked_for(&self, asked: &str) -> Result<Option<LoadBalancer>, ProviderError> {
        if asked.starts_with("arn:") {
            return Ok(self.batches.load_balancer(self.cloud, &Id(asked.to_owned())).await?);
        }
        Ok(self.cloud.load_balancer_named(asked).await?)
    }
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
