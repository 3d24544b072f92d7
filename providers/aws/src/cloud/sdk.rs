//! The calls, by the AWS SDKs. Each method is one API call, or one listing paged to its end. A read by several IDs takes as many
//! as AWS takes in one call, and is [`Trouble::NotFound`](super::Trouble) if one of them is not there (`batches` asks again).
//!
//! Owns: clients, paging. Leaves to others: which error means what (`failure`), credentials once found (`credentials`), the calls of each API (`elb`,
//! `ec2`), their rate and time limits (`limited`). Invariant: one attempt a call, but for throttled ones, and a bound on
//! each; TLS by rustls with ring.

mod credentials;
mod ec2;
mod elb;
mod failure;
mod limited;

use std::sync::Arc;

use aws_config::identity::IdentityCache;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_resourcegroupstagging::types::TagFilter;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use portico_limits::{Limiter, Pace};

use super::Answer;
use super::resources::{Filter, Id, Tags};
use credentials::Kept;
use failure::failed;
use limited::{Limited, Limits};

/// The three APIs.
#[derive(Clone, Debug)]
pub struct Sdk {
    elb: aws_sdk_elasticloadbalancingv2::Client,
    ec2: aws_sdk_ec2::Client,
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
        let http = Builder::new().tls_provider(tls).build_https();
        Self::connect_by(http, region, endpoint, credentials, pace).await
    }

    /// The same, by this client of HTTP.
    pub(crate) async fn connect_by(
        http: SharedHttpClient,
        region: String,
        endpoint: Option<String>,
        credentials: Option<Credentials>,
        pace: Pace,
    ) -> Self {
        let limits = Arc::new(Limits::at(pace));
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
        Self::of(&config, limits)
    }

    fn of(config: &SdkConfig, limits: Arc<Limits>) -> Self {
        Self {
            elb: aws_sdk_elasticloadbalancingv2::Client::new(config),
            ec2: aws_sdk_ec2::Client::new(config),
            tagging: aws_sdk_resourcegroupstagging::Client::new(config),
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

impl Sdk {
    /// `tag:GetResources` for load balancers, listeners, target groups and security groups with one of these values in each
    /// of these tags.
    pub(crate) async fn tagged(&self, filter: &Filter) -> Answer<Vec<(Id, Tags)>> {
        let (mut all, mut next) = self.page(filter, None).await?;
        while let Some(token) = next {
            let (page, following) = self.page(filter, Some(token)).await?;
            all.extend(page);
            next = following;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// Answers each request alike, and keeps the URLs.
    #[derive(Clone, Debug)]
    pub(super) struct Answering {
        status: u16,
        answer: &'static str,
        urls: Arc<Mutex<Vec<String>>>,
    }

    impl Answering {
        pub(super) fn with(status: u16, answer: &'static str) -> Self {
            Self { status, answer, urls: Arc::default() }
        }

        pub(super) fn sdk(&self) -> Sdk {
            self.sdk_in("eu-west-1", false, false)
        }

        fn sdk_in(&self, region: &'static str, fips: bool, dual_stack: bool) -> Sdk {
            let connector = SharedHttpConnector::new(self.clone());
            let credentials = Credentials::new("key", "secret", None, None, "test");
            let config = SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(region))
                .use_fips(fips)
                .use_dual_stack(dual_stack)
                .credentials_provider(SharedCredentialsProvider::new(credentials))
                .retry_config(RetryConfig::disabled())
                .http_client(http_client_fn(move |_, _| connector.clone()))
                .build();
            Sdk::of(&config, Arc::new(Limits::at(Pace::default())))
        }
    }

    impl HttpConnector for Answering {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            self.urls.lock().unwrap().push(request.uri().to_owned());
            let status = StatusCode::try_from(self.status).unwrap();
            HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::from(self.answer))))
        }
    }

    #[tokio::test]
    async fn every_partition_has_its_endpoints_also_by_fips_and_dual_stack() {
        for (region, fips, dual_stack, suffix) in [
            ("eu-west-1", false, false, ".eu-west-1.amazonaws.com/"),
            ("eu-west-1", false, true, ".eu-west-1.api.aws/"),
            ("us-east-1", true, false, "-fips.us-east-1.amazonaws.com/"),
            ("us-gov-west-1", true, false, ".us-gov-west-1.amazonaws.com/"),
            ("cn-north-1", false, false, ".cn-north-1.amazonaws.com.cn/"),
            ("us-iso-east-1", false, false, ".us-iso-east-1.c2s.ic.gov/"),
        ] {
            let answering = Answering::with(500, "");
            let sdk = answering.sdk_in(region, fips, dual_stack);
            assert!(sdk.subnets("vpc-1").await.is_err() && sdk.tags(&[]).await.is_err());
            let expected = ["ec2", "elasticloadbalancing"].map(|api| format!("https://{api}{suffix}"));
            assert_eq!(*answering.urls.lock().unwrap(), expected, "{region}");
        }
    }
}
