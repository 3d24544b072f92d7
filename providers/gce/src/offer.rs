//! Offering nodes to an endpoint group, which takes all or none of those in a call.
//!
//! Owns: finding out which of them the group does not take. Leaves to others: what becomes of those (`refused`).
//! Invariants: what Google says names the unfit, or else halves find them. Each call of [`offer`] has at least one node
//! taken or refused, or ends with Google's error. Those it did not get to are offered with the next plan.

use crate::cloud::{Cloud, CloudError, CloudErrorKind, Operation};
use crate::resource::{Endpoint, Id, NO_ADDRESS};

/// The most endpoints that a call may name. <https://cloud.google.com/load-balancing/docs/negs/zonal-neg-concepts>
const BATCH: usize = 500;
/// Halving finds one of [`BATCH`] in ten.
const TRIES: usize = 16;

/// The result of an offer.
#[derive(Debug)]
pub(crate) struct Offered {
    /// Taken, as soon as the operation is done.
    pub(crate) taken: Vec<Endpoint>,
    /// Not taken, and why.
    pub(crate) refused: Vec<(Endpoint, String)>,
    /// The started operation; `None`: no endpoint was left to offer.
    pub(crate) answer: Result<Option<Operation>, CloudError>,
}

pub(crate) async fn offer<C: Cloud>(cloud: &C, group: &Id, endpoints: &[Endpoint]) -> Offered {
    let mut left: Vec<Endpoint> = endpoints.iter().take(BATCH).cloned().collect();
    let mut refused = Vec::new();
    for _ in 0..TRIES {
        if left.is_empty() {
            break;
        }
        let error = match cloud.attach(group, &left).await {
            Ok(operation) => return Offered { taken: left, refused, answer: Ok(Some(operation)) },
            Err(error) => error,
        };
        match culprits(group, &left, &error) {
            Culprits::None => return Offered { taken: Vec::new(), refused, answer: Err(error) },
            Culprits::AmongHalf(half) => left.truncate(half),
            Culprits::Are(unfit) => {
                left.retain(|endpoint| !unfit.contains(endpoint));
                let alone = left.is_empty() && named(group, &unfit, &error).is_empty();
                if alone && is_about_all(&error) {
                    return prove(cloud, group, endpoints, unfit, refused, error).await;
                }
                refused.extend(unfit.into_iter().map(|endpoint| (endpoint, error.message.clone())));
            }
        }
    }
    Offered { taken: Vec::new(), refused, answer: Ok(None) }
}

/// A permission or a quota may be missing for all of them: only when another is taken, it was about the first.
async fn prove<C: Cloud>(
    cloud: &C,
    group: &Id,
    all: &[Endpoint],
    suspect: Vec<Endpoint>,
    mut refused: Vec<(Endpoint, String)>,
    error: CloudError,
) -> Offered {
    let tried = |endpoint: &Endpoint| {
        suspect.contains(endpoint) || refused.iter().any(|(refused, _)| refused == endpoint)
    };
    // The last was never part of a half that failed.
    let Some(another) = all.iter().rev().find(|endpoint| !tried(endpoint)).cloned() else {
        return Offered { taken: Vec::new(), refused, answer: Err(error) };
    };
    match cloud.attach(group, std::slice::from_ref(&another)).await {
        Ok(operation) => {
            refused.extend(suspect.into_iter().map(|endpoint| (endpoint, error.message.clone())));
            Offered { taken: vec![another], refused, answer: Ok(Some(operation)) }
        }
        Err(_of_another) => Offered { taken: Vec::new(), refused, answer: Err(error) },
    }
}

/// The endpoints that the refusal of a call names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Culprits {
    /// None of them: an outage, too many calls, or the group itself.
    None,
    Are(Vec<Endpoint>),
    /// Some, who are found by offering so many at first.
    AmongHalf(usize),
}

/// Those whom an error is about, or where it names nobody, half of them.
pub(crate) fn culprits(group: &Id, offered: &[Endpoint], error: &CloudError) -> Culprits {
    if !is_about_endpoints(group, error) {
        return Culprits::None;
    }
    let named = named(group, offered, error);
    match (named.is_empty(), offered.len()) {
        (false, _) => Culprits::Are(named),
        (true, 0) => Culprits::None,
        (true, 1) => Culprits::Are(offered.to_vec()),
        (true, many) => Culprits::AmongHalf(many / 2),
    }
}

/// Those of them that an error names as unfit.
pub(crate) fn named(group: &Id, endpoints: &[Endpoint], error: &CloudError) -> Vec<Endpoint> {
    if !is_about_endpoints(group, error) {
        return Vec::new();
    }
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    let words = error.message.split(|c| !part_of_name(c)).map(|word| word.trim_end_matches(['.', ':']));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    // A node may be called as its network is: a name counts behind the word for it, an address anywhere.
    let is_instance =
        |pair: &[&str], name: &str| matches!(pair[0], "instance" | "instances") && pair[1] == name;
    let is_named = |Endpoint { instance, ip }: &&Endpoint| {
        (*ip != NO_ADDRESS && words.contains(&ip.to_string().as_str()))
            || words.windows(2).any(|pair| is_instance(pair, instance))
    };
    endpoints.iter().filter(is_named).cloned().collect()
}

/// Whether a refusal can pass with other endpoints.
fn is_about_endpoints(group: &Id, error: &CloudError) -> bool {
    let can_pass = match error.kind {
        CloudErrorKind::Invalid
        | CloudErrorKind::NotFound
        | CloudErrorKind::Taken
        | CloudErrorKind::InUse
        | CloudErrorKind::Precondition
        | CloudErrorKind::Denied
        | CloudErrorKind::Quota => true,
        CloudErrorKind::RateLimit
        | CloudErrorKind::NotReady
        | CloudErrorKind::Credentials
        | CloudErrorKind::Account
        | CloudErrorKind::Unavailable => false,
    };
    can_pass && !error.message.contains(&format!("/{}/{}'", group.kind.collection(), group.name))
}

/// Whether it is more likely about all endpoints alike.
fn is_about_all(error: &CloudError) -> bool {
    matches!(error.kind, CloudErrorKind::Denied | CloudErrorKind::Quota)
}

#[cfg(test)]
mod tests;
