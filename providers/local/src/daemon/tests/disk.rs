//! A disk that takes its time: a named pipe in the place of the file that a change is written to, which holds the
//! writer until somebody reads.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// The pipe; dropping it lets a writer go on.
struct SlowDisk(PathBuf);

impl SlowDisk {
    fn new(directory: &Path) -> Self {
        let pipe = directory.join("state/load-balancers.new");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        Self(pipe)
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Opening both ends waits for nobody. What was written stays in the pipe's buffer.
        let opened = fs::File::options().read(true).write(true).open(&self.0);
        fs::remove_file(&self.0).unwrap();
        drop(opened);
    }
}

fn mk_change(provider: &LocalProvider, desired: &LoadBalancer) -> crate::Step {
    provider.plan(Desired::Present(desired), None).steps()[0].step.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reading_waits_for_no_disk_and_a_change_shows_only_when_it_is_kept() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.207.0.0/24", &[]).await.unwrap();
    let (old, new) = (mk_load_balancer(mk_owner("c", "old")), mk_load_balancer(mk_owner("c", "new")));
    let provider = daemon.provider(&old.owner.cluster);
    create(&provider, &old).await;
    let pipe = SlowDisk::new(directory.path());
    let writer = daemon.provider(&old.owner.cluster);
    let step = mk_change(&writer, &new);
    let mut writing = tokio::spawn(async move { writer.execute(&step).await });
    // Nobody reads the pipe: the change waits, and for a moment we make sure that it is there.
    assert!(timeout(Duration::from_millis(200), &mut writing).await.is_err());
    let seen = timeout(PATIENCE, provider.inventory()).await.expect("reading waits for the disk").unwrap();
    assert!(seen.services.keys().eq([&old.owner.service]));
    let metrics = reqwest::get(format!("http://{}/metrics", daemon.endpoint));
    let metrics = timeout(PATIENCE, metrics).await.expect("metrics wait for the disk").unwrap();
    assert!(metrics.text().await.unwrap().contains("portico_lb_load_balancers 1\n"));
    let address = SocketAddr::new(*view(&provider, &old).await.addresses.first().unwrap(), 8080);
    timeout(PATIENCE, assert_listens(address)).await.unwrap();
    // A pipe cannot be synced, so the change is refused, and nothing of it shows.
    drop(pipe);
    let refused = timeout(PATIENCE, writing).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(refused, ProviderError::Unavailable { .. }), "{refused}");
    assert!(provider.observe(&new.owner, ReadMode::Full).await.unwrap().is_none());
    assert_eq!(create(&provider, &new).await, Outcome::Done);
    daemon.end().await;
}
