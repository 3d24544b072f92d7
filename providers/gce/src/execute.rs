//! Doing one step.
//!
//! Owns: the calls of a step, and what this process remembers of them. Leaves to others: what an error means (`remedy`),
//! whom a group does not take (`offer`). Invariants: nothing is changed or deleted whose description does not say that it is
//! this Service's. No call waits for an operation. Whatever was not accepted as planned ends what is known of the Service.

use std::time::Instant;

use portico_provider::{Outcome, Owner, ProviderError};

use crate::cloud::{Cloud, CloudError, CloudErrorKind, Found, Operation, OperationState};
use crate::names;
use crate::offer;
use crate::plan::POLL_AFTER;
use crate::provider::GceProvider;
use crate::remedy;
use crate::resource::{Endpoint, Id, Kind, Resource};
use crate::step::{Call, Failure, Step};

/// The operation that a call started.
pub(crate) enum Started {
    Operation(Operation),
    /// Nothing: there is nothing left of it to do.
    Nothing,
    /// Nothing: Google refused every node that was offered.
    Refused,
}

fn absent_is_done(answer: Result<Operation, CloudError>) -> Result<Option<Operation>, CloudError> {
    match answer {
        Err(error) if error.kind == CloudErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

impl<C: Cloud> GceProvider<C> {
    pub(crate) async fn carry_out(&self, step: &Step) -> Result<Outcome, ProviderError> {
        let Step { owner, call, after, waits } = step;
        let explain = |error| remedy::during(call, owner, error);
        if let Some(Failure { operation, error }) = after
            && self.cache.is_news(&owner.service, operation)
        {
            return self.hear(owner, call, operation, error).map_err(explain);
        }
        let in_progress = Outcome::InProgress { retry: POLL_AFTER, what: step.to_string() };
        let target = call.target();
        if target.kind.is_group() && self.cache.is_running(&owner.service, &target) {
            return Ok(in_progress);
        }
        let started = Box::pin(self.start(owner, call, after.is_none())).await;
        match &started {
            Ok(Started::Operation(operation)) => self.cache.began(&owner.service, call, operation),
            Ok(Started::Refused) => {}
            Ok(Started::Nothing) | Err(_) => self.cache.invalidate(&owner.service),
        }
        match started {
            Ok(Started::Nothing) => Ok(Outcome::Done),
            Ok(Started::Refused) => Ok(Outcome::Unchanged),
            Ok(Started::Operation(started)) => match started.state {
                OperationState::Failed(error) => Err(explain(error)),
                OperationState::Running if *waits => Ok(in_progress),
                OperationState::Running | OperationState::Done => Ok(Outcome::Done),
            },
            // Another operation is at work on it: ours from before, or one of another process.
            Err(error) if error.kind == CloudErrorKind::NotReady => Ok(in_progress),
            Err(error) => Err(explain(error)),
        }
    }

    /// A failure that nobody has heard of yet: an error, unless it is about nodes, of which the others are tried again.
    fn hear(
        &self,
        owner: &Owner,
        call: &Call,
        operation: &str,
        error: &CloudError,
    ) -> Result<Outcome, CloudError> {
        let Call::Attach { group, endpoints } = call else { return Err(error.clone()) };
        let offered = self.cache.offered(&owner.service, group, operation);
        let offered = offered.as_ref().unwrap_or(endpoints);
        match offer::culprits(group, offered, error) {
            offer::Culprits::None => return Err(error.clone()),
            offer::Culprits::Are(unfit) => {
                let refused = unfit.into_iter().map(|endpoint| (endpoint, error.message.clone()));
                self.refuse(owner, group, refused.collect());
            }
            offer::Culprits::AmongHalf(half) => {
                self.cache.offer_at_most(&owner.service, group, Some(half));
            }
        }
        Ok(Outcome::Unchanged)
    }

    /// The resource under this name, if it is this Service's.
    async fn mine(&self, owner: &Owner, id: &Id) -> Result<Option<Resource>, CloudError> {
        let Some(Found { resource, description, .. }) = self.cloud.get(id).await? else {
            return Ok(None);
        };
        if names::is_marked_for(&description, owner, id.kind) {
            return Ok(Some(resource));
        }
        Err(CloudError::new(CloudErrorKind::Taken, remedy::unmarked(id, owner, &description)))
    }

    /// Starts what a call is for. `afresh`: no earlier try failed.
    async fn start(&self, owner: &Owner, call: &Call, afresh: bool) -> Result<Started, CloudError> {
        let started = match call {
            Call::Insert { resource, otherwise } => match (self.insert(owner, resource).await, otherwise) {
                (Err(error), Some(other)) if error.kind == CloudErrorKind::Invalid => {
                    tracing::info!(%error, "refused; taking the next best");
                    self.insert(owner, other).await
                }
                (answer, _) => answer,
            },
            Call::Patch(resource) => match self.mine(owner, &resource.id()).await? {
                Some(present) if present == *resource => Ok(None),
                Some(_) => self.cloud.patch(resource).await.map(Some),
                None => Err(CloudError::new(CloudErrorKind::NotFound, format!("{} is gone", resource.id()))),
            },
            Call::Delete(id) => match self.mine(owner, id).await? {
                None => Ok(None),
                Some(_) => absent_is_done(self.cloud.delete(id).await),
            },
            Call::Attach { group, endpoints } => return self.attach(owner, group, endpoints, afresh).await,
            Call::Detach { group, endpoints } => {
                if self.mine(owner, group).await?.is_none() {
                    return Ok(Started::Nothing);
                }
                let present = self.cloud.endpoints(group).await?;
                let left: Vec<Endpoint> =
                    endpoints.iter().filter(|it| present.contains_key(it)).cloned().collect();
                if left.is_empty() { Ok(None) } else { absent_is_done(self.cloud.detach(group, &left).await) }
            }
        };
        Ok(started?.map_or(Started::Nothing, Started::Operation))
    }

    /// Offers nodes to a group, and remembers whom it refused.
    async fn attach(
        &self,
        owner: &Owner,
        group: &Id,
        endpoints: &[Endpoint],
        afresh: bool,
    ) -> Result<Started, CloudError> {
        if self.mine(owner, group).await?.is_none() {
            return Err(CloudError::new(CloudErrorKind::NotFound, format!("{group} is gone")));
        }
        if afresh {
            self.cache.offer_at_most(&owner.service, group, None);
        }
        let most = self.cache.most(&owner.service, group).unwrap_or(usize::MAX);
        let present = self.cloud.endpoints(group).await?;
        let missing: Vec<Endpoint> =
            endpoints.iter().filter(|it| !present.contains_key(it)).take(most).cloned().collect();
        let offer::Offered { taken, refused, answer } = offer::offer(&self.cloud, group, &missing).await;
        let some = !refused.is_empty();
        self.refuse(owner, group, refused);
        self.refused.remove(group.zone.as_deref().unwrap_or_default(), taken.iter());
        Ok(match answer? {
            Some(operation) => {
                self.cache.offer(&owner.service, group, operation.name.clone(), taken);
                Started::Operation(operation)
            }
            None if some => Started::Refused,
            None => Started::Nothing,
        })
    }

    fn refuse(&self, owner: &Owner, group: &Id, refused: Vec<(Endpoint, String)>) {
        let zone = group.zone.clone().unwrap_or_default();
        for (endpoint, message) in refused {
            tracing::warn!(service = %owner.name, %group, instance = endpoint.instance, error = message, "node refused");
            self.refused.add(&owner.service, (zone.clone(), endpoint), message, Instant::now());
        }
    }

    async fn insert(&self, owner: &Owner, resource: &Resource) -> Result<Option<Operation>, CloudError> {
        match self.cloud.insert(resource, &names::description(owner)).await {
            Ok(operation) => Ok(Some(operation)),
            Err(error) if error.kind == CloudErrorKind::Taken => {
                // Ours already (a lost reply, a repetition), or somebody else's; or not the name is taken but the address.
                match self.mine(owner, &resource.id()).await? {
                    Some(_) => Ok(None),
                    None if resource.id().kind == Kind::Address => {
                        Err(CloudError::new(CloudErrorKind::Invalid, error.message))
                    }
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}
