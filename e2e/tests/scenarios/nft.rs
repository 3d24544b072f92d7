//! nft on the nodes of a suite's cluster.

use portico_e2e::process;
use tokio::process::Command;

/// Runs nft on a node; gives its stdout.
pub(crate) async fn run(node: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{node}")).arg("nft").args(args);
    process::output(&mut command).await
}
