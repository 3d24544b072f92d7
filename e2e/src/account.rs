//! The account of a run for a person: short lines on stdout, each with the time since the start.
//! Logs are elsewhere (`tracing`, and a file per process). This is the only writer of stdout.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// The readable account of one run.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    started: Instant,
    quiet: bool,
}

impl Account {
    /// An account that starts now.
    pub fn new() -> Self {
        Self { started: Instant::now(), quiet: false }
    }

    /// An account that shows failures only; for tests, where a dump follows a failure and a success needs no words.
    pub fn quiet() -> Self {
        Self { started: Instant::now(), quiet: true }
    }

    /// How long the run has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A step that is beginning or done, with the seconds since the start.
    pub fn step(&self, what: impl Display) {
        if !self.quiet {
            write_line(&format!("{:6.1}s  {what}", self.elapsed().as_secs_f32()));
        }
    }

    /// A detail of the step above it: each line is indented.
    pub fn detail(&self, what: impl Display) {
        if !self.quiet {
            for line in what.to_string().lines() {
                write_line(&format!("         {line}"));
            }
        }
    }

    /// A line as it is: headings and last lines.
    pub fn line(&self, what: impl Display) {
        if !self.quiet {
            write_line(&what.to_string());
        }
    }

    /// Why the run failed; on stderr, never silenced.
    pub fn failure(&self, why: &str) {
        let _closed = writeln!(io::stderr().lock(), "portico-e2e: {why}");
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a line. A reader that went away (`portico-e2e demo | head`) is no reason to leave a cluster half torn down.
fn write_line(line: &str) {
    let _closed = writeln!(io::stdout().lock(), "{line}");
}
