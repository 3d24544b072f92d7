//! A load balancer that the AWS Load Balancer Controller made: what nobody asks for stays as it is.
//!
//! Owns: what is wanted of an adopted load balancer. Leaves to others: adopting it (`execute/adopt`), what the Service asks
//! for (`wanted`). Invariant: an annotation counts as ever; without one, what is there stays, unless it contradicts
//! the Service (another traffic policy asks for another health check).

use std::collections::BTreeMap;

use super::{Origin, Wanted, WantedListener, group_defaults, translate_for};
use crate::capabilities as key;
use crate::cloud::resources::{GroupHealth, TlsSpec};
use crate::observed::{Balancer, Group, View};
use crate::quotas::Quotas;

impl Wanted<'_> {
    /// The same of `current`, with the same frontend; `None`: it was not adopted.
    pub(crate) fn of_adopted(&self, quotas: &Quotas, view: &View, current: &Balancer) -> Option<Self> {
        if !current.adopted {
            return None;
        }
        let mut kept = translate_for(Origin::Controller, self.desired, quotas).ok()?;
        kept.frontend = self.frontend.clone();
        let asked = |key: &str| self.desired.options.get(key).is_some();
        for (port, listener) in &mut kept.listeners {
            let present = current.listeners.get(port);
            let tls = present.and_then(|present| present.spec.tls.as_ref());
            if let (Some(wanted), Some(TlsSpec { certificate: _, policy, alpn })) =
                (&mut listener.spec.tls, tls)
            {
                if !asked(key::TLS_POLICY) {
                    wanted.policy.clone_from(policy);
                }
                if !asked(key::ALPN) {
                    wanted.alpn = *alpn;
                }
            }
            if let Some(extras) = current.extras.as_ref().and_then(|all| all.get(port)) {
                keep(&mut listener.extras.attributes, &extras.attributes);
            }
            let behind = present.and_then(|present| present.group.as_ref());
            if let Some(group) = view.target_groups.values().find(|group| Some(&group.described.id) == behind)
            {
                keep_group(listener, group, asked);
            }
        }
        Some(kept)
    }
}

/// Adds the present values of keys that nobody asked for.
fn keep(asked: &mut BTreeMap<String, String>, there: &BTreeMap<String, String>) {
    for (key, value) in there {
        asked.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// The health check and the attributes of the target group that serves.
fn keep_group(listener: &mut WantedListener, group: &Group, asked: impl Fn(&str) -> bool) {
    let mut known = group.attributes.clone();
    known.retain(|key, _| group_defaults(listener.shape).contains_key(key));
    keep(&mut listener.attributes, &known);
    let GroupHealth { protocol, port, path, codes, interval, timeout, healthy, unhealthy } =
        &group.described.health;
    let wanted = &mut listener.health;
    if (protocol, port, path) != (&wanted.protocol, &wanted.port, &wanted.path) {
        return;
    }
    if !asked(key::CHECK_CODES) {
        wanted.codes.clone_from(codes);
    }
    if !asked(key::CHECK_INTERVAL) && !asked(key::CHECK_TIMEOUT) {
        (wanted.interval, wanted.timeout) = (*interval, *timeout);
    }
    if !asked(key::CHECK_HEALTHY) {
        wanted.healthy = *healthy;
    }
    if !asked(key::CHECK_UNHEALTHY) {
        wanted.unhealthy = *unhealthy;
    }
}
