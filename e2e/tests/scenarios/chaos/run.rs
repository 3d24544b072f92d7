//! One cloud's chaos, from a full account to the same account.
//!
//! Owns: the order of things, and what must hold at the end. Leaves to others: the operator's life (`operator`), accounts
//! (`account`), what is wanted (`desired`). Invariants: nothing is checked while faults are on; a wait ends by success
//! or by its deadline, with the last reason why not.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use portico_e2e::{
    account::Account,
    cloud::{
        Cloud, FaultProxy, Faults, Limits, Moment, Place,
        faults::{Dice, Fate},
        free_address,
    },
    cluster::Cluster,
};
use tokio::time::{sleep, timeout};

use super::{
    Fixture,
    account::{CloudAccount, Owned, Things},
    desired::{Desired, Transport},
    heartbeat::Heartbeat,
    operator::Operator,
};

/// How long all Services may take to converge once the faults are off, on two busy cores.
const CONVERGED: Duration = Duration::from_mins(8);
/// How often the operator is killed, each time in the middle of a write.
const KILLS: usize = 5;
/// Services on each cloud, where `PORTICO_CHAOS_SERVICES` says nothing: a hundred in all.
const SERVICES: u64 = 50;
/// Other people's load balancers.
const STRANGERS: usize = 12;

/// Runs the chaos on one cloud.
pub(crate) async fn play(cloud: Cloud, fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = &*fixture.shared.cluster;
    let logs = cluster.home().logs();
    let place = Place { logs: &logs, crashes: cluster.crashes(), address: None };
    let account = CloudAccount::start(cloud, cluster.tools(), &place).await?;
    let seed = number("PORTICO_CHAOS_SEED", 1)?;
    let proxy = FaultProxy::start(free_address()?, &account.url(), seed).await?;
    let mut chaos = Chaos {
        cluster,
        services: fixture.api(),
        operator: Operator::new(cluster, &account, &proxy.url())?,
        proxy,
        account,
        dice: Dice::of(seed ^ u64::from(cloud == Cloud::Gce)),
        desired: BTreeMap::new(),
        kills: 0,
    };
    let count = usize::try_from(number("PORTICO_CHAOS_SERVICES", SERVICES)?)?;
    say(format!("chaos: {cloud}: {count} Services, PORTICO_CHAOS_SEED={seed}"));
    let ended = chaos.run(&fixture.namespace, count).await;
    if ended.is_err() {
        say(format!("chaos: {cloud}: calls by kind\n{}", chaos.proxy.counts()));
    }
    chaos.operator.stop().await?;
    ended
}

/// A line for people; libtest's own output goes to the same place.
fn say(line: impl std::fmt::Display) {
    Account::new().line(line);
}

fn number(name: &str, otherwise: u64) -> anyhow::Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is no number")),
        Err(_unset) => Ok(otherwise),
    }
}

struct Chaos<'a> {
    cluster: &'a Cluster,
    services: Api<Service>,
    operator: Operator<'a>,
    proxy: FaultProxy,
    account: CloudAccount,
    dice: Dice,
    desired: BTreeMap<String, Desired>,
    kills: usize,
}

impl Chaos<'_> {
    async fn run(&mut self, namespace: &str, count: usize) -> anyhow::Result<()> {
        let (cloud, began) = (self.account.cloud(), Instant::now());
        let nodes = self.account.add_nodes(4).await?;
        let _kept_ready = Heartbeat::start(self.cluster.client(), nodes).await?;
        self.account.add_strangers(namespace, STRANGERS).await?;
        let before = self.account.things().await?;

        self.proxy.set(faults());
        self.operator.start()?;
        self.churn(count).await?;
        self.half_shown().await?;
        let (chaotic, calm) = (began.elapsed(), Instant::now());
        self.proxy.set(Faults::none());
        self.converges("every Service as wanted", async |it| it.as_wanted(&before).await).await?;
        let converged = calm.elapsed();

        self.proxy.set(faults());
        self.delete_all().await?;
        self.kill_in_the_middle().await?;
        sleep(Duration::from_secs(3)).await; // some deletions meet faults before these end
        self.proxy.set(Faults::none());
        self.converges("nothing left", async |it| it.nothing_left(&before).await).await?;
        let violations = self.account.violations().await?;
        ensure!(
            violations.is_empty(),
            "messages that the discovery document does not allow: {violations:#?}"
        );

        let counts = self.proxy.counts();
        let met = |fate| counts.met(fate);
        let dropped = met(Fate::DroppedBefore) + met(Fate::DroppedAfter);
        say(format!(
            "chaos: {cloud} {count} Services, {} calls, {} throttled, {} errors, {dropped} dropped, {} stale, {} kills: \
             nothing leaked ({:.0} s of chaos, converged {:.0} s later, {:.0} s in all)",
            counts.calls(),
            met(Fate::Throttled),
            met(Fate::Failed),
            met(Fate::Stale),
            self.kills,
            chaotic.as_secs_f32(),
            converged.as_secs_f32(),
            began.elapsed().as_secs_f32(),
        ));
        Ok(())
    }

    /// Creations, changes and deletions in random order, with the operator killed at writes in between.
    async fn churn(&mut self, count: usize) -> anyhow::Result<()> {
        let (mut made, mut acts) = (0, 0);
        let all = count * 7 / 4; // besides making each, three changes or deletions for four Services
        while made < count || acts < all {
            let alive: Vec<String> = self.desired.keys().cloned().collect();
            match self.dice.below(7) {
                0..4 if made < count => {
                    let desired = Desired::new(made, &mut self.dice);
                    made += 1;
                    self.apply(desired).await?;
                }
                4 if !alive.is_empty() => {
                    let name = &alive[usize::try_from(self.dice.below(alive.len() as u64))?];
                    self.desired.remove(name);
                    self.services.delete(name, &DeleteParams::default()).await?;
                }
                5.. if !alive.is_empty() => {
                    let name = &alive[usize::try_from(self.dice.below(alive.len() as u64))?];
                    let desired = self.desired[name].changed(&mut self.dice);
                    self.apply(desired).await?;
                }
                _ => continue,
            }
            acts += 1;
            if acts % (all / (KILLS - 1)).max(1) == 0 {
                self.kill_in_the_middle().await?;
            }
            sleep(Duration::from_millis(self.dice.below(200))).await;
        }
        Ok(())
    }

    /// Until half of what is wanted is there: else most work would be done when the faults are off.
    async fn half_shown(&self) -> anyhow::Result<()> {
        let half = self.desired.values().filter(|desired| desired.balanced).count() / 2;
        self.converges("half of the Services", async |it| {
            let services = it.services.list(&ListParams::default()).await?;
            let shown = services.iter().filter(|service| !ingress(service).is_empty()).count();
            ensure!(shown >= half, "{shown} of {half} Services show an address");
            Ok(())
        })
        .await
    }

    async fn apply(&mut self, desired: Desired) -> anyhow::Result<()> {
        let manifest = desired.manifest(self.account.cloud());
        let params = PatchParams::apply("chaos").force();
        let patched = self.services.patch(&desired.name, &params, &Patch::Apply(manifest)).await;
        patched.with_context(|| format!("applying {}", desired.name))?;
        self.desired.insert(desired.name.clone(), desired);
        Ok(())
    }

    async fn delete_all(&mut self) -> anyhow::Result<()> {
        let mut names: Vec<String> = std::mem::take(&mut self.desired).into_keys().collect();
        while !names.is_empty() {
            let name = names.swap_remove(usize::try_from(self.dice.below(names.len() as u64))?);
            self.services.delete(&name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// SIGKILL just before or after one of the next writes took effect, and a new start.
    async fn kill_in_the_middle(&mut self) -> anyhow::Result<()> {
        let moment = if self.dice.hits(500) { Moment::Before } else { Moment::After };
        let mut trap = self.proxy.trap(1 + self.dice.below(15), moment);
        // Where there is nothing left to write, it is killed at rest.
        let sprung = async { Ok(timeout(Duration::from_secs(10), trap.sprung()).await.is_ok()) };
        self.operator.while_running(sprung).await?;
        self.operator.kill().await?;
        drop(trap);
        self.kills += 1;
        self.operator.start()
    }

    async fn converges(
        &self,
        what: &str,
        check: impl AsyncFn(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + CONVERGED;
        let watched = async {
            while let Err(not_yet) = check(self).await {
                if Instant::now() >= deadline {
                    let metrics = self.operator.metrics().await.unwrap_or_default();
                    say(format!("the operator's metrics:\n{metrics}"));
                    return Err(not_yet.context(format!("{what}: not within {CONVERGED:?}")));
                }
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        self.cluster.crashes().or(self.operator.while_running(watched)).await
    }

    /// Each Service has what it wants and shows it; others have what they had.
    async fn as_wanted(&self, before: &Things) -> anyhow::Result<()> {
        let services = self.services.list(&ListParams::default()).await?;
        ensure!(
            services.items.len() == self.desired.len(),
            "{} Services of {}",
            services.items.len(),
            self.desired.len()
        );
        self.shown(&services.items)?;
        let things = self.account.things().await?;
        let mut wrong = Vec::new();
        let mut owned_by_all = 0;
        for service in &services {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let desired = self.desired.get(name).with_context(|| format!("{name} should be gone"))?;
            let owned = self.account.owned(&things, service.metadata.uid.as_deref().unwrap_or_default())?;
            owned_by_all += owned.balancers.len();
            if let Err(error) = is_as_wanted(desired, service, &owned) {
                wrong.push(format!("{name}: {error:#}; {}", condition(service)));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} Services:\n{}",
            wrong.len(),
            services.items.len(),
            wrong.join("\n")
        );
        unchanged(before, &things)?;
        let wanted = self.desired.values().filter(|desired| desired.balanced).count();
        ensure!(owned_by_all == wanted, "{owned_by_all} load balancers for {wanted} Services");
        self.nobody_elses(before, &things, &services.items)
    }

    /// Each Service shows an address, or none: asked first, because reading an account costs its emulator a lot.
    fn shown(&self, services: &[Service]) -> anyhow::Result<()> {
        let late = services.iter().filter(|service| {
            let desired = service.metadata.name.as_ref().and_then(|name| self.desired.get(name));
            desired.is_some_and(|desired| ingress(service).is_empty() == desired.balanced)
        });
        let late: Vec<String> = late.map(|it| format!("{:?}: {}", it.metadata.name, condition(it))).collect();
        ensure!(late.is_empty(), "{} Services show not what they want:\n{}", late.len(), late.join("\n"));
        Ok(())
    }

    /// Checks that everything new in the account belongs to a Service that lives.
    fn nobody_elses(&self, before: &Things, now: &Things, services: &[Service]) -> anyhow::Result<()> {
        let new = now.keys().filter(|id| !before.contains_key(*id)).count();
        let mut owned = 0;
        for service in services {
            let has = self.account.owned(now, service.metadata.uid.as_deref().unwrap_or_default())?;
            owned += has.others + rules_or_balancers(&self.account, now, service);
        }
        ensure!(new == owned, "{new} things are new, and {owned} of them belong to a Service that lives");
        Ok(())
    }

    async fn nothing_left(&self, before: &Things) -> anyhow::Result<()> {
        let services = self.services.list(&ListParams::default()).await?;
        let left: Vec<String> =
            services.iter().map(|it| format!("{:?}: {}", it.metadata.name, condition(it))).collect();
        ensure!(left.is_empty(), "{} Services have finalizers left:\n{}", left.len(), left.join("\n"));
        let now = self.account.things().await?;
        unchanged(before, &now)?;
        let new: Vec<&String> = now.keys().filter(|id| !before.contains_key(*id)).collect();
        ensure!(new.is_empty(), "leaked: {new:#?}");
        Ok(())
    }
}

/// How many of the things in an account are the Service's load balancers (AWS) or forwarding rules (GCE).
fn rules_or_balancers(account: &CloudAccount, now: &Things, service: &Service) -> usize {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let one = |id: &String, thing: &serde_json::Value| {
        let alone = Things::from([(id.clone(), thing.clone())]);
        account.owned(&alone, uid).is_ok_and(|owned| !owned.balancers.is_empty())
    };
    now.iter().filter(|(id, thing)| one(id, thing)).count()
}

/// Addresses in a Service's status.
fn ingress(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.clone()).unwrap_or_default();
    ingress.into_iter().filter_map(|it| it.hostname.or(it.ip)).collect()
}

/// Faults as a bad day has them, and worse.
fn faults() -> Faults {
    // Faster than documented, as a test has less time; with smaller bursts, so that throttling is met all the same.
    let mut limits = Limits::documented().times(3.0);
    for rate in
        [&mut limits.elb_reads, &mut limits.elb_writes, &mut limits.compute_reads, &mut limits.compute_writes]
    {
        rate.burst = 20.0;
    }
    Faults {
        throttle: Some(limits),
        errors: 30,
        drops_before: 10,
        drops_after: 10,
        stale: 150,
        stale_ms: 5_000,
        delays: 50,
        delay_ms: 500,
    }
}

fn is_as_wanted(desired: &Desired, service: &Service, owned: &Owned) -> anyhow::Result<()> {
    let Desired { name: _, balanced, ports, internal, .. } = desired;
    let shown = ingress(service);
    let has_finalizer = service.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    if !balanced {
        ensure!(*owned == Owned::default(), "wants nothing and has {owned:?}");
        ensure!(shown.is_empty() && !has_finalizer, "wants nothing and shows {shown:?}");
        return Ok(());
    }
    let Owned { balancers, ports: listens, others } = owned;
    let there: Vec<&String> = balancers.keys().collect();
    ensure!(
        shown.len() == 1 && there == shown.iter().collect::<Vec<_>>(),
        "shows {shown:?} and has {there:?}"
    );
    ensure!(balancers.values().all(|is| is == internal), "internal: {internal}, and has {balancers:?}");
    ensure!(
        listens.is_superset(ports) && spare(listens, ports) == 0,
        "wants {ports:?}, listens on {listens:?}"
    );
    ensure!(*others > 0 && has_finalizer, "has nothing behind its load balancer, or no finalizer");
    Ok(())
}

/// Listeners beyond the desired ports. On GCE a rule stays while any of its ports is wanted; the firewall shuts the others, so
/// only an undesired protocol counts.
fn spare(
    listens: &std::collections::BTreeSet<(u16, Transport)>,
    ports: &std::collections::BTreeSet<(u16, Transport)>,
) -> usize {
    let protocols = |all: &std::collections::BTreeSet<(u16, Transport)>| {
        all.iter().map(|(_, transport)| *transport).collect::<std::collections::BTreeSet<_>>()
    };
    protocols(listens).difference(&protocols(ports)).count()
}

fn condition(service: &Service) -> String {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let texts =
        conditions.iter().map(|it| format!("{}={} {}: {}", it.type_, it.status, it.reason, it.message));
    texts.collect::<Vec<_>>().join("; ")
}

/// Everything that was there is there as it was.
fn unchanged(before: &Things, now: &Things) -> anyhow::Result<()> {
    for (id, thing) in before {
        match now.get(id) {
            None => bail!("{id} of others is gone"),
            Some(found) if found != thing => bail!("{id} of others was {thing} and is {found}"),
            Some(_) => {}
        }
    }
    Ok(())
}
