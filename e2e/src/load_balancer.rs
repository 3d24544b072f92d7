//! `portico-lb` on a host of its own on the fabric: the cloud of this machine, which the operator's provider `local` calls.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{net::TcpStream, process::Command, time::Instant};

use crate::{
    fabric::{Host, LOAD_BALANCER, LOAD_BALANCER_RANGE},
    home::Home,
    process::{Crashes, Process},
    tools::Tools,
};

/// The port of its API.
pub const PORT: u16 = 9440;

/// How long it may take to listen.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// The running load balancer.
#[derive(Debug)]
pub struct LoadBalancer {
    process: Process,
    token: String,
}

impl LoadBalancer {
    /// Starts it and waits until its API listens.
    pub async fn start(tools: &Tools, home: &Home, crashes: &Crashes) -> anyhow::Result<Self> {
        tools.check(&[&tools.lb()])?;
        let dir = home.path("lb");
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let (token_file, token) = (dir.join("token"), random_token()?);
        fs::write(&token_file, &token).with_context(|| format!("writing {}", token_file.display()))?;
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", Host::load_balancer().netns()))
            .arg("--")
            .arg(tools.lb())
            .arg("--interface=eth0")
            .arg(format!("--range={LOAD_BALANCER_RANGE}"))
            .arg(format!("--listen=0.0.0.0:{PORT}"))
            .arg(format!("--token-file={}", token_file.display()))
            .arg(format!("--state-dir={}", dir.join("state").display()));
        let process = Process::start("portico-lb", command, &home.logs(), crashes)?;
        listens().await?;
        Ok(Self { process, token })
    }

    /// The bearer token of its API.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The process of portico-lb.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

async fn listens() -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    while TcpStream::connect((LOAD_BALANCER, PORT)).await.is_err() {
        if Instant::now() >= deadline {
            bail!(
                "portico-lb did not listen on {LOAD_BALANCER}:{PORT} within {READY_DEADLINE:?}; its log says why"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
