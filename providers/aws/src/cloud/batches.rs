//! Calls that are made for several Services at once.
//!
//! Owns: which calls take several things, how many, and what a missing one among them means. Leaves to others:
//! gathering (`gather`), the calls themselves. Invariant: one that is gone hides no other.

use std::collections::BTreeMap;
use std::future::Future;

use portico_provider::Owner;

use super::gather::Gather;
use super::resources::{Id, LoadBalancer, Subnet, Tags, TargetGroup};
use super::{Answer, Cloud, CloudError, Trouble};
use crate::tags;

/// `DescribeLoadBalancers`, `DescribeTargetGroups`, `DescribeTags`, `AddTags` and a filter of `GetResources` take so
/// many: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DescribeTags.html>.
const A_CALL: usize = 20;

/// What is being gathered.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    balancers: Gather<Id, LoadBalancer>,
    groups: Gather<Id, TargetGroup>,
    tags: Gather<Id, Tags>,
    marks: Gather<(Tags, Id), ()>,
    listings: Gather<Owner, Vec<(Id, Tags)>>,
    subnets: Gather<String, Vec<Subnet>>,
}

impl Batches {
    /// A load balancer; `None`: it is not there.
    pub(crate) async fn load_balancer<C: Cloud>(&self, cloud: &C, id: &Id) -> Answer<Option<LoadBalancer>> {
        let one_call = |ids: Vec<Id>| async move {
            let found = cloud.load_balancers(&ids).await?;
            Ok(found.into_iter().map(|found| (found.id.clone(), found)).collect())
        };
        self.balancers.ask(id.clone(), |ids| in_calls(ids, one_call)).await
    }

    /// A target group; `None`: it is not there.
    pub(crate) async fn target_group<C: Cloud>(&self, cloud: &C, id: &Id) -> Answer<Option<TargetGroup>> {
        let one_call = |ids: Vec<Id>| async move {
            let found = cloud.target_groups(&ids).await?;
            Ok(found.into_iter().map(|found| (found.id.clone(), found)).collect())
        };
        self.groups.ask(id.clone(), |ids| in_calls(ids, one_call)).await
    }

    /// Tags of load balancers and target groups; what is not there is left out.
    pub(crate) async fn tags<C: Cloud>(&self, cloud: &C, ids: &[Id]) -> Answer<BTreeMap<Id, Tags>> {
        let one_call = |ids: Vec<Id>| async move { cloud.tags(&ids).await };
        let asked = ids.iter().map(|id| self.tags.ask(id.clone(), |ids| in_calls(ids, one_call)));
        let found = futures::future::try_join_all(asked).await?;
        Ok(ids.iter().cloned().zip(found).filter_map(|(id, found)| Some((id, found?))).collect())
    }

    /// Sets tags; others who set the same ones share the call.
    pub(crate) async fn mark<C: Cloud>(&self, cloud: &C, id: &Id, tags: &Tags) -> Answer<()> {
        let marked = self.marks.ask((tags.clone(), id.clone()), |marks| mark_all(cloud, marks)).await?;
        marked.ok_or_else(|| CloudError {
            operation: "AddTags",
            trouble: Trouble::NotFound,
            code: "LoadBalancerNotFound".to_owned(),
            message: format!("{id} is gone"),
        })
    }

    /// Everything that carries this owner's tags, by the listing.
    pub(crate) async fn owned<C: Cloud>(&self, cloud: &C, owner: &Owner) -> Answer<Vec<(Id, Tags)>> {
        let found = self.listings.ask(owner.clone(), |owners| list_all(cloud, owners)).await?;
        Ok(found.unwrap_or_default())
    }

    /// All subnets of a VPC.
    pub(crate) async fn subnets<C: Cloud>(&self, cloud: &C, vpc: &str) -> Answer<Vec<Subnet>> {
        let of_each = |vpcs: Vec<String>| async move {
            let mut found = BTreeMap::new();
            for vpc in vpcs {
                let subnets = cloud.subnets(&vpc).await?;
                found.insert(vpc, subnets);
            }
            Ok(found)
        };
        Ok(self.subnets.ask(vpc.to_owned(), of_each).await?.unwrap_or_default())
    }
}

/// Asks for all of `keys`, some a call. AWS refuses a call for a single thing that is not there: then it is halved.
async fn in_calls<V, F, Call>(keys: Vec<Id>, call: F) -> Answer<BTreeMap<Id, V>>
where
    F: Fn(Vec<Id>) -> Call,
    Call: Future<Output = Answer<BTreeMap<Id, V>>>,
{
    let mut found = BTreeMap::new();
    let mut left: Vec<Vec<Id>> = keys.chunks(A_CALL).map(<[Id]>::to_vec).collect();
    while let Some(mut chunk) = left.pop() {
        match call(chunk.clone()).await {
            Ok(answer) => found.extend(answer),
            Err(error) if error.trouble == Trouble::NotFound => {
                if chunk.len() > 1 {
                    let half = chunk.split_off(chunk.len() / 2);
                    left.extend([half, chunk]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[expect(clippy::zero_sized_map_values, reason = "a batch answers by key, and a mark has no answer")]
async fn mark_all<C: Cloud>(cloud: &C, marks: Vec<(Tags, Id)>) -> Answer<BTreeMap<(Tags, Id), ()>> {
    let mut by_tags: BTreeMap<Tags, Vec<Id>> = BTreeMap::new();
    for (tags, id) in marks {
        by_tags.entry(tags).or_default().push(id);
    }
    let mut done = BTreeMap::new();
    for (tags, ids) in by_tags {
        let marked = in_calls(ids, |ids| {
            let tags = &tags;
            async move {
                cloud.add_tags(&ids, tags).await?;
                Ok(ids.into_iter().map(|id| (id, ())).collect())
            }
        });
        done.extend(marked.await?.into_keys().map(|id| ((tags.clone(), id), ())));
    }
    Ok(done)
}

async fn list_all<C: Cloud>(cloud: &C, owners: Vec<Owner>) -> Answer<BTreeMap<Owner, Vec<(Id, Tags)>>> {
    let mut found: BTreeMap<Owner, Vec<(Id, Tags)>> = BTreeMap::new();
    for owners in
        owners.chunk_by(|one, other| one.cluster == other.cluster).flat_map(|all| all.chunks(A_CALL))
    {
        for (id, its) in cloud.tagged(&tags::of_any(owners)).await? {
            if let Some(owner) = owners.iter().find(|owner| tags::are_of(&its, owner)) {
                found.entry(owner.clone()).or_default().push((id, its));
            }
        }
    }
    Ok(found)
}
