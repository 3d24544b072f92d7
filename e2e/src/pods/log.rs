//! Container logs, in the CRI's format: `2016-10-06T00:17:09.669794202Z stdout F The content`.
//! Source: kubernetes/design-proposals, kubelet-cri-logging.
//!
//! Owns writing lines as they come and choosing those a reader asks for. Invariants: one line of the file is one piece of one
//! stream; `F` ends a line, `P` does not. A follower wakes for every write, and ends after the last one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{mpsc, watch};

/// One run of a container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// Lines written so far; the sender goes when the run is over.
    written: watch::Receiver<u64>,
}

/// Which of a process' streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Options of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) follow: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit: Option<usize>,
}

impl Log {
    /// Creates the file and writes what both streams give until both end. Attached readers get the raw bytes too.
    pub(crate) fn record(
        path: PathBuf,
        stdout: impl AsyncRead + Unpin + Send + 'static,
        stderr: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<Arc<Self>> {
        let file = std::fs::File::create(&path).with_context(|| format!("log {}", path.display()))?;
        let (sender, written) = watch::channel(0);
        let (lines, mut all) = mpsc::channel::<(Stream, Vec<u8>)>(256);
        tokio::spawn(pump(Stream::Stdout, stdout, lines.clone()));
        tokio::spawn(pump(Stream::Stderr, stderr, lines));
        tokio::spawn(async move {
            let mut file = file;
            while let Some((stream, line)) = all.recv().await {
                if let Err(error) = file.write_all(&format(Timestamp::now(), stream, &line)) {
                    tracing::warn!(%error, "container log");
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Arc::new(Self { path, written }))
    }

    /// Sends what is wanted, and with `follow` what comes, until the run is over or the reader is gone.
    pub(crate) async fn send(&self, wanted: Wanted, to: mpsc::Sender<Vec<u8>>) -> Result<()> {
        let mut written = self.written.clone();
        written.mark_unchanged();
        let mut offset = 0;
        let mut left = wanted.limit;
        let mut tail = wanted.tail;
        loop {
            let text = read_from(&self.path, &mut offset)?;
            let mut bytes = choose(&text, &Wanted { tail: tail.take(), ..wanted.clone() });
            if let Some(left) = &mut left {
                bytes.truncate(*left);
                *left -= bytes.len();
            }
            if !bytes.is_empty() && to.send(bytes).await.is_err() {
                return Ok(());
            }
            if !wanted.follow || left == Some(0) {
                return Ok(());
            }
            tokio::select! {
                changed = written.changed() => if changed.is_err() { // over: what was written last, then the end
                    let text = read_from(&self.path, &mut offset)?;
                    let rest = choose(&text, &Wanted { tail: None, ..wanted.clone() });
                    to.send(rest).await.ok();
                    return Ok(());
                },
                () = to.closed() => return Ok(()),
            }
        }
    }
}

fn read_from(path: &Path, offset: &mut u64) -> Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path).with_context(|| format!("log {}", path.display()))?;
    file.seek(SeekFrom::Start(*offset)).context("seek")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read")?;
    // The line being written now is read next time.
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    *offset += bytes.len() as u64;
    Ok(bytes)
}

async fn pump(stream: Stream, from: impl AsyncRead + Unpin, to: mpsc::Sender<(Stream, Vec<u8>)>) {
    let mut reader = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if to.send((stream, line)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One line of the file.
fn format(time: Timestamp, stream: Stream, line: &[u8]) -> Vec<u8> {
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let (tag, content) = match line.strip_suffix(b"\n") {
        Some(content) => ("F", content),
        None => ("P", line),
    };
    let mut bytes = format!("{time:.9} {stream} {tag} ").into_bytes();
    bytes.extend(content);
    bytes.push(b'\n');
    bytes
}

/// The lines of `text` (whole lines of the file) that are wanted, as the reader sees them.
fn choose(text: &[u8], wanted: &Wanted) -> Vec<u8> {
    let lines: Vec<(&[u8], &[u8], bool)> =
        text.split_inclusive(|byte| *byte == b'\n').filter_map(parse).collect();
    let late = |time: &[u8]| match wanted.since {
        Some(since) => std::str::from_utf8(time)
            .ok()
            .and_then(|time| time.parse::<Timestamp>().ok())
            .is_none_or(|time| time >= since),
        None => true,
    };
    let lines: Vec<_> = lines.into_iter().filter(|(time, _, _)| late(time)).collect();
    let skip = wanted.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    let mut bytes = Vec::new();
    for (time, content, full) in &lines[skip..] {
        if wanted.timestamps {
            bytes.extend_from_slice(time);
            bytes.push(b' ');
        }
        bytes.extend_from_slice(content);
        if *full {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Time, content, and whether the line is complete.
fn parse(line: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((time, content, tag == b"F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_log() -> Vec<u8> {
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        [
            format(at(1), Stream::Stdout, b"one\n"),
            format(at(2), Stream::Stderr, b"two words\n"),
            format(at(3), Stream::Stdout, b"no end"),
        ]
        .concat()
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        assert_eq!(choose(&mk_log(), &Wanted::default()), b"one\ntwo words\nno end");
        assert!(mk_log().starts_with(b"1970-01-01T00:00:01.000000000Z stdout F one\n"));
    }

    #[test]
    fn tail_since_and_timestamps_choose_and_decorate() {
        let tail = Wanted { tail: Some(2), ..Wanted::default() };
        assert_eq!(choose(&mk_log(), &tail), b"two words\nno end");
        let since = Wanted { since: Timestamp::from_second(3).ok(), timestamps: true, ..Wanted::default() };
        assert_eq!(choose(&mk_log(), &since), b"1970-01-01T00:00:03.000000000Z no end");
    }

    #[tokio::test]
    async fn a_follower_gets_every_line_and_then_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut input, stdout) = tokio::io::duplex(64);
        let log = Log::record(dir.path().join("log"), stdout, tokio::io::empty()).expect("recorded");
        let (to, mut got) = mpsc::channel(8);
        let wanted = Wanted { follow: true, ..Wanted::default() };
        let follower = tokio::spawn(async move { log.send(wanted, to).await });
        tokio::io::AsyncWriteExt::write_all(&mut input, b"first\nlast").await.expect("written");
        drop(input);
        let mut all = Vec::new();
        while let Some(bytes) = got.recv().await {
            all.extend(bytes);
        }
        follower.await.expect("no panic").expect("no error");
        assert_eq!(all, b"first\nlast");
    }
}
