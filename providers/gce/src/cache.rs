//! Cached resources of each Service, from one read to the next.
//!
//! Owns: [`Cache`], and bringing it up to date. Leaves to others: reading everything (`observed`), what to do (`plan`).
//! Invariants: it holds what this process has read, and own accepted calls, whose operations are polled by name and whose
//! things are read again when they end. An error, a failed operation, a thing that is not as it was left, or a listing that
//! differs ends it, and so does the end of its Service. Members of groups are kept for a minute only: they are as many as
//! there are nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portico_provider::{Owner, ReadMode, ServiceUid};

use crate::cloud::{Cloud, CloudError, CloudErrorKind, Operation, OperationState};
use crate::names;
use crate::observed::{Observed, ask_health, is_running, read_endpoints};
use crate::resource::{Endpoint, Id, Kind};
use crate::step::Call;

/// So long the members of groups are kept.
const MEMBERS: Duration = Duration::from_mins(1);
/// So many single reads cost as much as a listing of each kind.
const LISTING: usize = 8;

/// The part of a resource that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The members of a group.
    Members,
    /// All of it, or whether it exists.
    Whole,
}

/// The things of one Service.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    /// As they were read last; with operations that were accepted since.
    pub(crate) observed: Observed,
    /// Resources that own operations under way change.
    begun: BTreeMap<Id, Change>,
    /// Resources that own calls have changed since the read.
    changed: BTreeMap<Id, Change>,
    /// When members of groups were read.
    listed: Instant,
}

/// Of the attachments to one group.
#[derive(Clone, Debug, Default)]
struct Offers {
    /// The latest operation, and whom it was to attach.
    latest: Option<(String, Vec<Endpoint>)>,
    /// So many at once, as more have failed.
    most: Option<usize>,
}

/// Of one Service, beside its things.
#[derive(Debug, Default)]
struct Reported {
    /// Failed operations that were reported already: the next try is for real.
    failures: BTreeSet<String>,
    offers: BTreeMap<Id, Offers>,
}

/// Everything, by Service.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<ServiceUid, Cached>,
    reported: BTreeMap<ServiceUid, Reported>,
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cached state of a Service.
    pub(crate) fn recall(&self, service: &ServiceUid) -> Option<Cached> {
        self.state().known.get(service).cloned()
    }

    /// Everything was read. `wanted`: nothing at all is worth remembering too, as it is about to be made.
    pub(crate) fn learn(
        &self,
        service: &ServiceUid,
        observed: Option<&Observed>,
        wanted: bool,
        now: Instant,
    ) {
        let mut state = self.state();
        let observed = observed.cloned().or_else(|| wanted.then(Observed::default));
        let Some(observed) = observed else {
            state.known.remove(service);
            state.reported.remove(service);
            return;
        };
        if let Some(reported) = state.reported.get_mut(service) {
            let failed: BTreeSet<&String> = observed.operations.values().map(|it| &it.name).collect();
            reported.failures.retain(|name| failed.contains(name));
        }
        let (begun, changed) = (BTreeMap::new(), BTreeMap::new());
        state.known.insert(service.clone(), Cached { observed, begun, changed, listed: now });
        state.expire(now);
    }

    /// It was brought up to date; unless it was invalidated meanwhile.
    pub(crate) fn update(&self, service: &ServiceUid, known: Cached, now: Instant) {
        let mut state = self.state();
        if let Some(before) = state.known.get_mut(service) {
            *before = known;
        }
        state.expire(now);
    }

    /// Drops the cached state of a Service, as it may be wrong.
    pub(crate) fn invalidate(&self, service: &ServiceUid) {
        self.state().known.remove(service);
    }

    /// A call was accepted.
    pub(crate) fn began(&self, service: &ServiceUid, call: &Call, operation: &Operation) {
        let mut state = self.state();
        let Some(known) = state.known.get_mut(service) else { return };
        let Operation { target, state: how, .. } = operation;
        let change = match call {
            Call::Attach { .. } | Call::Detach { .. } => Change::Members,
            Call::Insert { .. } | Call::Patch(_) | Call::Delete(_) => Change::Whole,
        };
        match how {
            OperationState::Running => {
                known.observed.operations.insert(target.clone(), operation.clone());
                known.begun.insert(target.clone(), change);
                // An accepted rule shows at once, and its address is news.
                if target.kind == Kind::ForwardingRule && matches!(call, Call::Insert { .. }) {
                    known.changed.insert(target.clone(), change);
                }
            }
            OperationState::Done => {
                known.observed.operations.remove(target);
                known.changed.insert(target.clone(), change);
            }
            OperationState::Failed(_) => {
                state.known.remove(service);
            }
        }
    }

    /// A listing shows these; whoever has other things than are known, or none, is not known any more.
    pub(crate) fn compare(&self, listed: &BTreeMap<&ServiceUid, &Observed>) {
        let State { known, reported } = &mut *self.state();
        known.retain(|service, known| {
            let busy = known.is_busy();
            busy || listed.get(service).is_some_and(|it| it.resources == known.observed.resources)
        });
        reported.retain(|service, _| listed.contains_key(service) || known.contains_key(service));
    }

    /// Whether this failure has not been reported yet; marks it as reported.
    pub(crate) fn is_news(&self, service: &ServiceUid, operation: &str) -> bool {
        self.state().reported.entry(service.clone()).or_default().failures.insert(operation.to_owned())
    }

    /// Whether an operation of ours is at work on it.
    pub(crate) fn is_running(&self, service: &ServiceUid, id: &Id) -> bool {
        let state = self.state();
        state
            .known
            .get(service)
            .is_some_and(|known| known.observed.operations.get(id).is_some_and(is_running))
    }

    /// The endpoints that an operation was to attach, as far as known.
    pub(crate) fn offered(&self, service: &ServiceUid, group: &Id, operation: &str) -> Option<Vec<Endpoint>> {
        let state = self.state();
        let (latest, endpoints) = state.reported.get(service)?.offers.get(group)?.latest.as_ref()?;
        (latest == operation).then(|| endpoints.clone())
    }

    /// These are being attached.
    pub(crate) fn offer(
        &self,
        service: &ServiceUid,
        group: &Id,
        operation: String,
        endpoints: Vec<Endpoint>,
    ) {
        let mut state = self.state();
        let offers =
            state.reported.entry(service.clone()).or_default().offers.entry(group.clone()).or_default();
        offers.latest = Some((operation, endpoints));
    }

    /// How many to offer at once; `None`: all.
    pub(crate) fn most(&self, service: &ServiceUid, group: &Id) -> Option<usize> {
        self.state().reported.get(service)?.offers.get(group)?.most
    }

    /// From now on so many.
    pub(crate) fn offer_at_most(&self, service: &ServiceUid, group: &Id, most: Option<usize>) {
        let mut state = self.state();
        let reported = state.reported.entry(service.clone()).or_default();
        reported.offers.entry(group.clone()).or_default().most = most;
    }

    /// How many Services it holds anything of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let State { known, reported } = &*self.state();
        known.keys().chain(reported.keys()).collect::<BTreeSet<_>>().len()
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        let old = |known: &&mut Cached| now.duration_since(known.listed) > MEMBERS && !known.is_busy();
        for known in self.known.values_mut().filter(old) {
            known.observed.endpoints.clear();
        }
    }
}

impl Cached {
    fn is_busy(&self) -> bool {
        let Self { observed, begun, changed, listed: _ } = self;
        observed.running().is_some() || !begun.is_empty() || !changed.is_empty()
    }

    /// With what own calls came to, and for [`ReadMode::Pending`] with what nodes answer; `None`: only reading everything will do.
    /// `shares`: other Services change things of its own, so that nothing is known but while it waits.
    pub(crate) async fn up_to_date<C: Cloud>(
        mut self,
        cloud: &C,
        owner: &Owner,
        read_mode: ReadMode,
        shares: bool,
    ) -> Result<Option<Self>, CloudError> {
        let quiet = !self.is_busy();
        if !self.poll(cloud).await? || (shares && self.observed.running().is_none()) {
            return Ok(None);
        }
        match self.read_changed(cloud, owner).await {
            Err(error) if error.kind == CloudErrorKind::NotFound => return Ok(None),
            answer => {
                if !answer? {
                    return Ok(None);
                }
            }
        }
        let polled = read_mode == ReadMode::Pending && self.observed.running().is_none();
        if !self.observed.is_listed() || (polled && quiet) {
            match read_endpoints(cloud, &mut self.observed).await {
                Err(error) if error.kind == CloudErrorKind::NotFound => return Ok(None),
                answer => answer?,
            }
            self.listed = Instant::now();
        }
        if polled {
            ask_health(cloud, &mut self.observed).await;
            self.observed.asked = true;
        }
        Ok(Some(self))
    }

    /// Asks for operations under way, up to the first that goes on; whether none has failed or is forgotten.
    async fn poll<C: Cloud>(&mut self, cloud: &C) -> Result<bool, CloudError> {
        let running: Vec<Operation> =
            self.observed.operations.values().filter(|it| is_running(it)).cloned().collect();
        for operation in running {
            match Box::pin(cloud.operation(&operation)).await?.map(|it| it.state) {
                Some(OperationState::Running) => return Ok(true),
                Some(OperationState::Done) => {
                    let change = self.begun.remove(&operation.target).unwrap_or(Change::Whole);
                    self.observed.operations.remove(&operation.target);
                    self.changed.insert(operation.target, change);
                }
                Some(OperationState::Failed(_)) | None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads what own calls have changed; whether all of it is still ours, and single reads are worth it.
    async fn read_changed<C: Cloud>(&mut self, cloud: &C, owner: &Owner) -> Result<bool, CloudError> {
        let changed = std::mem::take(&mut self.changed);
        let groups = changed.keys().filter(|id| id.kind.is_group()).count();
        if changed.len() + groups > LISTING {
            return Ok(false);
        }
        for (id, change) in changed {
            if change == Change::Whole {
                match Box::pin(cloud.get(&id)).await? {
                    Some(found) if names::is_marked_for(&found.description, owner, id.kind) => {
                        self.observed.take(found);
                    }
                    Some(_not_ours) => return Ok(false),
                    None => self.observed.drop(&id),
                }
            }
            if id.kind.is_group() && self.observed.resources.contains_key(&id) {
                let members = cloud.endpoints(&id).await?;
                self.observed.sizes.insert(id.clone(), members.len());
                self.observed.endpoints.insert(id, std::sync::Arc::new(members));
                self.listed = Instant::now();
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
