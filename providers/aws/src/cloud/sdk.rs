//! The seam, on the AWS SDKs.
//!
//! Owns: clients, paging. Leaves to others: which error means what (`failure`), credentials once found (`credentials`), the calls of each API (`elb`,
//! `ec2`), their rate and time limits (`limited`). Invariant: one attempt a call, but for throttled ones, and a bound on
//! each; TLS by rustls with ring.

mod credentials;
mod ec2;
mod elb;
mod failure;
mod limited;
mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_config::identity::IdentityCache;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_resourcegroupstagging::types::TagFilter;
use aws_smithy_http_client::{Builder, Connector, tls};
use portico_limits::{Limiter, Pace};

use super::resources::{
    AddressType, Families, Filter, GroupHealth, Health, Id, Listener, ListenerSpec, LoadBalancer, NewGroup,
    NewLoadBalancer, PrefixList, Rule, SecurityGroup, Subnet, SubnetMapping, Tags, Target, TargetGroup,
};
use super::{Answer, Cloud};
use credentials::Kept;
use failure::failed;
use limited::{Limited, Limits};

/// The three APIs.
#[derive(Clone, Debug)]
pub struct Sdk {
    elb: aws_sdk_elasticloadbalancingv2::Client,
    ec2: Arc<query::Query>,
    tagging: aws_sdk_resourcegroupstagging::Client,
    limits: Arc<Limits>,
}

impl Sdk {
    /// Clients of `region`, or of what stands at `endpoint`. Without `credentials` they are found as every AWS SDK
    /// finds them: environment, profile, web identity (IRSA), container (EKS Pod Identity), instance.
    pub async fn connect(
        region: String,
        endpoint: Option<String>,
        credentials: Option<Credentials>,
        pace: Pace,
    ) -> Self {
        let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let limits = Arc::new(Limits::at(pace));
        let http = Builder::new().tls_provider(tls.clone()).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region))
            .http_client(Limited::client(http, Arc::clone(&limits)))
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            // To the SDK a call that waits for its turn looks like a connection that has stalled.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let config = loader.load().await;
        let kept = config.credentials_provider().map(|it| Kept::new(it, limits.rejections()));
        let mut config = config.into_builder().identity_cache(IdentityCache::no_cache());
        config.set_credentials_provider(kept.map(SharedCredentialsProvider::new));
        let config = config.build();
        let connector = Limited::new(Connector::builder().tls_provider(tls).build(), Arc::clone(&limits));
        Self {
            elb: aws_sdk_elasticloadbalancingv2::Client::new(&config),
            ec2: Arc::new(query::Query::new(&config, connector)),
            tagging: aws_sdk_resourcegroupstagging::Client::new(&config),
            limits,
        }
    }

    /// What limits its calls, a limiter for each class; for metrics.
    pub fn limiters(&self) -> Vec<Arc<Limiter>> {
        self.limits.all()
    }

    async fn page(
        &self,
        filter: &Filter,
        token: Option<String>,
    ) -> Answer<(Vec<(Id, Tags)>, Option<String>)> {
        let filters = filter
            .iter()
            .map(|(key, values)| TagFilter::builder().key(key).set_values(Some(values.clone())).build());
        let types = [
            "elasticloadbalancing:loadbalancer",
            "elasticloadbalancing:listener",
            "elasticloadbalancing:targetgroup",
            "ec2:security-group",
        ];
        let page = self
            .tagging
            .get_resources()
            .set_tag_filters(Some(filters.collect()))
            .set_resource_type_filters(Some(types.map(str::to_owned).into()))
            .resources_per_page(100)
            .set_pagination_token(token)
            .send()
            .await
            .map_err(|error| failed("GetResources", error))?;
        let next = page.pagination_token().filter(|token| !token.is_empty()).map(str::to_owned);
        let resources =
            page.resource_tag_mapping_list.unwrap_or_default().into_iter().filter_map(|resource| {
                let tags = resource.tags.unwrap_or_default();
                let tags = tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
                Some((id_of(&resource.resource_arn?), tags))
            });
        Ok((resources.collect(), next))
    }
}

/// EC2's own calls name a security group by its ID, not by its ARN.
fn id_of(arn: &str) -> Id {
    Id(arn.split_once(":security-group/").map_or(arn, |(_, id)| id).to_owned())
}

impl Cloud for Sdk {
    async fn tagged(&self, filter: &Filter) -> Answer<Vec<(Id, Tags)>> {
        let (mut all, mut next) = self.page(filter, None).await?;
        while let Some(token) = next {
            let (page, following) = self.page(filter, Some(token)).await?;
            all.extend(page);
            next = following;
        }
        Ok(all)
    }

    async fn load_balancers(&self, ids: &[Id]) -> Answer<Vec<LoadBalancer>> {
        elb::load_balancers(&self.elb, ids).await
    }

    async fn load_balancer_named(&self, name: &str) -> Answer<Option<LoadBalancer>> {
        elb::load_balancer_named(&self.elb, name).await
    }

    async fn load_balancer_attributes(&self, id: &Id) -> Answer<Option<BTreeMap<String, String>>> {
        elb::load_balancer_attributes(&self.elb, id).await
    }

    async fn create_load_balancer(&self, new: &NewLoadBalancer) -> Answer<LoadBalancer> {
        elb::create_load_balancer(&self.elb, new).await
    }

    async fn modify_load_balancer_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> Answer<()> {
        elb::modify_load_balancer_attributes(&self.elb, id, attributes).await
    }

    async fn set_subnets(
        &self,
        id: &Id,
        subnets: &[SubnetMapping],
        families: Option<Families>,
    ) -> Answer<()> {
        elb::set_subnets(&self.elb, id, subnets, families).await
    }

    async fn set_security_groups(&self, id: &Id, groups: &[Id]) -> Answer<()> {
        elb::set_security_groups(&self.elb, id, groups).await
    }

    async fn set_address_type(&self, id: &Id, kind: AddressType) -> Answer<()> {
        elb::set_address_type(&self.elb, id, kind).await
    }

    async fn delete_load_balancer(&self, id: &Id) -> Answer<()> {
        elb::delete_load_balancer(&self.elb, id).await
    }

    async fn listeners(&self, load_balancer: &Id) -> Answer<Vec<Listener>> {
        elb::listener::listeners(&self.elb, load_balancer).await
    }

    async fn create_listener(
        &self,
        lb: &Id,
        spec: &ListenerSpec,
        group: &Id,
        tags: &Tags,
    ) -> Answer<Listener> {
        elb::listener::create(&self.elb, lb, spec, group, tags).await
    }

    async fn modify_listener(&self, id: &Id, spec: &ListenerSpec, group: &Id) -> Answer<()> {
        elb::listener::modify(&self.elb, id, spec, group).await
    }

    async fn delete_listener(&self, id: &Id) -> Answer<()> {
        elb::listener::delete(&self.elb, id).await
    }

    async fn listener_certificates(&self, id: &Id) -> Answer<BTreeSet<String>> {
        elb::extras::certificates(&self.elb, id).await
    }

    async fn add_listener_certificates(&self, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
        elb::extras::add_certificates(&self.elb, id, arns).await
    }

    async fn remove_listener_certificates(&self, id: &Id, arns: &BTreeSet<String>) -> Answer<()> {
        elb::extras::remove_certificates(&self.elb, id, arns).await
    }

    async fn listener_attributes(&self, id: &Id) -> Answer<BTreeMap<String, String>> {
        elb::extras::attributes(&self.elb, id).await
    }

    async fn modify_listener_attributes(&self, id: &Id, attributes: &BTreeMap<String, String>) -> Answer<()> {
        elb::extras::modify_attributes(&self.elb, id, attributes).await
    }

    async fn target_groups(&self, ids: &[Id]) -> Answer<Vec<TargetGroup>> {
        elb::group::target_groups(&self.elb, ids).await
    }

    async fn target_group_named(&self, name: &str) -> Answer<Option<TargetGroup>> {
        elb::group::named(&self.elb, name).await
    }

    async fn target_group_attributes(&self, id: &Id) -> Answer<Option<BTreeMap<String, String>>> {
        elb::group::attributes(&self.elb, id).await
    }

    async fn create_target_group(&self, new: &NewGroup) -> Answer<Id> {
        elb::group::create(&self.elb, new).await
    }

    async fn modify_health_check(&self, id: &Id, health: &GroupHealth) -> Answer<()> {
        elb::group::modify_health_check(&self.elb, id, health).await
    }

    async fn modify_target_group_attributes(
        &self,
        id: &Id,
        attributes: &BTreeMap<String, String>,
    ) -> Answer<()> {
        elb::group::modify_attributes(&self.elb, id, attributes).await
    }

    async fn delete_target_group(&self, id: &Id) -> Answer<()> {
        elb::group::delete(&self.elb, id).await
    }

    async fn target_health(&self, group: &Id) -> Answer<BTreeMap<Target, Health>> {
        elb::group::health(&self.elb, group).await
    }

    async fn register(&self, group: &Id, targets: &[Target]) -> Answer<()> {
        elb::group::register(&self.elb, group, targets).await
    }

    async fn deregister(&self, group: &Id, targets: &[Target]) -> Answer<()> {
        elb::group::deregister(&self.elb, group, targets).await
    }

    async fn most_load_balancers(&self) -> Answer<Option<usize>> {
        elb::most_load_balancers(&self.elb).await
    }

    async fn tags(&self, ids: &[Id]) -> Answer<BTreeMap<Id, Tags>> {
        elb::tags(&self.elb, ids).await
    }

    async fn add_tags(&self, ids: &[Id], tags: &Tags) -> Answer<()> {
        elb::add_tags(&self.elb, ids, tags).await
    }

    async fn security_groups(&self, filter: &Filter) -> Answer<Vec<SecurityGroup>> {
        ec2::security_groups(&self.ec2, filter).await
    }

    async fn security_group_named(&self, vpc: &str, name: &str) -> Answer<Option<SecurityGroup>> {
        ec2::security_group_named(&self.ec2, vpc, name).await
    }

    async fn security_groups_called(&self, vpc: &str, names: &BTreeSet<String>) -> Answer<Vec<(String, Id)>> {
        ec2::security_groups_called(&self.ec2, vpc, names).await
    }

    async fn create_security_group(
        &self,
        vpc: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Answer<Id> {
        ec2::create_security_group(&self.ec2, vpc, name, description, tags).await
    }

    async fn add_security_group_tags(&self, id: &Id, tags: &Tags) -> Answer<()> {
        ec2::add_tags(&self.ec2, id, tags).await
    }

    async fn authorize(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        ec2::authorize(&self.ec2, group, rules).await
    }

    async fn revoke(&self, group: &Id, rules: &[Rule]) -> Answer<()> {
        ec2::revoke(&self.ec2, group, rules).await
    }

    async fn delete_security_group(&self, id: &Id) -> Answer<()> {
        ec2::delete_security_group(&self.ec2, id).await
    }

    async fn prefix_lists(&self, ids: &BTreeSet<String>) -> Answer<Vec<PrefixList>> {
        ec2::prefix_lists(&self.ec2, ids).await
    }

    async fn subnets(&self, vpc: &str) -> Answer<Vec<Subnet>> {
        ec2::subnets(&self.ec2, vpc).await
    }
}
