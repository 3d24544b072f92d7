//! Calls that are made for several Services at once.
//!
//! Owns: which calls take several things, how many, and what a missing one among them means. Leaves to others:
//! gathering (`gather`), the calls themselves. Invariant: one that is gone hides no other.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::future::try_join_all;
use portico_provider::Owner;

use super::changing::Changing;
use super::gather::Gather;
use super::resources::{Filter, Firewall, Id, LoadBalancer, Subnet, Tags, TargetGroup};
use super::{Answer, Cloud, CloudError, Trouble};
use crate::tags;

/// `DescribeLoadBalancers`, `DescribeTargetGroups`, `DescribeTags`, `AddTags` and a filter of `GetResources` take so
/// many: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DescribeTags.html>.
const A_CALL: usize = 20;
/// How many times as often as things are looked at, seals are written.
const SEALS: u32 = 20;
/// How many times as often at least, whoever else is to come.
const PATIENCE: u32 = 5;
/// In how many times as long a deletion is through, if it gets on at all: EC2 allows few writes.
const LEAVING: u32 = 6;

/// What is being gathered.
#[derive(Debug)]
pub(crate) struct Batches {
    balancers: Gather<Id, LoadBalancer>,
    groups: Gather<Id, TargetGroup>,
    tags: Gather<Id, Tags>,
    marks: Gather<(Tags, Id), ()>,
    seals: Gather<(Tags, Id), ()>,
    changing: Changing<Id>,
    listings: Gather<Owner, Vec<(Id, Tags)>>,
    farewells: Gather<Owner, Vec<(Id, Tags)>>,
    leaving: Changing<Owner>,
    firewalls: Gather<Owner, Vec<Firewall>>,
    subnets: Gather<String, Vec<Subnet>>,
    quota: Gather<(), usize>,
}

impl Batches {
    /// `pace`: how often things are looked at. Under AWS's limits Services that began together end one by one, and nobody
    /// waits for what comes last: the first seal waits a twentieth of it for others, and both a seal and the proof that
    /// nothing is left up to a fifth, where others are on their way there.
    pub(crate) fn new(pace: Duration) -> Self {
        Self {
            balancers: Gather::default(),
            groups: Gather::default(),
            tags: Gather::default(),
            marks: Gather::default(),
            seals: Gather::new(pace / SEALS, pace / PATIENCE),
            changing: Changing::new(pace),
            listings: Gather::default(),
            farewells: Gather::new(Duration::ZERO, pace / PATIENCE),
            leaving: Changing::new(pace * LEAVING),
            firewalls: Gather::default(),
            subnets: Gather::default(),
            quota: Gather::default(),
        }
    }

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
        let found = try_join_all(asked).await?;
        Ok(ids.iter().cloned().zip(found).filter_map(|(id, found)| Some((id, found?))).collect())
    }

    /// Sets tags; others who set the same ones share the call.
    pub(crate) async fn mark<C: Cloud>(&self, cloud: &C, id: &Id, tags: &Tags) -> Answer<()> {
        marked(id, self.marks.ask((tags.clone(), id.clone()), |marks| mark_all(cloud, marks)).await?)
    }

    /// The same, when a change begins that ends with a seal.
    pub(crate) async fn unseal<C: Cloud>(&self, cloud: &C, id: &Id, tags: &Tags) -> Answer<()> {
        self.mark(cloud, id, tags).await?;
        self.changing.begins(id);
        Ok(())
    }

    /// The same, when all is done.
    pub(crate) async fn seal<C: Cloud>(&self, cloud: &C, id: &Id, tags: &Tags) -> Answer<()> {
        self.changing.ends(id);
        let more = || self.changing.any();
        let marks = |marks| mark_all(cloud, marks);
        marked(id, self.seals.ask_with((tags.clone(), id.clone()), more, marks).await?)
    }

    /// Everything that carries this owner's tags, by the listing.
    pub(crate) async fn owned<C: Cloud>(&self, cloud: &C, owner: &Owner) -> Answer<Vec<(Id, Tags)>> {
        let one_call = |filter: Filter| async move { cloud.tagged(&filter).await };
        let found = self.listings.ask(owner.clone(), |all| of_each(all, one_call, |(_, its)| its)).await?;
        Ok(found.unwrap_or_default())
    }

    /// The same when all of it was deleted: nobody waits for the proof.
    pub(crate) async fn left<C: Cloud>(&self, cloud: &C, owner: &Owner) -> Answer<Vec<(Id, Tags)>> {
        self.stays(owner);
        let one_call = |filter: Filter| async move { cloud.tagged(&filter).await };
        let more = || self.leaving.any();
        let listed = |all| of_each(all, one_call, |(_, its)| its);
        Ok(self.farewells.ask_with(owner.clone(), more, listed).await?.unwrap_or_default())
    }

    /// This owner's things are about to be deleted.
    pub(crate) fn leaves(&self, owner: &Owner) {
        self.leaving.begins(owner);
    }

    /// That is over, or takes longer.
    pub(crate) fn stays(&self, owner: &Owner) {
        self.leaving.ends(owner);
    }

    /// This owner's security groups, by EC2.
    pub(crate) async fn firewalls<C: Cloud>(&self, cloud: &C, owner: &Owner) -> Answer<Vec<Firewall>> {
        let one_call = |filter: Filter| async move { cloud.security_groups(&filter).await };
        let found = self.firewalls.ask(owner.clone(), |all| of_each(all, one_call, |it| &it.tags)).await?;
        Ok(found.unwrap_or_default())
    }

    /// How many load balancers the account may have in the region.
    pub(crate) async fn most_load_balancers<C: Cloud>(&self, cloud: &C) -> Answer<Option<usize>> {
        let one_call = |_| async move {
            let most = cloud.most_load_balancers().await?;
            Ok(most.into_iter().map(|most| ((), most)).collect())
        };
        self.quota.ask((), one_call).await
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

/// Whether a thing was there to be marked.
fn marked(id: &Id, marked: Option<()>) -> Answer<()> {
    marked.ok_or_else(|| CloudError {
        operation: "AddTags",
        trouble: Trouble::NotFound,
        code: "LoadBalancerNotFound".to_owned(),
        message: format!("{id} is gone"),
    })
}

/// Asks for all of `keys`, some a call.
async fn in_calls<V, F, Call>(keys: Vec<Id>, call: F) -> Answer<BTreeMap<Id, V>>
where
    F: Fn(Vec<Id>) -> Call,
    Call: Future<Output = Answer<BTreeMap<Id, V>>>,
{
    let calls = keys.chunks(A_CALL).map(|chunk| halved(chunk.to_vec(), &call));
    Ok(try_join_all(calls).await?.into_iter().flatten().collect())
}

/// AWS refuses a call for a single thing that is not there: then it is made for each half.
async fn halved<V, F, Call>(keys: Vec<Id>, call: &F) -> Answer<BTreeMap<Id, V>>
where
    F: Fn(Vec<Id>) -> Call,
    Call: Future<Output = Answer<BTreeMap<Id, V>>>,
{
    let mut found = BTreeMap::new();
    let mut left = vec![keys];
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
    let marked = by_tags.into_iter().map(|(tags, ids)| async move {
        let done = in_calls(ids, |ids| {
            let tags = &tags;
            async move {
                cloud.add_tags(&ids, tags).await?;
                Ok(ids.into_iter().map(|id| (id, ())).collect())
            }
        });
        let done = done.await?;
        Ok(done.into_keys().map(|id| ((tags.clone(), id), ())).collect::<BTreeMap<_, ()>>())
    });
    Ok(try_join_all(marked).await?.into_iter().flatten().collect())
}

/// What carries the tags of each of `owners`, some owners a call.
async fn of_each<T, F, Call>(
    owners: Vec<Owner>,
    call: F,
    tags: impl Fn(&T) -> &Tags,
) -> Answer<BTreeMap<Owner, Vec<T>>>
where
    F: Fn(Filter) -> Call,
    Call: Future<Output = Answer<Vec<T>>>,
{
    let mut found: BTreeMap<Owner, Vec<T>> = BTreeMap::new();
    for owners in
        owners.chunk_by(|one, other| one.cluster == other.cluster).flat_map(|all| all.chunks(A_CALL))
    {
        for it in call(tags::of_any(owners)).await? {
            if let Some(owner) = owners.iter().find(|owner| tags::are_of(tags(&it), owner)) {
                found.entry(owner.clone()).or_default().push(it);
            }
        }
    }
    Ok(found)
}
