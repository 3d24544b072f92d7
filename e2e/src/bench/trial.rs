//! One subject at one size: started cold, measured, stopped, and its rules removed. Whatever goes wrong on the way, the testbed
//! is clean for the next subject.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use tokio::time::sleep;

use super::{
    client,
    footprint::{self, Memory},
    report::{Metric, Report},
    subject::{Subject, leftovers},
    testbed::Testbed,
};
use crate::process::{Crashes, Process};

mod pressure;

/// How many fillers a cold start waits for, the last one made included.
const SAMPLED: usize = 20;

/// How long a cold start may take.
const COLD_START_LIMIT: Duration = Duration::from_mins(10);

/// How long one endpoint change may take.
const PROGRAM_LIMIT: Duration = Duration::from_mins(1);

/// When this is over, a subject whose changes take seconds gets no more of them, if it had [`FEWEST_UPDATES`].
const PROGRAM_BUDGET: Duration = Duration::from_mins(3);

/// The fewest endpoint changes that are worth a percentile.
const FEWEST_UPDATES: usize = 10;

/// After a cold start, before memory is read; also more than the minimum sync period that follows the first sync.
const SETTLE: Duration = Duration::from_secs(2);

/// Pause between endpoint changes: at least the first, at most the sum. kube-proxy waits until 1 s has passed since its last
/// sync ended. A later change meets an idle proxy, which the bench measures.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1200), Duration::from_millis(500));

/// Length of one window of the closed loop. Many short ones: what else runs on the machine then spoils pairs, not the median.
const WINDOW: Duration = Duration::from_millis(100);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Endpoint changes to measure.
    pub updates: usize,
    /// Cold starts to measure, and restarts where the rules are right.
    pub cold_starts: usize,
    /// Pairs of windows of the closed loop.
    pub pairs: usize,
}

impl Effort {
    /// Spread over the three kinds of measurement from the number of endpoint changes.
    pub fn of(updates: usize) -> Self {
        Self { updates, cold_starts: (updates / 10).clamp(1, 3), pairs: updates.clamp(10, 50) }
    }
}

/// A subject on a testbed at a size.
pub struct Trial<'a> {
    /// Testbed of the trial.
    pub testbed: &'a Testbed,
    /// Measured node proxy.
    pub subject: Subject,
    /// At how many fillers.
    pub services: u32,
    /// Numbers of samples.
    pub effort: Effort,
}

impl Trial<'_> {
    /// Measures everything into `report`. An error is the subject's failure; what was measured before it stays.
    pub async fn run(&self, report: &mut Report) -> anyhow::Result<()> {
        self.testbed.point_probe(0).await?;
        for round in 1..=self.effort.cold_starts {
            let is_last = round == self.effort.cold_starts;
            let measured = self.life(is_last, report).await;
            let cleaned = self.clean_up(report).await;
            measured?;
            cleaned?;
        }
        Ok(())
    }

    /// One life of the process, from its cold start to its end; the last one has endpoint changes and connections in it.
    async fn life(&self, is_last: bool, report: &mut Report) -> anyhow::Result<()> {
        let (crashes, name) = (Crashes::new(), format!("{}-{}", self.subject, self.services));
        let targets = self.cold_targets();
        self.check_silence(&targets).await?;
        let Testbed { tools, home, .. } = self.testbed;
        let command = self.testbed.node_command(&self.subject.command(tools, &home.admin_kubeconfig()));
        let start = Instant::now();
        let process = Process::start(&name, command, &home.logs(), &crashes)?;
        let measured = crashes.or(self.measure(start, targets, &process, is_last, report)).await;
        process.stop().await?;
        measured?;
        let restarts = if is_last { self.effort.cold_starts } else { 0 };
        for _ in 0..restarts {
            self.restart(report).await?;
        }
        Ok(())
    }

    async fn measure(
        &self,
        start: Instant,
        targets: Vec<SocketAddr>,
        process: &Process,
        is_last: bool,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let ready = self
            .testbed
            .client
            .run(move || client::until_all_answer(&targets, start + COLD_START_LIMIT))
            .await?;
        let ready = ready
            .map_err(|silent| anyhow!("{silent} did not answer within {COLD_START_LIMIT:?} of the start"))?;
        self.add(report, Metric::ColdStart, [milliseconds(ready - start)]);
        self.forget_connections().await?;
        sleep(SETTLE).await;
        self.add(report, Metric::Resident, [Memory::of(process.pid())?.resident]);
        let received = self.watch_bytes(report).await?;
        if is_last {
            self.program(process, received, report).await?;
            self.churn(report).await?;
            self.rollout(report).await?;
            self.connect(report).await?;
        }
        self.add(report, Metric::ResidentPeak, [Memory::of(process.pid())?.peak]);
        Ok(())
    }

    /// Endpoint changes, one after the other, and the CPU time that they cost.
    async fn program(&self, process: &Process, received: u64, report: &mut Report) -> anyhow::Result<()> {
        let frontend = self.testbed.probe.frontend;
        let page = self.page().await?;
        let (before, phase) = (footprint::cpu_time(process.pid())?, Instant::now());
        let mut changes = 0;
        while changes < self.effort.updates && (changes < FEWEST_UPDATES || phase.elapsed() < PROGRAM_BUDGET)
        {
            changes += 1;
            let wanted = self.testbed.point_probe(changes % 2).await?;
            let accepted = Instant::now();
            let answered = move || client::until_answered_by(frontend, wanted, accepted + PROGRAM_LIMIT);
            let answered = self.testbed.client.run(answered).await?;
            let answered =
                answered.with_context(|| format!("an endpoint change took longer than {PROGRAM_LIMIT:?}"))?;
            self.add(report, Metric::Program, [milliseconds(answered - accepted)]);
            sleep(pause()).await;
        }
        let used = footprint::cpu_time(process.pid())?.saturating_sub(before).as_secs_f64();
        let per_thousand = 1000.0 / f64::from(u32::try_from(changes)?);
        self.add(report, Metric::Cpu, [used * per_thousand]);
        self.change_bytes(received, changes, report).await?;
        self.own_share(page.as_ref(), Metric::OwnShare, report).await
    }

    /// Windows of connections through Services and straight, in turn, so that what else the machine does meets both.
    async fn connect(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut targets = self.testbed.objects.sample(SAMPLED);
        targets.push(self.testbed.steady.clone());
        let frontends: Vec<SocketAddr> = targets.iter().map(|target| target.frontend).collect();
        let endpoints: Vec<SocketAddr> = targets.iter().flat_map(|target| target.endpoints.clone()).collect();
        let mut failures = 0;
        for _pair in 0..self.effort.pairs {
            let mut rates = [0.0; 2];
            let kinds = [
                (Metric::ConnectRate, Metric::ConnectTime, &frontends),
                (Metric::ConnectRateDirect, Metric::ConnectTimeDirect, &endpoints),
            ];
            for ((rate_metric, time_metric, targets), rate) in kinds.into_iter().zip(&mut rates) {
                let targets = targets.clone();
                let window = self.testbed.client.run(move || client::closed_loop(&targets, WINDOW)).await?;
                *rate = window.rate()?;
                failures += window.failures;
                self.add(report, rate_metric, [*rate]);
                self.add(report, time_metric, window.connects.iter().map(|took| took.as_secs_f64() * 1e6));
            }
            let [through, straight] = rates;
            self.add(report, Metric::ConnectRatio, [through / straight]);
        }
        if failures > 0 {
            report.remark(format!("{} at {}: {failures} connections failed", self.subject, self.services));
        }
        Ok(())
    }

    fn cold_targets(&self) -> Vec<SocketAddr> {
        let Testbed { objects, probe, steady, .. } = self.testbed;
        let fillers = objects.sample(SAMPLED).into_iter().map(|target| target.frontend);
        [steady.frontend, probe.frontend].into_iter().chain(fillers).collect()
    }

    /// A cold start is one only where no rule of an earlier proxy answers.
    async fn check_silence(&self, targets: &[SocketAddr]) -> anyhow::Result<()> {
        let targets = targets.to_vec();
        let limit = Duration::from_millis(50);
        let answers = move || targets.into_iter().find(|target| client::connect(*target, limit).is_ok());
        match self.testbed.client.run(answers).await? {
            Some(target) => bail!("{target} answers before {} has started", self.subject),
            None => Ok(()),
        }
    }

    /// Has the subject remove its rules, checks that, and takes what is left (base chains of iptables too).
    async fn clean_up(&self, report: &mut Report) -> anyhow::Result<()> {
        let command = self.subject.cleanup(&self.testbed.tools);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let done = self.testbed.on_node(&command).await;
        let rules = self.testbed.on_node(&["nft", "list", "ruleset"]).await?;
        let left = leftovers(&rules);
        if let Some(first) = left.first() {
            let said = done.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
            let (subject, services, count) = (self.subject, self.services, left.len());
            report.remark(format!(
                "{subject} at {services}: --cleanup left {count} lines, the first: {first}{said}"
            ));
        }
        self.testbed.on_node(&["nft", "flush", "ruleset"]).await?;
        self.forget_connections().await
    }

    /// Conntrack records connections from before the rules as not translated. A later one with the same source port would
    /// be taken for the same.
    async fn forget_connections(&self) -> anyhow::Result<()> {
        self.testbed.on_node(&["conntrack", "-F"]).await?;
        Ok(())
    }

    fn add(&self, report: &mut Report, metric: Metric, samples: impl IntoIterator<Item = f64>) {
        report.add(self.subject, self.services, metric, samples);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A random pause, so that changes do not fall into step with anybody's timer.
fn pause() -> Duration {
    let (least, spread) = PAUSE;
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or_default();
    least + spread * random / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_outlast_a_minimum_sync_period_of_a_second_and_differ() {
        let pauses: Vec<Duration> = (0..100).map(|_| pause()).collect();
        assert!(pauses.iter().all(|pause| *pause >= PAUSE.0 && *pause <= PAUSE.0 + PAUSE.1), "{pauses:?}");
        assert!(PAUSE.0 > Duration::from_secs(1));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    #[test]
    fn a_smoke_run_has_a_little_of_everything_and_a_full_one_enough() {
        assert_eq!(Effort::of(10), Effort { updates: 10, cold_starts: 1, pairs: 10 });
        assert_eq!(Effort::of(50), Effort { updates: 50, cold_starts: 3, pairs: 50 });
    }
}
