//! Offering nodes to an endpoint group, which takes all or none of those in a call.
//!
//! Owns: finding out which of them the group does not take. Leaves to others: what becomes of those (`refused`).
//! Invariants: what Google says names the unfit, or else halves find them; each call of [`offer`] has at least one node
//! taken or refused, or ends with Google's error; those it did not get to are offered with the next plan.

use crate::cloud::{Cloud, CloudError, CloudErrorKind, Operation};
use crate::resource::{Endpoint, Id, NO_ADDRESS};

/// The most endpoints that a call may name. <https://cloud.google.com/load-balancing/docs/negs/zonal-neg-concepts>
const BATCH: usize = 500;
/// Halving finds one of [`BATCH`] in ten.
const TRIES: usize = 16;

/// What became of an offer.
#[derive(Debug)]
pub(crate) struct Offered {
    /// Taken, as soon as the operation is done.
    pub(crate) taken: Vec<Endpoint>,
    /// Not taken, and why.
    pub(crate) refused: Vec<(Endpoint, String)>,
    /// What was started; `None`: nobody was left to offer.
    pub(crate) answer: Result<Option<Operation>, CloudError>,
}

/// Offers them.
pub(crate) async fn offer<C: Cloud>(cloud: &C, group: &Id, endpoints: &[Endpoint]) -> Offered {
    let mut left: Vec<Endpoint> = endpoints.iter().take(BATCH).cloned().collect();
    let mut refused = Vec::new();
    for _ in 0..TRIES {
        if left.is_empty() {
            break;
        }
        match cloud.attach(group, &left).await {
            Ok(operation) => return Offered { taken: left, refused, answer: Ok(Some(operation)) },
            Err(error) => {
                let (unfit, others) = unfit(group, left, &error);
                if unfit.is_empty() && !is_about_endpoints(group, &error) {
                    return Offered { taken: Vec::new(), refused, answer: Err(error) };
                }
                refused.extend(unfit.into_iter().map(|endpoint| (endpoint, error.message.clone())));
                left = others;
            }
        }
    }
    Offered { taken: Vec::new(), refused, answer: Ok(None) }
}

/// Those whom an error is about, and whom to offer then: the others, or where it names nobody, half of them.
fn unfit(group: &Id, mut all: Vec<Endpoint>, error: &CloudError) -> (Vec<Endpoint>, Vec<Endpoint>) {
    if !is_about_endpoints(group, error) {
        return (Vec::new(), all);
    }
    let named = named(group, &all, error);
    match (named.is_empty(), all.len()) {
        (false, _) => all.into_iter().partition(|endpoint| named.contains(endpoint)),
        (true, 0 | 1) => (all, Vec::new()),
        (true, many) => {
            all.truncate(many / 2);
            (Vec::new(), all)
        }
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
    matches!(error.kind, CloudErrorKind::Invalid | CloudErrorKind::NotFound)
        && !error.message.contains(&format!("/{}/{}'", group.kind.collection(), group.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind;

    fn mk_group() -> Id {
        Id { kind: Kind::EndpointGroup, zone: Some("z".to_owned()), name: "neg".to_owned() }
    }

    fn mk_endpoints(count: u8) -> Vec<Endpoint> {
        let one = |number| Endpoint { instance: format!("node-{number}"), ip: [10, 0, 0, number].into() };
        (1..=count).map(one).collect()
    }

    fn names(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.instance.as_str()).collect()
    }

    #[test]
    fn what_google_says_names_the_unfit_and_nobody_else() {
        let (group, all) = (mk_group(), mk_endpoints(13));
        for (kind, message, unfit) in [
            // kubernetes/ingress-gce issue 1463
            (
                CloudErrorKind::Invalid,
                "Invalid value for field 'resource.ipAddress': '10.0.0.13'. Specified IP address 10.0.0.13 doesn't belong \
                 to the (sub)network node-2 or to the instance node-13.",
                vec!["node-13"],
            ),
            (
                CloudErrorKind::NotFound,
                "The resource 'projects/p/zones/z/instances/node-1' was not found",
                vec!["node-1"],
            ),
            (
                CloudErrorKind::NotFound,
                "The resource 'projects/p/zones/z/networkEndpointGroups/neg' was not found",
                vec![],
            ),
            (CloudErrorKind::Denied, "instance node-1", vec![]),
        ] {
            assert_eq!(names(&named(&group, &all, &CloudError::new(kind, message))), unfit, "{message}");
        }
    }

    #[test]
    fn where_nobody_is_named_half_are_offered_until_one_is_left() {
        let (group, error) = (mk_group(), CloudError::new(CloudErrorKind::Invalid, "no"));
        let mut left = mk_endpoints(13);
        for count in [6, 3, 1] {
            let (unfit, others) = unfit(&group, left, &error);
            assert_eq!((unfit.len(), others.len()), (0, count));
            left = others;
        }
        let (unfit, others) = unfit(&group, left, &error);
        assert_eq!((names(&unfit), others.len()), (vec!["node-1"], 0));
    }
}
