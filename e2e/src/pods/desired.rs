//! A pod's spec, read once. Owns the translation from the API's optional fields and strings to closed
//! enums; leaves the containers' own details (image, environment, mounts) to those who start them.
//! Invariant: containers are in start order: init containers and sidecars as listed, then the applications.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Whatever its exit code.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always, // the API server allows no other, and this is its default
        }
    }

    /// Whether a container that ended so is started again.
    pub(crate) fn wanted(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// A container's place in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Must end with 0 before the next one starts.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    /// Starts with its siblings, after all others.
    App,
}

/// One container, as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) restart: Restart,
}

/// One pod, as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) containers: Vec<Wanted>,
    /// It is being deleted.
    pub(crate) deleting: bool,
    /// It has run to its end before, says the API server.
    pub(crate) over: bool,
}

impl Desired {
    pub(crate) fn of(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let Some(spec) = &pod.spec else {
            return Self { containers: Vec::new(), deleting: true, over: true };
        };
        let policy = Restart::parse(spec.restart_policy.as_deref());
        let init = spec.init_containers.iter().flatten().map(|container| {
            if container.restart_policy.as_deref() == Some("Always") {
                Wanted { name: container.name.clone(), role: Role::Sidecar, restart: Restart::Always }
            } else {
                let restart = if policy == Restart::Never { Restart::Never } else { Restart::OnFailure };
                Wanted { name: container.name.clone(), role: Role::Init, restart }
            }
        });
        let apps = spec.containers.iter().map(|container| Wanted {
            name: container.name.clone(),
            role: Role::App,
            restart: policy,
        });
        Self {
            containers: init.chain(apps).collect(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            over: matches!(phase, Some("Succeeded" | "Failed")),
        }
    }
}

/// The container of that name, whatever its role.
pub(crate) fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}
