//! The seam to AWS: exactly the calls this provider makes, in its own words.
//!
//! Owns: [`Cloud`] and [`CloudError`]. Leaves to others: deciding (`plan`), idempotence (`execute`), retrying (the
//! operator's scheduler: each call is made once). Invariant: no SDK type passes this trait, so that a fault can be
//! put before or after any call.

pub(crate) mod batches;
mod changing;
pub(crate) mod codes;
mod gather;
pub(crate) mod refusal;
pub(crate) mod resources;
mod sdk;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use portico_provider::ProviderError;

use resources::{
    AddressType, Families, Filter, GroupHealth, Health, Id, Listener, ListenerSpec, LoadBalancer, NewGroup,
    NewLoadBalancer, PrefixList, Rule, SecurityGroup, Subnet, SubnetMapping, Tags, Target, TargetGroup,
};
pub use sdk::Sdk;

/// How a call ended badly, as far as anybody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Too many calls.
    Throttled,
    /// The thing is not there.
    NotFound,
    /// A thing of this name, port or rule is there already.
    Duplicate,
    /// Something still holds on to it.
    InUse,
    /// A resource that the user named is in use elsewhere: an elastic address.
    Taken,
    /// Deletion protection, or another manager, forbids that.
    Protected,
    /// A quota.
    Limit,
    /// A permission.
    Denied,
    /// Credentials that are expired, rotated, or signed by a wrong clock.
    Credentials,
    /// The account's state.
    Account,
    /// The request can never succeed as it stands.
    Invalid,
    /// No answer, or a failure on AWS's side.
    Unavailable,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {code}: {message}")]
pub struct CloudError {
    /// The API's name of the call: `CreateLoadBalancer`.
    pub operation: &'static str,
    /// The class of the error, which decides about retries.
    pub trouble: Trouble,
    /// AWS's code: `DuplicateLoadBalancerName`.
    pub code: String,
    /// AWS's words.
    pub message: String,
}

/// The code of an answer that came, and lacks what every answer has.
pub(crate) const INCOMPLETE: &str = "IncompleteAnswer";

impl From<CloudError> for ProviderError {
    fn from(error: CloudError) -> Self {
        let CloudError { operation, trouble, code, message } = &error;
        let (operation, remedy) = (*operation, codes::meaning(operation, code).1);
        let message = match remedy {
            Some(remedy) => format!("{code}: {message}: {remedy}"),
            None => format!("{code}: {message}"),
        };
        match trouble {
            Trouble::Throttled => Self::Throttled { operation, after: None },
            Trouble::Duplicate | Trouble::Taken => Self::Conflict { operation, message },
            Trouble::Limit => Self::Exhausted { operation, message },
            Trouble::Denied => Self::Denied { operation, message },
            Trouble::Credentials => Self::Credentials { operation, message },
            Trouble::Account => Self::Account { operation, message },
            Trouble::Invalid | Trouble::Protected => Self::Invalid { operation, message },
            // The state changed since the plan: it is read again.
            Trouble::NotFound | Trouble::InUse | Trouble::Unavailable => Self::unavailable(operation, error),
        }
    }
}

/// The result of a call.
pub(crate) type Answer<T> = Result<T, CloudError>;

/// All calls. Each is one API call, or one listing paged to its end. A read by several IDs takes as many as AWS takes in one
/// call, and is [`Trouble::NotFound`] if one of them is not there (`batches` asks again).
pub trait Cloud: Tagging + LoadBalancers + Listeners + TargetGroups + Network {}

impl<C: Tagging + LoadBalancers + Listeners + TargetGroups + Network> Cloud for C {}

/// The Resource Groups Tagging API.
pub trait Tagging: Send + Sync + 'static {
    /// `tag:GetResources` for load balancers, listeners, target groups and security groups with one of these values in each
    /// of these tags.
    fn tagged(&self, filter: &Filter) -> impl Future<Output = Answer<Vec<(Id, Tags)>>> + Send;
}

/// `ELBv2`: load balancers, and the tags of all its resources.
pub trait LoadBalancers: Send + Sync + 'static {
    /// `DescribeLoadBalancers` by ARN.
    fn load_balancers(&self, ids: &[Id]) -> impl Future<Output = Answer<Vec<LoadBalancer>>> + Send;
    /// `DescribeLoadBalancers` by name.
    fn load_balancer_named(&self, name: &str) -> impl Future<Output = Answer<Option<LoadBalancer>>> + Send;
    /// `DescribeLoadBalancerAttributes`; `None`: there is no such load balancer.
    fn load_balancer_attributes(
        &self,
        id: &Id,
    ) -> impl Future<Output = Answer<Option<BTreeMap<String, String>>>> + Send;
    /// `CreateLoadBalancer`.
    fn create_load_balancer(
        &self,
        new: &NewLoadBalancer,
    ) -> impl Future<Output = Answer<LoadBalancer>> + Send;
    /// `ModifyLoadBalancerAttributes`.
    fn modify_load_balancer_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `SetSubnets`, which can change the families in the same call; `None`: they stay, and there is no source NAT.
    fn set_subnets(
        &self,
        id: &Id,
        subnets: &[SubnetMapping],
        families: Option<Families>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `SetSecurityGroups`.
    fn set_security_groups(&self, id: &Id, groups: &[Id]) -> impl Future<Output = Answer<()>> + Send;
    /// `SetIpAddressType`.
    fn set_address_type(&self, id: &Id, kind: AddressType) -> impl Future<Output = Answer<()>> + Send;
    /// `DeleteLoadBalancer`, with its listeners.
    fn delete_load_balancer(&self, id: &Id) -> impl Future<Output = Answer<()>> + Send;
    /// `elbv2:DescribeAccountLimits`: how many Network Load Balancers the account may have in the region; `None`: it does
    /// not say.
    fn most_load_balancers(&self) -> impl Future<Output = Answer<Option<usize>>> + Send;
    /// `elbv2:DescribeTags`, by ARN.
    fn tags(&self, ids: &[Id]) -> impl Future<Output = Answer<BTreeMap<Id, Tags>>> + Send;
    /// `elbv2:AddTags`.
    fn add_tags(&self, ids: &[Id], tags: &Tags) -> impl Future<Output = Answer<()>> + Send;
}

/// `ELBv2`: listeners, their certificates and attributes.
pub trait Listeners: Send + Sync + 'static {
    /// `DescribeListeners`.
    fn listeners(&self, load_balancer: &Id) -> impl Future<Output = Answer<Vec<Listener>>> + Send;
    /// `CreateListener`.
    fn create_listener(
        &self,
        load_balancer: &Id,
        spec: &ListenerSpec,
        group: &Id,
        tags: &Tags,
    ) -> impl Future<Output = Answer<Listener>> + Send;
    /// `ModifyListener`; the port stays.
    fn modify_listener(
        &self,
        id: &Id,
        spec: &ListenerSpec,
        group: &Id,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `DeleteListener`.
    fn delete_listener(&self, id: &Id) -> impl Future<Output = Answer<()>> + Send;
    /// `DescribeListenerCertificates`: those beside the default one.
    fn listener_certificates(&self, id: &Id) -> impl Future<Output = Answer<BTreeSet<String>>> + Send;
    /// `AddListenerCertificates`; those that are there already change nothing.
    fn add_listener_certificates(
        &self,
        id: &Id,
        arns: &BTreeSet<String>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `RemoveListenerCertificates`; those that are not there change nothing.
    fn remove_listener_certificates(
        &self,
        id: &Id,
        arns: &BTreeSet<String>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `DescribeListenerAttributes`.
    fn listener_attributes(&self, id: &Id) -> impl Future<Output = Answer<BTreeMap<String, String>>> + Send;
    /// `ModifyListenerAttributes`.
    fn modify_listener_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> impl Future<Output = Answer<()>> + Send;
}

/// `ELBv2`: target groups and targets.
pub trait TargetGroups: Send + Sync + 'static {
    /// `DescribeTargetGroups` by ARN.
    fn target_groups(&self, ids: &[Id]) -> impl Future<Output = Answer<Vec<TargetGroup>>> + Send;
    /// `DescribeTargetGroups` by name.
    fn target_group_named(&self, name: &str) -> impl Future<Output = Answer<Option<TargetGroup>>> + Send;
    /// `DescribeTargetGroupAttributes`; `None`: there is no such group.
    fn target_group_attributes(
        &self,
        id: &Id,
    ) -> impl Future<Output = Answer<Option<BTreeMap<String, String>>>> + Send;
    /// `CreateTargetGroup`.
    fn create_target_group(&self, new: &NewGroup) -> impl Future<Output = Answer<Id>> + Send;
    /// `ModifyTargetGroup`: the health check.
    fn modify_health_check(&self, id: &Id, health: &GroupHealth) -> impl Future<Output = Answer<()>> + Send;
    /// `ModifyTargetGroupAttributes`.
    fn modify_target_group_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// `DeleteTargetGroup`.
    fn delete_target_group(&self, id: &Id) -> impl Future<Output = Answer<()>> + Send;
    /// `DescribeTargetHealth`: every target that is registered or draining.
    fn target_health(&self, group: &Id) -> impl Future<Output = Answer<BTreeMap<Target, Health>>> + Send;
    /// `RegisterTargets`; at most [`resources::TARGETS_A_CALL`].
    fn register(&self, group: &Id, targets: &[Target]) -> impl Future<Output = Answer<()>> + Send;
    /// `DeregisterTargets`; at most [`resources::TARGETS_A_CALL`].
    fn deregister(&self, group: &Id, targets: &[Target]) -> impl Future<Output = Answer<()>> + Send;
}

/// EC2: security groups, prefix lists, subnets.
pub trait Network: Send + Sync + 'static {
    /// `DescribeSecurityGroups` with one of these values in each of these tags; at most 200 values.
    fn security_groups(&self, filter: &Filter) -> impl Future<Output = Answer<Vec<SecurityGroup>>> + Send;
    /// `DescribeSecurityGroups` by VPC and name; at most 200 names.
    fn security_groups_named(
        &self,
        vpc: &str,
        names: &BTreeSet<String>,
    ) -> impl Future<Output = Answer<Vec<SecurityGroup>>> + Send;
    /// `DescribeSecurityGroups` by VPC and tag `Name`; with that.
    fn security_groups_called(
        &self,
        vpc: &str,
        names: &BTreeSet<String>,
    ) -> impl Future<Output = Answer<Vec<(String, Id)>>> + Send;
    /// `CreateSecurityGroup`.
    fn create_security_group(
        &self,
        vpc: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> impl Future<Output = Answer<Id>> + Send;
    /// `ec2:CreateTags` on a security group.
    fn add_security_group_tags(&self, id: &Id, tags: &Tags) -> impl Future<Output = Answer<()>> + Send;
    /// `AuthorizeSecurityGroupIngress`.
    fn authorize(&self, group: &Id, rules: &[Rule]) -> impl Future<Output = Answer<()>> + Send;
    /// `RevokeSecurityGroupIngress`.
    fn revoke(&self, group: &Id, rules: &[Rule]) -> impl Future<Output = Answer<()>> + Send;
    /// `DeleteSecurityGroup`.
    fn delete_security_group(&self, id: &Id) -> impl Future<Output = Answer<()>> + Send;
    /// `DescribeManagedPrefixLists` by ID; all of them where none is named.
    fn prefix_lists(&self, ids: &BTreeSet<String>) -> impl Future<Output = Answer<Vec<PrefixList>>> + Send;
    /// `DescribeSubnets` of a VPC.
    fn subnets(&self, vpc: &str) -> impl Future<Output = Answer<Vec<Subnet>>> + Send;
}
