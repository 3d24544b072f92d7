//! One try: connect, send, read the answer. Leaves counting and repetition to `probe.rs`.
//! Invariant: a kept connection that failed is dropped, so the next try starts with a new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::Instant;

use super::outcome::{Failure, Outcome};
use super::{Protocol, Target};

/// One worker's way to the target.
pub(super) struct Client {
    protocol: Protocol,
    target: Target,
    source_port: Option<u16>,
    keep_alive: bool,
    payload: String,
    kept: Option<TcpStream>,
}

impl Client {
    pub(super) fn new(
        protocol: Protocol,
        target: Target,
        source_port: Option<u16>,
        keep_alive: bool,
        payload: String,
    ) -> Self {
        Self { protocol, target, source_port, keep_alive, payload, kept: None }
    }

    /// One try, over at the latest after `limit`.
    pub(super) async fn attempt(&mut self, limit: Duration) -> Outcome {
        let start = Instant::now();
        let result = match tokio::time::timeout(limit, self.exchange()).await {
            Ok(result) => result.map_err(|error| (Failure::from(&error), error.to_string())),
            Err(_elapsed) => {
                self.kept = None;
                Err((Failure::Timeout, format!("no answer within {} ms", limit.as_millis())))
            }
        };
        let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        match result {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer).trim().to_owned();
                let answer = serde_json::from_str(&text).unwrap_or(Value::String(text));
                Outcome { ok: true, answer: Some(answer), error: None, message: None, latency_us }
            }
            Err((failure, message)) => {
                Outcome { ok: false, answer: None, error: Some(failure), message: Some(message), latency_us }
            }
        }
    }

    async fn exchange(&mut self) -> std::io::Result<Vec<u8>> {
        if self.protocol == Protocol::Udp {
            return self.datagram().await;
        }
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let answer = match self.protocol {
            Protocol::Http => http(&mut stream, &self.target, self.keep_alive).await?,
            Protocol::Tcp | Protocol::Udp => line(&mut stream, &self.payload).await?,
        };
        self.kept = self.keep_alive.then_some(stream);
        Ok(answer)
    }

    fn source(&self) -> SocketAddr {
        let ip = match self.target.address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(ip, self.source_port.unwrap_or(0))
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = if self.target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.source_port.is_some() {
            socket.set_reuseaddr(true)?; // the same port again, while the last connection is in TIME_WAIT
            socket.bind(self.source())?;
        }
        let stream = socket.connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn datagram(&self) -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(self.source()).await?;
        socket.connect(self.target.address).await?;
        socket.send(self.payload.as_bytes()).await?;
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer).await?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

async fn line(stream: &mut TcpStream, payload: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(format!("{payload}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(closed_early());
        }
    }
    Ok(answer)
}

async fn http(stream: &mut TcpStream, target: &Target, keep_alive: bool) -> std::io::Result<Vec<u8>> {
    let Target { address, path } = target;
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        if let Some(response) = Response::parse(&bytes)?
            && let Some(body) = response.body(&bytes)
        {
            return Ok(body.to_vec());
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let response = Response::parse(&bytes)?.filter(|response| response.length.is_none());
            return response.map(|response| bytes.split_off(response.start)).ok_or_else(closed_early);
        }
    }
}

fn closed_early() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed before the answer was complete")
}

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    /// Offset of the body.
    start: usize,
    /// Its length; none: until the connection is closed.
    length: Option<usize>,
}

impl Response {
    /// None until the head is complete; an error status is an error.
    fn parse(bytes: &[u8]) -> std::io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let good =
            status.split(' ').nth(1).is_some_and(|code| code.starts_with('2') || code.starts_with('3'));
        if !good {
            return Err(std::io::Error::other(format!("answered {status:?}")));
        }
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok());
        Ok(Some(Self { start: end + 4, length }))
    }

    /// The body, when all of it is there.
    fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.start..self.start + self.length?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_with_as_many_bytes_as_it_announced() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let response = Response::parse(bytes).expect("good").expect("complete head");
        assert_eq!(response.body(bytes), Some(&b"ok"[..]));
        assert_eq!(response.body(&bytes[..bytes.len() - 1]), None);
        assert!(Response::parse(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }
}
