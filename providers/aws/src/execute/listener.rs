//! Steps on one listener: further certificates and attributes.
//!
//! Owns: finding the listener, which an earlier step of the same plan may have made. Leaves to others: which there
//! should be. Invariant: each is repeatable as it is; AWS takes what is there already, and misses nothing that is not.

use portico_provider::ProviderError;

use super::{Executor, Find, Maker, unless};
use crate::cloud::resources::Id;
use crate::cloud::{Cloud, Trouble};
use crate::step::{Action, ListenerRef};

impl<C: Cloud> Executor<'_, C> {
    /// Does a step on a listener; any other is left undone.
    pub(super) async fn on_listener(&self, maker: Maker<'_>, action: &Action) -> Result<(), ProviderError> {
        match action {
            Action::AddCertificates { listener, arns } => {
                let id = self.listener(maker, listener).await?;
                self.cloud.add_listener_certificates(&id, arns).await?;
            }
            Action::RemoveCertificates { listener, arns } => {
                let id = self.listener(maker, listener).await?;
                unless(self.cloud.remove_listener_certificates(&id, arns).await, Trouble::NotFound)?;
            }
            Action::SetListenerAttributes { listener, attributes } => {
                let id = self.listener(maker, listener).await?;
                self.cloud.modify_listener_attributes(&id, attributes).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn listener(&self, maker: Maker<'_>, listener: &ListenerRef) -> Result<Id, ProviderError> {
        let ListenerRef { load_balancer, port, id } = listener;
        if let Some(id) = id {
            return Ok(id.clone());
        }
        let balancer = self.find(maker, load_balancer, Find::LoadBalancer).await?;
        let all = self.cloud.listeners(&balancer).await?;
        let found = all.into_iter().find(|found| found.spec.port == *port).map(|found| found.id);
        found.ok_or_else(|| {
            ProviderError::unavailable("find a listener", format!("{listener} is not there (any more)"))
        })
    }
}
