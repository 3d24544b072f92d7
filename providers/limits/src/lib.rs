//! How fast a cloud is called: one limiter for each class of its API.
//!
//! ```text
//! call ─▶ queue (targets, provisioning, background) ─▶ bucket ─▶ leave ─▶ the cloud
//!                                                        ▲                   │
//!                                                        └─ throttled: slower · passed: faster
//! ```
//! Owns: admission, learning the rate, trying a throttled call again. Leaves to others: which call is of which class and
//! priority (each provider's cloud), retrying anything else (the operator's scheduler), showing numbers (its metrics).
//! Invariants: never more calls than the bucket's burst and rate allow; nobody waits for ever while calls are admitted;
//! a caller that goes away while waiting takes nothing along.

mod best;
mod bucket;
mod limiter;
mod queue;

pub use best::{at_best, best};
pub use bucket::{Limit, Pace};
pub use limiter::{Leave, Limiter, Snapshot};
pub use queue::Priority;
