//! Load balancers: the calls that create and change one, each beside its effect on the cache.
//!
//! Owns: waiting for what AWS still holds of an older one. Leaves to others: its subnets (`place`), its listeners
//! (`listener`). Invariant: a load balancer is created under a name of the user's only where that name is free or ours.

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::{Outcome, ProviderError, Scheme};

use super::answered::Answered;
use super::{Called, Executor, Maker};
use crate::cloud::Trouble;
use crate::cloud::resources::{
    AddressType, Families, Id, Kind, LifeState, LoadBalancer, NewLoadBalancer, Subnet,
};
use crate::observed::{Balancer, Share, SyncedHash, View};
use crate::plan::Pace;
use crate::step::{LoadBalancerChange, Named, PlannedLoadBalancer};
use crate::tags;

/// Tries, some five minutes, after which an address in use counts as another owner's.
const PATIENCE: u32 = 12;

impl Executor<'_> {
    /// An address in use is waited for a while: AWS keeps those of a deleted load balancer.
    pub(super) async fn create_load_balancer(
        &self,
        maker: Maker<'_>,
        planned: &PlannedLoadBalancer,
    ) -> Called {
        let PlannedLoadBalancer { name, name_is_given, scheme, families, placement, security_groups, tags } =
            planned;
        // AWS answers a second creation like the first, also to another owner.
        if *name_is_given && self.find_by_name(maker, name, Kind::LoadBalancer, Some(tags)).await?.is_some() {
            return Ok((Outcome::Done, Answered::Found));
        }
        let new = NewLoadBalancer {
            name: name.clone(),
            scheme: *scheme,
            families: *families,
            subnets: self.place(*scheme, placement, Subnet::LEAST).await?,
            security_groups: self.find_all(maker, security_groups, Kind::SecurityGroup).await?,
            tags: tags.clone(),
        };
        let created = match self.cloud.create_load_balancer(&new).await {
            Err(error) if error.trouble == Trouble::Taken => {
                let tries = self.cache.held(maker.owner);
                let error = ProviderError::from(error);
                if tries >= PATIENCE {
                    return Err(error);
                }
                let what = format!("AWS to let go of what {name} needs ({error})");
                let retry = Pace(self.config.pace).wait(tries);
                return Ok((Outcome::InProgress { retry, what }, Answered::Refused));
            }
            created => created.map_err(|error| self.unless_ours(error, security_groups)),
        };
        let created = created.map(|it| (it.id.clone(), Answered::LoadBalancer(Box::new(it))));
        let answered = self.created(maker, (name, Kind::LoadBalancer), created, tags).await?;
        Ok((Outcome::Done, answered))
    }

    pub(super) async fn modify_load_balancer(
        &self,
        maker: Maker<'_>,
        named: &Named,
        change: &LoadBalancerChange,
    ) -> Result<Answered, ProviderError> {
        let id = self.find(maker, named, Kind::LoadBalancer).await?;
        match change {
            LoadBalancerChange::Attributes(attributes) => {
                self.cloud.modify_load_balancer_attributes(&id, attributes).await?;
            }
            LoadBalancerChange::Subnets { placement, source_nat } => {
                // Named ones, whatever the scheme.
                let subnets = self.place(Scheme::External, placement, 0).await?;
                let kind = AddressType::Dualstack;
                let families = source_nat.then_some(Families { kind, source_nat: true });
                self.cloud.set_subnets(&id, &subnets, families).await?;
            }
            LoadBalancerChange::Families(families, subnets) => {
                self.cloud.set_subnets(&id, subnets, Some(*families)).await?;
            }
            LoadBalancerChange::SecurityGroups(groups) => {
                let ids = self.find_all(maker, groups, Kind::SecurityGroup).await?;
                let set = self.cloud.set_security_groups(&id, &ids).await;
                set.map_err(|error| self.unless_ours(error, groups))?;
            }
            LoadBalancerChange::AddressType(kind) => self.cloud.set_address_type(&id, *kind).await?,
        }
        Ok(Answered::Done)
    }
}

impl LoadBalancerChange {
    pub(super) fn apply(&self, view: &mut View, named: &Named) -> Option<()> {
        let id_of = |group: &Named| {
            group.id.clone().or_else(|| Some(view.security_groups.get(&group.name)?.id.clone()))
        };
        match self {
            Self::Attributes(attributes) => {
                view.load_balancers.get_mut(&named.name)?.attributes.extend(attributes.clone());
            }
            Self::SecurityGroups(groups) => {
                let ids = groups.iter().map(id_of).collect::<Option<BTreeSet<Id>>>()?;
                view.load_balancers.get_mut(&named.name)?.described.security_groups = ids;
            }
            Self::AddressType(kind) => {
                view.load_balancers.get_mut(&named.name)?.described.families.kind = *kind;
            }
            // AWS chooses addresses and prefixes.
            Self::Subnets { .. } | Self::Families(..) => return None,
        }
        Some(())
    }
}

impl PlannedLoadBalancer {
    /// `None`: it is older than this step, and may differ from a new one.
    pub(super) fn created(&self, view: &mut View, described: LoadBalancer) -> Option<()> {
        let Self { name, tags, .. } = self;
        if described.state != LifeState::Provisioning {
            return None;
        }
        let balancer = Balancer {
            described,
            attributes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            extras: tags::has_extras(tags).then(BTreeMap::new),
            taken: BTreeMap::new(),
            shared: tags::group(tags).map(|group| Share { group, lead: tags::leader(tags) }),
            adopted: false,
            synced: SyncedHash::of(tags),
            polls: 0,
        };
        view.load_balancers.insert(name.clone(), balancer);
        Some(())
    }
}
