//! A running emulators/gce: started on a free loopback port, ended with the test.
//!
//! Owns: the process and its hooks. Leaves to others: what is asked of it.
//! Invariant: it dies with this value, also when a test fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use portico_provider_gce::resource::Id;
use serde_json::{Value, json};

use crate::watched::Keep;

pub(crate) const PROJECT: &str = "project";
pub(crate) const REGION: &str = "europe-west1";

/// A static address that the user reserved.
pub(crate) const STATIC: &str = "198.51.100.7";

pub(crate) struct Emulator {
    process: Child,
    pub(crate) url: String,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Whether `PORTICO_SKIP` (names between commas) names the emulators; a skip is written down in the file that
/// `PORTICO_SKIPPED` names.
fn is_skipped() -> bool {
    let names = std::env::var("PORTICO_SKIP").unwrap_or_default();
    let skipped = names.split(',').any(|name| name.trim() == "emulators");
    if let (true, Ok(list)) = (skipped, std::env::var("PORTICO_SKIPPED")) {
        let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(list, "emulators: portico-provider-gce {test}").unwrap();
    }
    skipped
}

fn python(script: &str) -> Command {
    let mut command = Command::new(root().join("target/tools/gce/bin/python"));
    command.arg("-B").arg(root().join("emulators/gce").join(script)).current_dir(root());
    command
}

impl Emulator {
    /// `None`: it is to be skipped.
    pub(crate) fn start() -> Option<Self> {
        if is_skipped() {
            return None;
        }
        let ready = root().join("target/tools/gce/.complete").exists();
        assert!(
            ready,
            "target/tools/gce is missing: scripts/emulator-gce.sh setup makes it, PORTICO_SKIP=emulators goes without"
        );
        let mut process = python("server.py").arg("0").stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let emulator = Self { process, url: url.trim().to_owned() };
        emulator.seed();
        Some(emulator)
    }

    #[expect(clippy::unused_self, reason = "only where there is an emulator, there is its Python")]
    pub(crate) fn python(&self, script: &str) -> Command {
        python(script)
    }

    /// Nodes, a static address of the user's, and things of others that look like ours.
    pub(crate) fn seed(&self) {
        for (number, zone) in ["b", "b", "c"].into_iter().enumerate() {
            let zone = format!("{REGION}-{zone}");
            let body = format!(
                r#"{{"name": "node-{number}", "machineType": "zones/{zone}/machineTypes/e2-small", "networkInterfaces":
                [{{"network": "global/networks/default", "networkIP": "10.128.0.{}"}}]}}"#,
                number + 2
            );
            self.insert(&format!("zones/{zone}/instances"), &body);
        }
        let fixed = format!(r#"{{"name": "user-static", "address": "{STATIC}"}}"#);
        self.insert(&format!("regions/{REGION}/addresses"), &fixed);
        let stranger = r#"{\"networking.gke.io/service-name\":\"contract/created\"}"#;
        let like_ours = format!(
            r#"{{"name": "portico-00000000-contract-created-0000000000-ip", "description": "{stranger}"}}"#
        );
        self.insert(&format!("regions/{REGION}/addresses"), &like_ours);
        let check = r#"{"name": "k8s2-contract-created-hc", "type": "TCP", "tcpHealthCheck": {"port": 80}}"#;
        self.insert(&format!("regions/{REGION}/healthChecks"), check);
        let firewall = r#"{"name": "portico-allow", "allowed": [{"IPProtocol": "tcp"}]}"#;
        self.insert("global/firewalls", firewall);
        self.call("GET", &format!("/compute/v1/projects/{PROJECT}/aggregated/operations"), None);
    }

    /// A health check of somebody else's.
    pub(crate) fn squat(&self, name: &str) {
        let check = format!(r#"{{"name": "{name}", "type": "TCP", "tcpHealthCheck": {{"port": 81}}}}"#);
        self.insert(&format!("regions/{REGION}/healthChecks"), &check);
        self.call("GET", &format!("/compute/v1/projects/{PROJECT}/aggregated/operations"), None);
    }

    pub(crate) fn insert(&self, collection: &str, body: &str) {
        let answer = self.call("POST", &format!("/compute/v1/projects/{PROJECT}/{collection}"), Some(body));
        assert_eq!(answer["kind"], "compute#operation", "{collection}: {answer}");
    }

    /// Somebody changes one of a collection.
    pub(crate) fn patch(&self, path: &str, body: &str) {
        let answer = self.call("PATCH", &format!("/compute/v1/projects/{PROJECT}/{path}"), Some(body));
        assert_eq!(answer["kind"], "compute#operation", "{path}: {answer}");
    }

    /// Somebody deletes it.
    pub(crate) fn delete(&self, path: &str) {
        let answer = self.call("DELETE", &format!("/compute/v1/projects/{PROJECT}/{path}"), None);
        assert_eq!(answer["kind"], "compute#operation", "{path}: {answer}");
    }

    pub(crate) fn hook(&self, name: &str, body: Option<&str>) -> Value {
        self.call(if body.is_some() { "POST" } else { "GET" }, &format!("/_emulator/{name}"), body)
    }

    pub(crate) fn reset(&self) {
        self.hook("reset", Some("{}"));
        self.seed();
    }

    /// Keeps its state, whoever asks.
    pub(crate) fn keeper(&self) -> Keep {
        let url = self.url.clone();
        Box::new(move || request(&url, "GET", "/_emulator/save", None).as_str().unwrap().to_owned())
    }

    fn call(&self, verb: &str, path: &str, body: Option<&str>) -> Value {
        request(&self.url, verb, path, body)
    }

    /// Every resource, by path.
    fn resources(&self) -> Vec<(String, Value)> {
        let Value::Object(state) = self.hook("state", None)["resources"].take() else { return Vec::new() };
        state.into_iter().collect()
    }

    /// Those of a collection that are Portico's.
    pub(crate) fn of(&self, collection: &str) -> Vec<Value> {
        let found = self.resources().into_iter();
        let found = found.filter(|(path, value)| path.contains(&format!("/{collection}/")) && is_ours(value));
        found.map(|(_, value)| value).collect()
    }

    /// Names of everything that is Portico's and this Service's; of all Services for an empty UID.
    pub(crate) fn ours(&self, service: &str) -> Vec<String> {
        let text = |value: &Value| value["description"].as_str().unwrap_or_default().to_owned();
        let found = self.resources().into_iter();
        let found = found.filter(|(_, value)| is_ours(value) && text(value).contains(service));
        found.map(|(path, _)| path).collect()
    }

    /// The cluster that a resource's description names.
    pub(crate) fn cluster_of(&self, name: &str) -> Option<String> {
        let (_, value) = self.resources().into_iter().find(|(_, value)| value["name"] == name)?;
        let mark: Value = serde_json::from_str(value["description"].as_str()?).ok()?;
        Some(mark["portico.dev/cluster-uid"].as_str()?.to_owned())
    }

    /// Everything that is not Portico's, byte for byte.
    pub(crate) fn foreign(&self) -> Vec<(String, Value)> {
        self.resources().into_iter().filter(|(_, value)| !is_ours(value)).collect()
    }

    /// Every call so far: method and path.
    pub(crate) fn log(&self) -> Vec<String> {
        let log = self.hook("log", None);
        log.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Lets every operation come to its end.
    pub(crate) fn settle(&self) {
        self.call("GET", &format!("/compute/v1/projects/{PROJECT}/aggregated/operations"), None);
    }

    /// Somebody deletes all that is Portico's but for some.
    pub(crate) fn forget_all_but(&self, kept: &str) {
        self.hook("forget", Some(&format!("{kept:?}")));
    }

    /// Puts another description on a resource, `None`: none; the one that it had.
    pub(crate) fn describe(&self, id: &Id, description: Option<&str>) -> Option<String> {
        let zone = |path: &str| id.zone.as_ref().is_none_or(|zone| path.contains(&format!("/{zone}/")));
        let is_it = |path: &str| path.ends_with(&format!("/{}", id.name)) && zone(path);
        let (path, value) = self.resources().into_iter().find(|(path, _)| is_it(path)).unwrap();
        self.hook("describe", Some(&json!({"path": path, "description": description}).to_string()));
        value["description"].as_str().map(str::to_owned)
    }

    /// Every resource and who is in it.
    pub(crate) fn everything(&self) -> Value {
        self.hook("state", None)
    }

    /// Calls since the last time that somebody asked so.
    pub(crate) fn news(&self) -> Vec<String> {
        let log = self.hook("news", None);
        log.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// How many calls changed something.
    pub(crate) fn writes(&self) -> usize {
        self.log().iter().filter(|line| is_write(line)).count()
    }

    pub(crate) fn assert_no_violations(&self) {
        assert_eq!(self.hook("violations", None), Value::Array(Vec::new()));
    }
}

/// One request on a connection of its own; blocking, as hooks are a test's own business.
fn request(url: &str, verb: &str, path: &str, body: Option<&str>) -> Value {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let body = body.unwrap_or_default();
    let length = body.len();
    let head =
        format!("{verb} {path} HTTP/1.1\r\nHost: emulator\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Whether a line of the log is a call that changes something.
pub(crate) fn is_write(line: &str) -> bool {
    let reads =
        [".get ", ".list ", ".aggregatedList ", ".listNetworkEndpoints ", ".listInstances ", ".getHealth "];
    !reads.iter().any(|read| line.contains(read))
}

fn is_ours(value: &Value) -> bool {
    value["description"].as_str().is_some_and(|text| text.contains("portico.dev/service-uid"))
}
