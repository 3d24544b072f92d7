//! Implausible answers of the API server: no Service, no slice or no Node object, where a predecessor served
//! some.
//!
//! Owns whether the first sync applies the lists. An API server in trouble (a store restored empty, a proxy in
//! between, a node deregistered by mistake) must not stop traffic. The programmed state stays until the answer
//! is plausible. Every API server has a Service, `default/kubernetes`, with a slice, and this node runs the
//! proxy. Leaves later empty lists to the watches.

use std::{fmt, time::Duration};

use portico_proxy_core::{
    plan::State,
    table::{Key, Value, Verdict},
};
use tokio::time::Instant;

use super::{Kernel, Sync};

/// Interval of reads of the kernel while the answer stays implausible.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The missing kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Implausible {
    Services,
    Slices,
    Node,
}

impl Sync {
    /// Whether a first sync that finds `state` is put off.
    pub(super) fn is_implausible(&mut self, state: &State) -> bool {
        if self.reporters.has_synced() {
            return false;
        }
        let implausible = self.implausible_about(state);
        if let Some(what) = implausible
            && self.implausible != implausible
        {
            tracing::warn!(%what, "the programmed rules stay until the API server has a plausible answer");
        }
        self.implausible = implausible;
        if implausible.is_some() {
            self.reporters.implausible();
            self.kernel = Kernel::Unknown(Instant::now() + AGAIN_AFTER);
        }
        implausible.is_some()
    }

    /// Reads again at once if the missing objects have come.
    pub(super) fn recheck_plausibility(&mut self) {
        let came = match self.implausible {
            None => false,
            Some(Implausible::Services) => self.model.services() > 0,
            Some(Implausible::Slices) => self.model.has_slices(),
            Some(Implausible::Node) => self.node.is_known(),
        };
        if came {
            self.kernel = Kernel::Unknown(Instant::now());
        }
    }

    fn implausible_about(&self, state: &State) -> Option<Implausible> {
        let is_service = |key: &Key| matches!(key, Key::Service(_) | Key::NoEndpoints(_));
        let is_served =
            |value: &Value| matches!(value, Value::Verdict(Verdict::Balance(_) | Verdict::External));
        if !self.node.is_known() && !state.elements.is_empty() {
            Some(Implausible::Node)
        } else if self.may_be_empty {
            None
        } else if self.model.services() == 0 && state.elements.keys().any(is_service) {
            Some(Implausible::Services)
        } else if !self.model.has_slices() && state.elements.values().any(is_served) {
            Some(Implausible::Slices)
        } else {
            None
        }
    }
}

impl fmt::Display for Implausible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "the API server lists no Service, and not even default/kubernetes",
            Self::Slices => "the API server lists no EndpointSlice",
            Self::Node => "the API server has no Node object of this node's name; see --hostname-override",
        })
    }
}
