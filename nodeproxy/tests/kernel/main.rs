//! The dataplanes against this machine's kernel, in network namespaces of its own.
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`; where it may not make a namespace, each test fails, unless `PORTICO_SKIP` names
//! `namespaces`. The namespaces have no names and die with the threads that made them, so nothing is left behind however a test
//! ends.

mod affinity;
mod api_server;
mod degraded;
mod elsewhere;
mod events;
mod histories;
mod interfaces;
mod invalid;
mod matrix;
mod netns;
mod packets;
mod repair;
mod sctp;
mod storm;
mod table;
mod tables;
mod test_network;
mod userspace;
