//! Examples of plans; the properties over whole models are in `model/tests.rs`.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::table::{Backend, Balance, List, Protocol, Verdict};

fn mk_frontend() -> Frontend {
    Frontend { address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), protocol: Protocol::Tcp, port: 80 }
}

fn mk_service(endpoints: u8) -> State {
    let f = mk_frontend();
    let balance = Balance { endpoints: endpoints.into(), list: List::Cluster, masquerade: false };
    let mut state = State::default();
    if endpoints == 0 {
        state.insert(Key::NoEndpoints(f), Value::Verdict(Verdict::Reject));
        return state;
    }
    state.insert(Key::Service(f), Value::Verdict(Verdict::Balance(balance)));
    for slot in 0..endpoints {
        let backend = Backend { address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, slot)), port: 8080 };
        state.insert(Key::Endpoint(f, slot.into()), Value::Backend(backend));
    }
    state
}

#[test]
fn a_surplus_slot_leaves_one_transaction_after_the_verdict_that_led_to_it() {
    let plan = diff(&mk_service(3), &mk_service(2));
    assert_eq!(plan.additive.puts.len(), 1, "{plan}");
    assert_eq!(plan.additive.chains_added.len(), 1, "{plan}");
    assert!(plan.additive.removals.is_empty(), "{plan}");
    assert_eq!(plan.destructive.removals, [Key::Endpoint(mk_frontend(), 2)]);
    assert_eq!(plan.destructive.chains_removed.len(), 1, "{plan}");
}

#[test]
fn a_first_endpoint_leaves_the_rejection_standing_for_packets_that_missed_it() {
    let plan = diff(&mk_service(0), &mk_service(1));
    assert_eq!(plan.destructive.removals, [Key::NoEndpoints(mk_frontend())]);
    assert!(matches!(plan.additive.puts[0].key, Key::Endpoint(..)), "endpoints go before verdicts:\n{plan}");
}

#[test]
fn a_range_that_a_wider_one_replaces_leaves_in_the_same_transaction() {
    let f = mk_frontend();
    let mk = |net: &str| -> State {
        [
            (Key::Firewalled(f), Value::Present),
            (Key::SourceRange(f, net.parse().expect("a CIDR")), Value::Present),
        ]
        .into_iter()
        .collect()
    };
    let plan = diff(&mk("10.0.0.0/24"), &mk("10.0.0.0/16"));
    assert_eq!(plan.additive.removals.len(), 1, "{plan}");
    assert!(plan.destructive.is_empty(), "{plan}");
    let plan = diff(&mk("10.0.0.0/24"), &State::default());
    assert_eq!(plan.destructive.removals.len(), 1, "the range must outlive its mark:\n{plan}");
}

#[test]
fn a_plan_prints_every_change_with_its_reason() {
    let plan = diff(&mk_service(3), &mk_service(2));
    let expected = "now:
  + chain ip lb-2: first frontend that balances like this
  ~ services 10.96.0.1:80/tcp = lb-2: was lb-3

later, when no packet is on its way there:
  - endpoints 10.96.0.1:80/tcp slot 0x2: fewer endpoints
  - chain ip lb-3: no frontend balances like this any more

";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn nothing_to_do_says_so() {
    let plan = diff(&mk_service(3), &mk_service(3));
    assert!(plan.is_empty());
    assert!(plan.to_string().starts_with("nothing to do"));
}
