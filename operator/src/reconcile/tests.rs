//! Services through their lives, against a cloud and a cluster in memory, on a paused clock.

mod bounds;
mod drift;
mod failures;
mod fence;
mod fixture;
mod groups;
mod life;
mod limits;
mod order;
mod ownership;
mod parameters;
mod read_only;
mod stale;
mod targets;
mod tenants;
