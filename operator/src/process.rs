//! The process: tasks, leader election, the admin port, and the connection to the provider.

pub(crate) mod admin;
pub(crate) mod connect;
pub(crate) mod fence;
pub(crate) mod leader;
pub(crate) mod run;
