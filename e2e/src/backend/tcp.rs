//! TCP: the first bytes of a connection decide between HTTP and lines. Leaves the answers' content to `backend.rs`.
//! Invariant: after the stop signal no connection is accepted, and each open one ends after the answer in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::proxy_header::{self, Header};
use super::{Identity, http};

/// A client that is silent for so long expects a line first.
const SILENCE: Duration = Duration::from_millis(300);

/// Accepts connections until the stop signal.
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
    let mut connection = Connection::new(stream, client, server, identity, stop);
    let spoken = tokio::time::timeout(SILENCE, first_bytes(&mut connection)).await;
    match spoken {
        Ok(first) => {
            first?;
            if http::is_request(&connection.unread) {
                http::serve(connection).await
            } else {
                lines(connection).await
            }
        }
        Err(_silence) => lines(connection).await,
    }
}

/// Reads until it is clear how to speak; takes a PROXY header off.
async fn first_bytes(connection: &mut Connection) -> Result<()> {
    while connection.read_more().await? {
        match proxy_header::parse(&connection.unread) {
            Header::Incomplete => continue,
            Header::Present { length, client } => {
                connection.proxied = client;
                connection.unread.drain(..length);
            }
            Header::Absent => {}
        }
        if connection.unread.len() >= http::LONGEST_METHOD || !http::may_become_request(&connection.unread) {
            return Ok(());
        }
    }
    Ok(())
}

/// One line at once, and one for each further line.
async fn lines(mut connection: Connection) -> Result<()> {
    loop {
        let mut line = serde_json::to_vec(&connection.answer("tcp")).context("answer")?;
        line.push(b'\n');
        connection.stream.write_all(&line).await.context("write")?;
        connection.unread.clear();
        let stop = connection.stop.clone();
        let more = tokio::select! {
            () = stop.cancelled() => false,
            more = connection.read_more() => more?,
        };
        if !more {
            return connection.stream.shutdown().await.context("close");
        }
    }
}
