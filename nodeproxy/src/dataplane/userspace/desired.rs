//! Cache of the desired state in this process, with the frontends of each alias.
//!
//! Owns the mapping from a Service port with session affinity, whose endpoints are stored once for all its
//! addresses, to its frontends. Invariant: `frontends` has exactly the `affinity-ports` of the state.

use std::collections::{BTreeSet, HashMap};

use portico_proxy_core::{
    plan::{State, Transaction},
    table::{Alias, Frontend, Key},
};

/// Desired elements, and the frontends that share some of them.
#[derive(Debug, Default)]
pub(super) struct Desired {
    state: State,
    frontends: HashMap<Alias, BTreeSet<Frontend>>,
}

impl Desired {
    /// The desired elements.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Applies a transaction; returns every frontend that it changes.
    pub(super) fn apply(&mut self, transaction: &Transaction) -> BTreeSet<Frontend> {
        let mut concerned = transaction.frontends();
        self.share(transaction, &mut concerned);
        for frontend in transaction.keys().filter_map(port) {
            if let Some(alias) = self.state.alias(&frontend)
                && let Some(frontends) = self.frontends.get_mut(&alias)
            {
                frontends.remove(&frontend);
                if frontends.is_empty() {
                    self.frontends.remove(&alias);
                }
            }
        }
        self.state.apply(transaction);
        for frontend in transaction.keys().filter_map(port) {
            if let Some(alias) = self.state.alias(&frontend) {
                self.frontends.entry(alias).or_default().insert(frontend);
            }
        }
        self.share(transaction, &mut concerned);
        concerned
    }

    fn share(&self, transaction: &Transaction, concerned: &mut BTreeSet<Frontend>) {
        let aliases: BTreeSet<_> = transaction.keys().filter_map(Key::alias).collect();
        concerned.extend(aliases.iter().filter_map(|alias| self.frontends.get(alias)).flatten());
    }
}

fn port(key: &Key) -> Option<Frontend> {
    match key {
        Key::AffinityPort(frontend) => Some(*frontend),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use portico_proxy_core::{
        plan::{State, diff},
        table::{List, Protocol, Value},
    };

    use super::*;

    #[test]
    fn an_endpoint_of_a_port_concerns_each_of_its_frontends() {
        let frontend =
            |last| Frontend { address: [10, 96, 0, last].into(), protocol: Protocol::Tcp, port: 80 };
        let alias = Alias { address: [240, 0, 0, 1].into(), protocol: Protocol::Tcp };
        let port = |last| (Key::AffinityPort(frontend(last)), Value::Alias(alias.address));
        let both: State = [port(1), port(2)].into_iter().collect();
        let mut more = both.clone();
        more.insert(Key::AffinityEndpoint(alias, List::Cluster, 7), Value::Id(7));
        let mut desired = Desired::default();
        desired.apply(&diff(&State::default(), &both).additive);
        let all = BTreeSet::from([frontend(1), frontend(2)]);
        assert_eq!(desired.apply(&diff(&both, &more).additive), all);
        let one: State = [port(1)].into_iter().collect();
        assert_eq!(desired.apply(&diff(&more, &one).destructive), all, "those that leave, too");
        assert_eq!(desired.frontends.get(&alias), Some(&BTreeSet::from([frontend(1)])));
    }
}
