//! Source ranges: the clients that may connect.
//!
//! Owns: source ranges in the form that is asked for each new client. Leaves to others: what happens to one outside.
//! Invariant: an answer costs the logarithm of the number of ranges. No range at all admits everybody.

use std::net::IpAddr;

use ipnet::IpNet;

/// Source ranges, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Disjoint, in the order of their first addresses.
    ranges: Vec<IpNet>,
}

impl<'a> FromIterator<&'a IpNet> for SourceRanges {
    fn from_iter<T: IntoIterator<Item = &'a IpNet>>(ranges: T) -> Self {
        let mut ranges = IpNet::aggregate(&ranges.into_iter().copied().collect());
        ranges.sort_unstable_by_key(IpNet::network);
        Self { ranges }
    }
}

impl SourceRanges {
    /// Whether this client may connect.
    pub fn admit(&self, client: IpAddr) -> bool {
        let above = self.ranges.partition_point(|range| range.network() <= client);
        let below = above.checked_sub(1).and_then(|place| self.ranges.get(place));
        self.ranges.is_empty() || below.is_some_and(|range| range.contains(&client))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few bits, so that ranges touch, nest and repeat, in both families.
    fn mk_range((v6, bits, short): (bool, u8, u8)) -> IpNet {
        let text = if v6 {
            format!("2001:db8::{bits:x}/{}", 120 + short % 9)
        } else {
            format!("10.0.0.{bits}/{}", 24 + short % 9)
        };
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn a_client_is_admitted_exactly_if_some_range_has_its_address(
            ranges in proptest::collection::vec(any::<(bool, u8, u8)>().prop_map(mk_range), 0..8),
            v6: bool, bits: u8,
        ) {
            let client = mk_range((v6, bits, 8)).addr();
            let expected = ranges.is_empty() || ranges.iter().any(|range| range.contains(&client));
            prop_assert_eq!(ranges.iter().collect::<SourceRanges>().admit(client), expected);
        }
    }
}
