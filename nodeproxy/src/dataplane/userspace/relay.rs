//! Bytes between two TCP connections, both ways, until both ways have ended.
//!
//! Owns copying and half-close. The end of one direction is passed on as an end (FIN), and the other direction
//! continues. An error on either side ends both. A slow reader stops the writer through the kernel's socket
//! buffers; here at most one chunk waits in each direction.
//!
//! Invariants: an idle connection holds no buffer. A half-closed connection whose other direction is silent
//! ends after [`HALF_CLOSED`].

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

/// Longest silence of a half-closed connection: kube-proxy's value for `nf_conntrack_tcp_timeout_close_wait`.
pub const HALF_CLOSED: Duration = Duration::from_hours(1);
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// One buffer for all connections of a thread: it is only used between two awaits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

enum Moved {
    /// There was nothing to read.
    Nothing,
    /// Bytes that were read and not yet written. Usually none.
    Rest(Vec<u8>),
    /// End of the stream.
    End,
}

/// Copies bytes until both sides have ended. The caller closes or resets the streams.
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

/// The remaining direction, until it ends or has been silent for [`HALF_CLOSED`].
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        task::{JoinHandle, yield_now},
    };

    use super::*;
    use crate::dataplane::userspace::tests::PATIENCE;

    const MINUTE: Duration = Duration::from_mins(1);

    async fn mk_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("any port");
        let address = listener.local_addr().expect("an address");
        let (one, two) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.expect("connects"), two.expect("accepts").0)
    }

    /// A client, an endpoint, and the task between them.
    async fn mk_relay() -> (TcpStream, TcpStream, JoinHandle<io::Result<()>>) {
        let ((client, mut near), (mut far, endpoint)) = (mk_pair().await, mk_pair().await);
        // Far less than a chunk: nearly every write is one of a part.
        socket2::SockRef::from(&near).set_send_buffer_size(4096).expect("a socket");
        (client, endpoint, tokio::spawn(async move { relay(&mut near, &mut far).await }))
    }

    /// Advances the clock. While it stands, waiting for a socket would advance it.
    async fn later(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        yield_now().await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn what_cannot_be_written_at_once_is_written_later() {
        let (mut client, mut endpoint, relaying) = mk_relay().await;
        let said: Vec<u8> = (0..1_000_000u32).map(|n| n.to_be_bytes()[2]).collect();
        let saying = said.clone();
        let writer = tokio::spawn(async move {
            endpoint.write_all(&saying).await.expect("says");
            endpoint.shutdown().await.expect("ends");
            endpoint
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("hears");
        assert!(heard == said, "{} of {} bytes, in another order or with others", heard.len(), said.len());
        client.shutdown().await.expect("ends");
        drop(writer.await);
        relaying.await.expect("no panic").expect("both have ended");
    }

    #[tokio::test]
    async fn a_half_closed_connection_ends_when_it_has_been_silent_for_long() {
        let (mut client, mut endpoint, relaying) = mk_relay().await;
        client.shutdown().await.expect("ends");
        assert_eq!(endpoint.read(&mut [0; 8]).await.expect("hears the end"), 0);
        later(HALF_CLOSED.saturating_sub(MINUTE)).await;
        endpoint.write_all(b"!").await.expect("says");
        client.read_exact(&mut [0]).await.expect("hears");
        later(HALF_CLOSED.saturating_sub(MINUTE)).await;
        assert!(!relaying.is_finished(), "it was not silent all the time");
        later(HALF_CLOSED).await;
        let ended = timeout(PATIENCE, relaying).await.expect("ends").expect("no panic");
        assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
    }
}
