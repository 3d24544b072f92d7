//! Starts a container: everything between its spec and a running process.
//!
//! Owns the order (image, references, environment, volumes, files in /etc, root, process, log). Leaves when to do it to
//! `plan.rs` and `worker.rs`. Invariant: a failure says which of the kubelet's waiting reasons it is, and leaves no process.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::process::{Child, ChildStdin, Command};

use crate::enter::{Bind, Entry, Root, is_hidden};
use crate::images::{ImageRoot, Rule};

use super::environment::{Variables, argv, environment};
use super::fields::Fields;
use super::log::Log;
use super::process::Process;
use super::references::{Found, of_environment};
use super::volumes::Volumes;
use super::{Host, etc, find_image, service_links};

/// A container that has just been started.
pub(super) struct Launched {
    pub(super) process: Process,
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) log: Arc<Log>,
    /// File of the container's termination message.
    pub(super) last_word: PathBuf,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    /// As the kubelet calls it.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refused {
    fn new(reason: &'static str) -> impl Fn(anyhow::Error) -> Self {
        move |error| Self { reason, message: format!("{error:#}") }
    }
}

/// Command, root and binds of a container.
#[derive(Clone, Copy)]
pub(super) struct Launch<'a> {
    pub(super) host: &'a Host,
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) container: &'a Container,
    pub(super) ips: &'a [IpAddr],
    pub(super) netns: Option<&'a Path>,
    pub(super) dir: &'a Path,
    pub(super) attempt: u32,
}

impl Launch<'_> {
    pub(super) async fn run(self) -> Result<Launched, Refused> {
        let image = self.container.image.as_deref().unwrap_or_default();
        let program = find_image(&self.host.images, image).ok_or_else(|| Refused {
            reason: "ErrImagePull",
            message: format!("image {image:?}: no rule of the image table matches it"),
        })?;
        let variables = self.variables(program).await.map_err(Refused::new("CreateContainerConfigError"))?;
        let volumes =
            Volumes { fields: self.fields(), dir: self.dir, host_dir: &self.host.state_dir.join("host") };
        volumes.write(&self.host.client).await.map_err(Refused::new("ContainerCreating"))?;
        let failed = Refused::new("CreateContainerError");
        let dir = self.dir.join(&self.container.name);
        let (entry, last_word) = self.entry(&dir, program, &variables, &volumes).map_err(&failed)?;
        self.spawn(&dir, &entry, variables, last_word).map_err(&failed)
    }

    fn fields(&self) -> Fields<'_> {
        Fields { pod: self.pod, pod_ips: self.ips, host_ips: &self.host.ips }
    }

    async fn variables(&self, image: &Rule) -> Result<Variables> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = Found::fetch(&self.host.client, namespace, of_environment(self.container)).await?;
        let enabled = self.spec.enable_service_links.unwrap_or(true);
        let services = self.host.services.state();
        let links = service_links::variables(services.iter().map(AsRef::as_ref), namespace, enabled);
        let of_image = image.root.as_ref().map(|root| root.env.clone()).unwrap_or_default();
        let hostname = etc::hostname(self.pod, &self.host.name);
        environment(self.container, self.fields(), of_image, &links, &found, &hostname)
    }

    /// Namespaces, root and program.
    fn entry(
        &self,
        dir: &Path,
        image: &Rule,
        variables: &Variables,
        volumes: &Volumes<'_>,
    ) -> Result<(Entry, PathBuf)> {
        let scratch = dir.join("root");
        fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
        let last_word = dir.join(format!("{}.termination", self.attempt));
        fs::write(&last_word, "").context("termination message file")?;
        let message_path =
            self.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        let mut binds = etc::write(self.host, self.pod, self.spec, self.ips, self.dir)?;
        if image.root.is_none() {
            binds.extend(image_binds(&image.argv));
            binds.extend(hidden_programs(&self.host.exe, &image.argv));
        }
        binds.push(Bind { source: last_word.clone(), target: message_path.into(), read_only: false });
        let mut mounts = volumes.binds(self.container)?;
        mounts.sort_by(|a, b| a.target.cmp(&b.target)); // outer ones first
        binds.extend(mounts);
        let privileged =
            self.container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
        let entry = Entry {
            netns: self.netns.map(Path::to_path_buf),
            root: Some(Root {
                scratch,
                image: image.root.as_ref().map(|root| root.dir.clone()),
                privileged: privileged || self.netns.is_none(),
            }),
            binds,
            pid: true,
            hostname: Some(etc::hostname(self.pod, &self.host.name)),
            cwd: Some(self.container.working_dir.clone().unwrap_or_else(|| "/".to_owned()).into()),
            env: Some(variables.clone()),
            user: image.root.as_ref().map(|root| self.user(root)).transpose()?.flatten(),
            argv: argv(self.container, &image.argv, variables),
            ..Entry::default()
        };
        Ok((entry, last_word))
    }

    /// User and group of an image's processes; none where the agent's user namespace has no such user.
    fn user(&self, image: &ImageRoot) -> Result<Option<(u32, u32)>> {
        let of_pod = self.spec.security_context.as_ref();
        let of_container = self.container.security_context.as_ref();
        let user = of_container.and_then(|it| it.run_as_user).or(of_pod.and_then(|it| it.run_as_user));
        let group = of_container.and_then(|it| it.run_as_group).or(of_pod.and_then(|it| it.run_as_group));
        let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
        let wanted = (number(user).unwrap_or(image.user.0), number(group).unwrap_or(image.user.1));
        let users = fs::read_to_string("/proc/self/uid_map").context("read /proc/self/uid_map")?;
        Ok(is_mapped(&users, wanted.0).then_some(wanted))
    }

    fn spawn(
        &self,
        dir: &Path,
        entry: &Entry,
        environment: Variables,
        last_word: PathBuf,
    ) -> Result<Launched> {
        let spec = dir.join("entry.json");
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600); // it holds Secrets' values
        let file = options.open(&spec).context("entry file")?;
        serde_json::to_writer(file, entry).context("entry file")?;
        let wants_stdin = self.container.stdin == Some(true);
        let mut child = Command::new(&self.host.exe)
            .args(["enter", "--spec"])
            .arg(&spec)
            .stdin(if wants_stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.host.exe.display()))?;
        let parent = child.id().context("process id")?;
        let (stdout, stderr) = child.stdout.take().zip(child.stderr.take()).context("its streams")?;
        let log = Log::record(dir.join(format!("{}.log", self.attempt)), stdout, stderr)?;
        let stdin = child.stdin.take();
        let process = Process { parent, exe: self.host.exe.clone(), environment, cwd: entry.cwd.clone() };
        Ok(Launched { process, child, stdin, log, last_word })
    }
}

/// Whether a user namespace has a user. `map`: its `uid_map`, see `user_namespaces(7)`.
fn is_mapped(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => user >= first && user - first < count,
            _ => false,
        }
    })
}

/// In a work tree under /tmp, containers would see neither their program nor ours: they have a /tmp of their own.
fn hidden_programs(exe: &Path, program: &[String]) -> Vec<Bind> {
    let program = program.first().map(PathBuf::from).filter(|program| program != exe);
    let programs = program.into_iter().chain([exe.to_path_buf()]);
    programs
        .filter(|program| is_hidden(program))
        .map(|program| Bind { source: program.clone(), target: program, read_only: true })
        .collect()
}

/// Images have their program at the root (`/agnhost`), and pods call it so.
fn image_binds(program: &[String]) -> Option<Bind> {
    let source = PathBuf::from(program.first()?);
    let name = source.file_name()?;
    let target = Path::new("/").join(name);
    source.is_absolute().then(|| Bind { source: source.clone(), target, read_only: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_of_the_ranges_of_its_namespace() {
        let everybody = "         0          0 4294967295\n";
        assert!(is_mapped(everybody, 65532) && is_mapped(everybody, 0));
        assert!(is_mapped("0 1000 1\n", 0) && !is_mapped("0 1000 1\n", 65532));
        assert!(!is_mapped("", 0));
    }
}
