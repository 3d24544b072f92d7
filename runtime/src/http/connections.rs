//! HTTP connections, and what a client may cost.
//!
//! Owns the limits: time for a request, lifetime of a connection, number of connections. Invariant: every new
//! client gets an answer, because at the limit the oldest connection is closed.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longest time for the head of a request, and for the end of an answer.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Lifetime of a connection. Its client then connects again.
const LIFETIME: Duration = Duration::from_mins(1);
/// Connections at a time, of all ports together.
pub const MOST: usize = 128;
/// Pause after a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// The connections of this process's HTTP servers, oldest first. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<VecDeque<AbortHandle>>>);

impl Connections {
    fn open(&self) -> MutexGuard<'_, VecDeque<AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection, in place of the oldest one if there are too many.
    pub(super) fn admit(&self, stream: TcpStream, router: Router, stop: &CancellationToken) {
        let mut open = self.open();
        open.retain(|connection| !connection.is_finished());
        while open.len() >= MOST
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(serve(stream, router, stop.clone())).abort_handle());
    }

    /// Closes the oldest connection when the process has no more files, and waits a little.
    pub(super) async fn rest(&self, error: &io::Error) {
        tracing::warn!(%error, "a connection was not accepted");
        if let Some(oldest) = self.open().pop_front() {
            oldest.abort();
        }
        sleep(REST).await;
    }
}

async fn serve(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // What a client does wrong is its own affair.
        _ = connection.as_mut() => return,
        () = sleep(LIFETIME) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(timeout(REQUEST_WITHIN, connection).await);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::{super::listen, *};

    /// A server that says "well"; it stops with the guard.
    fn mk_server() -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = listen(([127, 0, 0, 1], 0).into()).expect("any port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "well" }));
        tokio::spawn(super::super::serve(listener, router, Connections::default(), stop.clone()));
        (address, stop.drop_guard())
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("somebody listens")
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = connect(address).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    /// On a clock that is moved on when nothing else can happen, a connection that is never closed waits for ever.
    async fn closed_after(mut stream: TcpStream) -> Duration {
        let began = Instant::now();
        let mut all = Vec::new();
        drop(
            timeout(Duration::from_hours(1), stream.read_to_end(&mut all)).await.expect("the server closes"),
        );
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_or_half_a_thing_or_once_is_let_go() {
        let (address, _stop) = mk_server();
        let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf";
        let (half_a_head, rest) = (REQUEST_WITHIN + Duration::from_secs(1), LIFETIME + REQUEST_WITHIN);
        for (said, within) in [
            ("", half_a_head),
            ("GET / HT", half_a_head),
            ("GET / HTTP/1.1\r\nHost: x\r\n", half_a_head),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", rest),
            (body, rest),
        ] {
            let mut stream = connect(address).await;
            stream.write_all(said.as_bytes()).await.expect("sent");
            let took = closed_after(stream).await;
            assert!(took <= within, "after {said:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_speaks_slowly_is_let_go() {
        let (address, _stop) = mk_server();
        let (mut reader, mut writer) = connect(address).await.into_split();
        let speaks = async {
            // Every request is complete in time, and there is no end to them.
            while writer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
                sleep(REQUEST_WITHIN / 2).await;
            }
        };
        let hears = async {
            let mut all = Vec::new();
            drop(reader.read_to_end(&mut all).await);
        };
        let both = async { tokio::join!(speaks, hears) };
        assert!(timeout(LIFETIME * 3, both).await.is_ok());
    }

    #[tokio::test]
    async fn the_oldest_connections_give_way() {
        let (address, _stop) = mk_server();
        let mut idle = Vec::new();
        for _ in 0..MOST * 2 {
            idle.push(connect(address).await);
        }
        assert!(ask(address).await.ends_with("well"));
        let mut byte = [0];
        let first = timeout(REQUEST_WITHIN / 2, idle[0].read(&mut byte)).await.expect("at once");
        assert!(matches!(first, Ok(0) | Err(_)), "the oldest is closed: {first:?}");
    }
}
