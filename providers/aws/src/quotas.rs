//! Quotas of the account, known ahead, so that a violation is reported before anything is created.
//!
//! Owns: [`Quotas`], AWS's defaults, and reading raised ones from flags. Leaves to others: counting against them
//! (`wanted`, `plan/security_groups`). Invariant: none is zero, and security groups and their rules together stay within what
//! AWS allows at most, whatever is asked for.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-limits.html>,
//! <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html#vpc-limits-security-groups>

use std::fmt;
use std::str::FromStr;

/// AWS's own limit on rules of one family behind one network interface, whatever the quotas are.
const RULES_AN_INTERFACE: usize = 1_000;
/// The most security groups of a network interface that AWS grants.
const GROUPS_AN_INTERFACE: usize = 16;

/// How many of each there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Inbound rules of one security group, for each family.
    pub rules: usize,
    /// Security groups of one load balancer, the one that nodes let in included.
    pub security_groups: usize,
    /// Listeners of one load balancer.
    pub listeners: usize,
    /// Certificates of one load balancer beside the default ones.
    pub certificates: usize,
    /// Targets of one load balancer in one zone; in all zones, where traffic crosses them.
    pub zone_targets: usize,
    /// Targets of one load balancer.
    pub targets: usize,
    /// Targets of one target group.
    pub group_targets: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            rules: 60,
            security_groups: 5,
            listeners: 50,
            certificates: 25,
            zone_targets: 500,
            targets: 3_000,
            group_targets: 1_000,
        }
    }
}

/// One quota as a flag sets it: `rules-per-security-group=120`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    name: &'static str,
    most: usize,
}

/// A quota that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuota {
    /// The text is not of the form `NAME=NUMBER`.
    #[error("{0:?} is no NAME=NUMBER such as rules-per-security-group=120")]
    Form(String),
    /// A name that nobody knows.
    #[error("{name:?} is none of {}", NAMES.join(", "))]
    Name {
        /// The unknown name as it was given.
        name: String,
    },
    /// More than AWS ever grants.
    #[error(
        "{groups} security groups with {rules} rules each are more than AWS grants: {GROUPS_AN_INTERFACE} groups, and {RULES_AN_INTERFACE} rules in all"
    )]
    Together {
        /// Of a load balancer.
        groups: usize,
        /// The asked number of rules in each group.
        rules: usize,
    },
}

const NAMES: [&str; 7] = [
    "rules-per-security-group",
    "security-groups-per-load-balancer",
    "listeners-per-load-balancer",
    "certificates-per-load-balancer",
    "targets-per-zone",
    "targets-per-load-balancer",
    "targets-per-target-group",
];

impl FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, InvalidQuota> {
        let (name, most) = text.split_once('=').ok_or_else(|| InvalidQuota::Form(text.to_owned()))?;
        let most = most.parse().ok().filter(|most| *most > 0);
        let most = most.ok_or_else(|| InvalidQuota::Form(text.to_owned()))?;
        let known = NAMES.into_iter().find(|known| *known == name);
        let name = known.ok_or_else(|| InvalidQuota::Name { name: name.to_owned() })?;
        Ok(Self { name, most })
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, most } = self;
        write!(f, "{name}={most}")
    }
}

impl Quotas {
    /// AWS's defaults, but for these.
    pub fn with(raised: &[Quota]) -> Result<Self, InvalidQuota> {
        let mut quotas = Self::default();
        let Self { rules, security_groups, listeners, certificates, zone_targets, targets, group_targets } =
            &mut quotas;
        let mut fields =
            [rules, security_groups, listeners, certificates, zone_targets, targets, group_targets];
        for Quota { name, most } in raised {
            for (known, field) in NAMES.iter().zip(&mut fields) {
                if known == name {
                    **field = *most;
                }
            }
        }
        let Self { rules, security_groups: groups, .. } = quotas;
        if !(2..=GROUPS_AN_INTERFACE).contains(&groups) || groups.saturating_mul(rules) > RULES_AN_INTERFACE {
            return Err(InvalidQuota::Together { groups, rules });
        }
        Ok(quotas)
    }

    /// Security groups of our own in front of one load balancer: one place is for the group that nodes let in.
    pub(crate) fn shards(&self) -> usize {
        self.security_groups.saturating_sub(1).max(1)
    }

    /// `quota 60 × 4 security groups`.
    pub(crate) fn of_rules(&self) -> String {
        format!("quota {} × {} security groups", self.rules, self.shards())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flags: &[&str]) -> Result<Quotas, InvalidQuota> {
        Quotas::with(&flags.iter().map(|flag| flag.parse()).collect::<Result<Vec<_>, _>>()?)
    }

    #[test]
    fn each_name_sets_its_own_quota_and_nothing_else() {
        let defaults = Quotas::default();
        assert_eq!(with(&[]), Ok(defaults));
        for name in NAMES {
            let raised = with(&[&format!("{name}=7")]).unwrap();
            let count = |quotas: Quotas| format!("{quotas:?}").split(": 7").count();
            assert_eq!(count(raised), count(defaults) + 1, "{name}: {raised:?}");
        }
        let raised = with(&["rules-per-security-group=120", "rules-per-security-group=100"]).unwrap();
        assert_eq!(
            (raised, raised.of_rules()),
            (Quotas { rules: 100, ..defaults }, "quota 100 × 4 security groups".to_owned())
        );
    }

    #[test]
    fn nonsense_is_refused_with_what_it_may_be() {
        let error = |flag: &str| with(&[flag]).unwrap_err().to_string();
        for odd in ["rules-per-security-group", "rules-per-security-group=many", "targets-per-zone=0"] {
            assert!(error(odd).contains("NAME=NUMBER"), "{odd}");
        }
        assert!(error("rules=5").contains("rules-per-security-group, security-groups-per-load-balancer"));
        assert!(error("rules-per-security-group=300").contains("1000 rules in all"));
        assert!(error("security-groups-per-load-balancer=17").contains("16 groups"));
        assert!(error("security-groups-per-load-balancer=1").contains("AWS grants"));
    }
}
