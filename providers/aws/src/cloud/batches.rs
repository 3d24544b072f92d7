//! Calls that are made for several Services at once.
//!
//! Owns: which calls take several things, how many, and whose an error is. Leaves to others: gathering (`gather`), the calls
//! themselves. Invariants: one that is gone hides no other; a call that is refused is split until only those fail that it is
//! refused for, and everybody else has an answer. A shared call never contains a user's input.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use portico_provider::Owner;

use super::changing::Changing;
use super::gather::Gather;
use super::resources::{Filter, Id, LoadBalancer, SecurityGroup, Subnet, Tags, TargetGroup};
use super::{Answer, CloudError, INCOMPLETE, Sdk, Trouble};
use crate::tags;

/// `DescribeLoadBalancers`, `DescribeTargetGroups`, `DescribeTags`, `AddTags` and a filter of `GetResources` take so
/// many: <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DescribeTags.html>.
const A_CALL: usize = 20;
/// How many times as often as resources are read, synced hashes are written.
const SYNCED_WINDOWS: u32 = 20;
/// How many times as often at least, whoever else is to come.
const PATIENCE: u32 = 5;
/// In how many times as long a deletion is through, if it gets on at all: EC2 allows few writes.
const LEAVING: u32 = 6;

/// Questions that one call answers, each with an answer or an error of its own.
type Shared<K, V> = Gather<K, Answer<V>>;

/// The calls that are being gathered.
#[derive(Debug)]
pub(crate) struct Batches {
    sdk: Sdk,
    balancers: Shared<Id, LoadBalancer>,
    groups: Shared<Id, TargetGroup>,
    tags: Shared<Id, Tags>,
    marks: Shared<(Tags, Id), ()>,
    synced_marks: Shared<(Tags, Id), ()>,
    changing: Changing<Id>,
    listings: Shared<Owner, Vec<(Id, Tags)>>,
    last_listings: Shared<Owner, Vec<(Id, Tags)>>,
    leaving: Changing<Owner>,
    security_groups: Shared<Owner, Vec<SecurityGroup>>,
    subnets: Gather<String, Vec<Subnet>>,
    quota: Gather<(), usize>,
}

impl Batches {
    /// `pace`: how often resources are read. Under AWS's limits Services that began together end one by one, and nobody
    /// waits for the last calls of each. The first synced hash waits a twentieth of the pace for others. A hash, and the proof
    /// that nothing is left, wait up to a fifth of it while others are about to need the same call.
    pub(crate) fn new(sdk: Sdk, pace: Duration) -> Self {
        Self {
            sdk,
            balancers: Gather::default(),
            groups: Gather::default(),
            tags: Gather::default(),
            marks: Gather::default(),
            synced_marks: Gather::new(pace / SYNCED_WINDOWS, pace / PATIENCE),
            changing: Changing::new(pace),
            listings: Gather::default(),
            last_listings: Gather::new(Duration::ZERO, pace / PATIENCE),
            leaving: Changing::new(pace * LEAVING),
            security_groups: Gather::default(),
            subnets: Gather::default(),
            quota: Gather::default(),
        }
    }

    /// A load balancer; `None`: it is not there.
    pub(crate) async fn load_balancer(&self, id: &Id) -> Answer<Option<LoadBalancer>> {
        let one_call = |ids: Vec<Id>| async move {
            let found = self.sdk.load_balancers(&ids).await?;
            Ok(found.into_iter().map(|found| (found.id.clone(), found)).collect())
        };
        self.balancers.ask(id.clone(), |ids| in_calls(ids, one_call)).await?.transpose()
    }

    /// A target group; `None`: it is not there.
    pub(crate) async fn target_group(&self, id: &Id) -> Answer<Option<TargetGroup>> {
        let one_call = |ids: Vec<Id>| async move {
            let found = self.sdk.target_groups(&ids).await?;
            Ok(found.into_iter().map(|found| (found.id.clone(), found)).collect())
        };
        self.groups.ask(id.clone(), |ids| in_calls(ids, one_call)).await?.transpose()
    }

    /// Tags of load balancers and target groups; what is not there is left out.
    pub(crate) async fn tags(&self, ids: &[Id]) -> Answer<BTreeMap<Id, Tags>> {
        let one_call = |ids: Vec<Id>| async move { self.sdk.tags(&ids).await };
        let asked = ids.iter().map(|id| self.tags.ask(id.clone(), |ids| in_calls(ids, one_call)));
        let found = try_join_all(asked).await?;
        ids.iter()
            .cloned()
            .zip(found)
            .filter_map(|(id, found)| Some(found?.map(|found| (id, found))))
            .collect()
    }

    /// Sets tags; others who set the same ones share the call.
    pub(crate) async fn add_tags(&self, id: &Id, tags: &Tags) -> Answer<()> {
        marked(id, self.marks.ask((tags.clone(), id.clone()), |marks| mark_all(&self.sdk, marks)).await?)
    }

    /// The same, when a change begins that ends with a synced hash.
    pub(crate) async fn mark_dirty(&self, id: &Id, tags: &Tags) -> Answer<()> {
        self.add_tags(id, tags).await?;
        self.changing.begins(id);
        Ok(())
    }

    /// The same, when all is done.
    pub(crate) async fn mark_synced(&self, id: &Id, tags: &Tags) -> Answer<()> {
        self.changing.ends(id);
        let more = || self.changing.any();
        let marks = |marks| mark_all(&self.sdk, marks);
        marked(id, self.synced_marks.ask_with((tags.clone(), id.clone()), more, marks).await?)
    }

    /// Everything that carries this owner's tags, by the listing.
    pub(crate) async fn owned(&self, owner: &Owner) -> Answer<Vec<(Id, Tags)>> {
        let one_call = |filter: Filter| async move { self.sdk.tagged(&filter).await };
        let found = self.listings.ask(owner.clone(), |all| of_each(all, one_call, |(_, its)| its)).await?;
        found.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The same when all of it was deleted: nobody waits for the proof.
    pub(crate) async fn left(&self, owner: &Owner) -> Answer<Vec<(Id, Tags)>> {
        self.stays(owner);
        let one_call = |filter: Filter| async move { self.sdk.tagged(&filter).await };
        let more = || self.leaving.any();
        let listed = |all| of_each(all, one_call, |(_, its)| its);
        self.last_listings.ask_with(owner.clone(), more, listed).await?.unwrap_or_else(|| Ok(Vec::new()))
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
    pub(crate) async fn security_groups(&self, owner: &Owner) -> Answer<Vec<SecurityGroup>> {
        let one_call = |filter: Filter| async move { self.sdk.security_groups(&filter).await };
        let found =
            self.security_groups.ask(owner.clone(), |all| of_each(all, one_call, |it| &it.tags)).await?;
        found.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// How many load balancers the account may have in the region.
    pub(crate) async fn most_load_balancers(&self) -> Answer<Option<usize>> {
        let one_call = |_| async move {
            let most = self.sdk.most_load_balancers().await?;
            Ok(most.into_iter().map(|most| ((), most)).collect())
        };
        self.quota.ask((), one_call).await
    }

    /// All subnets of a VPC.
    pub(crate) async fn subnets(&self, vpc: &str) -> Answer<Vec<Subnet>> {
        let of_each = |vpcs: Vec<String>| async move {
            let mut found = BTreeMap::new();
            for vpc in vpcs {
                let subnets = self.sdk.subnets(&vpc).await?;
                found.insert(vpc, subnets);
            }
            Ok(found)
        };
        Ok(self.subnets.ask(vpc.to_owned(), of_each).await?.unwrap_or_default())
    }
}

/// Whether a thing was there to be marked.
fn marked(id: &Id, marked: Option<Answer<()>>) -> Answer<()> {
    marked.unwrap_or_else(|| {
        Err(CloudError {
            operation: "AddTags",
            trouble: Trouble::NotFound,
            code: "LoadBalancerNotFound".to_owned(),
            message: format!("{id} is gone"),
        })
    })
}

/// An answer, or an error, to each key; what is not there is left out.
type Each<K, V> = BTreeMap<K, Answer<V>>;

/// Asks for all of `keys`, some a call.
async fn in_calls<K, V, F, Call>(keys: Vec<K>, call: F) -> Answer<Each<K, V>>
where
    K: Ord + Clone,
    F: Fn(Vec<K>) -> Call,
    Call: Future<Output = Answer<BTreeMap<K, V>>>,
{
    let calls = keys.chunks(A_CALL).map(|chunk| halved(chunk.to_vec(), &call));
    Ok(join_all(calls).await.into_iter().flatten().collect())
}

/// AWS refuses a call for a single thing that is not there, or that it minds: then it is made for each half.
async fn halved<K, V, F, Call>(keys: Vec<K>, call: &F) -> Each<K, V>
where
    K: Ord + Clone,
    F: Fn(Vec<K>) -> Call,
    Call: Future<Output = Answer<BTreeMap<K, V>>>,
{
    let mut found = Each::new();
    let mut left = vec![keys];
    while let Some(mut chunk) = left.pop() {
        // Boxed: a call is deep, and so are those who wait for it.
        match Box::pin(call(chunk.clone())).await {
            Ok(answer) => found.extend(answer.into_iter().map(|(key, value)| (key, Ok(value)))),
            Err(error) if chunk.len() > 1 && !is_everybodys(&error) => {
                let half = chunk.split_off(chunk.len() / 2);
                left.extend([half, chunk]);
            }
            Err(error) if error.trouble == Trouble::NotFound => {}
            Err(error) => found.extend(chunk.into_iter().map(|key| (key, Err(error.clone())))),
        }
    }
    found
}

/// Whether any call would have met this error, whatever it asks for.
fn is_everybodys(error: &CloudError) -> bool {
    match error.trouble {
        Trouble::Throttled | Trouble::Credentials | Trouble::Account => true,
        // Of an answer that cannot be read one part cannot.
        Trouble::Unavailable => error.code != INCOMPLETE,
        Trouble::NotFound
        | Trouble::Duplicate
        | Trouble::InUse
        | Trouble::Taken
        | Trouble::Protected
        | Trouble::Limit
        | Trouble::Denied
        | Trouble::Invalid => false,
    }
}

async fn mark_all(sdk: &Sdk, marks: Vec<(Tags, Id)>) -> Answer<Each<(Tags, Id), ()>> {
    let mut by_tags: BTreeMap<Tags, Vec<(Tags, Id)>> = BTreeMap::new();
    for (tags, id) in marks {
        by_tags.entry(tags.clone()).or_default().push((tags, id));
    }
    let marked = by_tags.into_iter().map(|(tags, marks)| async move {
        let one_call = |marks: Vec<(Tags, Id)>| {
            let tags = &tags;
            async move {
                let ids: Vec<Id> = marks.iter().map(|(_, id)| id.clone()).collect();
                sdk.add_tags(&ids, tags).await?;
                Ok(marks.into_iter().map(|mark| (mark, ())).collect())
            }
        };
        in_calls(marks, one_call).await
    });
    Ok(try_join_all(marked).await?.into_iter().flatten().collect())
}

/// What carries the tags of each of `owners`, some owners a call.
async fn of_each<T, F, Call>(
    owners: Vec<Owner>,
    call: F,
    tags: impl Fn(&T) -> &Tags,
) -> Answer<Each<Owner, Vec<T>>>
where
    F: Fn(Filter) -> Call,
    Call: Future<Output = Answer<Vec<T>>>,
{
    let one_call = |owners: Vec<Owner>| {
        let answer = call(tags::of_any(&owners));
        let tags = &tags;
        async move {
            let mut found: BTreeMap<Owner, Vec<T>> = BTreeMap::new();
            for it in answer.await? {
                if let Some(owner) = owners.iter().find(|owner| tags::are_of(tags(&it), owner)) {
                    found.entry(owner.clone()).or_default().push(it);
                }
            }
            Ok(found)
        }
    };
    let of_one_cluster = owners.chunk_by(|one, other| one.cluster == other.cluster);
    let each = of_one_cluster.map(|owners| in_calls(owners.to_vec(), one_call));
    Ok(try_join_all(each).await?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const OWN: [Trouble; 7] = [
        Trouble::NotFound,
        Trouble::Duplicate,
        Trouble::InUse,
        Trouble::Protected,
        Trouble::Limit,
        Trouble::Denied,
        Trouble::Invalid,
    ];

    fn mk_error(trouble: Trouble, code: &str) -> CloudError {
        CloudError { operation: "X", trouble, code: code.to_owned(), message: String::new() }
    }

    proptest! {
        #[test]
        fn a_call_that_is_refused_for_some_fails_for_these_alone(
            count in 1usize..60,
            culprits in proptest::collection::btree_set(0usize..60, 0..4),
            trouble in proptest::sample::select(OWN.to_vec()),
        ) {
            let calls = Cell::new(0);
            let call = |keys: Vec<usize>| {
                calls.set(calls.get() + 1);
                let refused = keys.iter().any(|key| culprits.contains(key));
                let all = || Ok(keys.iter().map(|key| (*key, *key)).collect::<BTreeMap<_, _>>());
                std::future::ready(if refused { Err(mk_error(trouble, "Y")) } else { all() })
            };
            let answers = in_calls((0..count).collect(), call).now_or_never().unwrap().unwrap();
            let failed: BTreeSet<usize> = (0..count).filter(|key| !matches!(answers.get(key), Some(Ok(_)))).collect();
            prop_assert_eq!(&failed, &culprits.iter().copied().filter(|key| *key < count).collect());
            let has_answer = failed.iter().all(|key| answers.contains_key(key));
            prop_assert!(has_answer != (trouble == Trouble::NotFound) || failed.is_empty(), "{:?}", answers);
            prop_assert!(calls.get() <= count.div_ceil(A_CALL) + 10 * failed.len(), "{} calls", calls.get());
        }
    }

    #[test]
    fn an_outage_is_everybodys_and_costs_no_more_calls_but_an_odd_part_of_an_answer_is_ones_own() {
        let tried = |error: CloudError| {
            let calls = Cell::new(0);
            let call = |keys: Vec<usize>| {
                calls.set(calls.get() + 1);
                let all = keys.iter().map(|key| (*key, *key)).collect::<BTreeMap<_, _>>();
                std::future::ready(if keys.contains(&3) { Err(error.clone()) } else { Ok(all) })
            };
            let answers = in_calls((0..20).collect(), call).now_or_never().unwrap().unwrap();
            (answers.values().filter(|answer| answer.is_err()).count(), calls.get())
        };
        assert_eq!(tried(mk_error(Trouble::Throttled, "Throttling")), (20, 1));
        assert_eq!(tried(mk_error(Trouble::Unavailable, "NoAnswer")), (20, 1));
        assert_eq!(tried(mk_error(Trouble::Unavailable, INCOMPLETE)).0, 1);
    }
}
