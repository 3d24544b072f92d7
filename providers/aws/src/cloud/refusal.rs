//! Targets that AWS does not take, by its own words.
//!
//! Owns: whether an answer to `RegisterTargets` is about its targets, about which, and what is wrong with them. Leaves to
//! others: what to do about it (`execute/targets`), when to try again (`cache/refused`). Invariant: an answer about anything
//! else (the group, a permission, the rate) is none of these, and stays an error.
//! AWS refuses a whole call for one target, and names those that it minds: sometimes all of them, sometimes the first.

use std::collections::BTreeMap;
use std::fmt;

use super::CloudError;
use super::target::Target;

/// The fault of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// An instance that does not run.
    NotRunning,
    /// There is no such instance.
    Gone,
    /// Outside the target group's VPC.
    Elsewhere,
    /// An instance of a type that cannot be a target.
    Unsupported,
    /// Too many ports of one load balancer send to it.
    TooManyPorts,
    /// Nobody knows: calls ran out before it was its turn.
    Unsorted,
    /// Something else, in AWS's words.
    Other,
}

impl Unfit {
    /// The remedy, for a person.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::NotRunning => "start the instance, or delete its Node",
            Self::Gone => "delete the Node, or correct its spec.providerID",
            Self::Elsewhere => {
                "targets have to be in the VPC of --aws-vpc-id: give pods addresses of its subnets, or set annotation \
                 portico.dev/target-kind to node; a Node of another VPC needs label \
                 node.kubernetes.io/exclude-from-external-load-balancers"
            }
            Self::Unsupported => {
                "use another instance type, or set annotation portico.dev/target-kind to pod; label the Node \
                 node.kubernetes.io/exclude-from-external-load-balancers to leave it out"
            }
            Self::TooManyPorts => "use fewer ports, or another Service for some of them",
            Self::Unsorted => "correct the others first",
            Self::Other => "see AWS's words",
        }
    }
}

/// That AWS refused a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub why: Unfit,
    pub words: String,
    /// How often it was offered in vain.
    pub tries: u32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, words, tries: _ } = self;
        write!(f, "{words}: {}", why.remedy())
    }
}

/// So many targets are named at most.
const NAMED: usize = 8;

/// The refused targets with the reasons; those with the same words together.
pub(crate) fn describe(all: &[(&Target, &Refusal)]) -> String {
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (target, refusal) in all {
        let ids = by_reason.entry(refusal.to_string()).or_default();
        if !ids.contains(&target.id.as_str()) {
            ids.push(&target.id);
        }
    }
    let each = by_reason.into_iter().map(|(reason, ids)| {
        let more = ids.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more} ({reason})", ids[..ids.len().min(NAMED)].join(", "))
    });
    each.collect::<Vec<_>>().join("; ")
}

impl CloudError {
    /// The fault of targets, if this error is about targets.
    pub(crate) fn unfit(&self) -> Option<Unfit> {
        let Self { operation: _, trouble: _, code, message } = self;
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match code.as_str() {
            "TooManyRegistrationsForTargetId" => Some(Unfit::TooManyPorts),
            "InvalidTarget" if says(&["running state"]) => Some(Unfit::NotRunning),
            "InvalidTarget" if says(&["not exist", "is not valid", "are not valid"]) => Some(Unfit::Gone),
            "InvalidTarget" if says(&["VPC"]) => Some(Unfit::Elsewhere),
            "InvalidTarget" if says(&["not supported"]) => Some(Unfit::Unsupported),
            "InvalidTarget" => Some(Unfit::Other),
            "ValidationError" if says(&["Instance ID"]) => Some(Unfit::Gone),
            "ValidationError" if says(&["IP address"]) && says(&["VPC", "CIDR", "range"]) => {
                Some(Unfit::Elsewhere)
            }
            "ValidationError" if says(&["IP address"]) => Some(Unfit::Other),
            _ => None,
        }
    }

    /// Whether the error names this target: its ID, and not one that only begins or ends like it.
    pub(crate) fn names(&self, target: &Target) -> bool {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
        self.message.match_indices(&target.id).any(|(at, found)| {
            let before = self.message[..at].chars().next_back().is_some_and(part);
            let mut after = self.message[at + found.len()..].chars();
            // A full stop or a colon may end the sentence.
            let first = after.next();
            let next = if matches!(first, Some('.' | ':')) { after.next() } else { first };
            !before && !next.is_some_and(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Trouble;

    fn mk_error(code: &str, message: &str) -> CloudError {
        CloudError {
            operation: "RegisterTargets",
            trouble: Trouble::Invalid,
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    fn mk_target(id: &str) -> Target {
        Target { id: id.to_owned(), port: 80 }
    }

    /// As AWS was seen to say it, in reports of the AWS Load Balancer Controller, Cluster API and Terraform.
    #[test]
    fn errors_about_targets_are_distinguished_from_all_others() {
        let table = [
            (
                "InvalidTarget",
                "The following targets are not in a running state and cannot be registered: 'i-1'",
                Some(Unfit::NotRunning),
            ),
            ("InvalidTarget", "The following instances do not exist: 'i-1', 'i-2'", Some(Unfit::Gone)),
            ("ValidationError", "Instance ID 'ip-10-7-0-7.internal' is not valid", Some(Unfit::Gone)),
            ("InvalidTarget", "Targets {i-1} are not supported", Some(Unfit::Unsupported)),
            (
                "ValidationError",
                "The Availability Zone is required for IP address '10.4.40.87' because it is not in the VPC",
                Some(Unfit::Elsewhere),
            ),
            (
                "ValidationError",
                "You must specify a valid Availability Zone or select 'all' for all enabled Availability zones, since \
                 the IP address '10.130.6.97' is outside the VPC",
                Some(Unfit::Elsewhere),
            ),
            ("TooManyRegistrationsForTargetId", "", Some(Unfit::TooManyPorts)),
            ("InvalidTarget", "no words that anybody knows", Some(Unfit::Other)),
            ("ValidationError", "'arn:x' is not a valid target group ARN", None),
            ("TargetGroupNotFound", "One or more target groups not found", None),
            ("TooManyTargets", "", None),
            ("Throttling", "Rate exceeded", None),
        ];
        for (code, message, expected) in table {
            assert_eq!(mk_error(code, message).unfit(), expected, "{code}: {message}");
        }
    }

    #[test]
    fn a_target_is_named_by_its_whole_id() {
        let error = mk_error("InvalidTarget", "not these: 'i-12', {i-3}, 10.0.0.1, 2001:db8::1. Sorry");
        for named in ["i-12", "i-3", "10.0.0.1", "2001:db8::1"] {
            assert!(error.names(&mk_target(named)), "{named}");
        }
        for other in ["i-1", "i-2", "10.0.0.11", "0.0.0.1", "10.0.0", "db8::1", "2001:db8::11", "i-123"] {
            assert!(!error.names(&mk_target(other)), "{other}");
        }
    }
}
