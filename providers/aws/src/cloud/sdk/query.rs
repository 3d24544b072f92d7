//! The EC2 Query protocol: one signed POST a call.
//!
//! Owns: encoding, signing (`SigV4`), sending, and what an error answer means. Leaves to others: the calls (`ec2`), their
//! rate and time limit (`limited`), keeping credentials (`credentials`). Invariant: an answer without a code is no answer.
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html>

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_elasticloadbalancingv2::error::DisplayErrorContext;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use roxmltree::Document;

use super::failure::of_code;
use super::limited::{EC2_VERSION, Limited};
use crate::cloud::{Answer, CloudError};

/// A client of EC2.
#[derive(Debug)]
pub(super) struct Query {
    connector: Limited,
    credentials: Option<SharedCredentialsProvider>,
    region: String,
    /// A URL, or why there is none.
    endpoint: Result<String, String>,
}

impl Query {
    pub(super) fn new(config: &SdkConfig, endpoint: Result<String, String>, connector: Limited) -> Self {
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        Self {
            connector,
            credentials: config.credentials_provider(),
            region,
            endpoint: endpoint.map(|url| format!("{url}/")),
        }
    }

    /// Makes a call; the answer is XML.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        parameters: Vec<(String, String)>,
    ) -> Answer<String> {
        let broken = |message: String| no_answer(operation, message);
        let body = form(operation, &parameters);
        let credentials = self.credentials(operation).await?;
        let request = self.signed(body, credentials).map_err(broken)?;
        let response = self.connector.call(request).await.map_err(|error| broken(format!("{error:?}")))?;
        let status = response.status().as_u16();
        let text = String::from_utf8_lossy(response.body().bytes().unwrap_or_default()).into_owned();
        if (200..300).contains(&status) { Ok(text) } else { Err(refusal(operation, status, &text)) }
    }

    async fn credentials(&self, operation: &'static str) -> Answer<Credentials> {
        let none = || of_code(operation, "NoCredentials", "there are none".to_owned());
        let new = self.credentials.as_ref().ok_or_else(none)?.provide_credentials().await;
        new.map_err(|error| of_code(operation, "NoCredentials", DisplayErrorContext(error).to_string()))
    }

    fn signed(&self, body: String, credentials: Credentials) -> Result<HttpRequest, String> {
        const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let endpoint = self.endpoint.as_deref().map_err(Clone::clone)?;
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("ec2")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?
            .into();
        let signable =
            SignableRequest::new("POST", endpoint, [FORM].into_iter(), SignableBody::Bytes(body.as_bytes()));
        let signed = sign(signable.map_err(|error| error.to_string())?, &parameters);
        let (instructions, _signature) = signed.map_err(|error| error.to_string())?.into_parts();
        let mut request = http::Request::post(endpoint)
            .header(FORM.0, FORM.1)
            .body(SdkBody::from(body))
            .map_err(|error| error.to_string())?;
        instructions.apply_to_request_http1x(&mut request);
        HttpRequest::try_from(request).map_err(|error| error.to_string())
    }
}

fn no_answer(operation: &'static str, message: String) -> CloudError {
    of_code(operation, "NoAnswer", message)
}

fn form(operation: &str, parameters: &[(String, String)]) -> String {
    let mut body = format!("Action={operation}&Version={EC2_VERSION}");
    for (name, value) in parameters {
        body.push('&');
        body.push_str(&escaped(name));
        body.push('=');
        body.push_str(&escaped(value));
    }
    body
}

/// Percent-encoding of all but RFC 3986's unreserved characters.
fn escaped(text: &str) -> String {
    let each = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(each).collect()
}

/// `<Response><Errors><Error><Code>…</Code><Message>…`.
fn refusal(operation: &'static str, status: u16, text: &str) -> CloudError {
    let found = Document::parse(text).ok().and_then(|document| {
        let error = document.descendants().find(|node| node.tag_name().name() == "Error")?;
        let part = |name: &str| {
            let part = error.children().find(|node| node.tag_name().name() == name);
            part.and_then(|part| part.text()).unwrap_or("unknown").to_owned()
        };
        Some((part("Code"), part("Message")))
    });
    match found {
        Some((code, message)) => of_code(operation, &code, message),
        None => no_answer(operation, format!("HTTP status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Trouble;

    #[test]
    fn a_refusal_is_read_and_anything_else_is_no_answer() {
        let text = "<Response><Errors><Error><Code>InvalidGroup.Duplicate</Code><Message>taken</Message></Error></Errors></Response>";
        let error = refusal("CreateSecurityGroup", 400, text);
        assert_eq!((error.trouble, error.message.as_str()), (Trouble::Duplicate, "taken"));
        assert_eq!(refusal("CreateSecurityGroup", 502, "<html>").trouble, Trouble::Unavailable);
    }

    #[test]
    fn what_a_user_writes_cannot_become_another_parameter() {
        let body = form("X", &[("Tag.1.Value".to_owned(), "a b&c=d/é".to_owned())]);
        assert_eq!(body, "Action=X&Version=2016-11-15&Tag.1.Value=a%20b%26c%3Dd%2F%C3%A9");
    }
}
