//! One accepted connection, and the bytes that were read from it and not used yet.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Answer, Identity};

/// One accepted connection, and what has been read of it.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) unread: Vec<u8>,
    pub(super) identity: Arc<Identity>,
    pub(super) stop: CancellationToken,
    client: SocketAddr,
    server: SocketAddr,
    /// The client by a PROXY protocol header.
    pub(super) proxied: Option<SocketAddr>,
}

impl Connection {
    /// Of which nothing has been read.
    pub(super) fn new(
        stream: TcpStream,
        client: SocketAddr,
        server: SocketAddr,
        identity: Arc<Identity>,
        stop: CancellationToken,
    ) -> Self {
        Self { stream, unread: Vec::new(), identity, stop, client, server, proxied: None }
    }

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
}
