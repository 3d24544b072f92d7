//! The phases of a trial in which much happens: endpoint changes by the hundred, a rollout under traffic, a restart. Owns what
//! is measured in them and how.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use super::{COLD_START_LIMIT, PROGRAM_LIMIT, Trial, milliseconds};
use crate::{
    bench::{
        churn, client,
        exposition::Page,
        report::{Metric, Report},
        subject::Subject,
        traffic,
    },
    process::{Crashes, Process},
};

/// Address of every subject's metrics.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10249);
/// Portico's own measure of a change.
const OWN_SHARE: &str = "portico_nodeproxy_event_duration_seconds";
/// Portico's counter of writes to the kernel.
const CHANGES: &str = "portico_nodeproxy_changes_total";
/// How long endpoints churn.
const CHURN: Duration = Duration::from_secs(15);
/// Endpoint changes of the probe that are measured meanwhile.
const SAMPLES: usize = 10;
/// How long one of those may take before the churn is over anyway.
const GIVE_UP: Duration = Duration::from_mins(2);
/// Pause between two reads of a process that starts.
const PAUSE: Duration = Duration::from_millis(5);

impl Trial<'_> {
    /// The subject's metrics now; none of a subject that has no measure of its own share.
    pub(super) async fn page(&self) -> anyhow::Result<Option<Page>> {
        if self.subject != Subject::Portico {
            return Ok(None);
        }
        let page = self.testbed.node.run(|| Page::fetch(METRICS)).await?;
        page.map(Some).context("fetching the proxy's metrics")
    }

    /// Adds the proxy's own times of the changes since `before`, in microseconds.
    pub(super) async fn own_share(
        &self,
        before: Option<&Page>,
        metric: Metric,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        if let (Some(before), Some(now)) = (before, self.page().await?) {
            let micros = now.observed_since(before, OWN_SHARE).into_iter().map(|seconds| seconds * 1e6);
            self.add(report, metric, micros);
        }
        Ok(())
    }

    /// Measures the probe while the fillers' endpoints change a hundred times a second.
    pub(super) async fn churn(&self, report: &mut Report) -> anyhow::Result<()> {
        if self.services == 0 {
            return Ok(());
        }
        let before = self.page().await?;
        let sampling = async {
            for sample in 0..SAMPLES {
                sleep(CHURN / u32::try_from(SAMPLES + 1)?).await;
                let wanted = self.testbed.point_probe((sample + 1) % 2).await?;
                let (accepted, frontend) = (Instant::now(), self.testbed.probe.frontend);
                let limit = accepted + PROGRAM_LIMIT.min(GIVE_UP);
                let answered = self
                    .testbed
                    .client
                    .run(move || client::until_answered_by(frontend, wanted, limit))
                    .await?;
                let answered = answered.context("an endpoint change during the churn took too long")?;
                self.add(report, Metric::ProgramChurn, [milliseconds(answered - accepted)]);
            }
            anyhow::Ok(())
        };
        let (churned, sampled) = tokio::join!(churn::churn(&self.testbed.objects, CHURN), sampling);
        let changes = churned?;
        let rate = f64::from(u32::try_from(changes)?) / CHURN.as_secs_f64();
        if rate < 90.0 {
            let (subject, services) = (self.subject, self.services);
            report.remark(format!(
                "{subject} at {services}: the API server took {rate:.0} changes a second, not 100"
            ));
        }
        sampled?;
        self.own_share(before.as_ref(), Metric::OwnShareChurn, report).await
    }

    /// Replaces all endpoints of a large Service under traffic.
    pub(super) async fn rollout(&self, report: &mut Report) -> anyhow::Result<()> {
        let window = churn::rollout(self.testbed).await?;
        let count = |n: usize| u32::try_from(n).map(f64::from);
        let connections = count(window.connects.len() + window.failures)?;
        self.add(report, Metric::RolloutConnections, [connections]);
        self.add(report, Metric::RolloutFailures, [count(window.failures)?]);
        Ok(())
    }

    /// Measures a start on rules that are already right. Only of Portico: kube-proxy reports that it is ready before
    /// it has read them.
    pub(super) async fn restart(&self, report: &mut Report) -> anyhow::Result<()> {
        if self.subject != Subject::Portico {
            return Ok(());
        }
        let (crashes, name) = (Crashes::new(), format!("{}-{}-again", self.subject, self.services));
        let home = &self.testbed.home;
        let command = self.subject.command(&self.testbed.tools, &home.admin_kubeconfig());
        let start = Instant::now();
        let process = Process::start(&name, self.testbed.node_command(&command), &home.logs(), &crashes)?;
        let well = crashes.or(self.until_well(start)).await;
        let changes = match &well {
            Ok(_) => self.page().await.map(|page| page.and_then(|page| page.value(CHANGES))),
            Err(_) => Ok(None),
        };
        process.stop().await?;
        self.add(report, Metric::Restart, [milliseconds(well?)]);
        self.add(report, Metric::RestartChanges, changes?);
        Ok(())
    }

    async fn until_well(&self, start: Instant) -> anyhow::Result<Duration> {
        while start.elapsed() < COLD_START_LIMIT {
            let synced = self.testbed.node.run(|| Page::fetch(METRICS)).await?.ok();
            // A number above zero once the first sync is over: the timestamp of the last one.
            let synced = synced.and_then(|page| page.value("portico_nodeproxy_synced"));
            if synced.is_some_and(|value| value > 0.0) {
                return Ok(start.elapsed());
            }
            sleep(PAUSE).await;
        }
        bail!("the proxy was not well {COLD_START_LIMIT:?} after its second start")
    }

    /// Bytes from the API server until now, in megabytes.
    pub(super) async fn watch_bytes(&self, report: &mut Report) -> anyhow::Result<u64> {
        let bytes = traffic::received(self.testbed).await?;
        self.add(report, Metric::WatchBytes, [f64::from(u32::try_from(bytes / 1000)?) / 1000.0]);
        Ok(bytes)
    }

    /// The same for each of so many changes.
    pub(super) async fn change_bytes(
        &self,
        before: u64,
        changes: usize,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bytes = traffic::received(self.testbed).await?.saturating_sub(before);
        let each = f64::from(u32::try_from(bytes)?) / f64::from(u32::try_from(changes.max(1))?);
        self.add(report, Metric::ChangeBytes, [each]);
        Ok(())
    }
}
