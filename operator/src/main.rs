//! The binary `portico-operator`: reads flags, does what they say, and answers with an exit code.
//!
//! Owns: nothing but the order, and what is the process's: its log and its crypto provider. Leaves to others: everything.
//! Invariant: an error is logged once, with its sources.

use std::process::ExitCode;

use portico_operator::{Command, execute};

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let (format, filter) = command.log();
    portico_runtime::log::init(format, &filter);
    // Nobody else installs one, so this is the first.
    drop(rustls::crypto::ring::default_provider().install_default());
    match execute(command).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = portico_runtime::chain(error.as_ref()), "ended");
            ExitCode::FAILURE
        }
    }
}
