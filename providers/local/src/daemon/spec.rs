//! Checks of a specification that need no other load balancer.

use portico_provider::{IpFamily, Protocol};

use crate::api::Spec;

/// Refuses a specification that cannot be served; the error names the field and the remedy. The IPAM checks addresses.
pub(super) fn check(spec: &Spec) -> Result<(), String> {
    let Spec { listeners, health_check, ip_families, requested, .. } = spec;
    if listeners.is_empty() {
        return Err("listeners: there must be at least one".to_owned());
    }
    if let Some(key) = listeners.keys().find(|key| key.protocol == Protocol::Sctp) {
        return Err(format!("listeners: {key} cannot be served: use TCP or UDP"));
    }
    if ip_families.is_empty() {
        return Err("ip_families: there must be at least one of IPv4, IPv6".to_owned());
    }
    if let Some(check) = health_check.as_ref().filter(|check| !check.is_sane()) {
        return Err(format!("health_check: {check}: nothing may be zero, and a path begins with /"));
    }
    for family in [IpFamily::IPv4, IpFamily::IPv6] {
        let asked = requested.iter().filter(|address| IpFamily::of(**address) == family).count();
        if asked > 1 || (asked == 1 && !ip_families.contains(&family)) {
            return Err(format!(
                "requested: at most one {family} address, and only if ip_families has {family}"
            ));
        }
    }
    Ok(())
}
