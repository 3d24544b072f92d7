//! The seam below all three APIs: each request waits for leave of its class, and is bounded in time from there.
//!
//! Owns: which limiter and priority a request has, its time limit, and telling answers that throttle or reject credentials. Leaves to others:
//! waiting and learning (`portico-limits`), signing (it happened before; a signature lives for minutes), what other
//! answers mean (`failure`). Invariants: a wait is no part of a call's time. An answer is read whole within the
//! time limit, so that a body that stalls is bounded, too. The SDK itself neither retries nor has a time limit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use portico_limits::{Limit, Limiter, Pace, Priority};

use super::credentials::Rejections;
use crate::cloud::{Trouble, codes};

/// The version of EC2's API, which tells its requests from ELB's.
const EC2_VERSION: &str = "2016-11-15";
/// AWS answers most calls within a second, and creations within ten.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// ELB's documented bucket for reads, shared by the account and region. Its page gives no numbers for writes:
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html>
const ELB_READS: Limit = Limit { burst: 40.0, rate: 10.0 };
/// A cautious beginning; what AWS allows beyond it is learnt.
const ELB_WRITES: Limit = Limit { burst: 20.0, rate: 10.0 };
/// Apart from other writes, so that these never wait behind the making of load balancers.
const TARGETS: Limit = Limit { burst: 20.0, rate: 10.0 };
/// Documented: <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>
const EC2_READS: Limit = Limit { burst: 100.0, rate: 20.0 };
/// The same page, for calls that write.
const EC2_WRITES: Limit = Limit { burst: 50.0, rate: 5.0 };
/// A cautious beginning, because AWS documents no limit for tagging.
const TAGGING: Limit = Limit { burst: 10.0, rate: 5.0 };

/// A limiter for each class of calls.
#[derive(Debug)]
pub(super) struct Limits {
    elb_reads: Arc<Limiter>,
    elb_writes: Arc<Limiter>,
    targets: Arc<Limiter>,
    ec2_reads: Arc<Limiter>,
    ec2_writes: Arc<Limiter>,
    tagging: Arc<Limiter>,
    rejections: Rejections,
}

impl Limits {
    pub(super) fn at(pace: Pace) -> Self {
        let limiter = |class, limit| Arc::new(Limiter::new(class, pace.of(limit)));
        Self {
            elb_reads: limiter("elb-reads", ELB_READS),
            elb_writes: limiter("elb-writes", ELB_WRITES),
            targets: limiter("targets", TARGETS),
            ec2_reads: limiter("ec2-reads", EC2_READS),
            ec2_writes: limiter("ec2-writes", EC2_WRITES),
            tagging: limiter("tagging", TAGGING),
            rejections: Rejections::default(),
        }
    }

    /// All of them, for metrics.
    pub(super) fn all(&self) -> Vec<Arc<Limiter>> {
        let Self { elb_reads, elb_writes, targets, ec2_reads, ec2_writes, tagging, rejections: _ } = self;
        [elb_reads, elb_writes, targets, ec2_reads, ec2_writes, tagging].map(Arc::clone).into()
    }

    /// How often credentials were rejected.
    pub(super) fn rejections(&self) -> Rejections {
        Arc::clone(&self.rejections)
    }

    /// The limiter of a request and its place in the queue there, by what is called.
    fn of(&self, request: &HttpRequest) -> (&Limiter, Priority) {
        let body = std::str::from_utf8(request.body().bytes().unwrap_or_default()).unwrap_or_default();
        if request.headers().get("x-amz-target").is_some() {
            // A listing of all that the cluster has names no Service; nobody waits for it.
            let about_one =
                [crate::tags::SERVICE_UID, crate::tags::GROUP].iter().any(|tag| body.contains(tag));
            let priority = if about_one { Priority::Provisioning } else { Priority::Background };
            return (&self.tagging, priority);
        }
        let parameter = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(name));
        let action = parameter("Action=").unwrap_or_default();
        let reads = action.starts_with("Describe");
        match (parameter("Version=") == Some(EC2_VERSION), reads) {
            (true, true) => (&self.ec2_reads, Priority::Provisioning),
            (true, false) => (&self.ec2_writes, Priority::Provisioning),
            (false, true) if action == "DescribeTargetHealth" => (&self.elb_reads, Priority::Targets),
            (false, true) => (&self.elb_reads, Priority::Provisioning),
            (false, false) if action.ends_with("registerTargets") || action == "RegisterTargets" => {
                (&self.targets, Priority::Targets)
            }
            (false, false) => (&self.elb_writes, Priority::Provisioning),
        }
    }
}

/// A connector whose calls wait for leave.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    connector: SharedHttpConnector,
    limits: Arc<Limits>,
}

impl Limited {
    /// The SDK asks for a connector for each of its clients.
    pub(super) fn client(http: SharedHttpClient, limits: Arc<Limits>) -> SharedHttpClient {
        http_client_fn(move |settings, components| {
            let connector = http.http_connector(settings, components);
            SharedHttpConnector::new(Self { connector, limits: Arc::clone(&limits) })
        })
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let (limiter, priority) = self.limits.of(&request);
        let attempt = || async {
            let copy = request.try_clone();
            let copy = copy.ok_or_else(|| ConnectorError::user("a body that cannot be sent again".into()))?;
            let sent = tokio::time::timeout(CALL_TIMEOUT, whole(&self.connector, copy)).await;
            sent.map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?
        };
        let is_throttled = |answer: &_| refusal(answer) == Some(Trouble::Throttled);
        let answer = limiter.call(priority, attempt, is_throttled).await;
        if refusal(&answer) == Some(Trouble::Credentials) {
            self.limits.rejections.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}

impl HttpConnector for Limited {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

/// A response with its body.
async fn whole(
    connector: &SharedHttpConnector,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let mut response = connector.call(request).await?;
    let body = ByteStream::new(response.take_body()).collect().await;
    let body = body.map_err(|error| ConnectorError::io(error.into()))?;
    *response.body_mut() = SdkBody::from(body.into_bytes());
    Ok(response)
}

/// The reason of a refusal, if the answer is one.
fn refusal(answer: &Result<HttpResponse, ConnectorError>) -> Option<Trouble> {
    let response = answer.as_ref().ok().filter(|response| !response.status().is_success())?;
    let text = std::str::from_utf8(response.body().bytes().unwrap_or_default()).unwrap_or_default();
    code(text).map(|code| codes::meaning("", code).0)
}

/// `<Code>Throttling</Code>`, or `"__type":"…#ThrottledException"`.
fn code(text: &str) -> Option<&str> {
    let xml = || text.split_once("<Code>")?.1.split('<').next();
    let json = || {
        let kind = text.split_once("\"__type\"")?.1.split('"').nth(1)?;
        kind.rsplit('#').next()
    };
    xml().or_else(json)
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::http::StatusCode;

    use super::*;

    fn mk_request(target: Option<&'static str>, body: &'static str) -> HttpRequest {
        let mut request = HttpRequest::new(SdkBody::from(body));
        target.map(|target| request.headers_mut().insert("x-amz-target", target));
        request
    }

    #[test]
    fn each_call_has_its_class_and_its_priority() {
        let limits = Limits::at(Pace::default());
        let table = [
            (None, "Action=DescribeTags&Version=2015-12-01", "elb-reads", Priority::Provisioning),
            (None, "Action=DescribeTargetHealth&Version=2015-12-01", "elb-reads", Priority::Targets),
            (None, "Action=CreateListener&Version=2015-12-01", "elb-writes", Priority::Provisioning),
            (None, "Action=RegisterTargets&Version=2015-12-01", "targets", Priority::Targets),
            (None, "Action=DeregisterTargets&Version=2015-12-01", "targets", Priority::Targets),
            (None, "Action=DescribeSubnets&Version=2016-11-15", "ec2-reads", Priority::Provisioning),
            (None, "Action=CreateSecurityGroup&Version=2016-11-15", "ec2-writes", Priority::Provisioning),
            (Some("X.GetResources"), r#"{"Key":"portico.dev/cluster-uid"}"#, "tagging", Priority::Background),
            (
                Some("X.GetResources"),
                r#"{"Key":"portico.dev/service-uid"}"#,
                "tagging",
                Priority::Provisioning,
            ),
        ];
        for (target, body, class, priority) in table {
            let request = mk_request(target, body);
            let (limiter, found) = limits.of(&request);
            assert_eq!((limiter.snapshot().class, found), (class, priority), "{body}");
        }
    }

    #[test]
    fn a_throttled_answer_is_recognized_in_all_three_protocols() {
        let answer = |status: u16, body: &'static str| {
            Ok(HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body)))
        };
        let throttled = [
            "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>",
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>",
            r#"{"__type": "com.amazon#ThrottledException", "Message": "Rate exceeded"}"#,
        ];
        let trouble = |status, body| refusal(&answer(status, body));
        assert!(throttled.iter().all(|body| trouble(400, body) == Some(Trouble::Throttled)));
        for other in ["<Code>TooManyListeners</Code>", "", "<html>"] {
            assert_ne!(trouble(400, other), Some(Trouble::Throttled), "{other}");
        }
        assert_eq!(trouble(200, throttled[0]), None);
        assert_eq!(trouble(403, "<Code>ExpiredToken</Code>"), Some(Trouble::Credentials));
    }
}
