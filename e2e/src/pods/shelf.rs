//! Containers as the node's HTTPS API sees them: their processes, logs and stdin.
//! Invariant: of each container the current run and the one before are kept, until the pod leaves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::process::ChildStdin;

use super::log::Log;
use super::process::Process;

/// Namespace, pod, container.
type Key = (String, String, String);

/// One container: current run and the run before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// While it runs.
    pub(crate) process: Option<Process>,
    /// Of the current or last run.
    pub(crate) log: Option<Arc<Log>>,
    /// Of the run before that.
    pub(crate) previous: Option<Arc<Log>>,
    /// For those with `stdin: true`.
    pub(crate) stdin: Option<Arc<tokio::sync::Mutex<ChildStdin>>>,
}

/// All containers of the node.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<BTreeMap<Key, Slot>>);

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container, if it ever started.
    pub(crate) fn get(&self, namespace: &str, pod: &str, container: &str) -> Option<Slot> {
        self.lock().get(&(namespace.to_owned(), pod.to_owned(), container.to_owned())).cloned()
    }

    pub(crate) fn started(
        &self,
        (namespace, pod, container): (&str, &str, &str),
        process: Process,
        log: Arc<Log>,
        stdin: Option<ChildStdin>,
    ) {
        let mut slots = self.lock();
        let slot = slots.entry((namespace.to_owned(), pod.to_owned(), container.to_owned())).or_default();
        slot.previous = slot.log.replace(log);
        slot.process = Some(process);
        slot.stdin = stdin.map(|stdin| Arc::new(tokio::sync::Mutex::new(stdin)));
    }

    pub(crate) fn ended(&self, (namespace, pod, container): (&str, &str, &str)) {
        if let Some(slot) = self.lock().get_mut(&(namespace.to_owned(), pod.to_owned(), container.to_owned()))
        {
            slot.process = None;
            slot.stdin = None;
        }
    }

    pub(crate) fn forget(&self, namespace: &str, pod: &str) {
        self.lock().retain(|(own, name, _), _| own != namespace || name != pod);
    }
}
