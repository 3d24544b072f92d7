//! Scenarios on a real cluster: what a user of Services does, and what a client gets, from a pod, a node and outside.
//!
//! One sandboxed cluster serves the whole run; each scenario has a Kubernetes namespace of its own. This suite was first
//! listed in the brief of the cluster's own code; it is a part of its own, and uses the cluster through the library only.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, Vec::<Trial>::new()).exit_code()
}
