//! From the model's elements to the proxy's pools, and to the elements that lead to them.
//!
//! The ruleset stays that of docs/nftables.md, with one endpoint for each list of a frontend: the proxy's own socket. So what
//! decides between lists, refuses and drops is decided in the kernel, as for the nftables dataplane, and a packet reaches a
//! socket only if its list has endpoints. Pure.
//!
//! Invariant: what a key says follows from the frontend's own elements and sockets only.

use std::{net::SocketAddr, time::Duration};

use portico_proxy_core::{
    plan::State,
    table::{Backend, Balance, Frontend, Key, List, Recall, Value, Verdict},
};

use super::{
    clients::Affinity,
    pool::{PoolKey, Rules},
};

#[cfg(test)]
mod tests;

/// State of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PoolUse {
    /// It serves new clients.
    Serve(Rules),
    /// Nothing leads to it any more, but a packet may be on its way.
    Linger,
}

/// Questions about the proxy's sockets.
pub(super) trait Listening {
    /// Address of a pool's socket; `None` if it could not be opened.
    fn address(&self, key: &PoolKey) -> Option<SocketAddr>;
    /// Whether this is the address of one of the pools.
    fn is_socket(&self, frontend: &Frontend) -> bool;
}

/// The pools of a frontend. On loopback all clients are this node, so there the list for outside clients is never used.
pub(super) fn pools(desired: &State, frontend: Frontend) -> Vec<(PoolKey, PoolUse)> {
    let lists =
        if frontend.address.is_loopback() { &[List::Cluster][..] } else { &[List::Cluster, List::Local] };
    let pool = |list: &List| {
        let mut slots = desired.slots(&frontend, *list);
        if slots.is_empty() {
            return None;
        }
        let wanted = match leads(desired, frontend, *list) {
            Some((endpoints, affinity)) => {
                slots.truncate(usize::try_from(endpoints).unwrap_or(usize::MAX));
                PoolUse::Serve(Rules { backends: slots.into(), affinity })
            }
            None => PoolUse::Linger,
        };
        Some((PoolKey { frontend, list: *list }, wanted))
    };
    lists.iter().filter_map(pool).collect()
}

/// Number of endpoints of a list that a verdict of the frontend leads to, and its session affinity.
fn leads(desired: &State, frontend: Frontend, list: List) -> Option<(u32, Option<Affinity>)> {
    let verdict = |key: Key| match desired.elements.get(&key) {
        Some(Value::Verdict(verdict)) => Some(*verdict),
        _ => None,
    };
    let keys = [Key::Service(frontend), Key::Short(frontend), Key::Local(frontend)];
    keys.into_iter().filter_map(verdict).find_map(|verdict| match verdict {
        Verdict::Balance(balance) if balance.list == list => Some((balance.endpoints, None)),
        Verdict::Recall(Recall { seconds, pool, list: of, masquerade: _ }) if of == list => {
            let alias = desired.alias(&frontend)?;
            let Some(Value::Verdict(Verdict::Pick(pick))) =
                desired.elements.get(&Key::AffinityPick(alias, list))
            else {
                return None;
            };
            let affinity = Affinity { port: alias, pool, timeout: Duration::from_secs(seconds.into()) };
            Some((pick.endpoints, Some(affinity)))
        }
        _ => None,
    })
}

/// Every key of a frontend that [`element`] may say something about, beside those that the model writes itself.
pub(super) fn keys(frontend: Frontend) -> [Key; 7] {
    [
        Key::Service(frontend),
        Key::Short(frontend),
        Key::Local(frontend),
        Key::NoEndpoints(frontend),
        Key::Endpoint(frontend, slot(List::Cluster)),
        Key::Endpoint(frontend, slot(List::Local)),
        Key::Firewalled(frontend),
    ]
}

/// The slot of a list's only endpoint.
pub(super) fn slot(list: List) -> u32 {
    list.first_slot()
}

fn one(list: List) -> Balance {
    // The endpoint is this node: nobody's address has to be replaced, and affinity is the pool's.
    Balance { endpoints: 1, list, masquerade: false }
}

/// Value of a key in the kernel.
pub(super) fn element(desired: &State, sockets: &impl Listening, key: &Key) -> Option<Value> {
    let said = desired.elements.get(key).copied();
    match key {
        // Only redirected packets may reach a socket of ours. Those still have the frontend's address when the firewall sees
        // them. A NodePort on the same number comes first: its packets are redirected anyway.
        Key::Firewalled(f) if sockets.is_socket(f) => {
            let taken = [Key::Service(*f), Key::NoEndpoints(*f)];
            let is_taken = taken.iter().any(|key| desired.elements.contains_key(key));
            said.or_else(|| (!is_taken).then_some(Value::Present))
        }
        key if key.frontend().is_some_and(|frontend| frontend.address.is_loopback()) => None,
        Key::Service(f) | Key::Short(f) | Key::Local(f) => match said? {
            Value::Verdict(Verdict::Balance(Balance { list, .. }) | Verdict::Recall(Recall { list, .. })) => {
                sockets.address(&PoolKey { frontend: *f, list })?;
                Some(Value::Verdict(Verdict::Balance(one(list))))
            }
            other => Some(other),
        },
        Key::Endpoint(f, number) => {
            let list = [List::Cluster, List::Local].into_iter().find(|list| slot(*list) == *number)?;
            let (key, _) = pools(desired, *f).into_iter().find(|(key, _)| key.list == list)?;
            let address = sockets.address(&key)?;
            Some(Value::Backend(Backend { address: address.ip(), port: address.port() }))
        }
        Key::NoEndpoints(f) => {
            let is_unserved = |(key, wanted): &(PoolKey, PoolUse)| {
                matches!(wanted, PoolUse::Serve(_)) && sockets.address(key).is_none()
            };
            let unserved = || pools(desired, *f).iter().any(is_unserved);
            said.or_else(|| unserved().then_some(Value::Verdict(Verdict::Reject)))
        }
        Key::AffinityPort(_)
        | Key::AffinityPick(..)
        | Key::AffinitySlot(..)
        | Key::AffinityEndpoint(..)
        | Key::Hairpin(..) => None,
        Key::Firewalled(_)
        | Key::NodeAddress(_)
        | Key::NodePortStandIn(..)
        | Key::NodePort(..)
        | Key::NodePortNoEndpoints(..)
        | Key::ClusterIp(_)
        | Key::SourceRange(..)
        | Key::PodCidr(_)
        | Key::NodePod(_)
        | Key::ServiceCidr(_) => said,
    }
}
