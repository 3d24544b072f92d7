//! Bytes between two TCP connections, both ways, until both ways have ended.
//!
//! Owns copying and half-close: the end of one way is passed on as an end (FIN) and the other way goes on; an error on either
//! side ends both. A slow reader holds back the writer through the kernel's socket buffers; here at most one chunk a way waits.
//!
//! Invariants: a connection on which nothing moves holds no buffer; a connection of which one way has ended and the other is
//! silent ends after [`HALF_CLOSED`].

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::timeout,
};

/// How long a half-closed connection may be silent: what kube-proxy sets for `nf_conntrack_tcp_timeout_close_wait`.
pub const HALF_CLOSED: Duration = Duration::from_hours(1);
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// One buffer for all connections of a thread: it is only used between two awaits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

enum Moved {
    /// Nothing was there to be read.
    Nothing,
    /// These bytes were read and could not be written at once. Usually none.
    Rest(Vec<u8>),
    /// The end.
    End,
}

/// Carries bytes until both sides have ended. The streams are left to the caller, to be closed or reset.
pub async fn relay(client: &mut TcpStream, endpoint: &mut TcpStream) -> io::Result<()> {
    let moved = AtomicU64::new(0);
    let (client_reads, mut client_writes) = client.split();
    let (endpoint_reads, mut endpoint_writes) = endpoint.split();
    let mut up = pin!(one_way(&client_reads, &mut endpoint_writes, &moved));
    let mut down = pin!(one_way(&endpoint_reads, &mut client_writes, &moved));
    tokio::select! {
        ended = &mut up => {
            ended?;
            unless_silent(down, &moved).await
        }
        ended = &mut down => {
            ended?;
            unless_silent(up, &moved).await
        }
    }
}

/// The way that is left, until it ends or nothing has moved for [`HALF_CLOSED`].
async fn unless_silent(
    mut way: Pin<&mut impl Future<Output = io::Result<()>>>,
    moved: &AtomicU64,
) -> io::Result<()> {
    loop {
        let before = moved.load(Ordering::Relaxed);
        match timeout(HALF_CLOSED, &mut way).await {
            Ok(ended) => return ended,
            Err(silent) if moved.load(Ordering::Relaxed) == before => return Err(silent.into()),
            Err(_moved_meanwhile) => {}
        }
    }
}

async fn one_way(from: &ReadHalf<'_>, to: &mut WriteHalf<'_>, moved: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        match move_some(from, to)? {
            Moved::Nothing => continue,
            Moved::Rest(rest) => to.write_all(&rest).await?,
            Moved::End => return to.shutdown().await,
        }
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

fn move_some(from: &ReadHalf<'_>, to: &WriteHalf<'_>) -> io::Result<Moved> {
    BUFFER.with_borrow_mut(|buffer| {
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Moved::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Nothing),
            Err(error) => return Err(error),
        };
        let written = match to.try_write(&buffer[..read]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        Ok(Moved::Rest(buffer[written..read].to_vec()))
    })
}
