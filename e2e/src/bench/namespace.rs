//! A thread that runs jobs in a network namespace. So the clients of a bench are in-process: a
//! connect costs a system call, not a process. `setns` moves only the calling thread, and the thread never comes back.

use std::{fs::File, path::Path, sync::mpsc, thread};

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The handle of such a thread; it ends when the handle is dropped.
#[derive(Debug)]
pub struct Resident {
    jobs: mpsc::Sender<Job>,
}

impl Resident {
    /// Starts a thread in the namespace at `path`.
    pub fn enter(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let (jobs, todo) = mpsc::channel::<Job>();
        let (sender, entered) = mpsc::channel();
        let name =
            path.file_name().map_or_else(|| "resident".into(), |name| name.to_string_lossy().into_owned());
        let body = move || {
            let done = setns(file, CloneFlags::CLONE_NEWNET);
            let is_in = done.is_ok();
            if sender.send(done).is_ok() && is_in {
                for job in todo {
                    job();
                }
            }
        };
        thread::Builder::new().name(name).spawn(body).context("starting a thread")?;
        entered
            .recv()
            .context("a thread ended before it was in its namespace")?
            .with_context(|| format!("joining {}", path.display()))?;
        Ok(Self { jobs })
    }

    /// Runs `job` there, after the earlier ones, and gives its outcome. Blocking is what the thread is for.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (sender, done) = oneshot::channel();
        let job = Box::new(move || drop(sender.send(job())));
        self.jobs.send(job).map_err(|_gone| anyhow!("the namespace's thread has ended"))?;
        done.await.context("the namespace's thread ended in mid-work")
    }
}
