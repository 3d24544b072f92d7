//! A cluster's folder: certificates, data, kubeconfigs, logs, and the record of the processes that run it. The process
//! outside the sandbox creates and removes the folder. So it outlives a cluster only when that process was killed, when
//! the cluster failed (for its logs), or when its data is to be kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// A process, so that its id cannot be mistaken for a later process's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Process id on the machine.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub started: u64,
}

impl ProcessRecord {
    /// The record of a running process.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} is not running"))?;
        Ok(Self { pid, started })
    }

    /// Whether that very process still runs.
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// The processes that run a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The process that a person started.
    pub outer: ProcessRecord,
    /// The sandbox's wrapper; with it ends everything.
    pub sandbox: Option<ProcessRecord>,
}

/// A cluster's folder.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// The folder at `dir`, made if it is not there.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let home = Self { dir: std::path::absolute(dir).context("making the cluster's folder absolute")? };
        let socket = home.api_socket();
        if socket.as_os_str().len() > 107 {
            bail!(
                "{} is too long for a unix socket (107 bytes): choose a shorter --name or --data-dir",
                socket.display()
            );
        }
        for part in [home.logs(), home.pki(), home.path("nodes")] {
            fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        }
        Ok(home)
    }

    /// The folder at `dir` of a cluster that ran or runs.
    pub fn existing(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A log file for each process.
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.path("pki")
    }

    /// Folder of etcd's data.
    pub fn etcd(&self) -> PathBuf {
        self.path("etcd")
    }

    /// The administrator's kubeconfig for use inside the sandbox.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.path("admin.conf")
    }

    /// The administrator's kubeconfig for use from the machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Socket that joins the API server's port on the machine's side and on the sandbox's side.
    pub fn api_socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    /// Folder of a node's agent.
    pub fn node(&self, name: &str) -> PathBuf {
        self.path("nodes").join(name)
    }

    /// Writes who runs the cluster.
    pub fn record(&self, state: &State) -> anyhow::Result<()> {
        let path = self.path("state.json");
        fs::write(&path, serde_json::to_vec_pretty(state)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The processes that run the cluster, or ran it.
    pub fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.path("state.json")).ok()?).ok()
    }

    /// Whether the cluster of this folder runs.
    pub fn is_running(&self) -> bool {
        let Some(State { outer, sandbox }) = self.state() else { return false };
        outer.is_running() || sandbox.is_some_and(|sandbox| sandbox.is_running())
    }

    /// Removes the folder and all in it.
    pub fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Start time of a process in clock ticks since boot: field 22 of `/proc/<pid>/stat`, counted after the command's name,
/// which may hold anything, spaces and parentheses included.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    if is_zombie { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_knows_its_process_from_another_with_the_same_id() -> anyhow::Result<()> {
        let me = ProcessRecord::of(std::process::id())?;
        assert!(me.is_running());
        assert!(!ProcessRecord { started: me.started + 1, ..me }.is_running());
        Ok(())
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_refused_with_the_remedy() {
        let error = Home::open(Path::new(&format!("/tmp/{}", "x".repeat(120)))).unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
    }
}
