//! Credentials, kept for all three APIs until shortly before they expire, or until AWS rejects them.
//!
//! Owns: keeping, and renewing. Leaves to others: where they come from (the SDK's chain), which answers reject them
//! (`limited`). Invariants: callers that need credentials while they are being read wait for that read. Rejected
//! credentials are never used by a later call, so that rotated keys need no restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// Credentials that are about to expire are renewed.
const EXPIRY_MARGIN: Duration = Duration::from_mins(5);
/// STS and the instance's metadata answer within a second.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often AWS rejected credentials; shared with who reads its answers.
pub(super) type Rejections = Arc<AtomicU64>;

/// A provider that remembers.
#[derive(Debug)]
pub(super) struct Kept {
    provider: SharedCredentialsProvider,
    rejections: Rejections,
    /// With the number of rejections before.
    last: Mutex<Option<(u64, Credentials)>>,
}

impl Kept {
    pub(super) fn new(provider: SharedCredentialsProvider, rejections: Rejections) -> Self {
        Self { provider, rejections, last: Mutex::new(None) }
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        let mut last = self.last.lock().await;
        let rejections = self.rejections.load(Ordering::Relaxed);
        let fresh = |it: &Credentials| it.expiry().is_none_or(|end| SystemTime::now() + EXPIRY_MARGIN < end);
        if let Some((at, credentials)) = last.as_ref()
            && *at == rejections
            && fresh(credentials)
        {
            return Ok(credentials.clone());
        }
        let asked = tokio::time::timeout(TIMEOUT, self.provider.provide_credentials()).await;
        let new = asked.map_err(|_elapsed| CredentialsError::provider_timed_out(TIMEOUT))??;
        *last = Some((rejections, new.clone()));
        Ok(new)
    }
}

impl ProvideCredentials for Kept {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other keys each time, and how long each lives.
    #[derive(Debug)]
    struct Rotating(AtomicU64, Duration);

    impl ProvideCredentials for Rotating {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            let expiry = Some(SystemTime::now() + self.1);
            future::ProvideCredentials::ready(Ok(Credentials::new(
                format!("key-{number}"),
                "",
                None,
                expiry,
                "test",
            )))
        }
    }

    async fn keys(lifetime: Duration) -> [String; 3] {
        let rejections = Rejections::default();
        let provider = SharedCredentialsProvider::new(Rotating(AtomicU64::new(1), lifetime));
        let kept = Kept::new(provider, Arc::clone(&rejections));
        let key = async || kept.get().await.unwrap().access_key_id().to_owned();
        let (first, second) = (key().await, key().await);
        rejections.fetch_add(1, Ordering::Relaxed);
        [first, second, key().await]
    }

    #[tokio::test]
    async fn they_are_asked_for_once_and_again_when_rejected_or_about_to_expire() {
        assert_eq!(keys(Duration::from_hours(1)).await, ["key-1", "key-1", "key-2"]);
        assert_eq!(keys(Duration::from_mins(1)).await, ["key-1", "key-2", "key-3"]);
    }
}
