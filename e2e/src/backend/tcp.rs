//! Connections: what the first bytes are decides whether HTTP or lines are spoken. Leaves the answers' content to `backend.rs`.
//! Invariant: when told to stop, no new connection is taken, and those there are end after the answer in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::proxy_header::{self, Header};
use super::{Answer, Identity, http};

/// A client that says nothing for so long wants to be spoken to.
const SILENCE: Duration = Duration::from_millis(300);

/// One accepted connection, and what has been read of it.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) unread: Vec<u8>,
    pub(super) identity: Arc<Identity>,
    pub(super) stop: CancellationToken,
    client: SocketAddr,
    server: SocketAddr,
    proxied: Option<SocketAddr>,
}

/// Accepts until told to stop.
pub(super) async fn accept(
    listener: TcpListener,
    identity: Arc<Identity>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let (identity, stop) = (Arc::clone(&identity), stop.clone());
                tasks.spawn(async move {
                    if let Err(error) = serve(stream, client, identity, stop).await {
                        tracing::debug!(%client, error = format!("{error:#}"), "connection");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: let some go
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    identity: Arc<Identity>,
    stop: CancellationToken,
) -> Result<()> {
    stream.set_nodelay(true).context("no delay")?;
    let server = stream.local_addr().context("own address")?;
    let mut connection =
        Connection { stream, unread: Vec::new(), identity, stop, client, server, proxied: None };
    let spoken = tokio::time::timeout(SILENCE, connection.first_bytes()).await;
    match spoken {
        Ok(first) => {
            first?;
            if http::is_request(&connection.unread) {
                http::serve(connection).await
            } else {
                connection.lines().await
            }
        }
        Err(_silence) => connection.lines().await,
    }
}

impl Connection {
    /// An answer in this connection's name.
    pub(super) fn answer(&self, protocol: &'static str) -> Answer<'_> {
        let mut answer = self.identity.answer(protocol, self.client, self.server);
        answer.proxied_client = self.proxied;
        answer
    }

    /// Reads what is there next; false at the end of the stream.
    pub(super) async fn read_more(&mut self) -> Result<bool> {
        Ok(self.stream.read_buf(&mut self.unread).await.context("read")? > 0)
    }

    /// Reads until it is clear how to speak; takes a PROXY header off.
    async fn first_bytes(&mut self) -> Result<()> {
        while self.read_more().await? {
            match proxy_header::parse(&self.unread) {
                Header::Incomplete => continue,
                Header::Present { length, client } => {
                    self.proxied = client;
                    self.unread.drain(..length);
                }
                Header::Absent => {}
            }
            if self.unread.len() >= http::LONGEST_METHOD || !http::may_become_request(&self.unread) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One line at once, and one for each further line.
    async fn lines(mut self) -> Result<()> {
        loop {
            let mut line = serde_json::to_vec(&self.answer("tcp")).context("answer")?;
            line.push(b'\n');
            self.stream.write_all(&line).await.context("write")?;
            self.unread.clear();
            let stop = self.stop.clone();
            let more = tokio::select! {
                () = stop.cancelled() => false,
                more = self.read_more() => more?,
            };
            if !more {
                return self.stream.shutdown().await.context("close");
            }
        }
    }
}
