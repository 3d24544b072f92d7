//! The binary `portico-operator`: reads flags, runs, and answers with an exit code.
//!
//! Owns: nothing but the order. Leaves to others: everything. Invariant: an error is logged once, with its causes.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let args = portico_operator::Args::parse();
    portico_operator::init_log(&args);
    match portico_operator::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}
