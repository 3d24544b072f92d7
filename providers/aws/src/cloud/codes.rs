//! The meaning of each error code of each call: whose fault it is, when to retry, and the remedy.
//!
//! Owns: the one table. Leaves to others: reading codes from answers (`sdk`), acting on them (`execute`). Invariants: an
//! error of the user's is reported with the annotation. A passing error is retried with backoff. An unknown code is an
//! outage unless its name says otherwise.
//! Codes: "Errors" of each call and "Common errors" in the API references of `ELBv2` and tagging, EC2's "Error codes",
//! and those of STS, which credentials come from.

use super::Trouble;
use crate::capabilities as key;

/// Every call that this provider makes, by its IAM prefix; for the table's test, and for the documented permissions.
#[cfg(test)]
pub(crate) const CALLS: &[(&str, &[&str])] = &[
    (
        "elasticloadbalancing",
        &[
            "AddListenerCertificates",
            "AddTags",
            "CreateListener",
            "CreateLoadBalancer",
            "CreateTargetGroup",
            "DeleteListener",
            "DeleteLoadBalancer",
            "DeleteTargetGroup",
            "DeregisterTargets",
            "DescribeAccountLimits",
            "DescribeListenerAttributes",
            "DescribeListenerCertificates",
            "DescribeListeners",
            "DescribeLoadBalancerAttributes",
            "DescribeLoadBalancers",
            "DescribeTags",
            "DescribeTargetGroupAttributes",
            "DescribeTargetGroups",
            "DescribeTargetHealth",
            "ModifyListener",
            "ModifyListenerAttributes",
            "ModifyLoadBalancerAttributes",
            "ModifyTargetGroup",
            "ModifyTargetGroupAttributes",
            "RegisterTargets",
            "RemoveListenerCertificates",
            "SetIpAddressType",
            "SetSecurityGroups",
            "SetSubnets",
        ],
    ),
    (
        "ec2",
        &[
            "AuthorizeSecurityGroupIngress",
            "CreateSecurityGroup",
            "CreateTags",
            "DeleteSecurityGroup",
            "DescribeManagedPrefixLists",
            "DescribeSecurityGroups",
            "DescribeSubnets",
            "RevokeSecurityGroupIngress",
        ],
    ),
    ("tag", &["GetResources"]),
];

/// Codes with one meaning; in these calls, or in any where none is named.
struct Row {
    calls: &'static [&'static str],
    codes: &'static [&'static str],
    trouble: Trouble,
    remedy: Remedy,
}

/// The remedy of an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// AWS's words say it.
    Said,
    Do(&'static str),
    /// This, to the annotation or flag.
    Correct(&'static str, &'static str),
}

const fn row(codes: &'static [&'static str], trouble: Trouble, remedy: Remedy) -> Row {
    Row { calls: &[], codes, trouble, remedy }
}

const fn within(
    calls: &'static [&'static str],
    codes: &'static [&'static str],
    trouble: Trouble,
    remedy: Remedy,
) -> Row {
    Row { calls, codes, trouble, remedy }
}

const LISTENER: &[&str] = &["CreateListener", "ModifyListener"];
const PLACE: &[&str] = &["CreateLoadBalancer", "SetSubnets", "SetIpAddressType"];
const QUOTA: Remedy = Remedy::Do("delete what is not needed, or ask AWS for a higher quota (Service Quotas)");
const TAGS: Remedy =
    Remedy::Correct(key::TAGS, "AWS takes 50 tags on a thing, some of which are the operator's: name fewer");
const ATTRIBUTES: Remedy = Remedy::Correct(key::ATTRIBUTES, "correct the attribute that AWS names");
const GROUP_ATTRIBUTES: Remedy =
    Remedy::Correct(key::GROUP_ATTRIBUTES, "correct the attribute that AWS names");
const SUBNETS: Remedy = Remedy::Correct(
    key::SUBNETS,
    "name other subnets, or tag others (kubernetes.io/role/elb, kubernetes.io/role/internal-elb)",
);
const PERMISSIONS: Remedy = Remedy::Do("grant it to the operator's role (docs/aws.md, Permissions)");

use Remedy::{Correct, Do, Said};
use Trouble::{
    Account, Credentials, Denied, Duplicate, InUse, Invalid, Limit, NotFound, Protected, Taken, Throttled,
    Unavailable,
};

/// The first row that fits counts: those of single calls come first.
const TABLE: &[Row] = &[
    // What a user named, call by call.
    within(
        &["CreateLoadBalancer", "SetSubnets"],
        &["ResourceInUse"],
        Taken,
        Correct(
            key::EIPS,
            "an address is still in use: release it (aws ec2 describe-addresses), or name another",
        ),
    ),
    within(
        &["CreateLoadBalancer", "SetSubnets"],
        &["AllocationIdNotFound", "InvalidAllocationID.NotFound"],
        Invalid,
        Correct(key::EIPS, "name allocations of this account and region"),
    ),
    within(
        &["CreateLoadBalancer", "SetSecurityGroups"],
        &["InvalidSecurityGroup"],
        Invalid,
        Correct(key::SECURITY_GROUPS, "name security groups of the load balancer's VPC"),
    ),
    within(PLACE, &["InvalidSubnet", "SubnetNotFound", "AvailabilityZoneNotSupported"], Invalid, SUBNETS),
    within(&["SetSubnets"], &["CapacityReservationPending"], Unavailable, Said),
    within(
        &["CreateLoadBalancer"],
        &["OperationNotPermitted"],
        Account,
        Do("AWS Support enables load balancers for new accounts"),
    ),
    within(
        &["ModifyLoadBalancerAttributes"],
        &["InvalidConfigurationRequest", "ValidationError"],
        Invalid,
        ATTRIBUTES,
    ),
    within(
        &["ModifyTargetGroupAttributes"],
        &["InvalidConfigurationRequest", "ValidationError"],
        Invalid,
        GROUP_ATTRIBUTES,
    ),
    within(
        &["ModifyListenerAttributes"],
        &["InvalidConfigurationRequest", "ValidationError"],
        Invalid,
        Correct(
            "service.beta.kubernetes.io/aws-load-balancer-listener-attributes.*",
            "correct the attribute that AWS names",
        ),
    ),
    within(
        &["ModifyTargetGroup", "CreateTargetGroup"],
        &["InvalidConfigurationRequest", "ValidationError"],
        Invalid,
        Correct(
            "service.beta.kubernetes.io/aws-load-balancer-healthcheck-*",
            "correct the value that AWS names",
        ),
    ),
    within(
        &["DescribeManagedPrefixLists"],
        &["InvalidPrefixListID.NotFound", "InvalidPrefixListId.NotFound"],
        NotFound,
        Said,
    ),
    within(
        &["AuthorizeSecurityGroupIngress"],
        &["InvalidPrefixListID.NotFound", "InvalidPrefixListId.NotFound"],
        Invalid,
        Correct(key::PREFIX_LISTS, "name prefix lists of this account and region"),
    ),
    within(
        &["DeleteLoadBalancer"],
        &["ResourceInUse"],
        InUse,
        Do("an endpoint service (PrivateLink) or another service still uses it: take it off there (aws ec2 \
            describe-vpc-endpoint-service-configurations)"),
    ),
    within(
        &["DeleteSecurityGroup"],
        &["DependencyViolation", "InvalidGroup.InUse", "ResourceInUse"],
        InUse,
        Do(
            "AWS holds it while network interfaces of the load balancer go; if it lasts, a rule of another security group \
            or a network interface refers to it: remove that (aws ec2 describe-security-groups --filters \
            Name=ip-permission.group-id,Values=…)",
        ),
    ),
    within(&["RemoveListenerCertificates"], &["CertificateNotFound"], NotFound, Said),
    within(LISTENER, &["TooManyActions", "InvalidLoadBalancerAction"], Invalid, Said),
    // Certificates and TLS.
    row(
        &["CertificateNotFound", "UnsupportedCertificate"],
        Invalid,
        Correct(key::CERTIFICATE, "name issued certificates of ACM or IAM, of this account and region"),
    ),
    row(
        &["SSLPolicyNotFound"],
        Invalid,
        Correct(key::TLS_POLICY, "name a policy of aws elbv2 describe-ssl-policies"),
    ),
    row(
        &["ALPNPolicyNotFound", "ALPNPolicyNotSupported"],
        Invalid,
        Correct(key::ALPN, "name another, or remove it"),
    ),
    row(&["IncompatibleProtocols", "UnsupportedProtocol", "InvalidScheme"], Invalid, Said),
    row(&["TrustStoreNotReady", "HealthUnavailable"], Unavailable, Said),
    // Tags.
    row(&["TooManyTags", "TagLimitExceeded"], Invalid, TAGS),
    row(
        &["DuplicateTagKeys", "InvalidTag", "InvalidTagKey.Malformed"],
        Invalid,
        Correct(key::TAGS, "correct the tag that AWS names"),
    ),
    // Credentials: new ones come by themselves, and clocks are set.
    row(
        &[
            "ExpiredToken",
            "ExpiredTokenException",
            "TokenRefreshRequired",
            "InvalidClientTokenId",
            "InvalidAccessKeyId",
            "UnrecognizedClientException",
            "AuthFailure",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "InvalidIdentityToken",
            "InvalidIdentityTokenException",
            "IDPRejectedClaim",
            "IDPCommunicationError",
            "InvalidToken",
            "NoCredentials",
        ],
        Credentials,
        Do(
            "the operator asks for new ones at the next try; if it lasts, see where they come from (docs/aws.md)",
        ),
    ),
    row(
        &[
            "SignatureDoesNotMatch",
            "InvalidSignature",
            "InvalidSignatureException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "RequestInTheFuture",
        ],
        Credentials,
        Do("if it lasts, set the clock of the operator's node, or correct the secret key"),
    ),
    // The account.
    row(
        &[
            "OptInRequired",
            "SubscriptionRequiredException",
            "NotSignedUp",
            "PendingVerification",
            "Blocked",
            "AccountProblem",
            "InvalidAccountStatus",
            "RegionDisabledException",
        ],
        Account,
        Do("the account's owner or AWS Support can change it"),
    ),
    // Permissions.
    row(
        &[
            "AccessDenied",
            "AccessDeniedException",
            "UnauthorizedOperation",
            "UnauthorizedAccess",
            "NotAuthorized",
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        ],
        Denied,
        PERMISSIONS,
    ),
    // The rate.
    row(
        &[
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "RequestLimitExceeded",
            "TooManyRequests",
            "TooManyRequestsException",
            "BandwidthLimitExceeded",
            "SlowDown",
            "EC2ThrottledException",
            "PriorRequestNotComplete",
        ],
        Throttled,
        Said,
    ),
    // AWS's own failures.
    row(
        &[
            "InternalError",
            "InternalFailure",
            "InternalServiceException",
            "InternalServiceError",
            "InternalServerError",
            "ServerInternal",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "Unavailable",
            "RequestTimeout",
            "RequestTimeoutException",
            "RequestAbortedException",
            "PaginationTokenExpiredException",
            "InvalidPaginationToken",
            "InsufficientCapacity",
            "NoAnswer",
            "IncompleteAnswer",
            "Unknown",
        ],
        Unavailable,
        Said,
    ),
    // Things that a plan saw and that changed under it.
    row(
        &[
            "LoadBalancerNotFound",
            "ListenerNotFound",
            "TargetGroupNotFound",
            "RuleNotFound",
            "TrustStoreNotFound",
            "InvalidGroup.NotFound",
            "InvalidGroupId.NotFound",
            "InvalidSecurityGroupID.NotFound",
            "InvalidPermission.NotFound",
        ],
        NotFound,
        Said,
    ),
    row(
        &[
            "DuplicateLoadBalancerName",
            "DuplicateTargetGroupName",
            "DuplicateListener",
            "InvalidGroup.Duplicate",
            "InvalidPermission.Duplicate",
        ],
        Duplicate,
        Said,
    ),
    row(
        &[
            "ResourceInUse",
            "ResourceInUseException",
            "DependencyViolation",
            "InvalidGroup.InUse",
            "TargetGroupAssociationLimit",
        ],
        InUse,
        Said,
    ),
    row(&["OperationNotPermitted", "CannotDelete"], Protected, Said),
    // Quotas.
    row(
        &[
            "TooManyLoadBalancers",
            "TooManyListeners",
            "TooManyTargetGroups",
            "TooManyUniqueTargetGroupsPerLoadBalancer",
            "TooManyCertificates",
            "SecurityGroupLimitExceeded",
            "SecurityGroupsPerInstanceLimitExceeded",
            "SecurityGroupsPerInterfaceLimitExceeded",
            "RulesPerSecurityGroupLimitExceeded",
            "NetworkInterfaceLimitExceeded",
            "AddressLimitExceeded",
        ],
        Limit,
        QUOTA,
    ),
    row(
        &["TooManyTargets"],
        Limit,
        Do("use fewer ports, or a group with fewer members; or raise the quota (--aws-quota)"),
    ),
    row(
        &["TooManyRegistrationsForTargetId"],
        Limit,
        Do("use fewer ports, or another Service for some of them"),
    ),
    row(
        &["InsufficientFreeAddressesInSubnet", "InsufficientAddressCapacity"],
        Limit,
        Correct(key::SUBNETS, "name subnets with at least 8 free addresses"),
    ),
    // The operator's own flags.
    row(
        &["InvalidVpcID.NotFound", "InvalidVpcId.NotFound", "VPCIdNotSpecified", "InvalidVpcID.Malformed"],
        Invalid,
        Do("correct --aws-vpc-id"),
    ),
    // What the request says.
    row(
        &[
            "InvalidConfigurationRequest",
            "InvalidTarget",
            "ValidationError",
            "InvalidParameter",
            "InvalidParameterException",
            "InvalidParameterValue",
            "InvalidParameterCombination",
            "InvalidPermission.Malformed",
            "InvalidGroup.Reserved",
            "InvalidGroupId.Malformed",
            "InvalidSubnetID.NotFound",
            "MissingParameter",
            "UnknownParameter",
            "MalformedQueryString",
            "UnsupportedOperation",
        ],
        Invalid,
        Said,
    ),
];

/// How a call ended whose answer has this code, and what to do about it if AWS's words do not say so.
pub(crate) fn meaning(operation: &str, code: &str) -> (Trouble, Option<String>) {
    let fits =
        |row: &&Row| row.codes.contains(&code) && (row.calls.is_empty() || row.calls.contains(&operation));
    let (trouble, remedy) =
        TABLE.iter().find(fits).map_or_else(|| (by_its_name(code), Said), |row| (row.trouble, row.remedy));
    let remedy = match remedy {
        Said => None,
        Do(what) => Some(what.to_owned()),
        Correct(key, what) => Some(format!("annotation {key}: {what}")),
    };
    (trouble, remedy)
}

/// A code that is in no row.
fn by_its_name(code: &str) -> Trouble {
    let begins = |words: &[&str]| words.iter().any(|word| code.starts_with(word));
    let ends = |words: &[&str]| words.iter().any(|word| code.ends_with(word));
    let says = |words: &[&str]| words.iter().any(|word| code.contains(word));
    match () {
        () if says(&["Throttl"]) => Throttled,
        () if says(&["Expired", "Signature", "Credential", "AuthenticationToken"]) => Credentials,
        () if says(&["AccessDenied", "Unauthorized", "NotAuthorized"]) => Denied,
        () if begins(&["Internal", "ServiceUnavailable"]) => Unavailable,
        () if ends(&["LimitExceeded"]) || begins(&["TooMany"]) => Limit,
        () if ends(&["NotFound", "NotFoundException"]) => NotFound,
        () if begins(&["Duplicate"]) || ends(&[".Duplicate"]) => Duplicate,
        () if begins(&["Invalid", "Incompatible", "Malformed", "Missing", "Unsupported", "Validation"]) => {
            Invalid
        }
        () => Unavailable,
    }
}

#[cfg(test)]
mod tests;
