//! The seam, on the AWS SDKs.
//!
//! Owns: clients, paging. Leaves to others: which error means what (`failure`), credentials once found (`credentials`), the calls of each API (`elb`,
//! `ec2`), their rate and time limits (`limited`). Invariant: one attempt a call, but for throttled ones, and a bound on
//! each; TLS by rustls with ring.

mod credentials;
mod ec2;
mod elb;
mod endpoint;
mod failure;
mod limited;
mod query;

use std::sync::Arc;

use aws_config::identity::IdentityCache;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_resourcegroupstagging::types::TagFilter;
use aws_smithy_http_client::{Builder, Connector, tls};
use portico_limits::{Limiter, Pace};

use super::resources::{Filter, Id, Tags};
use super::{Answer, Tagging};
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
            ec2: Arc::new(query::Query::new(&config, endpoint::url(&config).await, connector)),
            tagging: aws_sdk_resourcegroupstagging::Client::new(&config),
            limits,
        }
    }

    /// The limiters of its calls, one for each class; for metrics.
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

impl Tagging for Sdk {
    async fn tagged(&self, filter: &Filter) -> Answer<Vec<(Id, Tags)>> {
        let (mut all, mut next) = self.page(filter, None).await?;
        while let Some(token) = next {
            let (page, following) = self.page(filter, Some(token)).await?;
            all.extend(page);
            next = following;
        }
        Ok(all)
    }
}
