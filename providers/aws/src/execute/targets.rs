//! Registering and deregistering targets, so that one that AWS refuses keeps out no other.
//!
//! Owns: separating refused targets from others within a bounded number of calls, and caching them. Leaves to others: what
//! AWS's words mean (`cloud/refusal`), when they are offered again (`cache/refused`, `plan/targets`).
//! Invariants: every target that AWS takes is registered, or offered again soon; a refused one fails no step; an error
//! about anything else than targets is one.

use std::future::Future;

use portico_provider::{Outcome, ProviderError};

use super::answered::Answered;
use super::{Called, Executor, Maker};
use crate::cloud::refusal::Unfit;
use crate::cloud::resources::{Id, Kind, TARGETS_A_CALL, Target};
use crate::cloud::{Answer, CloudError, Trouble};
use crate::plan::Pace;
use crate::step::Named;

/// So many calls more than there would be without a bad one: 32 bad ones, if AWS names them one by one, or two among 200
/// if it names none.
const MORE_CALLS: usize = 32;

/// The outcome for each target.
#[derive(Debug, PartialEq, Eq)]
struct Sorted {
    /// Calls that are left.
    calls: usize,
    taken: Vec<Target>,
    /// With what is wrong, and AWS's words.
    refused: Vec<(Target, Unfit, String)>,
}

impl Sorted {
    fn of(targets: &[Target]) -> Self {
        let calls = targets.len().div_ceil(TARGETS_A_CALL) + MORE_CALLS;
        Self { calls, taken: Vec::new(), refused: Vec::new() }
    }

    fn refuse(&mut self, targets: Vec<Target>, why: Unfit, words: &str) {
        self.refused.extend(targets.into_iter().map(|target| (target, why, words.to_owned())));
    }

    /// Makes `call` with as many targets as it takes. After a refusal it repeats the call without the targets that AWS named,
    /// or else in halves; the largest part first, so that few are left when calls run out.
    async fn sort<F, Call>(&mut self, targets: &[Target], call: F) -> Answer<()>
    where
        F: Fn(Vec<Target>) -> Call,
        Call: Future<Output = Answer<()>>,
    {
        let mut left: Vec<Vec<Target>> = targets.chunks(TARGETS_A_CALL).map(<[Target]>::to_vec).collect();
        while let Some(largest) = (0..left.len()).max_by_key(|part| left[*part].len()) {
            let chunk = left.swap_remove(largest);
            if self.calls == 0 {
                self.refuse(chunk, Unfit::Unsorted, "there are too many that AWS refuses");
                continue;
            }
            self.calls -= 1;
            let Err(error) = call(chunk.clone()).await else {
                self.taken.extend(chunk);
                continue;
            };
            let Some(why) = error.unfit() else { return Err(error) };
            let (named, mut others): (Vec<_>, Vec<_>) =
                chunk.into_iter().partition(|target| error.names(target));
            match (named.is_empty(), others.len()) {
                (false, _) => {
                    self.refuse(named, why, &error.message);
                    left.extend((!others.is_empty()).then_some(others));
                }
                (true, 0 | 1) => self.refuse(others, why, &error.message),
                (true, many) => {
                    let half = others.split_off(many / 2);
                    left.extend([half, others]);
                }
            }
        }
        Ok(())
    }
}

impl Executor<'_> {
    pub(super) async fn register(&self, maker: Maker<'_>, group: &Named, targets: &[Target]) -> Called {
        let Maker { owner, group: _ } = maker;
        let id = self.find(Maker { owner, group: None }, group, Kind::TargetGroup).await?;
        // Those that were refused before are offered last, and apart from the others.
        let (again, new): (Vec<Target>, Vec<Target>) =
            targets.iter().cloned().partition(|target| self.cache.was_refused(owner, &group.name, target));
        let mut sorted = Sorted::of(targets);
        let mut answer = sorted.sort(&new, |part| self.offer(&id, part)).await;
        if answer.is_ok() {
            answer = sorted.sort(&again, |part| self.offer(&id, part)).await;
        }
        let Sorted { calls: _, taken, refused } = sorted;
        self.cache.offered(owner, &group.name, &taken, refused, |tries| Pace(self.config.pace).again(tries));
        answer?;
        Ok(match (taken.is_empty(), taken.len() == targets.len()) {
            (_, true) => (Outcome::Done, Answered::Done),
            (true, false) => (Outcome::Unchanged, Answered::Refused),
            (false, false) => (Outcome::Done, Answered::Only(taken)),
        })
    }

    async fn offer(&self, group: &Id, targets: Vec<Target>) -> Answer<()> {
        self.cloud.register(group, &targets).await
    }

    /// A target that AWS does not know is deregistered already.
    pub(super) async fn deregister(
        &self,
        maker: Maker<'_>,
        group: &Named,
        targets: &[Target],
    ) -> Result<Answered, ProviderError> {
        let id = self.find(Maker { group: None, ..maker }, group, Kind::TargetGroup).await?;
        let mut sorted = Sorted::of(targets);
        sorted.sort(targets, |part| self.take_away(&id, part)).await?;
        let unsorted = sorted.refused.into_iter().find(|(_, why, _)| *why == Unfit::Unsorted);
        match unsorted {
            Some((target, _, words)) => {
                Err(ProviderError::unavailable("DeregisterTargets", format!("{target}: {words}")))
            }
            None => Ok(Answered::Done),
        }
    }

    async fn take_away(&self, group: &Id, targets: Vec<Target>) -> Answer<()> {
        match self.cloud.deregister(group, &targets).await {
            Err(CloudError { trouble: Trouble::NotFound, .. }) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn mk_targets(count: u16) -> Vec<Target> {
        (0..count).map(|n| Target { id: format!("i-{n:04}"), port: 80 }).collect()
    }

    fn ids<'a>(targets: impl Iterator<Item = &'a Target>) -> BTreeSet<String> {
        targets.map(|target| target.id.clone()).collect()
    }

    fn refused(message: String) -> CloudError {
        let (operation, trouble) = ("RegisterTargets", Trouble::Invalid);
        CloudError { operation, trouble, code: "InvalidTarget".to_owned(), message }
    }

    /// A cloud that refuses `bad`, and names so many of them each time.
    fn sorted(count: u16, bad: &BTreeSet<String>, naming: usize) -> (Sorted, usize) {
        let calls = Cell::new(0);
        let call = |chunk: Vec<Target>| {
            calls.set(calls.get() + 1);
            assert!(!chunk.is_empty() && chunk.len() <= TARGETS_A_CALL);
            let wrong: Vec<String> =
                chunk.into_iter().map(|it| it.id).filter(|id| bad.contains(id)).collect();
            let named: Vec<String> = wrong.iter().take(naming).map(|id| format!("'{id}'")).collect();
            std::future::ready(match wrong.len() {
                0 => Ok(()),
                _ => Err(refused(format!("they do not exist: {}", named.join(", ")))),
            })
        };
        let targets = mk_targets(count);
        let mut sorted = Sorted::of(&targets);
        sorted.sort(&targets, call).now_or_never().unwrap().unwrap();
        (sorted, calls.get())
    }

    #[test]
    fn those_that_are_named_cost_one_call_more_and_those_that_are_not_are_found_by_halves() {
        let bad: BTreeSet<String> = ["i-0007".to_owned(), "i-0100".to_owned()].into();
        for (naming, most) in [(9, 2), (1, 3), (0, 33)] {
            let (sorted, calls) = sorted(200, &bad, naming);
            assert_eq!(ids(sorted.refused.iter().map(|(target, ..)| target)), bad);
            assert_eq!(sorted.taken.len(), 198);
            assert!(calls <= most, "{naming} named: {calls} calls");
        }
    }

    #[test]
    fn an_error_about_something_else_is_passed_on() {
        let throttled = CloudError {
            trouble: Trouble::Throttled,
            code: "Throttling".to_owned(),
            ..refused(String::new())
        };
        let call = |_chunk| std::future::ready(Err(throttled.clone()));
        let targets = mk_targets(3);
        let mut sorted = Sorted::of(&targets);
        let answer = sorted.sort(&targets, call).now_or_never().unwrap();
        assert!(answer == Err(throttled) && sorted.taken.is_empty() && sorted.refused.is_empty());
    }

    proptest! {
        #[test]
        fn nobody_is_lost_no_bad_one_is_taken_and_the_calls_are_bounded(
            count in 1u16..450,
            bad in proptest::collection::btree_set(0u16..450, 0..60),
            naming in 0usize..4,
        ) {
            let bad: BTreeSet<String> = bad.into_iter().map(|n| format!("i-{n:04}")).collect();
            let (sorted, calls) = sorted(count, &bad, naming);
            let (taken, refused) =
                (ids(sorted.taken.iter()), ids(sorted.refused.iter().map(|(target, ..)| target)));
            prop_assert!(taken.is_disjoint(&bad) && taken.is_disjoint(&refused));
            prop_assert_eq!(taken.len() + refused.len(), usize::from(count));
            prop_assert!(calls <= usize::from(count).div_ceil(TARGETS_A_CALL) + MORE_CALLS);
            let unsorted = sorted.refused.iter().any(|(_, why, _)| *why == Unfit::Unsorted);
            prop_assert!(unsorted || refused.is_subset(&bad));
        }
    }
}
