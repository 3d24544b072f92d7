//! Named tasks of which none may end.
//!
//! Owns: noticing which task ended, and why. Leaves to others: what follows. Invariant: dropping the set ends every task.

use std::collections::HashMap;

use anyhow::{Context, anyhow};
use tokio::task::{AbortHandle, Id, JoinSet};

/// Tasks by name.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, (&'static str, AbortHandle)>,
}

impl Tasks {
    /// Starts a task that may fail.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), (name, handle));
    }

    /// Starts a task that cannot fail.
    pub fn run(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async {
            task.await;
            Ok(())
        });
    }

    /// Waits for `end`, or for the first task that ends: that is an error, which names the task.
    pub async fn first_or<T>(&mut self, end: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            ended = end => ended,
            (name, ended) = self.next() => {
                ended.with_context(|| format!("task {name}"))?;
                Err(anyhow!("task {name} ended"))
            }
        }
    }

    /// Waits until all tasks have ended by themselves.
    pub async fn drain(&mut self) {
        while self.set.join_next().await.is_some() {}
    }

    /// Ends the tasks of a name.
    pub fn stop(&mut self, stopped: &str) {
        let named = self.names.values().filter(|(name, _)| *name == stopped);
        named.for_each(|(_, handle)| handle.abort());
    }

    /// Waits for a task to end by itself; at once if it has ended.
    pub async fn finished(&mut self, awaited: &str) {
        while self.names.values().any(|(name, _)| *name == awaited) {
            let (name, ended) = self.next().await;
            if let Err(error) = ended {
                tracing::debug!(name, error = format!("{error:#}"), "task ended");
            }
        }
    }

    async fn next(&mut self) -> (&'static str, anyhow::Result<()>) {
        let Some(joined) = self.set.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, ended) = match joined {
            Ok((id, ended)) => (id, ended),
            Err(error) => (error.id(), Err(error.into())),
        };
        let name = self.names.remove(&id).map_or("unknown", |(name, _)| name);
        (name, ended)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_is_named_with_its_reason() {
        let mut tasks = Tasks::default();
        tasks.run("steady", pending());
        tasks.spawn("fragile", async { Err(anyhow!("it broke")) });
        let error = tasks.first_or(pending::<anyhow::Result<()>>()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task fragile: it broke");
        tasks.run("short", async {});
        assert_eq!(
            tasks.first_or(pending::<anyhow::Result<()>>()).await.unwrap_err().to_string(),
            "task short ended"
        );
    }
}
