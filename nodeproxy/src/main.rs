//! The process: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use portico_nodeproxy::{args::Args, diagnose::command::Agreement, run};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    portico_runtime::log::init(args.logs.log_format, &args.logs.filter());
    match run::run(args).await {
        Ok(Agreement::Agrees) => ExitCode::SUCCESS,
        Ok(Agreement::Differs) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(error = portico_runtime::chain(error.as_ref()), "portico-nodeproxy ends");
            ExitCode::FAILURE
        }
    }
}
