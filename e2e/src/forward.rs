//! Forwards the API server's port to the machine. The machine's side listens on loopback, the sandbox's side connects to
//! the API server. They meet at a unix socket in the cluster's folder, which network namespaces do not separate.

use std::{io, path::Path};

use anyhow::Context as _;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::fabric::CONTROL_PLANE;

/// The sandbox's side. Serves until it is dropped.
pub async fn inside(socket: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", socket.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
    loop {
        let (mut near, _) = listener.accept().await.context("accepting from the machine")?;
        tokio::spawn(async move {
            let mut far = TcpStream::connect((CONTROL_PLANE, 6443)).await?;
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}

/// The machine's side. Serves until it is dropped. A connection that comes before the inside listens is closed.
pub async fn outside(listener: TcpListener, socket: &Path) -> anyhow::Result<()> {
    loop {
        let (mut near, _) = listener.accept().await.context("accepting on the machine's loopback")?;
        let socket = socket.to_path_buf();
        tokio::spawn(async move {
            let mut far = UnixStream::connect(socket).await?;
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}
