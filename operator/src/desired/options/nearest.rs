//! Which known key a misspelt one most likely means.
//!
//! Owns: the distance between keys. Leaves to others: which keys there are.
//! Invariant: for a key that resembles none there is no suggestion.

/// The known key with the fewest letters to change, if those are at most a third of it, or four.
pub(super) fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let short = |key: &str| key.rsplit('/').next().unwrap_or_default().chars().count();
    let limit = (short(key) / 3).max(4);
    let rated = known.into_iter().map(|other| (distance(key, other), other));
    rated.filter(|(distance, _)| *distance <= limit).min().map(|(_, other)| other)
}

/// How many letters are to be put in, taken out, or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut before = index;
        let mut left = index + 1;
        for (cell, there) in row.iter_mut().skip(1).zip(&other) {
            let changed = before + usize::from(letter != *there);
            before = *cell;
            left = changed.min(before + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_key_with_the_fewest_letters_to_change_is_meant() {
        let known = ["portico.dev/addresses", "portico.dev/scheme", "portico.dev/proxy-protocol"];
        assert_eq!(nearest("portico.dev/adresses", known), Some("portico.dev/addresses"));
        assert_eq!(nearest("portico.dev/proxyProtocol", known), Some("portico.dev/proxy-protocol"));
        assert_eq!(nearest("portico.dev/something-else", known), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("abc", "")), (3, 3, 3));
    }

    proptest! {
        #[test]
        fn distance_is_one(one in "[a-c]{0,6}", other in "[a-c]{0,6}", third in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&one, &other), distance(&other, &one));
            prop_assert_eq!(distance(&one, &other) == 0, one == other);
            prop_assert!(distance(&one, &third) <= distance(&one, &other) + distance(&other, &third));
        }
    }
}
