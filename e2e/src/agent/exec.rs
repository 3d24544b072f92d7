//! `kubectl exec` and `kubectl attach`: a WebSocket joined to a process.
//!
//! Owns the joining; `framing.rs` owns the frames. Invariants: all output is sent before the status, which is the last frame.
//! The command ends when the client closes the connection. Its stdin is closed then, or when the client asks for it (v5).

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::stream::SplitStream;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::pods::log::{Log, Wanted};
use crate::pods::process::Process;

use super::framing::{In, Out, decode, encode, exit_status};
use super::terminal::Terminal;

/// Streams and command of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) tty: bool,
}

/// Frames on their way to the client.
type Frames = mpsc::Sender<Vec<u8>>;

/// Runs a command and reports how it ended.
pub(super) async fn exec(socket: WebSocket, process: Process, request: Request) {
    let (sink, client) = socket.split();
    let (frames, waiting) = mpsc::channel(64);
    let writer = tokio::spawn(write_frames(sink, waiting));
    let ended = if request.tty {
        on_terminal(client, &process, &request, &frames).await
    } else {
        on_pipes(client, &process, &request, &frames).await
    };
    let status = match ended {
        Ok(code) => exit_status(code),
        Err(error) => failure(&error),
    };
    frames.send(encode(Out::Error, status.to_string().as_bytes())).await.ok();
    drop(frames);
    if let Err(error) = writer.await {
        tracing::debug!(%error, "exec");
    }
}

fn failure(error: &anyhow::Error) -> serde_json::Value {
    let message = format!("{error:#}");
    serde_json::json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500})
}

async fn write_frames(
    mut sink: futures::stream::SplitSink<WebSocket, Message>,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) {
    while let Some(frame) = waiting.recv().await {
        if sink.send(Message::Binary(frame.into())).await.is_err() {
            return; // the client is gone
        }
    }
    // Without a code of its own a Go client takes the end for an error.
    let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    sink.send(Message::Close(Some(normal))).await.ok();
}

async fn on_pipes(
    client: SplitStream<WebSocket>,
    process: &Process,
    request: &Request,
    frames: &Frames,
) -> Result<i32> {
    let mut command = process.command(&request.command, None).context("the container has no process")?;
    if request.stdin {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().context("start the command")?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = child.stdout.take().zip(child.stderr.take()).context("its streams")?;
    let out = tokio::spawn(forward(stdout, Out::Stdout, frames.clone()));
    let err = tokio::spawn(forward(stderr, Out::Stderr, frames.clone()));
    let status = tokio::select! {
        status = child.wait() => status.context("wait for the command")?,
        gone = feed(client, stdin) => {
            gone?;
            bail!("the client went away"); // dropping the child kills it
        }
    };
    for reader in [out, err] {
        reader.await.context("read its output")?;
    }
    Ok(exit_code(status))
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

async fn forward(mut from: impl AsyncRead + Unpin, channel: Out, to: Frames) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send(encode(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

/// Passes stdin on until the client is gone.
async fn feed(mut client: SplitStream<WebSocket>, mut stdin: Option<impl AsyncWrite + Unpin>) -> Result<()> {
    while let Some(message) = client.next().await {
        let Ok(message) = message else { return Ok(()) };
        match read(&message)? {
            Some(In::Stdin(bytes)) => {
                let broken = match &mut stdin {
                    Some(pipe) => pipe.write_all(&bytes).await.is_err(),
                    None => false,
                };
                if broken {
                    stdin = None; // the command does not read on: it may still write
                }
            }
            Some(In::StdinClosed) => stdin = None,
            Some(In::Resize { .. }) | None => {}
        }
    }
    Ok(())
}

fn read(message: &Message) -> Result<Option<In>> {
    match message {
        Message::Binary(bytes) => decode(bytes),
        Message::Text(text) => decode(text.as_bytes()),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(None),
    }
}

async fn on_terminal(
    mut client: SplitStream<WebSocket>,
    process: &Process,
    request: &Request,
    frames: &Frames,
) -> Result<i32> {
    let (mut terminal, mut output, mut input) = Terminal::open()?;
    let mut command =
        process.command(&request.command, Some(&terminal.path)).context("the container has no process")?;
    command.stdout(Stdio::null()).env("TERM", "xterm");
    let mut child = command.spawn().context("start the command")?;
    let mut status = None;
    loop {
        tokio::select! {
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.context("wait for the command")?);
                terminal.release();
            }
            bytes = output.read() => {
                if bytes.is_empty() {
                    break;
                }
                if frames.send(encode(Out::Stdout, &bytes)).await.is_err() {
                    bail!("the client went away");
                }
            }
            message = client.next() => match message {
                Some(Ok(message)) => match read(&message)? {
                    Some(In::Stdin(bytes)) => input.write(&bytes).await?,
                    Some(In::Resize { columns, rows }) => terminal.resize(columns, rows).await?,
                    Some(In::StdinClosed) | None => {}
                },
                Some(Err(_)) | None => bail!("the client went away"),
            }
        }
    }
    match status {
        Some(status) => Ok(exit_code(status)),
        None => child.wait().await.map(exit_code).context("wait for the command"),
    }
}

/// Shows what a running container writes, and writes to its stdin.
pub(super) async fn attach(
    socket: WebSocket,
    log: Arc<Log>,
    stdin: Option<Arc<tokio::sync::Mutex<ChildStdin>>>,
    request: Request,
) {
    let (sink, mut client) = socket.split();
    let (frames, waiting) = mpsc::channel(64);
    let writer = tokio::spawn(write_frames(sink, waiting));
    let (pieces, mut output) = mpsc::channel::<Vec<u8>>(64);
    let follow = Wanted { follow: true, tail: Some(0), ..Wanted::default() };
    let follower = tokio::spawn(async move { log.send(follow, pieces).await });
    let stdin = stdin.filter(|_| request.stdin);
    loop {
        tokio::select! {
            piece = output.recv() => match piece {
                Some(bytes) => if frames.send(encode(Out::Stdout, &bytes)).await.is_err() { break },
                None => break, // the container ended
            },
            message = client.next() => match message {
                Some(Ok(message)) => if let (Ok(Some(In::Stdin(bytes))), Some(stdin)) = (read(&message), &stdin)
                    && stdin.lock().await.write_all(&bytes).await.is_err() { break },
                Some(Err(_)) | None => break,
            },
        }
    }
    follower.abort();
    frames.send(encode(Out::Error, exit_status(0).to_string().as_bytes())).await.ok();
    drop(frames);
    writer.await.ok();
}
