//! Log lines on standard error, for people or as JSON.
//!
//! Owns: setting it up. Leaves to others: what is logged.
//! Invariant: set up once, before anything is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{Command, LogFormat};

/// Sets logging up by the flags; `RUST_LOG` chooses lines.
pub fn init(command: &Command) {
    let (format, level) = command.log_format();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Human => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}
