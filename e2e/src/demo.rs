//! `demo`: a whole cluster on this machine with Portico in it, and what its clients get. With the guestbook, Service
//! `frontend` goes ClusterIP → NodePort → LoadBalancer and back; with any other manifest every Service that has ready
//! endpoints is asked on every address it has. The last line is `demo: ok`, or there is a reason and the state.

pub mod addresses;
mod guestbook;
mod manifests;
mod probing;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use crate::{
    account::Account,
    cluster::{Cluster, Options},
    home::Home,
    runtime, sandbox,
    session::{self, Plan, Side, Signals},
    tools::Tools,
};

/// Namespace of the demo's objects that name none.
const NAMESPACE: &str = "default";

/// The name of the pod that clients' questions are asked from.
const CLIENT: &str = "demo-client";

/// Demos have folders of their own, so that several can run at once.
const FOLDER: &str = "demo-";

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A manifest of your own in place of the guestbook
    #[arg(long, value_name = "FILE")]
    manifests: Option<PathBuf>,
    /// Run Portico's pods from the images in this folder, as `make images` leaves them
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

/// Runs the demo to its end.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.manifests {
        // Before a cluster is started for it.
        fs::File::open(path).with_context(|| format!("--manifests {}: cannot be read", path.display()))?;
    }
    let name = format!("{FOLDER}{}", std::process::id());
    if !sandbox::is_inside() {
        forget_former()?;
    }
    match session::enter(&Plan::named(name))? {
        Side::Ended(code) => Ok(code),
        Side::Inside(inside) => runtime::block_on(show(args, &inside.home)),
    }
}

/// Removes the folders of demos that were killed, and the logs of those that failed.
fn forget_former() -> anyhow::Result<()> {
    let clusters = Tools::find()?.cluster_dir("");
    let Ok(folders) = fs::read_dir(&clusters) else { return Ok(()) }; // not one yet
    for folder in folders {
        let folder = folder.with_context(|| format!("listing {}", clusters.display()))?;
        let home = Home::existing(&folder.path());
        let is_demo = folder.file_name().to_string_lossy().starts_with(FOLDER);
        if is_demo && home.state().is_some() && !home.is_running() {
            home.remove()?;
        }
    }
    Ok(())
}

async fn show(args: &Args, home: &Home) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let account = Account::new();
    let code = tokio::select! {
        done = play(args, home, &account) => {
            done?;
            account.line("demo: ok");
            ExitCode::SUCCESS
        }
        () = signals.next() => {
            account.failure("interrupted");
            ExitCode::FAILURE
        }
    };
    Ok(code)
}

async fn play(args: &Args, home: &Home, account: &Account) -> anyhow::Result<()> {
    account.line("Portico demo: a Kubernetes cluster in network namespaces of its own");
    let options = Options { images: args.images.clone(), ..Options::default() };
    let cluster = Cluster::start(home, &options, account).await?;
    let played = async {
        start_client(&cluster).await?;
        match &args.manifests {
            Some(path) => manifests::play(&cluster, account, path).await,
            None => guestbook::play(&cluster, account).await,
        }
    };
    if let Err(error) = cluster.crashes().or(played).await {
        account.failure(&format!("state of the cluster:{}", cluster.dump_all().await));
        return Err(error);
    }
    account.step(format!("all of it took {:.0} s; nothing of it stays", account.elapsed().as_secs_f32()));
    cluster.stop().await
}

/// A pod to ask from. It is no endpoint of any Service of the manifest, so no answer comes from where the question does.
async fn start_client(cluster: &Cluster) -> anyhow::Result<()> {
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT, "namespace": NAMESPACE, "labels": {"portico.dev/demo": "client"}},
        "spec": {"containers": [{"name": "client", "image": "portico/backend"}], "terminationGracePeriodSeconds": 1},
    });
    cluster.apply(&pod.to_string()).await?;
    let wait = ["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=60s", "pod", CLIENT];
    cluster.kubectl(&wait).await.context("waiting for the client pod")?;
    Ok(())
}
