//! Questions to a running loop through a socket, and to a dump, with a kernel in memory.

use std::{os::unix::fs::PermissionsExt, sync::Mutex};

use portico_proxy_core::{
    input::Config,
    oracle::Outcome,
    packets::{self, CASES},
    plan::State,
    table::{Backend, Key},
    trace::End,
};
use tokio_util::sync::CancellationToken;

use super::*;

/// A loop that does nothing but answer from the packet table's cluster, and its kernel.
struct Bench {
    responder: Responder,
    kernel: Arc<Mutex<Observed>>,
}

/// A kernel that knows no way to anybody.
const WAYS: Ways = Ways { source: |_| None, interface: |_| None };

fn mk_model() -> Model {
    let mut model = Model::new(Config::default());
    for event in packets::cluster_events() {
        model.apply(event);
    }
    model
}

fn mk_bench(complete: bool) -> Bench {
    mk_bench_of(mk_model(), complete)
}

fn mk_bench_of(model: Model, complete: bool) -> Bench {
    let observed = Observed { state: model.shadow().desired().clone(), rebuild: None };
    let kernel = Arc::new(Mutex::new(observed));
    let (inquiries, mut inbox) = mpsc::channel::<Inquiry>(1);
    tokio::spawn(async move {
        while let Some(inquiry) = inbox.recv().await {
            inquiry(InquiryContext { model: &model, local_addresses: &[], complete });
        }
    });
    let read = kernel.clone();
    let read: ReadKernel = Arc::new(move || Ok(read.lock().expect("no panic").clone()));
    Bench { responder: Responder::new(inquiries, read, Arc::new(|_| Ok(None)), WAYS), kernel }
}

fn mk_question(case: usize, kernel: bool) -> Question {
    let packet = CASES[case].packet();
    Question::Trace { from: packet.source, to: packet.to, interface: packet.interface, kernel }
}

fn mk_socket(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("portico-{}-{name}", std::process::id())).join("proxy.sock")
}

#[tokio::test]
async fn a_running_proxy_is_asked_through_a_socket_that_only_its_user_may_open() {
    let bench = mk_bench(true);
    let path = mk_socket("asked");
    let stop = CancellationToken::new();
    // A name that a predecessor left behind.
    drop(socket::listen(&path).expect("listens"));
    let listener = socket::listen(&path).expect("listens again");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let server = tokio::spawn(socket::serve(listener, bench.responder, stop.clone()));
    for (index, case) in CASES.iter().enumerate() {
        let answer = socket::ask(&path, &mk_question(index, true)).await.expect("answers");
        let Answer::Trace(trace) = answer else { panic!("{answer:?}") };
        assert_eq!(trace.outcome(), case.outcome(), "{}", case.name);
        assert!(trace.kernel.is_some_and(|check| check.agrees()), "{}", case.name);
    }
    stop.cancel();
    server.await.expect("no panic");
    let error = socket::ask(&path, &mk_question(0, false)).await.expect_err("nobody");
    assert!(error.to_string().contains("is portico-nodeproxy running on this node"), "{error}");
    std::fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
}

#[tokio::test]
async fn something_else_of_the_sockets_name_is_left_alone() {
    let path = mk_socket("taken");
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(&path, "precious").expect("written");
    assert!(socket::listen(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    std::fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_differs_is_read_again_before_the_answer() {
    let bench = mk_bench(true);
    let question = mk_question(0, true);
    let missing = Key::Endpoint(CASES[0].packet().to, 1);
    bench.kernel.lock().expect("no panic").state.elements.remove(&missing);
    let Answer::Trace(trace) = bench.responder.answer(&question).await.expect("answers") else {
        panic!("a trace")
    };
    let check = trace.kernel.expect("checked");
    assert_eq!(check.differences.len(), 1, "{check}");
    assert_eq!(check.differences[0].map, "ip endpoints");

    let kernel = bench.kernel.clone();
    let repaired = tokio::spawn(async move {
        tokio::time::sleep(PAUSE / 2).await;
        kernel.lock().expect("no panic").state = mk_model().shadow().desired().clone();
    });
    let answer = bench.responder.answer(&question).await.expect("answers");
    repaired.await.expect("no panic");
    assert!(answer.agrees(), "the change arrived meanwhile");
}

#[tokio::test]
async fn a_table_that_was_damaged_is_said_and_its_elements_are_not() {
    let bench = mk_bench(true);
    *bench.kernel.lock().expect("no panic") = Observed {
        state: State::default(),
        rebuild: Some("chain dispatch has 0 rules and not 2".to_owned()),
    };
    let question = Question::Explain { service: "table/service-1".parse().expect("a name"), kernel: true };
    let Answer::Explain(explanation) = bench.responder.answer(&question).await.expect("answers") else {
        panic!("an explanation")
    };
    let text = explanation.to_string();
    assert!(text.contains("DIFFERS: chain dispatch has 0 rules"), "{text}");
}

#[tokio::test]
async fn what_a_masqueraded_endpoint_sees_is_the_kernels_choice() {
    let mut bench = mk_bench(true);
    let question = mk_question(
        packets::CASES.iter().position(|c| c.name.starts_with("the node reaches")).expect("a row"),
        false,
    );
    bench.responder.ways.source = |endpoint| endpoint.is_ipv4().then(|| "10.201.0.1".parse().ok()).flatten();
    let Answer::Trace(trace) = bench.responder.answer(&question).await.expect("answers") else {
        panic!("a trace")
    };
    let seen: Vec<_> =
        trace.endpoints.iter().flat_map(|target| &target.source_addresses).map(ToString::to_string).collect();
    assert_eq!(seen, ["10.201.0.1", "10.201.0.1"]);
    let asked = source_towards([127, 0, 0, 5].into());
    assert_eq!(asked.map(|source| source.is_loopback()), Some(true));
}

#[tokio::test]
async fn a_client_keeps_the_endpoint_of_its_entry_if_it_still_may() {
    let case =
        packets::CASES.iter().position(|c| c.name.starts_with("session affinity reaches")).expect("a row");
    let mut bench = mk_bench(true);
    let model = mk_model();
    let to = CASES[case].packet().to;
    let far = Backend { address: packets::FAR_POD.into(), port: packets::POD_PORT };
    let id = model.affinity_id(&to, far).expect("an endpoint");
    let gone = AffinityEntry::Endpoint(Backend { port: 9, ..far });
    for (entry, chances, says) in [
        (Some(AffinityEntry::Id(id)), 1, "entry names 10.201.1.2:8080, which it keeps"),
        (Some(AffinityEntry::Endpoint(far)), 1, "entry names 10.201.1.2:8080, which it keeps"),
        (Some(gone), 2, "entry names 10.201.1.2:9, which it may not use here"),
        (Some(AffinityEntry::Id(id + 1)), 2, "at whichever address of the Service"),
        (None, 2, "at whichever address of the Service"),
    ] {
        bench.responder.read_affinity = Arc::new(move |client| {
            assert_eq!((client.address, client.map.seconds), (packets::OTHER_POD.into(), 10_800));
            Ok(entry)
        });
        let answer = bench.responder.answer(&mk_question(case, true)).await.expect("answers");
        let Answer::Trace(trace) = &answer else { panic!("{answer:?}") };
        let text = trace.to_string();
        assert!(matches!(trace.outcome(), Outcome::Backends(all) if all.len() == chances), "{text}");
        assert!(text.contains(says) && answer.agrees(), "{says:?} is not in\n{text}");
    }
}

#[tokio::test]
async fn where_pods_are_recognised_by_interface_the_kernels_route_counts_unless_another_is_named() {
    let pods = PodInterfaces::Prefixed("veth".parse().expect("a name"));
    let mut model = Model::new(Config { pod_interfaces: Some(pods), ..Config::default() });
    for event in packets::cluster_events() {
        model.apply(event);
    }
    let mut bench = mk_bench_of(model, true);
    let ask = |from: IpAddr, interface: Option<&str>| Question::Trace {
        from,
        to: CASES[0].packet().to,
        interface: interface.map(|name| name.parse().expect("a name")),
        kernel: true,
    };
    let pod = packets::OTHER_POD.into();
    let error = bench.responder.answer(&ask(pod, None)).await.expect_err("nothing says where it arrives");
    assert!(error.to_string().contains("veth*") && error.to_string().contains("--in-interface"), "{error}");
    assert_eq!((error.reason(), error.retry()), ("NoInterface", false));
    bench.responder.ways.interface = |_| "veth7".parse().ok();
    for (from, interface, client) in [
        (pod, None, "veth7 (a pod of this node)"),
        (pod, Some("eth0"), "eth0 (neither a pod of this node nor this node)"),
        (packets::NODE.into(), None, "10.200.0.1 (this node itself)"),
    ] {
        let answer = bench.responder.answer(&ask(from, interface)).await.expect("answers");
        let Answer::Trace(trace) = &answer else { panic!("{answer:?}") };
        assert!(trace.to_string().contains(client) && answer.agrees(), "{client:?} is not in\n{trace}");
    }
}

#[tokio::test]
async fn a_dump_answers_as_the_proxy_did() {
    let bench = mk_bench(true);
    let dumped = bench.responder.answer(&Question::Dump).await.expect("answers");
    let Answer::Dump(dump) = dumped else { panic!("{dumped:?}") };
    let file = serde_json::to_vec(&dump).expect("JSON");
    for (index, case) in CASES.iter().enumerate() {
        let question = mk_question(index, true);
        let dump = Dump::parse(&file).expect("its own JSON");
        let (then, now) = (dump.answer(&question), bench.responder.answer(&question).await);
        assert_eq!(then.expect("answers"), now.expect("answers"), "{}", case.name);
    }
}

#[test]
fn a_file_that_is_no_dump_is_refused_with_the_reason() {
    let error = |text: &str| Dump::parse(text.as_bytes()).expect_err("refused").to_string();
    assert!(error("{}").contains("no dump of portico-nodeproxy"));
    assert!(error("{\"format\": 77}").contains("format 77"));
    let without = Dump::of(&mk_model(), &[]).answer(&mk_question(0, true)).expect_err("no kernel");
    assert_eq!((without.reason(), without.retry()), ("NoKernel", false));
}

#[tokio::test]
async fn a_proxy_that_still_starts_and_an_unknown_service_are_errors_in_words() {
    let error = mk_bench(false).responder.answer(&mk_question(0, false)).await.expect_err("starting");
    assert!(error.to_string().contains("ask again in a moment") && error.retry());
    let question = Question::Explain { service: "no/such".parse().expect("a name"), kernel: false };
    let error = mk_bench(true).responder.answer(&question).await.expect_err("unknown");
    assert!(error.to_string().contains("node here serves no Service no/such"), "{error}");
}

#[test]
fn the_nodes_own_addresses_are_known_from_the_kernel_and_from_its_object() {
    let model = mk_model();
    let local = ["198.51.100.7".parse().expect("an address")];
    let known = InquiryContext { model: &model, local_addresses: &local, complete: true };
    for (address, own) in
        [("127.0.0.1", true), ("198.51.100.7", true), ("10.200.0.1", true), ("10.200.0.9", false)]
    {
        assert_eq!(known.is_this_node(address.parse().expect("an address")), own, "{address}");
    }
    let to = CASES[0].packet().to;
    let Ok(Draft { answer: Answer::Trace(trace), .. }) =
        draft(&Question::Trace { from: local[0], to, interface: None, kernel: false }, known, None)
    else {
        panic!("a trace")
    };
    assert_eq!(trace.result, End::Forwarded);
    assert!(matches!(trace.outcome(), Outcome::Backends(all) if all.len() == 2));
}
