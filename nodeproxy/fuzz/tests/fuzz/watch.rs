//! Target `watch`: any input of the proxy's watches, through kube's client and the watches into the model.
//!
//! An input that begins with the name of a kind is text, one step a line: a kind, a space, and a watch event as
//! the API server writes it. A step can also be `end`, or `missed` with an event that the watch does not get.
//! Every other input is a history of well-formed objects ([`crate::shapes`]), with odd values. At the end the
//! model must be the one of a proxy that starts now.

use std::{
    str,
    sync::{Arc, LazyLock},
    time::Duration,
};

use portico_nodeproxy::{
    input_event::InputEvent,
    metrics::Metrics,
    sync::fake::FakeKernel,
    watch::{self, InputSender},
};
use tokio::{
    runtime,
    sync::{mpsc, watch as channel},
    task::JoinSet,
};

use crate::{
    api::{self, Api, Kind, NODE, Step},
    lived::{Lived, Outcome},
    looped::{self, Looped},
    shapes,
};

/// On a clock that is moved on whenever nothing else can happen. Each bad line costs up to 30 s of backoff.
const TOO_LONG: Duration = Duration::from_hours(10_000);
/// Input events that may wait.
const INPUTS: usize = 4;

/// Number of elements without any event.
static ALWAYS: LazyLock<usize> = LazyLock::new(|| live(&Api::new(api::always(), [])).elements());

/// Lives through an input, and starts again from its end; returns the number of elements of the input.
pub(crate) fn check(input: &[u8]) -> usize {
    let steps = steps(input).into_iter().filter(|(kind, step)| api::is_sent(*kind, step));
    let history = Api::new(api::always(), steps);
    let lived = live(&history);
    let fresh = live(&Api::new(history.objects(), []));
    assert_eq!(lived, fresh, "on the left what was lived, on the right a start from the last objects");
    looped(input, &lived);
    lived.elements() - *ALWAYS
}

/// Lets the loop live through the same, killed halfway, and start once more from where that ended.
fn looped(input: &[u8], lived: &Outcome) {
    let steps = steps(input).into_iter().filter(|(kind, step)| api::is_sent(*kind, step));
    let (history, kernel) = (Api::new(api::always(), steps), FakeKernel::default());
    assert!(run_loop(&history, &kernel, Some(history.to_come() / 2)).is_none(), "killed");
    looped::fail(&kernel);
    assert_eq!(run_loop(&history, &kernel, None).as_ref(), Some(lived), "killed halfway");
    let commits = kernel.inside().applied.len();
    let again = run_loop(&Api::new(history.objects(), []), &kernel, None);
    assert_eq!(
        (again.as_ref(), kernel.inside().applied.len()),
        (Some(lived), commits),
        "a start changes nothing"
    );
}

/// Runs the proxy's watches and its loop until they have sent everything, or until so many steps are still to come.
pub(crate) fn run_loop(api: &Arc<Api>, kernel: &FakeKernel, to_come: Option<usize>) -> Option<Outcome> {
    api.begin();
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let mut tasks = JoinSet::new();
        let _signal = spawn_watches(api, &inputs, &mut tasks);
        let looped = Looped::start(kernel, &inputs, inbox).await;
        let hear = async {
            match to_come {
                Some(to_come) => api.until(to_come).await,
                None => api.all_sent().await,
            }
        };
        assert!(tokio::time::timeout(TOO_LONG, hear).await.is_ok(), "the watches wait for ever");
        if to_come.is_some() {
            looped.kill();
            return None;
        }
        Some(looped.outcome().await)
    })
}

/// Starts the watches. The signal of the first Services is true for as long as its sender lives.
fn spawn_watches(
    api: &Arc<Api>,
    inputs: &mpsc::Sender<InputEvent>,
    tasks: &mut JoinSet<()>,
) -> channel::Sender<bool> {
    let (signal, first_programmed) = channel::channel(true);
    let (client, sender) = (api.client(), InputSender::new(inputs.clone(), Metrics::default()));
    tasks.spawn(watch::objects(client.clone(), None, first_programmed, sender.clone()));
    tasks.spawn(watch::node(client.clone(), NODE.to_owned(), sender.clone()));
    tasks.spawn(watch::service_cidrs(client, sender));
    signal
}

fn steps(input: &[u8]) -> Vec<(Kind, Step)> {
    let is_text = Kind::ALL.iter().any(|kind| input.starts_with(kind.plural().as_bytes()));
    if is_text { String::from_utf8_lossy(input).lines().map(step).collect() } else { shapes::steps(input) }
}

/// A line that names no kind is one of Services.
fn step(line: &str) -> (Kind, Step) {
    let (kind, rest) = line
        .split_once(' ')
        .and_then(|(kind, rest)| Some((Kind::named(kind)?, rest)))
        .unwrap_or((Kind::Services, line));
    let step = match rest.split_once(' ') {
        None if rest == "end" => Step::End,
        Some(("missed", event)) => Step::Missed(event.to_owned()),
        _ => Step::Line(rest.to_owned()),
    };
    (kind, step)
}

/// Runs the proxy's watches until they have sent everything.
fn live(api: &Arc<Api>) -> Outcome {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (inputs, mut inbox) = mpsc::channel(INPUTS);
        let mut tasks = JoinSet::new();
        let _signal = spawn_watches(api, &inputs, &mut tasks);
        drop(inputs);
        let mut lived = Lived::new();
        let hear = async {
            loop {
                tokio::select! {
                    biased;
                    Some(input) = inbox.recv() => lived.learn(input),
                    ended = tasks.join_next() => assert!(ended.is_none(), "a watch ended: {ended:?}"),
                    () = api.all_sent() => break,
                }
            }
            while let Ok(input) = inbox.try_recv() {
                lived.learn(input);
            }
        };
        assert!(tokio::time::timeout(TOO_LONG, hear).await.is_ok(), "the watches wait for ever");
        lived.outcome()
    })
}
