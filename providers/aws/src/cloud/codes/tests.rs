//! The table, line by line; and that no code that AWS documents for a call of ours is without a line.
//!
//! `table.txt`: call (`*`: any), code, reason, retry, and the remedy that follows AWS's words.

use std::collections::BTreeSet;

use portico_provider::{ProviderError, Retry};

use super::*;
use crate::cloud::CloudError;

const DOCS: &str = include_str!("../../../../../docs/aws.md");
const LINES: &str = include_str!("table.txt");
/// Call and the codes that its page in the API reference lists ("Errors").
const DOCUMENTED: &str = include_str!("documented.txt");

fn words_of(operation: &'static str, code: &str) -> ProviderError {
    let (trouble, _) = meaning(operation, code);
    CloudError { operation, trouble, code: code.to_owned(), message: "words".to_owned() }.into()
}

fn calls() -> impl Iterator<Item = &'static str> {
    CALLS.iter().flat_map(|(_, calls)| calls.iter().copied())
}

fn line(operation: &'static str, code: &str) -> String {
    let error = words_of(operation, code);
    let retry = match error.retry() {
        Retry::Never => "never".to_owned(),
        Retry::After(after) => format!("{after:?}"),
        Retry::Backoff => "backoff".to_owned(),
    };
    let remedy = meaning(operation, code).1.unwrap_or_default();
    format!("{operation} {code} {} {retry} {remedy}", error.reason()).trim_end().to_owned()
}

#[test]
fn every_code_of_every_call_has_its_reason_its_retry_and_its_words() {
    for expected in LINES.lines() {
        let mut words = expected.split(' ');
        let (operation, code) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(line(operation, code), expected);
    }
}

#[test]
fn no_documented_code_is_left_to_its_name_and_none_in_the_table_is_untested() {
    let known = |operation: &str, code: &str| {
        let its = |row: &Row| row.calls.is_empty() || row.calls.contains(&operation);
        TABLE.iter().any(|row| its(row) && row.codes.contains(&code))
    };
    for documented in DOCUMENTED.lines() {
        let (operation, codes) = documented.split_once(": ").unwrap();
        assert!(calls().any(|call| call == operation), "{operation} is not called");
        for code in codes.split(' ') {
            assert!(known(operation, code), "{operation} {code}");
        }
    }
    let tested: BTreeSet<(&str, &str)> = LINES
        .lines()
        .map(|line| (line.split(' ').next().unwrap(), line.split(' ').nth(1).unwrap()))
        .collect();
    for Row { calls, codes, .. } in TABLE {
        let calls = if calls.is_empty() { &["*"] } else { *calls };
        for (call, code) in calls.iter().flat_map(|call| codes.iter().map(move |code| (*call, *code))) {
            assert!(tested.contains(&(call, code)), "{call} {code} has no line");
        }
    }
}

#[test]
fn what_aws_said_comes_first_and_the_remedy_after_it() {
    let error = words_of("CreateListener", "CertificateNotFound").to_string();
    assert!(error.starts_with("CreateListener: CertificateNotFound: words: annotation "), "{error}");
    assert!(error.contains("ssl-cert: name issued certificates"), "{error}");
    let error = words_of("AddTags", "TooManyTags").to_string();
    assert!(error.contains("additional-resource-tags") && !error.contains("quota"), "{error}");
}

#[test]
fn an_unknown_code_is_classified_by_its_name_or_retried() {
    let table = [
        ("ThrottledTwice", Throttled),
        ("TokenExpiredAgain", Credentials),
        ("BadSignatureVersion", Credentials),
        ("AccessDeniedByPolicy", Denied),
        ("InternalWhatever", Unavailable),
        ("WhateverLimitExceeded", Limit),
        ("TooManyOfThem", Limit),
        ("SomethingNotFound", NotFound),
        ("InvalidThing.Duplicate", Duplicate),
        ("InvalidThing", Invalid),
        ("NobodyKnows", Unavailable),
    ];
    for (code, expected) in table {
        assert_eq!(meaning("CreateListener", code).0, expected, "{code}");
    }
}

/// Permissions by prefix, from the page's block.
fn documented() -> BTreeSet<(String, String)> {
    let block = DOCS.split_once("## Permissions").unwrap().1.split("```").nth(1).unwrap();
    let (mut prefix, mut all) = (String::new(), BTreeSet::new());
    for word in block.split_whitespace() {
        match word.strip_suffix(':') {
            Some(next) => next.clone_into(&mut prefix),
            None => drop(all.insert((prefix.clone(), word.to_owned()))),
        }
    }
    all
}

#[test]
fn every_call_is_among_the_documented_permissions_and_so_is_what_aws_asks_beside() {
    let documented = documented();
    for (prefix, call) in
        CALLS.iter().flat_map(|(prefix, calls)| calls.iter().map(move |call| (*prefix, *call)))
    {
        let has = |name: &str| documented.contains(&(prefix.to_owned(), name.to_owned()));
        let reads = prefix == "elasticloadbalancing" && call.starts_with("Describe");
        assert!(if reads { has("Describe*") } else { has(call) }, "{prefix}:{call}");
    }
    let beside = [
        "iam:CreateServiceLinkedRole",
        "ec2:DescribeAccountAttributes",
        "ec2:DescribeAddresses",
        "ec2:DescribeInstances",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeVpcs",
        "ec2:GetSecurityGroupsForVpc",
    ];
    for name in beside {
        let (prefix, call) = name.split_once(':').unwrap();
        assert!(documented.contains(&(prefix.to_owned(), call.to_owned())), "{name}");
    }
}
