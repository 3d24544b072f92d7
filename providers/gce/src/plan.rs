//! The next steps for one Service: foundations, targets, frontends, and last the leftovers.
//!
//! Owns: the order of everything. Leaves to others: what should exist (`wanted`), which frontends serve
//! (`plan/frontend`), who may send (`plan/firewalls`), the calls (`provider`). Invariants: pure and total. While an operation is under way nothing else is begun. A stage
//! begins when nothing of the one before is left to do, so that what is referred to exists before what refers to it,
//! and goes after it. Nothing is taken away while anything is still to be added (law 2).

mod address;
pub(crate) mod draft;
mod firewalls;
pub(crate) mod frontend;
mod rules;
pub(crate) mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use portico_provider::{Desired, Effect, LoadBalancer, Obstacle, Owner, Plan, Scheme};

use crate::config::Config;
use crate::names::OF_INSTANCES;
use crate::observed::frontends::{ObservedFrontend, existing_frontends};
use crate::observed::{Observed, synced_hash};
use crate::plan::draft::Draft;
use crate::plan::frontend::Choice;
use crate::refused::Offer;
use crate::resource::{
    Address, BackendService, Backends, EndpointGroup, Firewall, Id, InstanceGroup, Kind, Place, Resource,
};
use crate::step::{Call, Step};
use crate::subset::Zones;
use crate::wanted::{Frontend, Source, Wanted, behind_desired, translate};

/// How soon to look again at an operation; GKE polls as often.
pub(crate) const POLL_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn plan(desired: Desired<'_>, observed: Option<&Observed>, config: &Config) -> Plan<Step> {
    let nothing = Observed::default();
    let observed = observed.unwrap_or(&nothing);
    match desired {
        Desired::Absent(owner) => absent(owner, observed),
        Desired::Present(desired) => match translate(desired, config) {
            Ok(wanted) => present(desired, wanted, observed, config),
            Err(obstacles) => obstacles
                .into_iter()
                .fold(Plan::nothing("the load balancer is as the Service asks"), |plan, (field, message)| {
                    plan.block(field, Obstacle::Unsupported, message)
                }),
        },
    }
}

fn absent(owner: &Owner, observed: &Observed) -> Plan<Step> {
    let plan = Plan::nothing("there is nothing to delete");
    if let Some(operation) = observed.running() {
        return plan.wait(format!("{} of {}", operation.verb, operation.target), POLL_AFTER);
    }
    let mut draft = Draft::new(owner, observed);
    // Whoever goes last takes what is everybody's along.
    let shared = |id: &Id| id.kind == Kind::InstanceGroup && observed.shared.others;
    let held = held_back(observed);
    let free = |id: &&Id| !observed.is_referred_to(id) && !shared(id) && !held.contains(id);
    for id in observed.resources.keys().filter(free) {
        draft.delete(id.clone(), "the Service wants none any more");
    }
    if draft.is_empty() && !held.is_empty() {
        // Refused by its name and with the remedy, until somebody has put it right.
        for id in &observed.lost {
            draft.delete(id.clone(), "it stands under this Service's name, and has lost its description");
        }
    }
    draft.finish(plan)
}

/// What stays until somebody has put right what lost its description: all that it may refer to, and one thing at least, so
/// that the Service is not gone before that is told.
fn held_back(observed: &Observed) -> BTreeSet<&Id> {
    let refers = |id: &Id| matches!(id.kind, Kind::ForwardingRule | Kind::BackendService);
    let own = || observed.resources.keys().filter(|id| id.kind != Kind::InstanceGroup);
    if observed.lost.is_empty() {
        return BTreeSet::new();
    }
    let referred = |id: &&Id| !matches!(id.kind, Kind::ForwardingRule | Kind::Firewall);
    let one = own().max_by_key(|id| id.kind == Kind::HealthCheck);
    let kept = own().filter(|id| observed.lost.iter().any(refers) && referred(id));
    kept.chain(one).collect()
}

fn present(desired: &LoadBalancer, mut wanted: Wanted, observed: &Observed, config: &Config) -> Plan<Step> {
    let choices = frontend::choose(desired, &wanted, observed);
    let mut plan = Plan::nothing("the load balancer is as the Service asks");
    for (field, obstacle, message) in choices.iter().filter_map(|choice| choice.refused.clone()) {
        plan = plan.block(field, obstacle, message);
    }
    let asked = scheme_of(&wanted);
    wanted.frontends = choices.into_iter().filter_map(|Choice { frontend, refused: _ }| frontend).collect();
    if wanted.frontends.is_empty() {
        return plan;
    }
    let scheme = scheme_of(&wanted);
    let backends = backends(observed, config);
    let counting = targets::serving_scheme(observed).unwrap_or(scheme);
    if counting != asked || backends != wanted.groups.backends {
        (wanted.groups, wanted.zones) = behind_desired(desired, backends, counting, &config.region);
    }
    if wanted.zones.is_empty() {
        // Without nodes the groups stay, empty: a patch cannot leave a backend service without any.
        let groups = observed.resources.keys().filter(|id| id.kind == backends.kind());
        wanted.zones = groups.filter_map(|id| Some((id.zone.clone()?, BTreeSet::new()))).collect();
    }
    wanted.global_access &= scheme == Scheme::Internal;
    if let Some(operation) = observed.running() {
        return plan.wait(format!("{} of {}", operation.verb, operation.target), POLL_AFTER);
    }
    let all = wanted.zones.clone();
    wanted.zones = observed.without_refused(&wanted.groups, &all);
    let stages = Stages { desired, wanted: &wanted, all: &all, observed, config };
    if !observed.is_listed()
        && ![&wanted.zones, &all].iter().any(|zones| observed.holds(&wanted.groups, zones))
    {
        return plan.wait("a look at the nodes in its endpoint groups", POLL_AFTER);
    }
    let mut draft = Draft::new(&desired.owner, observed);
    for stage in Stage::IN_ORDER {
        stages.draft(stage, &mut draft);
        if !draft.is_empty() {
            return draft.finish(plan);
        }
    }
    stages.wait_for_refused(stages.wait_for_status(plan))
}

/// Its kind of backends, for as long as it exists: a backend service cannot change it.
pub(crate) fn backends(observed: &Observed, config: &Config) -> Backends {
    observed.services().next().map_or(config.backends, |service| service.backends)
}

/// That of every frontend.
fn scheme_of(wanted: &Wanted) -> Scheme {
    wanted.frontends.first().map_or(Scheme::External, |frontend| frontend.scheme)
}

/// Steps that belong together; each stage needs the resources of those before it.
#[derive(Clone, Copy)]
enum Stage {
    Foundations,
    Targets,
    Frontends,
    Outsiders,
    MarkSynced,
    RemoveOld,
    Leftovers,
}

impl Stage {
    const IN_ORDER: [Self; 7] = [
        Self::Foundations,
        Self::Targets,
        Self::Frontends,
        Self::Outsiders,
        Self::MarkSynced,
        Self::RemoveOld,
        Self::Leftovers,
    ];
}

/// The arguments of every stage.
struct Stages<'a> {
    desired: &'a LoadBalancer,
    wanted: &'a Wanted,
    /// The nodes, with those that Google refused.
    all: &'a Zones,
    observed: &'a Observed,
    config: &'a Config,
}

impl Stages<'_> {
    fn draft(&self, stage: Stage, draft: &mut Draft<'_>) {
        match stage {
            Stage::Foundations => self.foundations(draft),
            Stage::Targets => self.targets(draft),
            Stage::Frontends => self.frontends(draft),
            Stage::Outsiders => self.outsiders(draft),
            Stage::MarkSynced => self.mark_synced(draft),
            Stage::RemoveOld => self.remove_old(draft),
            Stage::Leftovers => self.leftovers(draft),
        }
    }

    fn part(&self, part: &str) -> String {
        self.wanted.names.part(part)
    }

    fn place(&self) -> Place {
        Place { network: self.config.network.clone(), subnetwork: self.config.subnetwork.clone() }
    }

    fn service_name(&self) -> String {
        let scheme = match scheme_of(self.wanted) {
            Scheme::External => "ext",
            Scheme::Internal => "int",
        };
        match self.wanted.groups.backends {
            Backends::EndpointGroups => self.part(scheme),
            Backends::InstanceGroups => self.part(&format!("{scheme}{OF_INSTANCES}")),
        }
    }

    fn group(&self, zone: &str) -> Id {
        self.wanted.groups.in_zone(zone)
    }

    /// Resources that refer to no other.
    fn foundations(&self, draft: &mut Draft<'_>) {
        let check = Resource::HealthCheck(self.wanted.check.clone());
        if !self.observed.resources.contains_key(&check.id()) {
            draft.ensure(check);
        }
        for zone in self.wanted.zones.keys() {
            let (name, zone) = (self.wanted.groups.name.clone(), zone.clone());
            draft.ensure(match self.wanted.groups.backends {
                Backends::EndpointGroups => {
                    Resource::EndpointGroup(EndpointGroup { name, zone, place: self.place() })
                }
                Backends::InstanceGroups => Resource::InstanceGroup(InstanceGroup { name, zone }),
            });
        }
        for frontend in &self.wanted.frontends {
            draft.ensure(Resource::Firewall(self.widened(self.probes(frontend))));
            self.address(frontend, draft);
        }
    }

    fn address(&self, frontend: &Frontend, draft: &mut Draft<'_>) {
        let name = self.part(&format!("{}-ip", frontend.id));
        let id = Id { kind: Kind::Address, zone: None, name: name.clone() };
        if !frontend.reserves() || self.observed.resources.contains_key(&id) {
            return;
        }
        let address = |ip| {
            Resource::Address(Address {
                name: name.clone(),
                family: frontend.family,
                collection: frontend.collection.clone(),
                shareable: true,
                scheme: frontend.scheme,
                tier: frontend.tier,
                subnetwork: frontend.subnetwork.clone(),
                ip,
            })
        };
        match (&frontend.source, frontend::claim(self.desired, frontend, self.observed)) {
            (Source::Exactly(ip), _) => draft.insert(address(Some(*ip)), "the Service asks for it"),
            // Refused once: whatever had it, has it still.
            (_, Some(ip)) if self.observed.failure(&id).is_none() => {
                draft.insert_or(address(Some(ip)), address(None), "clients know it");
            }
            (_, Some(_)) => draft.insert_anew(address(None), "the one that clients know cannot be had"),
            (_, None) => draft.insert(address(None), "there is none"),
        }
    }

    /// Nodes into their groups, and groups into the backend service. Nothing leaves it here.
    fn targets(&self, draft: &mut Draft<'_>) {
        // Asks another port only once probes may go there.
        draft.ensure(Resource::HealthCheck(self.wanted.check.clone()));
        let mut groups: BTreeSet<(String, String)> =
            self.wanted.zones.keys().map(|zone| (zone.clone(), self.wanted.groups.name.clone())).collect();
        for (zone, endpoints) in &self.wanted.zones {
            let id = self.group(zone);
            let present = self.observed.endpoints.get(&id);
            // Not listed, but there is a group: its seal says that they are in it.
            let synced = present.is_none() && self.observed.resources.contains_key(&id);
            let missing = endpoints.iter().filter(|it| !present.is_some_and(|all| all.contains_key(*it)));
            draft.attach(id, missing.filter(|_| !synced).cloned().collect());
        }
        let service = self.service(&groups);
        let kept = self.present_service();
        groups.extend(kept.into_iter().flat_map(|existing| existing.groups.iter().cloned()));
        draft.ensure(Resource::BackendService(BackendService { groups, ..service }));
    }

    fn service(&self, groups: &BTreeSet<(String, String)>) -> BackendService {
        let scheme = scheme_of(self.wanted);
        BackendService {
            name: self.service_name(),
            scheme,
            network: (scheme == Scheme::Internal).then(|| self.config.network.clone()),
            affinity: self.wanted.affinity,
            weighted: self.wanted.weighted,
            health_check: self.wanted.check.name.clone(),
            backends: self.wanted.groups.backends,
            groups: groups.clone(),
            synced_hash: self.present_service().and_then(|service| service.synced_hash.clone()),
        }
    }

    fn present_service(&self) -> Option<&BackendService> {
        let name = self.service_name();
        self.observed.services().find(|service| service.name == name)
    }

    /// Writes down which nodes are in the groups, so that nobody needs to read them after a restart: when all that
    /// are wanted are in, and before others leave.
    fn mark_synced(&self, draft: &mut Draft<'_>) {
        // The instances of groups that all share are read once for all.
        if self.wanted.groups.backends == Backends::InstanceGroups {
            return;
        }
        let synced_hash = Some(synced_hash(&self.wanted.zones));
        if let Some(service) = self.present_service().filter(|service| service.synced_hash != synced_hash) {
            draft.note(Resource::BackendService(BackendService { synced_hash, ..service.clone() }));
        }
    }

    /// Senders in, and a rule for each port that none forwards yet.
    fn frontends(&self, draft: &mut Draft<'_>) {
        for frontend in &self.wanted.frontends {
            if let Some(exact) = self.allow(frontend) {
                draft.ensure(Resource::Firewall(self.widened(exact)));
            }
            let (place, service) = (self.place(), self.service_name());
            for rule in rules::missing(self.wanted, frontend, self.observed, place, &service) {
                draft.insert(Resource::ForwardingRule(rule), "no rule forwards these ports yet");
            }
            for rule in rules::of(frontend, self.observed) {
                if self.wanted.global_access && !rule.global_access {
                    draft.ensure(Resource::ForwardingRule(rules::with_access(rule, true)));
                }
            }
        }
    }

    /// Takes away what no longer belongs to things that stay.
    fn remove_old(&self, draft: &mut Draft<'_>) {
        self.old_rules(draft);
        for frontend in &self.wanted.frontends {
            self.restrict_firewalls(frontend, draft);
            for rule in rules::of(frontend, self.observed) {
                if rule.global_access && !self.wanted.global_access {
                    draft.shrink(Resource::ForwardingRule(rules::with_access(rule, false)));
                }
            }
        }
        let staffed = targets::is_staffed(self.observed, &self.wanted.groups, self.all);
        for (zone, endpoints) in &self.wanted.zones {
            let id = self.group(zone);
            let present = self.observed.endpoints.get(&id).into_iter().flat_map(|all| all.keys());
            // Whoever is to take their place was refused: they serve as well as they can.
            let present = present.filter(|_| staffed);
            let gone = present.filter(|it| !endpoints.contains(*it)).cloned().collect();
            draft.detach(id.clone(), gone);
        }
        let name = &self.wanted.groups.name;
        let groups = self.wanted.zones.keys().map(|zone| (zone.clone(), name.clone())).collect();
        draft.shrink(Resource::BackendService(self.service(&groups)));
    }

    /// Rules that forward nothing that is wanted, and rules of a replaced frontend that no client is told of any more.
    fn old_rules(&self, draft: &mut Draft<'_>) {
        let published = self.desired.published_ips();
        for other in existing_frontends(self.observed) {
            let replaced = self.is_replaced(&other);
            for rule in other.rules {
                let useful =
                    self.wanted.ports.iter().any(|(protocol, port)| rule.forwards.covers(*protocol, *port));
                let id = Resource::ForwardingRule(rule.clone()).id();
                if replaced && !published.contains(&other.ip) {
                    draft.delete(id, "it is replaced, and the Service's status does not show its address");
                } else if !replaced && !useful {
                    draft.delete(id, "the Service has none of its ports any more");
                }
            }
        }
    }

    /// Deletes what nothing refers to and nobody wants.
    fn leftovers(&self, draft: &mut Draft<'_>) {
        let frontends = &self.wanted.frontends;
        let kept: BTreeSet<String> = frontends
            .iter()
            .map(|it| self.part(&format!("{}-ip", it.id)))
            .chain(frontends.iter().flat_map(|it| self.firewall_names(it.family)))
            .collect();
        for (id, resource) in &self.observed.resources {
            let wanted = match resource {
                Resource::HealthCheck(_) | Resource::ForwardingRule(_) => true,
                Resource::BackendService(service) => service.name == self.service_name(),
                Resource::EndpointGroup(group) => self.wanted.zones.contains_key(&group.zone),
                Resource::InstanceGroup(group) => {
                    self.wanted.groups.backends == Backends::EndpointGroups
                        || self.wanted.zones.contains_key(&group.zone)
                }
                Resource::Address(Address { name, .. }) | Resource::Firewall(Firewall { name, .. }) => {
                    kept.contains(name)
                }
            };
            if !wanted && !self.observed.is_referred_to(id) {
                draft.delete(id.clone(), "nothing uses it any more");
            }
        }
    }

    fn is_replaced(&self, other: &ObservedFrontend<'_>) -> bool {
        !self.wanted.frontends.iter().any(|wanted| wanted.id == other.id)
    }

    /// For nodes that this Service is to offer again.
    fn wait_for_refused(&self, plan: Plan<Step>) -> Plan<Step> {
        let refused = self.observed.lacks(&self.wanted.groups, self.all);
        let waits = refused.into_iter().filter_map(|((_, node), refusal)| match refusal.offer {
            Offer::After(pause) => Some((pause, node.instance.as_str())),
            Offer::Now | Offer::ByAnother => None,
        });
        match (plan.waiting(), waits.min()) {
            (None, Some((pause, node))) => {
                plan.wait(format!("Google to take node {node}, which it refuses"), pause)
            }
            _ => plan,
        }
    }

    fn wait_for_status(&self, plan: Plan<Step>) -> Plan<Step> {
        let published = self.desired.published_ips();
        let old = existing_frontends(self.observed)
            .into_iter()
            .find(|other| self.is_replaced(other) && published.contains(&other.ip));
        match old {
            Some(other) => plan.wait(
                format!("the Service's status to show the new address instead of {}", other.ip),
                POLL_AFTER,
            ),
            None => plan,
        }
    }
}

/// Whether a plan has nothing left to add but nodes, which come and go, and what is written down of them.
pub(crate) fn only_removes(plan: &Plan<Step>, observed: &Observed) -> bool {
    let is_note = |changed: &Resource| match (changed, observed.resources.get(&changed.id())) {
        (Resource::BackendService(new), Some(Resource::BackendService(old))) => {
            BackendService { synced_hash: None, ..new.clone() }
                == BackendService { synced_hash: None, ..old.clone() }
        }
        _ => false,
    };
    let about_nodes = |step: &Step| match &step.call {
        Call::Attach { .. } => true,
        Call::Patch(changed) => is_note(changed),
        Call::Insert { .. } | Call::Delete(_) | Call::Detach { .. } => false,
    };
    plan.steps().iter().all(|planned| planned.effect == Effect::Destructive || about_nodes(&planned.step))
}
