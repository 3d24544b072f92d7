//! The sync loop itself, over a kernel in memory: killed halfway through a history, with commits that fail.
//!
//! Owns the loop's surroundings. Leaves its input to [`crate::watch`]. Invariant, checked at the end of each life: the kernel has
//! what the model says, to the last removal.

use std::{io::ErrorKind, time::Duration};

use portico_nodeproxy::{
    dataplane::DataplaneError,
    diagnose::Inquiry,
    health::Health,
    health_check::Published,
    input_event::{InputEvent, Source},
    metrics::Metrics,
    sync::{Outside, Sync, fake::FakeKernel},
};
use portico_proxy_core::table::Family;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::lived::{Outcome, addresses, mk_model, mk_node};

/// Longer than the longest pause between two tries.
const SETTLED: Duration = Duration::from_mins(2);

/// A loop that runs.
pub(crate) struct Looped {
    kernel: FakeKernel,
    questions: mpsc::Sender<Inquiry>,
    task: JoinHandle<()>,
}

impl Looped {
    /// Starts the loop. Others send all `inputs` but the node's addresses.
    pub(crate) async fn start(
        kernel: &FakeKernel,
        inputs: &mpsc::Sender<InputEvent>,
        inbox: mpsc::Receiver<InputEvent>,
    ) -> Self {
        let outside = Outside {
            dataplane: Box::new(kernel.clone()),
            flows: Box::new(kernel.clone()),
            health: Health::default(),
            metrics: Metrics::default(),
            health_checks: watch::channel(Published::default()).0,
        };
        let (questions, asked) = mpsc::channel(1);
        let sync = Sync::new(mk_model(), mk_node(), vec![Family::V4, Family::V6], outside).answering(asked);
        let task = tokio::spawn(async move { drop(sync.run(inbox, CancellationToken::new()).await) });
        for input in [InputEvent::Addresses(addresses()), InputEvent::Listed(Source::Addresses)] {
            inputs.send(input).await.expect("the loop listens");
        }
        Self { kernel: kernel.clone(), questions, task }
    }

    /// Ends the loop wherever it is.
    pub(crate) fn kill(self) {
        self.task.abort();
    }

    /// The programmed state once nothing is pending.
    pub(crate) async fn outcome(self) -> Outcome {
        tokio::time::sleep(SETTLED).await;
        let (answer, answered) = oneshot::channel();
        let kernel = self.kernel.clone();
        let inquiry: Inquiry = Box::new(move |known| {
            let state = &kernel.inside().state;
            assert!(known.model.shadow().is_settled(), "{}", known.model.shadow().plan());
            assert_eq!(state, known.model.shadow().desired());
            drop(answer.send(Outcome::of(state, known.model)));
        });
        assert!(self.questions.send(inquiry).await.is_ok(), "the loop ended");
        answered.await.expect("the loop answers")
    }
}

/// Lets the next commits fail, the first before it is made and the second after.
pub(crate) fn fail(kernel: &FakeKernel) {
    let error =
        || DataplaneError::Transport { operation: "commit".to_owned(), source: ErrorKind::TimedOut.into() };
    let mut inside = kernel.inside();
    inside.failures.push_back(error());
    inside.lost_answers.push_back(error());
}
