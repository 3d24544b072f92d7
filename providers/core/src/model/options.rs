//! Options of one provider: annotations by their full name, typed when that provider reads them.
//!
//! Owns: the map and its typed reader. Leaves to others: which keys there are
//! ([`crate::Capabilities::options`], which the operator copies by).
//! Invariant: a value that does not parse is an error that names key, value and remedy; never a default. An empty one is
//! no value, as Kubernetes' own controllers read it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Annotations of one Service that its provider asked for, by their full names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// A typed reader over them.
    pub fn reader(&self) -> OptionReader<'_> {
        OptionReader { options: self, invalid: Vec::new() }
    }

    /// The trimmed value of a key; `None` if it is absent or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The full names of those that are set, in order; for options that are a family of keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Options {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// An option whose value does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key} is {value:?}, but must be {expected}")]
pub struct InvalidOption {
    /// The annotation's full name.
    pub key: String,
    /// The value as the annotation has it.
    pub value: String,
    /// The accepted values.
    pub expected: &'static str,
}

/// Reads options one by one and keeps every error, so that a user sees all of them at once.
#[derive(Debug)]
pub struct OptionReader<'a> {
    options: &'a Options,
    invalid: Vec<InvalidOption>,
}

impl OptionReader<'_> {
    /// `"true"` or `"false"`, in any spelling of Go's `strconv.ParseBool`, which cloud controllers take.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        self.read(key, "\"true\" or \"false\"", |text| match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        })
    }

    /// A duration such as `30s`, `500ms`, `5m`.
    pub fn duration(&mut self, key: &str) -> Option<Duration> {
        self.read(key, "a duration such as \"30s\", \"500ms\" or \"5m\"", parse_duration)
    }

    /// Anything that parses; `expected` completes the sentence "must be …".
    pub fn parsed<T: FromStr>(&mut self, key: &str, expected: &'static str) -> Option<T> {
        self.read(key, expected, |text| text.parse().ok())
    }

    fn read<T>(&mut self, key: &str, expected: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.options.get(key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.invalid.push(InvalidOption { key: key.to_owned(), value: value.to_owned(), expected });
        }
        parsed
    }

    /// Every value that did not parse.
    pub fn finish(self) -> Vec<InvalidOption> {
        self.invalid
    }
}

/// Reads `30s`, `500ms`, `5m`, `1h`: what annotations and flags write. `None` for anything else, too large included.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_wrong_option_is_named_with_its_remedy() {
        let options = mk_options(&[("a", "maybe"), ("b", "30"), ("c", "5m")]);
        let mut reader = options.reader();
        assert_eq!(reader.flag("a"), None);
        assert_eq!(reader.duration("b"), None);
        assert_eq!(reader.duration("c"), Some(Duration::from_mins(5)));
        assert_eq!(reader.flag("absent"), None);
        let messages: Vec<String> = reader.finish().iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0], "annotation a is \"maybe\", but must be \"true\" or \"false\"");
        assert!(messages[1].contains("b is \"30\""), "{}", messages[1]);
    }

    #[test]
    fn an_empty_value_is_unset_and_a_flag_has_the_spellings_that_cloud_controllers_take() {
        let options = mk_options(&[("empty", " "), ("go", "True"), ("number", "0"), ("no", "yes")]);
        let mut reader = options.reader();
        assert_eq!(reader.flag("empty"), None);
        assert_eq!((reader.flag("go"), reader.flag("number")), (Some(true), Some(false)));
        assert_eq!(reader.finish(), []);
        let mut reader = options.reader();
        assert_eq!((reader.flag("no"), reader.finish().len()), (None, 1));
    }

    #[test]
    fn a_duration_too_large_to_count_is_wrong_and_does_not_wrap() {
        let options = mk_options(&[("a", "99999999999999999999s"), ("b", "18446744073709551615h")]);
        let mut reader = options.reader();
        assert_eq!((reader.duration("a"), reader.duration("b")), (None, None));
        assert_eq!(reader.finish().len(), 2);
    }
}
