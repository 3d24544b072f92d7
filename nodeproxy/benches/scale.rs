//! Costs of the node proxy at a size, without an API server: decoding objects, the model, the kernel, one
//! event.
//!
//! `cargo bench -p portico-nodeproxy --bench scale -- 30000` (1,000, 10,000 and 30,000 Services of three endpoints if no number
//! is given); with the word `affinity` all have session affinity, ten in a namespace. The kernel part needs root; it runs in a network namespace of its own, which ends with the program. Each size is
//! measured in a process of its own, so that memory is its own.

use std::{
    collections::BTreeSet,
    env, fs,
    net::{IpAddr, Ipv4Addr},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use portico_nodeproxy::{
    convert::{Decoded, DecodedSlice},
    dataplane::{
        Dataplane,
        nftables::{Config, LocalDetector, Nftables},
    },
};
use portico_proxy_core::{
    input::{Config as ModelConfig, Endpoint, Event, NodeInfo, Service},
    model::Model,
    plan::{State, Transaction},
    table::Family,
};
use serde_json::json;

const SIZES: [u32; 3] = [1_000, 10_000, 30_000];
const ENDPOINTS: u32 = 3;
const EVENTS: u32 = 2_000;
/// Says that this process is to measure, and not to start others.
const CHILD: &str = "PORTICO_BENCH_CHILD";

fn main() -> ExitCode {
    let numbers: Vec<u32> = env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if numbers.is_empty() { SIZES.to_vec() } else { numbers };
    let affinity = env::args().any(|arg| arg == "affinity");
    if env::var_os(CHILD).is_some() {
        for size in sizes {
            measure(size, affinity);
        }
        return ExitCode::SUCCESS;
    }
    for size in sizes {
        let program = env::current_exe().expect("this program has a path");
        let mut child = Command::new(program);
        child.arg(size.to_string()).args(affinity.then_some("affinity")).env(CHILD, "1");
        let done = child.status().expect("starts");
        if !done.success() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(services: u32, affinity: bool) {
    let texts: Vec<(String, String)> =
        (0..services).map(|n| (mk_service(n, affinity), mk_slice(n, affinity))).collect();
    let bytes: usize = texts.iter().map(|(service, slice)| service.len() + slice.len()).sum();
    let idle = resident();
    let (read, took) = timed(|| {
        texts.iter().map(|(service, slice)| (read_service(service), read_slice(slice))).collect::<Vec<_>>()
    });
    say(services, "read objects", took, &format!("{:.1} MB of JSON", mega(bytes)));
    drop(read);
    let (mut model, took) = timed(|| mk_model(&texts));
    let size = mega(resident().saturating_sub(idle));
    say(services, "read and take in", took, &format!("{size:.1} MB more resident, differences included"));
    let config = Config {
        local_detector: LocalDetector::Addresses(BTreeSet::from([Family::V4])),
        ..Config::default()
    };
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        return say(services, "kernel", Duration::ZERO, &format!("not measured: {error}"));
    }
    let mut tables = Nftables::open(config).expect("opens");
    let ((), took) = timed(|| start(&mut model, &mut tables, services));
    let size = mega(resident().saturating_sub(idle));
    say(services, "write the kernel", took, &format!("{size:.1} MB more resident afterwards"));
    drop(model);
    let mut model = mk_model(&texts);
    let (changes, took) = timed(|| {
        let observed = tables.read().expect("reads");
        assert_eq!(observed.rebuild, None);
        model.adopt(&observed.state);
        model.shadow().additive().len()
    });
    say(services, "restart: read the kernel and compare", took, &format!("{changes} changes"));
    events(services, affinity, &mut model, &mut tables);
}

/// The first sync: read, plan, write.
fn start(model: &mut Model, tables: &mut Nftables, services: u32) {
    let observed = tables.read().expect("reads");
    model.adopt(&observed.state);
    let (transaction, took) = timed(|| model.shadow().additive());
    let State { elements, chains, affinity } = model.shadow().desired();
    let counts =
        format!("{} elements, {} chains, {} affinity maps", elements.len(), chains.len(), affinity.len());
    say(services, "  plan", took, &format!("{} changes: {counts}", transaction.len()));
    let applied = tables.apply(&transaction).expect("applies");
    say(services, "  of it in the kernel", applied.took, &applied.to_string());
    model.shadow_mut().applied(&transaction, 0);
}

/// One endpoint replaced, and one added and taken away, at random Services.
fn events(services: u32, affinity: bool, model: &mut Model, tables: &mut Nftables) {
    let mut replaced = Vec::new();
    let mut scaled = Vec::new();
    for event in 0..EVENTS {
        let number = event.wrapping_mul(7_919) % services;
        let mut slice = read_slice(&mk_slice(number, affinity));
        let last = slice.endpoints.len() - 1;
        if event % 2 == 0 {
            slice.endpoints[last].address = address(200, event);
            replaced.push(apply(model, tables, Event::Slice(slice)));
        } else {
            let extra = Endpoint { address: address(201, event), ..slice.endpoints[last].clone() };
            slice.endpoints.push(extra);
            scaled.push(apply(model, tables, Event::Slice(slice)));
        }
    }
    for (what, times) in [("replace an endpoint", &mut replaced), ("add an endpoint", &mut scaled)] {
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        say(services, what, times[times.len() / 2], &format!("p99 {p99:?}, n {}", times.len()));
    }
}

fn apply(model: &mut Model, tables: &mut Nftables, event: Event) -> Duration {
    let ((), took) = timed(|| {
        model.apply(event);
        let transaction: Transaction = model.shadow().additive();
        tables.apply(&transaction).expect("applies");
        model.shadow_mut().applied(&transaction, 0);
    });
    let destructive = model.shadow().destructive(u64::MAX);
    tables.apply(&destructive).expect("commits");
    model.shadow_mut().applied(&destructive, 0);
    took
}

fn mk_model(texts: &[(String, String)]) -> Model {
    let mut model = Model::new(ModelConfig::default());
    model.apply(Event::Node(NodeInfo {
        name: "node-1".into(),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        pod_cidrs: vec!["10.0.0.0/8".parse().expect("a network")],
        ..NodeInfo::default()
    }));
    for (service, slice) in texts {
        model.apply(Event::Service(read_service(service)));
        model.apply(Event::Slice(read_slice(slice)));
    }
    model
}

fn read_service(text: &str) -> Service {
    serde_json::from_str::<Decoded<Service>>(text).expect("a Service").value
}

fn read_slice(text: &str) -> portico_proxy_core::input::EndpointSlice {
    serde_json::from_str::<Decoded<DecodedSlice>>(text).expect("a slice").value.slice.expect("of a Service")
}

fn address(second: u8, number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, second, high, low).into()
}

/// Ten Services share a namespace, and with it an affinity map.
fn namespace(number: u32, affinity: bool) -> String {
    if affinity { format!("bench-{}", number / 10) } else { "bench".to_owned() }
}

/// As the API server sends it, `managedFields` and all.
fn mk_service(number: u32, affinity: bool) -> String {
    let affinity_type = if affinity { "ClientIP" } else { "None" };
    let fields = json!({"f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}":
        {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}});
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": format!("filler-{number}"), "namespace": namespace(number, affinity), "uid": "3b9b1a0e-56b1-4c26-9f7e-0b8f5f1f2a11",
            "resourceVersion": "123456", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"app": format!("filler-{number}")},
            "managedFields": [{"manager": "bench", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
                "fieldsType": "FieldsV1", "fieldsV1": fields}]},
        "spec": {"ports": [{"name": "main", "protocol": "TCP", "port": 80, "targetPort": 8080}], "clusterIP": address(96, number),
            "clusterIPs": [address(96, number)], "type": "ClusterIP", "sessionAffinity": affinity_type, "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"},
        "status": {"loadBalancer": {}},
    })
    .to_string()
}

fn mk_slice(number: u32, affinity: bool) -> String {
    let endpoint = |index: u32| {
        let serial = number * ENDPOINTS + index;
        let [_, third, high, low] = serial.to_be_bytes();
        json!({"addresses": [Ipv4Addr::new(10, 128 + third, high, low)], "nodeName": format!("node-{}", 1 + serial % 100),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("filler-{number}-{index}"), "uid": "9f7e-0b8f5f1f2a11"}})
    };
    let fields = json!({"f:addressType": {}, "f:endpoints": {}, "f:metadata": {"f:annotations": {}, "f:labels": {}}, "f:ports": {}});
    let endpoints: Vec<_> = (0..ENDPOINTS).map(endpoint).collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": format!("filler-{number}-x7k2p"), "namespace": namespace(number, affinity), "uid": "3b9b1a0e-56b1-4c26-9f7e-0b8f5f1f2a11",
            "resourceVersion": "123457", "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"kubernetes.io/service-name": format!("filler-{number}"), "endpointslice.kubernetes.io/managed-by": "bench"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"},
            "managedFields": [{"manager": "bench", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}]},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "main", "protocol": "TCP", "port": 8080}],
    })
    .to_string()
}

/// Resident bytes of this process.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    number.unwrap_or_default() * 1024
}

fn mega(bytes: usize) -> f64 {
    u32::try_from(bytes / 1024).map_or(f64::INFINITY, f64::from) / 1024.0
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

#[expect(clippy::print_stdout, reason = "what a bench is for")]
fn say(services: u32, what: &str, took: Duration, more: &str) {
    println!("{services:>6}  {what:<40} {took:>12.1?}  {more}");
}
