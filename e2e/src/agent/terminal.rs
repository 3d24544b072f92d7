//! A pseudo terminal for `kubectl exec -t`. Owns its two ends; leaves giving it to the program to `enter --tty`.
//! Invariant: reading ends when the last process on the terminal has closed it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::pty::openpty;
use nix::unistd::ttyname;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// The program's name for its end, and the hold on it.
pub(super) struct Terminal {
    /// Path of the program's end, e.g. /dev/pts/3.
    pub(super) path: PathBuf,
    /// Held until the program has opened it, or our end would read its end at once.
    slave: Option<OwnedFd>,
}

/// Our end, to read from. A thread of the blocking pool waits in each read.
pub(super) struct Output(File);

/// Our end, to write to.
pub(super) struct Input(File);

impl Terminal {
    pub(super) fn open() -> Result<(Self, Output, Input)> {
        let pair = openpty(None, None).context("open a pseudo terminal")?;
        let path = ttyname(&pair.slave).context("its name")?;
        let second = pair.master.try_clone().context("its second handle")?;
        let files = [pair.master, second].map(|fd| File::from_std(std::fs::File::from(fd)));
        let [output, input] = files;
        Ok((Self { path, slave: Some(pair.slave) }, Output(output), Input(input)))
    }

    /// Lets go of the program's end.
    pub(super) fn release(&mut self) {
        self.slave = None;
    }

    /// Through stty, since the ioctl has no safe wrapper here.
    pub(super) async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let [columns, rows] = [columns, rows].map(|side| side.to_string());
        let status =
            Command::new("stty").arg("-F").arg(&self.path).args(["cols", &columns, "rows", &rows]).status();
        status.await.map(drop).context("stty")
    }
}

impl Output {
    /// Some output; empty at the end (the kernel says EIO when no process has the terminal any more).
    pub(super) async fn read(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 16 * 1024];
        let length = self.0.read(&mut buffer).await.unwrap_or(0);
        buffer.truncate(length);
        buffer
    }
}

impl Input {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await.context("terminal")?;
        self.0.flush().await.context("terminal")
    }
}
