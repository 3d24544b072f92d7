//! What an account allows: told with the numbers before anything is made, and raised by flags.
//!
//! Owns: plans under other quotas than AWS's defaults. Leaves to others: reading flags (`crate::quotas`), whether rules fit
//! (`firewalls`). Invariant: a raised quota changes a plan only where it was in the way.

use portico_provider::{Desired, LoadBalancer, Plan, Protocol};

use super::plans::{mk_base, mk_site};
use super::{mk_listener, mk_options};
use crate::capabilities as key;
use crate::plan::{Site, plan};
use crate::{Quotas, Step};

fn planned(quotas: Quotas, desired: &LoadBalancer) -> Plan<Step> {
    plan(&Site { quotas, ..mk_site() }, Desired::Present(desired), None)
}

fn told(quotas: Quotas, desired: &LoadBalancer) -> String {
    let plan = planned(quotas, desired);
    let messages: Vec<&str> = plan.blocked().iter().map(|blocked| blocked.message.as_str()).collect();
    messages.join("; ")
}

#[test]
fn what_is_beyond_a_quota_is_told_with_the_numbers_and_passes_when_it_is_raised() {
    let quotas = Quotas::default();
    let ranges = (0..250).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
    let many_ranges = LoadBalancer { source_ranges: ranges, ..mk_base() };
    let listeners = (1..=51).map(|n| mk_listener(Protocol::Tcp, 80 + n)).collect();
    let many_ports = LoadBalancer { listeners, ..mk_base() };
    let arns: Vec<String> = (0..27).map(|n| format!("arn:aws:acm:{n}")).collect();
    let many_certificates =
        LoadBalancer { options: mk_options(&[(key::CERTIFICATE, arns.join(",").as_str())]), ..mk_base() };
    let table = [
        (&many_ranges, "needs 250 rules", "quota 60 × 4", Quotas { rules: 63, ..quotas }),
        (&many_ranges, "--aws-quota", "quota 60 × 4", Quotas { security_groups: 6, ..quotas }),
        (&many_ports, "needs 51 listeners", "quota 50", Quotas { listeners: 51, ..quotas }),
        (&many_certificates, "needs 26 certificates", "quota 25", Quotas { certificates: 26, ..quotas }),
    ];
    for (desired, needs, quota, raised) in table {
        let message = told(quotas, desired);
        assert!(message.contains(needs) && message.contains(quota), "{message}");
        assert!(planned(quotas, desired).steps().is_empty(), "nothing is made before");
        assert_eq!(told(raised, desired), "", "{needs}");
    }
}
