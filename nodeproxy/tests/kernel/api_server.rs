//! An API server that dies without a word: every packet of its connection is dropped, in both directions.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Config,
    api::{WatchEvent, WatchParams},
};
use portico_nodeproxy::api_client::{PATIENCE, Patience, connect};

use crate::netns::Namespace;

const PORT: u16 = 6443;

/// Answers one watch with one event, and then nothing.
fn serve() {
    let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("binds");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"here"}}}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        drop(stream.read(&mut [0; 4096]));
        drop(write!(stream, "{head}{:x}\r\n{line}\n\r\n", line.len() + 1));
        // Open for as long as the client is.
        drop(stream.read_to_end(&mut Vec::new()));
    });
}

/// Watches until the connection is given up, with `dying` in between; returns how long it took from then on.
fn watch(patience: Patience, dying: impl Fn() + Send + 'static) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let url = format!("http://127.0.0.1:{PORT}").parse().expect("a URL");
        let client = connect(Config::new(url), patience).expect("a client");
        let nodes: Api<Node> = Api::all(client);
        let events = nodes.watch(&WatchParams::default(), "0").await.expect("a watch");
        let mut events = events.boxed();
        let first = events.try_next().await.expect("an event");
        assert!(matches!(first, Some(WatchEvent::Added(_))), "{first:?}");
        dying();
        let began = Instant::now();
        let noticed = tokio::time::timeout(Duration::from_mins(1), events.next()).await;
        assert!(!matches!(noticed, Ok(Some(Ok(_)))), "{noticed:?}");
        assert!(noticed.is_ok(), "not noticed within a minute");
        began.elapsed()
    })
}

#[test]
fn a_watch_whose_connection_dies_in_silence_is_given_up() {
    let Some(node) = Namespace::new() else { return };
    let patience = Patience {
        quiet: Duration::from_secs(1),
        between: Duration::from_secs(1),
        unanswered: Duration::from_secs(2),
        idle: PATIENCE.idle,
    };
    let took = node.run(move || {
        serve();
        watch(patience, || {
            let drop_all =
                "nft 'add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }'";
            assert!(std::process::Command::new("sh").args(["-ec", drop_all]).status().expect("sh").success());
        })
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_watch_on_an_api_server_that_is_there_and_says_nothing_begins_again() {
    let Some(node) = Namespace::new() else { return };
    let patience = Patience { idle: Duration::from_secs(1), ..PATIENCE };
    let took = node.run(move || {
        serve();
        watch(patience, || {})
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_dead_api_server_is_noticed_within_a_minute() {
    let Patience { quiet, between, unanswered, idle: _ } = PATIENCE;
    assert!(unanswered.max(quiet) + between <= Duration::from_mins(1));
}
