//! Scenarios on real clusters: what a user of Services does, and what a client gets.
//!
//! ```text
//! cargo test -p portico-e2e --test scenarios [FILTER] [-- --list|--skip S|--test-threads N]
//!   ├─ cluster::…  provider local: types, policies, families, annotations, node proxy, operator
//!   ├─ clouds::…   an operator for AWS and one for Google Cloud, before emulators
//!   ├─ install::… the chart by helm: install, upgrade, rollback, uninstall
//!   └─ chaos::…    a hundred Services in random order, while clouds fail and operators are killed
//! ```
//! A filter of `cluster::` runs one suite. The scenarios of a suite share one cluster, in a sandbox of its own, and have a
//! Kubernetes namespace each. A failed one leaves `target/e2e/<suite>/evidence/<scenario>.txt`; `PORTICO_E2E_KEEP=1` keeps
//! its namespace, and the cluster until Ctrl-C. The library is `portico_e2e::scenario`.

mod chaos;
mod clouds;
mod cluster;
mod install;
mod nft;

use std::{env, path::PathBuf, process::ExitCode};

use portico_e2e::scenario::{self, Suite};

/// Folder of images that Portico's pods run from in the suites `cluster` and `install`; none: this build's programs.
fn images() -> Option<PathBuf> {
    env::var_os("PORTICO_IMAGES").map(PathBuf::from)
}

fn main() -> ExitCode {
    scenario::main(&[
        Suite::new(cluster::scenarios),
        Suite::new(clouds::scenarios),
        Suite::new(install::scenarios),
        Suite::new(chaos::scenarios),
    ])
}
