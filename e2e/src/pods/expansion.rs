//! `$(NAME)` in commands, arguments and values, as Kubernetes expands it (`third_party/forked/golang/expansion` of 1.36).
//! Pure. Invariant: an unknown name stays as it is written, and `$$` is one `$` that starts nothing.

use std::collections::BTreeMap;

/// The text with known references replaced.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_all_else_stays() {
        let variables =
            BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        let cases = [
            ("$(A)-$(A)", "1-1"),
            ("$(B)", "$(A)"), // once only
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("é$(A)é", "é1é"),
        ];
        for (text, expect) in cases {
            assert_eq!(expand(text, &variables), expect, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_without_a_dollar_is_untouched(text in "[^$]*") {
            proptest::prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
        }
    }
}
