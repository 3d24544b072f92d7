//! The admin socket of a running proxy: one JSON question a line, one JSON answer, and the connection closes.
//!
//! Owns the socket's file, the permission check, and both ends of the conversation.
//!
//! Invariants: only root, or the user of the proxy, gets an answer, whatever the file's mode. The file never
//! has a wider mode than 0600. No failure here stops the proxy, because traffic does not depend on it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Answer, Question, Responder};

/// Longest question, in bytes.
const LONGEST: u64 = 4096;
/// Longest wait for a question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reasons why the running proxy did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket.
    #[error(
        "no node proxy answers on {path}: is portico-nodeproxy running on this node, with the same --admin-socket? With the \
         chart, ask inside of its pod (kubectl exec); a saved dump is asked with --dump"
    )]
    Nobody {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The socket is root's.
    #[error("only root may ask the node proxy on {path}")]
    Permission {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The conversation broke.
    #[error("the node proxy on {path} did not answer")]
    Broken {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The answer does not parse.
    #[error(
        "the node proxy on {path} answers in a way that this program does not know; use the program that it runs"
    )]
    Unknown {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the JSON parser.
        #[source]
        source: serde_json::Error,
    },
    /// The proxy's reason for a missing answer.
    #[error("{0}")]
    Refused(String),
}

impl AskError {
    /// Whether the same question may succeed later.
    pub fn retry(&self) -> bool {
        matches!(self, Self::Nobody { .. } | Self::Broken { .. })
    }

    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Nobody { .. } => "Nobody",
            Self::Permission { .. } => "Permission",
            Self::Broken { .. } => "Broken",
            Self::Unknown { .. } => "Unknown",
            Self::Refused(_) => "Refused",
        }
    }
}

/// Creates the socket. The name comes last, so nobody can connect before the mode is right. The socket of a
/// predecessor is replaced.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket has this name",
        ));
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Answers until `stop`.
pub async fn serve(listener: UnixListener, responder: Responder, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let responder = responder.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &responder).await {
                        tracing::debug!(%error, "a client of the admin socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin socket takes no client");
                // Descriptors may be short for a while.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, responder: &Responder) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))?;
    if peer != 0 && peer != own {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reading.take(LONGEST)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(question) => responder.answer(&question).await.unwrap_or_else(|error| {
            let chain = portico_runtime::chain(&error);
            tracing::debug!(reason = error.reason(), error = chain, "a question without an answer");
            Answer::Error(chain)
        }),
        Err(error) => Answer::Error(format!("this node proxy does not know the question ({error})")),
    };
    writing.write_all(&serde_json::to_vec(&answer)?).await?;
    writing.shutdown().await
}

/// Asks the proxy behind a socket.
pub async fn ask(path: &Path, question: &Question) -> Result<Answer, AskError> {
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => AskError::Permission { path, source },
            _ => AskError::Nobody { path, source },
        }
    })?;
    let text = exchange(stream, question).await;
    let text = text.map_err(|source| AskError::Broken { path: path.to_owned(), source })?;
    match serde_json::from_slice(&text) {
        Ok(Answer::Error(error)) => Err(AskError::Refused(error)),
        Ok(answer) => Ok(answer),
        Err(source) => Err(AskError::Unknown { path: path.to_owned(), source }),
    }
}

async fn exchange(mut stream: UnixStream, question: &Question) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection without a word"));
    }
    Ok(text)
}
