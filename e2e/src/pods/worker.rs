//! One pod's life: takes events in, plans, acts, reports.
//!
//! Owns the pod's [`Observed`] state; all changes to it are here. Leaves decisions to `plan.rs` and what is reported to
//! `status.rs`. Invariants: an event of an earlier start of a container is ignored; the status is written only when it changed;
//! after [`Action::Release`] the worker is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event as Notice, EventType};
use kube::{Api, Resource as _};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::checks::Subject;
use super::desired::{Desired, container};
use super::event::Event;
use super::fields::Fields;
use super::launch::{Launch, Launched};
use super::network::Link;
use super::observed::{Ended, Observed, State};
use super::plan::{Action, plan};
use super::probing::{self, ProbeReporter};
use super::status::status;
use super::stopping;
use super::thresholds::Kind;
use super::volumes::Volumes;
use super::{Host, desired};

/// `ConfigMap`s, Secrets and tokens in volumes are written again so often (the kubelet: about a minute).
const REFRESH: Duration = Duration::from_mins(1);

/// Pause after a start that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// A container that runs, and the tasks that watch it.
struct Running {
    subject: Arc<Subject>,
    probes: AbortHandle,
    stop: Option<AbortHandle>,
}

/// The worker of one pod.
pub(super) struct Worker {
    host: Arc<Host>,
    pod: Pod,
    observed: Observed,
    link: Option<Link>,
    dir: PathBuf,
    running: BTreeMap<String, Running>,
    to_self: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    reported: Option<PodStatus>,
    /// Time of the pod's deletion request that was last acted upon.
    deadline: Option<Timestamp>,
}

impl Worker {
    pub(super) fn new(
        host: Arc<Host>,
        pod: Pod,
        to_self: mpsc::UnboundedSender<Event>,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        let dir = host.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
        let observed = Observed::adopt(&pod, Timestamp::now());
        let (link, running) = (None, BTreeMap::new());
        Self { host, pod, observed, link, dir, running, to_self, events, reported: None, deadline: None }
    }

    fn name(&self) -> (&str, &str) {
        let meta = &self.pod.metadata;
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.host.client.clone(), self.name().0)
    }

    /// Until the pod is gone.
    pub(super) async fn run(mut self) {
        loop {
            let now = Timestamp::now();
            let desired = Desired::of(&self.pod);
            self.note_initialized(&desired);
            let plan = plan(&desired, &self.observed, now);
            let mut retry = None;
            for action in &plan.actions {
                tracing::debug!(pod = ?self.name(), %action, "next");
                match self.perform(action).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(pod = ?self.name(), %action, error = format!("{error:#}"), "will be tried again");
                        self.publish_event(
                            EventType::Warning,
                            "FailedCreatePodSandBox",
                            &format!("{error:#}"),
                        )
                        .await;
                        retry = Some(Duration::from_secs(1));
                    }
                }
            }
            self.leave_network_when_over(&desired).await;
            if let Err(error) = self.report().await {
                tracing::warn!(pod = ?self.name(), error = format!("{error:#}"), "status");
                retry = Some(Duration::from_secs(1));
            }
            if !plan.actions.is_empty() && retry.is_none() {
                continue; // something has changed: plan again
            }
            let pause =
                plan.wake.map(|wake| Duration::try_from(wake.duration_since(now)).unwrap_or_default());
            let pause = [pause, retry, Some(REFRESH)].into_iter().flatten().min().unwrap_or(REFRESH);
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Gone) | None => return self.vanish().await,
                    Some(event) => self.take(event).await,
                },
                () = tokio::time::sleep(pause.max(Duration::from_millis(5))) => if pause == REFRESH {
                    self.refresh().await;
                },
            }
        }
    }

    fn note_initialized(&mut self, desired: &Desired) {
        let done = desired.containers.iter().all(|wanted| {
            let record = self.observed.record(&wanted.name);
            match wanted.role {
                desired::Role::Init => matches!(record.state, State::Ended(ended) if ended.code == 0),
                desired::Role::Sidecar => record.started,
                desired::Role::App => true,
            }
        });
        self.observed.initialized |= done;
    }

    /// True when the pod is gone.
    async fn perform(&mut self, action: &Action) -> Result<bool> {
        match action {
            Action::Connect => self.connect().await?,
            Action::Start(name) => self.start(name).await,
            Action::Stop(name) => self.stop(name),
            Action::Release => return self.release().await.map(|()| true),
        }
        Ok(false)
    }

    async fn connect(&mut self) -> Result<()> {
        self.observed.accepted.get_or_insert_with(Timestamp::now);
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        if self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            self.observed.ips.clone_from(&self.host.ips);
            return Ok(());
        }
        let (namespace, name) = self.name();
        let link = Link::of(namespace, name, self.pod.metadata.uid.as_deref().unwrap_or_default());
        std::fs::write(self.dir.join("network"), link.to_line()).context("note the network")?;
        let addresses = self.host.allocate().await?;
        if let Err(error) = link.connect(&addresses).await {
            for (address, _) in &addresses {
                self.host.release(*address);
            }
            return Err(error);
        }
        self.observed.ips = addresses.into_iter().map(|(address, _)| address).collect();
        self.link = Some(link);
        Ok(())
    }

    async fn start(&mut self, name: &str) {
        let Some(spec) = self.pod.spec.clone() else { return };
        let Some(container) = container(&spec, name).cloned() else { return };
        let attempt = self.observed.record(name).attempt + 1;
        let netns = self.link.as_ref().map(Link::path);
        let launch = Launch {
            host: &self.host,
            pod: &self.pod,
            spec: &spec,
            container: &container,
            ips: &self.observed.ips,
            netns: netns.as_deref(),
            dir: &self.dir,
            attempt,
        };
        match launch.run().await {
            Ok(launched) => self.started(&container, attempt, launched).await,
            Err(refused) => {
                self.publish_event(EventType::Warning, "Failed", &refused.message).await;
                let until = Timestamp::now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
                self.observed.record_mut(name).hold(refused.reason, refused.message, until);
            }
        }
    }

    async fn started(&mut self, container: &Container, attempt: u32, launched: Launched) {
        let Launched { process, child, stdin, log, last_word } = launched;
        let (namespace, pod) = self.name();
        self.host.shelf.started((namespace, pod, &container.name), process.clone(), log, stdin);
        let record = self.observed.record_mut(&container.name);
        record.begin(
            Timestamp::now(),
            container.startup_probe.is_some(),
            container.readiness_probe.is_some(),
        );
        record.attempt = attempt;
        let ip = self.observed.ips.first().copied().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        let subject = Arc::new(Subject { ip, container: container.clone(), process });
        let reporter = ProbeReporter { to: self.to_self.clone(), container: container.name.clone(), attempt };
        let probes = tokio::spawn(probing::watch(Arc::clone(&subject), reporter)).abort_handle();
        tokio::spawn(wait(child, last_word, container.name.clone(), attempt, self.to_self.clone()));
        self.running.insert(container.name.clone(), Running { subject, probes, stop: None });
        self.publish_event(EventType::Normal, "Started", &format!("Container {} started", container.name))
            .await;
    }

    fn stop(&mut self, name: &str) {
        let grace = self.grace(None);
        self.stop_within(name, grace);
    }

    fn stop_within(&mut self, name: &str, grace: Duration) {
        let Some(running) = self.running.get_mut(name) else { return };
        let gentle = running.stop.is_none();
        if let Some(earlier) = running.stop.take() {
            earlier.abort();
        }
        running.stop =
            Some(tokio::spawn(stopping::stop(Arc::clone(&running.subject), grace, gentle)).abort_handle());
        self.observed.record_mut(name).stopping = true;
    }

    /// Rest of the grace period of a container.
    fn grace(&self, of_probe: Option<i64>) -> Duration {
        let spec = self.pod.spec.as_ref();
        let own =
            of_probe.or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(30);
        match &self.pod.metadata.deletion_timestamp {
            Some(time) => Duration::try_from(time.0.duration_since(Timestamp::now())).unwrap_or_default(),
            None => Duration::from_secs(own.try_into().unwrap_or(0)),
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Spec(pod) => self.take_spec(*pod),
            Event::Exited { container, attempt, code, message } => {
                if self.observed.record(&container).attempt == attempt {
                    self.exited(&container, code, message);
                }
            }
            Event::Judged { container, attempt, kind, good, why } => {
                if self.observed.record(&container).attempt == attempt {
                    self.judged(&container, kind, good, &why).await;
                }
            }
            Event::Gone => {}
        }
    }

    fn take_spec(&mut self, pod: Pod) {
        self.pod = pod;
        let deadline = self.pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        if deadline != self.deadline {
            self.deadline = deadline;
            let stopping: Vec<String> = self
                .running
                .iter()
                .filter(|(_, running)| running.stop.is_some())
                .map(|(name, _)| name.clone())
                .collect();
            for name in stopping {
                self.stop(&name); // there is less time now
            }
        }
    }

    fn exited(&mut self, name: &str, code: i32, message: Option<String>) {
        if let Some(Running { subject: _, probes, stop }) = self.running.remove(name) {
            probes.abort();
            if let Some(stop) = stop {
                stop.abort();
            }
        }
        let (namespace, pod) = self.name();
        self.host.shelf.ended((namespace, pod, name));
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        let ended = Ended { code, reason, message, started: None, finished: Timestamp::now() };
        let backoff = self.host.backoff;
        self.observed.record_mut(name).end(ended, backoff);
    }

    async fn judged(&mut self, name: &str, kind: Kind, good: bool, why: &str) {
        let Some(running) = self.running.get(name) else { return };
        let container = running.subject.container.clone();
        let deleting = self.pod.metadata.deletion_timestamp.is_some();
        let record = self.observed.record_mut(name);
        match (kind, good) {
            (Kind::Readiness, good) => record.ready = good,
            (Kind::Startup, true) => {
                record.started = true;
                record.ready = container.readiness_probe.is_none();
            }
            (Kind::Startup | Kind::Liveness, false) if !deleting && !record.stopping => {
                let probe =
                    if kind == Kind::Startup { &container.startup_probe } else { &container.liveness_probe };
                let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
                let grace = self.grace(own);
                self.stop_within(name, grace);
                let text = format!("Container {name} failed {kind:?} probe, will be restarted");
                self.publish_event(EventType::Normal, "Killing", &text).await;
            }
            (Kind::Liveness, true) | (Kind::Startup | Kind::Liveness, false) => {}
        }
        if !good {
            self.publish_event(EventType::Warning, "Unhealthy", &format!("{kind:?} probe failed: {why}"))
                .await;
        }
    }

    /// Writes the status, if it is not what was written last.
    async fn report(&mut self) -> Result<()> {
        if self.observed.accepted.is_none() {
            return Ok(()); // a pod that ended under an agent before us
        }
        let status = status(&self.pod, &self.observed, &self.host.ips, Timestamp::now());
        if self.reported.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status});
        let written =
            self.api().patch_status(self.name().1, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match written {
            Ok(pod) => self.pod.status = pod.status,
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {} // gone, or another of that name
            Err(error) => return Err(error).context("write the status"),
        }
        self.reported = Some(status);
        Ok(())
    }

    async fn refresh(&self) {
        let fields = Fields { pod: &self.pod, pod_ips: &self.observed.ips, host_ips: &self.host.ips };
        let volumes = Volumes { fields, dir: &self.dir, host_dir: &self.host.state_dir.join("host") };
        if self.running.is_empty() {
            return;
        }
        if let Err(error) = volumes.write(&self.host.client).await {
            tracing::warn!(pod = ?self.name(), error = format!("{error:#}"), "refresh volumes");
        }
    }

    /// A pod that is over keeps its status and logs, not its network.
    async fn leave_network_when_over(&mut self, desired: &Desired) {
        if desired.over
            && self.running.is_empty()
            && let Err(error) = self.disconnect().await
        {
            tracing::warn!(pod = ?self.name(), error = format!("{error:#}"), "leave the network");
        }
    }

    async fn disconnect(&mut self) -> Result<()> {
        if let Some(link) = &self.link {
            link.disconnect().await?;
            for ip in &self.observed.ips {
                self.host.release(*ip);
            }
            self.link = None;
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        self.report().await?;
        self.disconnect().await?;
        let uid = self.pod.metadata.uid.clone();
        let preconditions = Preconditions { uid, resource_version: None };
        let params =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        match self.api().delete(self.name().1, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {}
            Err(error) => return Err(error).context("delete the pod"),
        }
        self.forget();
        Ok(())
    }

    /// Removed by force: nothing is asked any more.
    async fn vanish(mut self) {
        for running in self.running.values() {
            running.subject.process.signal(Signal::SIGKILL);
        }
        while !self.running.is_empty() {
            match self.events.recv().await {
                Some(event) => self.take(event).await,
                None => break,
            }
        }
        if let Err(error) = self.disconnect().await {
            tracing::warn!(pod = ?self.name(), error = format!("{error:#}"), "leave the network");
        }
        self.forget();
    }

    fn forget(&self) {
        let (namespace, name) = self.name();
        self.host.shelf.forget(namespace, name);
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), %error, "remove the pod's directory");
        }
    }

    async fn publish_event(&self, type_: EventType, reason: &str, note: &str) {
        let notice = Notice {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(1024).collect()),
            action: "Run".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.host.recorder.publish(&notice, &self.pod.object_ref(&())).await {
            tracing::debug!(pod = ?self.name(), %error, "event");
        }
    }
}

/// Reports how a process ended, and its termination message (at most 4096 bytes, as the kubelet takes).
async fn wait(
    mut child: Child,
    last_word: PathBuf,
    container: String,
    attempt: u32,
    to: mpsc::UnboundedSender<Event>,
) {
    use std::os::unix::process::ExitStatusExt as _;
    let code = match child.wait().await {
        Ok(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255),
        Err(error) => {
            tracing::warn!(container, %error, "wait");
            255
        }
    };
    let text = std::fs::read(&last_word).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let message = (!text.is_empty()).then_some(text);
    to.send(Event::Exited { container, attempt, code, message }).ok();
}
