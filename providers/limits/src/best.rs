//! What all calls of some work are for: an audit's reads come after everybody else's, whatever they read.
//!
//! Owns: the best priority that calls of the current task's work have. Leaves to others: which work that is (the operator),
//! what each call would have by itself (each provider's cloud). Invariant: work within work has its own, so that what an
//! audit found is put right like any other change.

use crate::queue::Priority;

tokio::task_local! {
    static BEST: Priority;
}

/// Does `work`, whose calls have no better priority than `best`.
pub async fn at_best<F: Future>(best: Priority, work: F) -> F::Output {
    BEST.scope(best, work).await
}

/// The best priority that calls have here.
pub fn best() -> Priority {
    BEST.try_with(|best| *best).unwrap_or(Priority::Targets)
}
