//! Implausible answers of the API server: no Service, no slice or no Node object, where a predecessor served
//! some.
//!
//! Owns whether the first sync applies the lists. An API server in trouble (a store restored empty, a proxy in
//! between, a node deregistered by mistake) must not stop traffic, so the programmed state stays until the
//! answer is plausible. Every API server has a Service, `default/kubernetes`, with a slice, and this node runs
//! the proxy. Leaves later empty lists to the watches.

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
pub(super) enum Doubt {
    Services,
    Slices,
    Node,
}

impl Sync {
    /// Whether a first sync that finds `state` is put off.
    pub(super) fn doubts(&mut self, state: &State) -> bool {
        if self.audience.has_synced() {
            return false;
        }
        let doubt = self.doubt_about(state);
        if let Some(what) = doubt
            && self.doubt != doubt
        {
            tracing::warn!(%what, "what stands in the kernel stays until the API server's answer is credible");
        }
        self.doubt = doubt;
        if doubt.is_some() {
            self.audience.doubted();
            self.kernel = Kernel::Unknown(Instant::now() + AGAIN_AFTER);
        }
        doubt.is_some()
    }

    /// Reads again at once if the missing objects have come.
    pub(super) fn believe(&mut self) {
        let came = match self.doubt {
            None => false,
            Some(Doubt::Services) => self.model.services() > 0,
            Some(Doubt::Slices) => self.model.has_slices(),
            Some(Doubt::Node) => self.node.is_known(),
        };
        if came {
            self.kernel = Kernel::Unknown(Instant::now());
        }
    }

    fn doubt_about(&self, state: &State) -> Option<Doubt> {
        let is_service = |key: &Key| matches!(key, Key::Service(_) | Key::NoEndpoints(_));
        let is_served =
            |value: &Value| matches!(value, Value::Verdict(Verdict::Balance(_) | Verdict::External));
        if !self.node.is_known() && !state.elements.is_empty() {
            Some(Doubt::Node)
        } else if self.may_be_empty {
            None
        } else if self.model.services() == 0 && state.elements.keys().any(is_service) {
            Some(Doubt::Services)
        } else if !self.model.has_slices() && state.elements.values().any(is_served) {
            Some(Doubt::Slices)
        } else {
            None
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "the API server lists no Service, and not even default/kubernetes",
            Self::Slices => "the API server lists no EndpointSlice",
            Self::Node => "the API server has no Node object of this node's name; see --hostname-override",
        })
    }
}
