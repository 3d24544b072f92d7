//! A client's connection to an endpoint: attempts until one succeeds, without an effect on the client.
//!
//! Owns the order of attempts and their timeouts, which are those of kube-proxy's userspace mode. Only attempts
//! that time out use one up, so endpoints that refuse at once are all tried. After all were tried it starts
//! again after a growing pause, because an endpoint that restarts is back soon. Leaves sockets to a [`Dial`].
//!
//! Invariant: ends within [`BUDGET`].

use std::{future::Future, io, net::IpAddr, time::Duration};

use portico_proxy_core::table::Backend;
use tokio::time::{Instant, sleep, timeout};

use super::{files, pool::Pool};

/// Timeout of an attempt, by the number of attempts that timed out before.
const TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Longest time for all attempts together.
pub const BUDGET: Duration = Duration::from_millis(3750);
/// The first pause after all endpoints were tried; each further is twice as long.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens connections to endpoints.
pub trait Dial {
    /// A connection to an endpoint.
    type Stream;

    /// Opens a connection. The caller drops the future at its timeout.
    fn dial(&self, backend: Backend) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Reasons why a client was not connected.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The list of endpoints is empty.
    #[error("no endpoint is left")]
    NoEndpoint,
    /// No endpoint accepted.
    #[error("none of {attempts} attempts reached an endpoint; the last was {backend}")]
    Unreachable {
        /// Number of attempts.
        attempts: usize,
        /// The last endpoint that was tried.
        backend: Backend,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A local failure, such as too many open files.
    #[error("this node cannot open a connection")]
    Here(#[source] io::Error),
}

impl DialError {
    /// One word for a metric label and a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoEndpoint => "NoEndpoint",
            Self::Unreachable { .. } => "Unreachable",
            Self::Here(_) => "Here",
        }
    }
}

/// Connects a client to an endpoint of the pool, in its state at each attempt. Calls `failed` with each failed
/// attempt.
pub async fn connect<D: Dial>(
    pool: &Pool,
    client: IpAddr,
    dialer: &D,
    failed: impl Fn(Backend, &io::Error),
) -> Result<(D::Stream, Backend), DialError> {
    let deadline = Instant::now() + BUDGET;
    let (mut tried, mut timeouts, mut pause, mut attempts) = (Vec::new(), 0, PAUSE, 0);
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some((backend, source)) = last.take_if(|_| left.is_zero()) {
            return Err(DialError::Unreachable { attempts, backend, source });
        }
        let Some(backend) = pool.choose(client, &tried) else {
            if tried.is_empty() {
                return Err(DialError::NoEndpoint);
            }
            tried.clear();
            sleep(pause.min(left)).await;
            pause *= 2;
            continue;
        };
        let patience = TIMEOUTS.get(timeouts).copied().unwrap_or(BUDGET).min(left);
        attempts += 1;
        let error = match timeout(patience, dialer.dial(backend)).await {
            Ok(Ok(stream)) => return Ok((stream, backend)),
            Ok(Err(error)) if files::is_exhausted(&error) => return Err(DialError::Here(error)),
            Ok(Err(error)) => error,
            Err(elapsed) => {
                timeouts += 1;
                elapsed.into()
            }
        };
        failed(backend, &error);
        pool.failed(client, backend);
        tried.push(backend);
        last = Some((backend, error));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    };

    use nix::errno::Errno;

    use super::*;
    use crate::dataplane::userspace::pool::{
        Choice,
        tests::{mk_backend, mk_pool, mk_rules},
    };

    /// Endpoints that refuse, endpoints that say nothing, and the rest, which accept.
    #[derive(Default)]
    struct Fake {
        refuse: BTreeSet<Backend>,
        hang: BTreeSet<Backend>,
        recover_after: Option<usize>,
        exhausted: bool,
        dialled: Mutex<Vec<Backend>>,
        dials: AtomicUsize,
    }

    impl Dial for Fake {
        type Stream = ();

        async fn dial(&self, backend: Backend) -> io::Result<()> {
            self.dialled.lock().expect("no panic").push(backend);
            let dials = self.dials.fetch_add(1, Ordering::Relaxed);
            if self.exhausted {
                return Err(io::Error::from_raw_os_error(Errno::EMFILE as i32));
            }
            if self.hang.contains(&backend) {
                std::future::pending::<()>().await;
            }
            let recovered = self.recover_after.is_some_and(|after| dials >= after);
            if self.refuse.contains(&backend) && !recovered {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(())
        }
    }

    fn all(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<Backend> {
        numbers.into_iter().map(mk_backend).collect()
    }

    async fn run(count: u8, fake: &Fake) -> (Result<Backend, DialError>, Duration) {
        let pool = mk_pool(Choice::RoundRobin, mk_rules(1..=count, None));
        let began = Instant::now();
        let connected = connect(&pool, [192, 0, 2, 1].into(), fake, |_, _| {}).await;
        (connected.map(|((), backend)| backend), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_refuse_cost_no_time_however_many_they_are() {
        let fake = Fake { refuse: all(1..=19), ..Fake::default() };
        let (connected, took) = run(20, &fake).await;
        assert_eq!((connected.expect("connects"), took), (mk_backend(20), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_refuse_leave_the_next_its_whole_patience() {
        let fake = Fake { refuse: all(1..=3), hang: all([4]), ..Fake::default() };
        let (connected, took) = run(5, &fake).await;
        assert_eq!((connected.expect("connects"), took), (mk_backend(5), TIMEOUTS[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_say_nothing_cost_a_growing_timeout_each() {
        let fake = Fake { hang: all([1, 2]), ..Fake::default() };
        let (connected, took) = run(3, &fake).await;
        assert_eq!((connected.expect("connects"), took), (mk_backend(3), Duration::from_millis(750)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_in_time_when_nobody_answers() {
        let hang = Fake { hang: all(1..=9), ..Fake::default() };
        let (connected, took) = run(9, &hang).await;
        assert_eq!(took, BUDGET);
        assert!(matches!(connected, Err(DialError::Unreachable { attempts: 4, .. })), "{connected:?}");
        let refuse = Fake { refuse: all([1]), ..Fake::default() };
        let (connected, took) = run(1, &refuse).await;
        assert_eq!(took, BUDGET);
        assert!(
            matches!(connected, Err(DialError::Unreachable { attempts: 7, .. })),
            "a pause twice as long after each attempt: {connected:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_endpoint_is_tried_once_before_any_is_tried_again() {
        let fake = Fake { refuse: all(1..=20), recover_after: Some(20), ..Fake::default() };
        let pool = mk_pool(Choice::Random, mk_rules(1..=20, None));
        connect(&pool, [192, 0, 2, 1].into(), &fake, |_, _| {}).await.expect("connects");
        let dialled = fake.dialled.lock().expect("no panic").clone();
        assert_eq!((dialled.len(), dialled[..20].iter().copied().collect()), (21, all(1..=20)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_affinity_does_not_keep_an_endpoint_that_it_did_not_reach() {
        let fake = Fake { hang: all(1..=2), ..Fake::default() };
        let pool = mk_pool(Choice::RoundRobin, mk_rules(1..=2, Some(60)));
        let client = [192, 0, 2, 1].into();
        let failed = connect(&pool, client, &fake, |_, _| {}).await;
        let Err(DialError::Unreachable { backend: last, .. }) = failed else { unreachable!("{failed:?}") };
        assert_ne!(pool.choose(client, &[]), Some(last));
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_endpoint_may_restart_meanwhile() {
        let fake = Fake { refuse: all([1]), recover_after: Some(3), ..Fake::default() };
        let (connected, took) = run(1, &fake).await;
        assert_eq!((connected.expect("connects"), took), (mk_backend(1), Duration::from_millis(350)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_comes_while_others_are_dialled_is_used() {
        let pool = mk_pool(Choice::RoundRobin, mk_rules([1], None));
        let fake = Fake { hang: all([1]), ..Fake::default() };
        let coming = async {
            sleep(Duration::from_millis(100)).await;
            pool.update(mk_rules([1, 2], None));
        };
        let dialling = connect(&pool, [192, 0, 2, 1].into(), &fake, |_, _| {});
        let (connected, ()) = tokio::join!(dialling, coming);
        assert_eq!(connected.expect("connects").1, mk_backend(2));
    }

    #[tokio::test(start_paused = true)]
    async fn without_endpoint_or_without_files_nobody_is_blamed() {
        let (connected, took) = run(0, &Fake::default()).await;
        assert!(matches!(connected, Err(DialError::NoEndpoint)) && took.is_zero());
        let fake = Fake { exhausted: true, ..Fake::default() };
        let (connected, _) = run(3, &fake).await;
        assert!(matches!(connected, Err(DialError::Here(_))));
        assert_eq!(fake.dialled.lock().expect("no panic").len(), 1, "others would fail the same way");
    }
}
