//! As much HTTP/1.1 as a test backend needs (RFC 9112): any method and path, keep-alive, bodies read and dropped.
//!
//! `/healthz` answers ok, `/delay/MS` answers late; all else is the identity.
//! Invariant: `Connection: close` is said before the connection is closed, so a client never finds out by a reset.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;

use super::connection::Connection;

const METHODS: [&str; 7] = ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "PATCH ", "OPTIONS "];

/// Bytes that are enough to recognise a request.
pub(super) const LONGEST_METHOD: usize = 8;

/// A request head larger than this is refused.
const HEAD_LIMIT: usize = 64 * 1024;

/// Whether these first bytes are a request's.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method.as_bytes()))
}

/// Whether these few bytes could still become one.
pub(super) fn may_become_request(bytes: &[u8]) -> bool {
    !is_request(bytes) && METHODS.iter().any(|method| method.as_bytes().starts_with(bytes))
}

/// The parts of a request's head that the backend uses.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    path: String,
    body: usize,
    keep_alive: bool,
    /// Bytes of the head itself.
    length: usize,
}

/// Answers requests until the client or the stop signal ends it.
pub(super) async fn serve(mut connection: Connection) -> Result<()> {
    loop {
        let stop = connection.stop.clone();
        let head = tokio::select! {
            biased;
            head = read_head(&mut connection) => head?,
            () = stop.cancelled(), if connection.unread.is_empty() => None,
        };
        let Some(head) = head else { return connection.stream.shutdown().await.context("close") };
        drop_body(&mut connection, &head).await?;
        if let Some(delay) = head.path.strip_prefix("/delay/").and_then(|rest| rest.parse().ok()) {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let keep_alive = head.keep_alive && !connection.stop.is_cancelled();
        let response = response(&connection, &head, keep_alive)?;
        connection.stream.write_all(&response).await.context("write")?;
        if !keep_alive {
            return connection.stream.shutdown().await.context("close");
        }
    }
}

fn response(connection: &Connection, head: &Head, keep_alive: bool) -> Result<Vec<u8>> {
    let mut body = if head.path == "/healthz" {
        b"ok".to_vec()
    } else {
        let mut answer = connection.answer("http");
        answer.path = Some(&head.path);
        serde_json::to_vec(&answer).context("answer")?
    };
    body.push(b'\n');
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if head.method != "HEAD" {
        bytes.extend(body);
    }
    Ok(bytes)
}

async fn read_head(connection: &mut Connection) -> Result<Option<Head>> {
    loop {
        if let Some(head) = parse_head(&connection.unread)? {
            connection.unread.drain(..head.length);
            return Ok(Some(head));
        }
        if connection.unread.len() > HEAD_LIMIT {
            bail!("request head over {HEAD_LIMIT} bytes");
        }
        if !connection.read_more().await? {
            return Ok(None);
        }
    }
}

async fn drop_body(connection: &mut Connection, head: &Head) -> Result<()> {
    let mut left = head.body;
    loop {
        let take = left.min(connection.unread.len());
        connection.unread.drain(..take);
        left -= take;
        if left == 0 || !connection.read_more().await? {
            return Ok(());
        }
    }
}

/// The head at the start of `bytes`, when it is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        bail!("request line: want METHOD PATH VERSION");
    };
    let mut head = Head {
        method: method.to_owned(),
        path: path.to_owned(),
        body: 0,
        keep_alive: version == "HTTP/1.1",
        length: end + 4,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match (name.to_ascii_lowercase().as_str(), value.trim().to_ascii_lowercase().as_str()) {
            ("content-length", length) => head.body = length.parse().context("Content-Length")?,
            ("connection", "close") => head.keep_alive = false,
            ("connection", "keep-alive") => head.keep_alive = true,
            _ => {}
        }
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_complete_only_with_its_empty_line() {
        assert_eq!(parse_head(b"GET / HTTP/1.1\r\nHost: x\r\n").expect("fine so far"), None);
        let head = parse_head(b"POST /a?b HTTP/1.1\r\nContent-Length: 3\r\nConnection: Close\r\n\r\nabc");
        let head = head.expect("parses").expect("complete");
        assert_eq!((head.path.as_str(), head.body, head.keep_alive), ("/a?b", 3, false));
    }

    #[test]
    fn http_1_0_closes_unless_asked_to_stay() {
        let alive = |text: &[u8]| parse_head(text).expect("parses").expect("complete").keep_alive;
        assert!(!alive(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(alive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn first_bytes_decide_between_http_and_lines() {
        assert!(is_request(b"GET / HTTP"));
        assert!(may_become_request(b"DEL"));
        assert!(!may_become_request(b"hello"));
    }
}
