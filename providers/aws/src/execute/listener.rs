//! Listeners, their certificates and attributes: the calls, each beside its effect on the cache.
//!
//! Owns: finding a listener that an earlier step of the same plan created. Leaves to others: which listeners there are (`plan`).
//! Invariant: each call is repeatable as it is: AWS accepts what exists already, and the absence of what is removed.

use portico_provider::ProviderError;

use super::answered::Answered;
use super::{Executor, Maker, unless};
use crate::cloud::Trouble;
use crate::cloud::resources::{Id, Kind, Listener, ListenerExtras, ListenerSpec, Tags};
use crate::observed::{Balancer, View};
use crate::step::{ListenerChange, ListenerRef, Named};

impl Executor<'_> {
    pub(super) async fn create_listener(
        &self,
        maker: Maker<'_>,
        load_balancer: &Named,
        spec: &ListenerSpec,
        target_group: &Named,
        tags: &Tags,
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, load_balancer, Kind::LoadBalancer).await?;
        let target_group = self.find(maker, target_group, Kind::TargetGroup).await?;
        // A duplicate is ours, as the load balancer is; the next plan compares it.
        match self.cloud.create_listener(&id, spec, &target_group, tags).await {
            Ok(listener) => Ok(Answered::Listener(listener)),
            Err(error) if error.trouble == Trouble::Duplicate => Ok(Answered::Found),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn modify_listener(
        &self,
        maker: Maker<'_>,
        listener: &ListenerRef,
        change: &ListenerChange,
    ) -> Result<Answered, ProviderError> {
        let id = self.listener(maker, listener).await?;
        match change {
            ListenerChange::Spec(spec, target_group) => {
                let target_group = self.find(maker, target_group, Kind::TargetGroup).await?;
                self.cloud.modify_listener(&id, spec, &target_group).await?;
            }
            ListenerChange::AddCertificates(arns) => self.cloud.add_listener_certificates(&id, arns).await?,
            ListenerChange::RemoveCertificates(arns) => {
                unless(self.cloud.remove_listener_certificates(&id, arns).await, Trouble::NotFound)?;
            }
            ListenerChange::Attributes(attributes) => {
                self.cloud.modify_listener_attributes(&id, attributes).await?;
            }
        }
        Ok(Answered::Done)
    }

    async fn listener(&self, maker: Maker<'_>, listener: &ListenerRef) -> Result<Id, ProviderError> {
        let ListenerRef { load_balancer, port, id } = listener;
        if let Some(id) = id {
            return Ok(id.clone());
        }
        let balancer = self.find(maker, load_balancer, Kind::LoadBalancer).await?;
        let all = self.cloud.listeners(&balancer).await?;
        let found = all.into_iter().find(|found| found.spec.port == *port).map(|found| found.id);
        found.ok_or_else(|| {
            ProviderError::unavailable("find a listener", format!("{listener} is not there (any more)"))
        })
    }
}

impl ListenerChange {
    pub(super) fn apply(&self, view: &mut View, listener: &ListenerRef) -> Option<()> {
        let ListenerRef { load_balancer, port, id: _ } = listener;
        let balancer = view.load_balancers.get_mut(&load_balancer.name)?;
        let extras = balancer.extras.as_mut();
        match self {
            Self::Spec(spec, target_group) => {
                let target_group = view.target_groups.get(&target_group.name)?.described.id.clone();
                let present = balancer.listeners.get_mut(port)?;
                // With another protocol AWS keeps some of the extras.
                if extras.is_some() && present.spec.protocol != spec.protocol {
                    return None;
                }
                (present.spec, present.group) = (spec.clone(), Some(target_group));
            }
            Self::AddCertificates(arns) => {
                extras?.get_mut(port)?.certificates.extend(arns.iter().cloned());
            }
            Self::RemoveCertificates(arns) => {
                extras?.get_mut(port)?.certificates.retain(|arn| !arns.contains(arn));
            }
            Self::Attributes(attributes) => extras?.get_mut(port)?.attributes.extend(attributes.clone()),
        }
        Some(())
    }
}

pub(super) fn created(view: &mut View, load_balancer: &Named, listener: Listener) -> Option<()> {
    let balancer = view.load_balancers.get_mut(&load_balancer.name)?;
    if let Some(extras) = &mut balancer.extras {
        extras.insert(listener.spec.port, ListenerExtras::default());
    }
    balancer.listeners.insert(listener.spec.port, listener);
    Some(())
}

pub(super) fn deleted(view: &mut View, id: &Id) {
    for Balancer { listeners, extras, .. } in view.load_balancers.values_mut() {
        listeners.retain(|_, listener| listener.id != *id);
        if let Some(extras) = extras {
            extras.retain(|port, _| listeners.contains_key(port));
        }
    }
}
