//! Transactions that fall between two lookups of one packet.

use super::*;
use crate::table::Verdict;

fn serves(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Backends(_))
}

/// Whether the frontend passes from a Service port with `externalTrafficPolicy: Local` to another one without endpoints
/// for external clients, both with session affinity.
fn loses_local_list(before: &State, after: &State, frontend: &Frontend) -> bool {
    let was_local = before.elements.get(&Key::Service(*frontend)) == Some(&Value::Verdict(Verdict::External));
    match (before.alias(frontend), after.alias(frontend)) {
        (Some(old), Some(new)) => {
            was_local && old != new && !after.elements.contains_key(&Key::AffinityPick(new, List::Local))
        }
        _ => false,
    }
}

/// A transaction must not tear a frontend that serves this client before and after, with the one exception that
/// [`plan`] names.
fn check_torn(context: PacketContext<'_>, before: &State, after: &State) -> Result<(), TestCaseError> {
    for packet in packets() {
        if loses_local_list(before, after, &packet.to) {
            continue;
        }
        if serves(&walk::walk(before, context, &packet)) && serves(&walk::walk(after, context, &packet)) {
            for outcome in walk::walk_torn(before, after, context, &packet) {
                prop_assert!(serves(&outcome), "{packet:?} met {outcome} in mid-transaction");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_transaction_tears_a_frontend_that_has_endpoints(
        events in prop::collection::vec((event(), any::<bool>()), 1..10),
    ) {
        let mut model = mk_model([Event::Node(mk_node(0, 1, true))]);
        let mut kernel = State::default();
        for (moment, (event, commits_destructive)) in (1u64..).zip(events) {
            model.apply(event);
            prop_assert_eq!(model.shadow().plan(), plan::diff(&kernel, model.shadow().desired()));
            let additive = model.shadow().additive();
            let before = kernel.clone();
            kernel.apply(&additive);
            check_torn(PacketContext::of(&model), &before, &kernel)?;
            model.shadow_mut().applied(&additive, moment);
            prop_assert!(model.shadow().additive().is_empty());
            if commits_destructive {
                let destructive = model.shadow().destructive(moment);
                let before = kernel.clone();
                kernel.apply(&destructive);
                check_torn(PacketContext::of(&model), &before, &kernel)?;
                model.shadow_mut().applied(&destructive, moment);
                prop_assert!(model.shadow().is_settled());
                prop_assert_eq!(&kernel, model.shadow().desired());
            }
        }
    }
}
