//! The address of a wanted frontend.

use std::net::IpAddr;

use crate::observed::Observed;
use crate::observed::frontends::{existing_frontends, id_in};
use crate::wanted::{Frontend, Source};

/// The address of a frontend, as far as it is known.
pub(super) fn ip(frontend: &Frontend, observed: &Observed) -> Option<IpAddr> {
    let own = observed.addresses().find(|it| id_in(&it.name, 1) == Some(frontend.id.as_str()));
    let rule = || existing_frontends(observed).into_iter().find(|it| it.id == frontend.id).map(|it| it.ip);
    let given = || match &frontend.source {
        Source::Exactly(ip) | Source::Kept(ip) => Some(*ip),
        Source::Own | Source::Named(_) => None,
    };
    own.and_then(|address| address.ip).or_else(rule).or_else(given)
}
