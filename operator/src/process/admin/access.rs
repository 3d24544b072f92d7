//! Authorization for `/plan`: programs of this pod, and users to whom RBAC grants it.
//!
//! Owns: [`Access`]: `TokenReview`, `SubjectAccessReview`, and remembering for seconds who passed. Leaves to others: what is read.
//! Invariants: no answer from the API server means no; only a few reviews are under way at once, however many ask. A request that a
//! proxy brought is not from loopback, whatever its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use portico_runtime::chain;

/// How long a token that passed is not reviewed again.
const CACHED_FOR: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const MOST: usize = 64;
/// Reviews at once.
const AT_ONCE: usize = 2;
/// How long one may take, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Headers that a proxy adds to a request.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "via"];

/// Lets callers in.
pub(super) struct Access {
    client: Client,
    turns: Semaphore,
    passed: Mutex<Vec<(String, Instant)>>,
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no token, or nobody knows it.
    Unknown,
    /// RBAC does not let this user get the path.
    Forbidden { user: String, path: &'static str },
    /// The API server does not say.
    Unavailable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                let text = "a bearer token of this cluster is needed, or a connection from the pod itself, as kubectl port-forward makes one\n";
                (StatusCode::UNAUTHORIZED, challenge, text).into_response()
            }
            Self::Forbidden { user, path } => {
                let text = format!("{user} may not get the nonResourceURL {path}\n");
                (StatusCode::FORBIDDEN, text).into_response()
            }
            Self::Unavailable(error) => {
                tracing::warn!(error, "a caller of the admin port could not be checked");
                (StatusCode::SERVICE_UNAVAILABLE, "the API server does not say who this is\n").into_response()
            }
        }
    }
}

impl Access {
    /// `client` may create `TokenReview`s and `SubjectAccessReview`s.
    pub(super) fn new(client: Client) -> Self {
        Self { client, turns: Semaphore::new(AT_ONCE), passed: Mutex::default() }
    }

    /// Whether this caller may get `path`.
    pub(super) async fn check(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        path: &'static str,
    ) -> Result<(), Refusal> {
        if is_local(peer.ip()) && !FORWARDED.iter().any(|name| headers.contains_key(*name)) {
            return Ok(());
        }
        let token = bearer(headers).ok_or(Refusal::Unknown)?;
        if self.has_passed(token) {
            return Ok(());
        }
        let reviewed = timeout(PATIENCE, self.review(token, path)).await;
        reviewed.unwrap_or_else(|late| Err(Refusal::Unavailable(late.to_string())))?;
        self.remember(token);
        Ok(())
    }

    async fn review(&self, token: &str, path: &'static str) -> Result<(), Refusal> {
        let _turn = self.turns.acquire().await.map_err(|closed| Refusal::Unavailable(closed.to_string()))?;
        // Whoever had the turn before may have asked about the same token.
        if self.has_passed(token) {
            return Ok(());
        }
        let user = self.authenticate(token).await?;
        if self.authorize(&user, path).await? {
            return Ok(());
        }
        Err(Refusal::Forbidden { user: user.username.unwrap_or_default(), path })
    }

    async fn authenticate(&self, token: &str) -> Result<UserInfo, Refusal> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.create(&review).await?.status.unwrap_or_default();
        let user = if status.authenticated == Some(true) { status.user } else { None };
        user.ok_or(Refusal::Unknown)
    }

    async fn authorize(&self, user: &UserInfo, path: &str) -> Result<bool, Refusal> {
        let UserInfo { username, uid, groups, extra } = user.clone();
        let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
        let spec = SubjectAccessReviewSpec {
            user: username,
            uid,
            groups,
            extra,
            non_resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        Ok(self.create(&review).await?.status.is_some_and(|status| status.allowed))
    }

    async fn create<K>(&self, review: &K) -> Result<K, Refusal>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let created = api.create(&PostParams::default(), review).await;
        created.map_err(|error| Refusal::Unavailable(chain(&error)))
    }

    fn has_passed(&self, token: &str) -> bool {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|(_, since)| since.elapsed() < CACHED_FOR);
        passed.iter().any(|(known, _)| known == token)
    }

    fn remember(&self, token: &str) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.iter().all(|(known, _)| known != token) {
            passed.push((token.to_owned(), Instant::now()));
        }
        let surplus = passed.len().saturating_sub(MOST);
        passed.drain(..surplus);
    }
}

/// The pod's own address of the loopback network and no other: a sidecar that forwards uses another one (Istio: 127.0.0.6).
fn is_local(ip: IpAddr) -> bool {
    matches!(ip.to_canonical(), IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
