//! The `portico-e2e` program: parses the command line and ends with the command's code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use portico_e2e::{account::Account, args::Args};

fn main() -> ExitCode {
    match Args::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            Account::new().failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
