//! Calls to `portico-lb`.
//!
//! Owns: HTTP and what its answers mean as [`ProviderError`]. Leaves to others: when to call.
//! Invariant: every call ends within its timeout; an answer that cannot be read is `Unavailable`, never absence.

use std::time::Duration;

use portico_provider::{ClusterUid, Owner, ProviderError};
use reqwest::{Client as Http, RequestBuilder, Response, StatusCode};

use crate::api::{Failure, FailureReason, Put, Targets, View};

/// A daemon on the same network answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: Http,
    endpoint: String,
    token: String,
}

impl Client {
    pub(crate) fn new(endpoint: &str, token: &str) -> Result<Self, ProviderError> {
        // No TLS is spoken here, but another crate of the same build may switch it on in reqwest, whose clients then
        // insist on the process's crypto provider: it is the binary's to install, before this.
        let http = Http::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| ProviderError::unavailable("set up the HTTP client", error))?;
        Ok(Self { http, endpoint: endpoint.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    pub(crate) async fn list(&self, cluster: &ClusterUid) -> Result<Vec<View>, ProviderError> {
        const OPERATION: &str = "list load balancers";
        let url = format!("{}/v1/load-balancers?cluster={cluster}", self.endpoint);
        let response = self.send(OPERATION, self.http.get(url)).await?;
        read(OPERATION, refuse(OPERATION, response).await?).await
    }

    pub(crate) async fn get(&self, owner: &Owner) -> Result<Option<View>, ProviderError> {
        const OPERATION: &str = "read load balancer";
        let response = self.send(OPERATION, self.http.get(self.url(owner))).await?;
        if response.status() == StatusCode::NOT_FOUND {
            // Only the daemon's own word for it is absence; a wrong endpoint answers 404 as well.
            let failure: Failure = read(OPERATION, response).await?;
            return match failure.reason {
                FailureReason::NotFound => Ok(None),
                _ => Err(error(OPERATION, failure)),
            };
        }
        read(OPERATION, refuse(OPERATION, response).await?).await.map(Some)
    }

    pub(crate) async fn put(&self, owner: &Owner, put: &Put) -> Result<View, ProviderError> {
        const OPERATION: &str = "write load balancer";
        let response = self.send(OPERATION, self.http.put(self.url(owner)).json(put)).await?;
        read(OPERATION, refuse(OPERATION, response).await?).await
    }

    pub(crate) async fn put_targets(&self, owner: &Owner, targets: &Targets) -> Result<View, ProviderError> {
        const OPERATION: &str = "write targets";
        let url = format!("{}/targets", self.url(owner));
        let response = self.send(OPERATION, self.http.put(url).json(targets)).await?;
        read(OPERATION, refuse(OPERATION, response).await?).await
    }

    pub(crate) async fn delete(&self, owner: &Owner) -> Result<(), ProviderError> {
        const OPERATION: &str = "delete load balancer";
        let response = self.send(OPERATION, self.http.delete(self.url(owner))).await?;
        refuse(OPERATION, response).await.map(|_no_content| ())
    }

    /// UIDs are letters, digits, '-' and '.', so they need no escaping.
    fn url(&self, owner: &Owner) -> String {
        let Owner { cluster, service, name: _ } = owner;
        format!("{}/v1/load-balancers/{cluster}/{service}", self.endpoint)
    }

    async fn send(
        &self,
        operation: &'static str,
        request: RequestBuilder,
    ) -> Result<Response, ProviderError> {
        let sent = request.bearer_auth(&self.token).send().await;
        sent.map_err(|error| ProviderError::unavailable(operation, error))
    }
}

async fn refuse(operation: &'static str, response: Response) -> Result<Response, ProviderError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<Failure>().await {
        Ok(failure) => Err(error(operation, failure)),
        Err(_not_ours) => Err(ProviderError::unavailable(operation, format!("HTTP status {status}"))),
    }
}

async fn read<T: serde::de::DeserializeOwned>(
    operation: &'static str,
    response: Response,
) -> Result<T, ProviderError> {
    response.json().await.map_err(|error| ProviderError::unavailable(operation, error))
}

fn error(operation: &'static str, Failure { reason, message }: Failure) -> ProviderError {
    match reason {
        FailureReason::Invalid => ProviderError::Invalid { operation, message },
        FailureReason::Unauthorized => ProviderError::Denied { operation, message },
        FailureReason::Conflict => ProviderError::Conflict { operation, message },
        FailureReason::Exhausted => ProviderError::Exhausted { operation, message },
        FailureReason::NotFound | FailureReason::Internal => ProviderError::unavailable(operation, message),
    }
}
