//! moto with the NLB overlay, started by the test on a free port of loopback, and an account in it.
//!
//! Owns: the process, its account, and reading it past the provider, by boto3 or by the plain SDK.
//! Leaves to others: what it answers (`emulators/aws`). Invariant: it ends with the test, whatever happens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_smithy_http_client::Builder;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use portico_limits::Pace;
use serde_json::Value;

use super::faulty::Faults;
use crate::Config;
use crate::cloud::Sdk;
use crate::cloud::resources::Id;

/// A running emulator; drop ends it.
pub(super) struct Emulator {
    server: Child,
    endpoint: String,
    pub(super) vpc: String,
    pub(super) instances: Vec<String>,
    pub(super) prefix_lists: Vec<String>,
    /// The range of each subnet.
    pub(super) ipv6: Vec<String>,
    pub(super) sdk: Sdk,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn python() -> PathBuf {
    root().join("target/tools/aws/bin/python")
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg("-B").arg(root().join("emulators/aws").join(name));
    command
}

/// A line for `make test`, which counts them.
fn note_skip(what: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test}: {what} is not here");
    if let Some(path) = std::env::var_os("PORTICO_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "emulators: {test}").unwrap();
    }
}

async fn connect(endpoint: &str, http: SharedHttpClient) -> Sdk {
    let credentials = Credentials::new("test", "test", None, None, "test");
    // The emulator has no limits; where it has, that is another test's matter.
    let pace = Pace::new(1_000.0).unwrap();
    Sdk::connect_by(http, "us-east-1".to_owned(), Some(endpoint.to_owned()), Some(credentials), pace).await
}

impl Emulator {
    /// `None`: there is no emulator on this machine, and `PORTICO_SKIP` names `emulators`; without that it fails.
    pub(super) async fn start() -> Option<Self> {
        if !python().exists() {
            let said = std::env::var("PORTICO_SKIP").unwrap_or_default();
            let why = "no emulator of AWS: run scripts/emulators.sh, which needs pip and its registry, or set \
                       PORTICO_SKIP=emulators";
            assert!(said.split(',').any(|word| word.trim() == "emulators"), "{why}");
            note_skip("AWS's emulator");
            return None;
        }
        let mut serve = script("nlb.py");
        serve.args(["-H", "127.0.0.1", "-p", "0"]).env("NLB_PROVISION_POLLS", "1");
        let mut server = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut endpoint = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        let endpoint = endpoint.trim().to_owned();
        assert!(!endpoint.is_empty(), "the emulator ended; try nlb.py by hand");
        let sdk = connect(&endpoint, Builder::new().build_http()).await;
        let mut emulator = Self {
            server,
            endpoint,
            vpc: String::new(),
            instances: Vec::new(),
            prefix_lists: Vec::new(),
            ipv6: Vec::new(),
            sdk,
        };
        let account = emulator.account("make");
        emulator.vpc = account["vpc"].as_str().unwrap().to_owned();
        let words = |name: &str| -> Vec<String> {
            account[name].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
        };
        emulator.instances = words("instances");
        emulator.prefix_lists = words("prefix_lists");
        emulator.ipv6 = words("ipv6");
        Some(emulator)
    }

    /// A client with these faults.
    pub(super) async fn faulty(&self, faults: &Faults) -> Sdk {
        connect(&self.endpoint, faults.clone().on(Builder::new().build_http())).await
    }

    /// What boto3 makes or sees.
    pub(super) fn account(&self, command: &str) -> Value {
        self.run(&[command])
    }

    /// The same with arguments: `account.py` lists them.
    pub(super) fn run(&self, command: &[&str]) -> Value {
        let output = script("account.py").arg(&self.endpoint).args(command).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Stops, starts or terminates an instance.
    pub(super) fn instance(&self, command: &str, id: &str) {
        self.run(&[command, id]);
    }

    /// How a target is from now on, by `id:port` or `*` for all; `None`: as it is by itself.
    pub(super) fn health(&self, target: &str, state: Option<&str>) {
        self.run(&["health", target, state.unwrap_or_default()]);
    }

    /// How often each API was called since the last time this was asked.
    pub(super) fn calls(&self) -> BTreeMap<String, usize> {
        serde_json::from_value(self.account("calls")).unwrap()
    }

    /// Takes off the tags whose keys begin like that.
    pub(super) fn untag<'a>(&self, ids: impl IntoIterator<Item = &'a Id>, keys: &str) {
        let ids: Vec<&str> = ids.into_iter().map(|id| id.0.as_str()).collect();
        self.run(&["untag", &ids.join(","), keys]);
    }

    /// So many load balancers are all that the account may have.
    pub(super) fn quota(&self, most: usize) {
        self.run(&["quota", &most.to_string()]);
    }

    /// Tagged things that exist for listings alone.
    pub(super) fn tagged_only(&self, things: &Value) {
        let mut child = script("account.py")
            .args([&self.endpoint, "tagged-only"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(things.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    pub(super) fn config(&self, cluster: &portico_provider::ClusterUid) -> Config {
        Config {
            vpc: self.vpc.clone(),
            backend_security_group: None,
            cluster_name: None,
            cluster: cluster.clone(),
            quotas: crate::Quotas::default(),
            pace: Duration::from_secs(2),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
