//! EC2's endpoint: a partition's, FIPS, dual-stack, or the user's.
//!
//! Owns: the URL. Leaves to others: calls (`query`). Invariant: it is what `aws-sdk-ec2` would call. Its endpoint rules are those
//! of `ELBv2` with another name (botocore's `endpoint-rule-set-1.json` of both are equal but for that), so that ELB's are asked.

use aws_config::SdkConfig;
use aws_sdk_elasticloadbalancingv2::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_types::service_config::ServiceConfigKey;

/// The URL, without a slash at its end; or why there is none, such as FIPS in a partition that lacks it.
///
/// In this order: `--aws-endpoint-url`; `AWS_ENDPOINT_URL_EC2`, or a profile's; `AWS_ENDPOINT_URL`; by the region,
/// `AWS_USE_FIPS_ENDPOINT` and `AWS_USE_DUALSTACK_ENDPOINT`.
pub(super) async fn url(config: &SdkConfig) -> Result<String, String> {
    let own = || {
        let key =
            ServiceConfigKey::builder().service_id("EC2").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        config.service_config()?.load_config(key.build().ok()?)
    };
    let asked = if config.get_origin("endpoint_url").is_client_config() { None } else { own() };
    if let Some(url) = asked.or_else(|| config.endpoint_url().map(str::to_owned)) {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let params = Params::builder()
        .set_region(config.region().map(ToString::to_string))
        .set_use_fips(config.use_fips())
        .set_use_dual_stack(config.use_dual_stack())
        .build()
        .map_err(|error| error.to_string())?;
    let resolver = DefaultResolver::new();
    let found =
        ResolveEndpoint::resolve_endpoint(&resolver, &params).await.map_err(|error| error.to_string())?;
    Ok(found.url().replacen("//elasticloadbalancing", "//ec2", 1))
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use aws_types::service_config::LoadServiceConfig;

    use super::*;

    #[derive(Debug)]
    struct Environment;

    impl LoadServiceConfig for Environment {
        fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
            assert_eq!((key.service_id(), key.env()), ("EC2", "AWS_ENDPOINT_URL"));
            Some("http://127.0.0.1:1/".to_owned())
        }
    }

    #[tokio::test]
    async fn every_partition_has_its_endpoint_also_by_fips_and_dual_stack() {
        for (region, fips, dual_stack, expected) in [
            ("eu-west-1", false, false, "https://ec2.eu-west-1.amazonaws.com"),
            ("eu-west-1", false, true, "https://ec2.eu-west-1.api.aws"),
            ("us-east-1", true, false, "https://ec2-fips.us-east-1.amazonaws.com"),
            ("us-gov-west-1", true, false, "https://ec2.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", false, false, "https://ec2.cn-north-1.amazonaws.com.cn"),
            ("us-iso-east-1", false, false, "https://ec2.us-iso-east-1.c2s.ic.gov"),
        ] {
            let config = SdkConfig::builder()
                .region(Region::new(region))
                .use_fips(fips)
                .use_dual_stack(dual_stack)
                .build();
            assert_eq!(url(&config).await.as_deref(), Ok(expected), "{region}");
        }
    }

    #[tokio::test]
    async fn a_users_endpoint_of_ec2_comes_before_the_regions() {
        let config =
            SdkConfig::builder().region(Region::new("eu-west-1")).service_config(Environment).build();
        assert_eq!(url(&config).await.as_deref(), Ok("http://127.0.0.1:1"));
        let common = SdkConfig::builder().region(Region::new("eu-west-1")).endpoint_url("http://127.0.0.1:2");
        assert_eq!(url(&common.build()).await.as_deref(), Ok("http://127.0.0.1:2"));
    }
}
