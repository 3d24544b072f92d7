//! Random histories of the loop, with stops, kills after some milliseconds, failed commits, other programs and
//! tracked flows. Each ends with the state of its last objects, without a flow to a deleted endpoint, and at
//! rest.
//!
//! The loop itself lives it, on a clock that only moves when the loop waits.

use portico_proxy_core::flows;
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// A step of a proxy's life.
#[derive(Clone, Debug)]
enum Step {
    /// Endpoints of the Service: which are ready, and which terminate.
    Endpoints(Vec<u8>, Vec<u8>),
    /// The Service is created, changed or deleted.
    Service(Option<u32>),
    Gone,
    /// So many milliseconds pass.
    Pause(u64),
    /// It is killed or stopped; another starts with all objects.
    Kill,
    Stop,
    /// The next commit fails, made or not.
    Refuse,
    LoseAnswer,
    /// The next listing of flows fails.
    FailListing,
    /// A client sends to the Service.
    Send(u32),
    /// Another program adds an element, removes one, or flushes all.
    Add(u32),
    Remove(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(1u8..6, 0..4);
    prop_oneof![
        8 => (some(), some()).prop_map(|(ready, leaving)| Step::Endpoints(ready, leaving)),
        2 => prop::option::of(Just(10u32)).prop_map(Step::Service),
        1 => Just(Step::Gone),
        8 => prop_oneof![0u64..12, 90u64..110, Just(250), Just(700)].prop_map(Step::Pause),
        2 => Just(Step::Kill),
        2 => Just(Step::Stop),
        1 => Just(Step::Refuse),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::FailListing),
        6 => (0u32..12).prop_map(Step::Send),
        1 => (0u32..9).prop_map(Step::Add),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::Flush),
    ]
}

/// A proxy, and the API server's objects for its successor.
struct Life {
    bench: Bench,
    service: Option<InputEvent>,
    slice: Option<InputEvent>,
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn mk_udp(affinity: Option<u32>) -> InputEvent {
    let InputEvent::Change(event, times) = mk_service(Protocol::Udp) else { unreachable!("an event") };
    let Event::Service(service) = *event else { unreachable!("a Service") };
    InputEvent::Change(Box::new(Event::Service(Service { affinity, ..service })), times)
}

fn mk_failure() -> DataplaneError {
    DataplaneError::Transport { operation: "commit".to_owned(), source: std::io::ErrorKind::TimedOut.into() }
}

impl Life {
    async fn begin(kernel: FakeKernel, service: Option<InputEvent>, slice: Option<InputEvent>) -> Self {
        let bench = mk_bench_serving(kernel, true);
        bench.send([mk_node()].into_iter().chain(service.clone()).chain(slice.clone())).await;
        bench.list_all().await;
        Self { bench, service, slice }
    }

    async fn take(mut self, step: Step) -> Self {
        match step {
            Step::Endpoints(ready, leaving) => {
                let texts = |of: Vec<u8>| of.iter().map(|n| format!("10.1.0.{n}")).collect::<Vec<_>>();
                let (ready, leaving) = (texts(ready), texts(leaving));
                let slice = mk_slice_with(Protocol::Udp, &strs(&ready), &strs(&leaving));
                self.slice = Some(slice.clone());
                self.bench.send([slice]).await;
            }
            Step::Service(affinity) => {
                self.service = Some(mk_udp(affinity));
                self.bench.send(self.service.clone()).await;
            }
            Step::Gone => {
                self.service = None;
                let gone = Event::ServiceGone(mk_name());
                self.bench.send([InputEvent::Change(Box::new(gone), Times::default())]).await;
            }
            Step::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Kill => {
                self.bench.task.abort();
                drop(self.bench.task.await);
                return Self::begin(self.bench.kernel, self.service, self.slice).await;
            }
            Step::Stop => {
                self.bench.stop.cancel();
                self.bench.task.await.expect("no panic").expect("stopped");
                return Self::begin(self.bench.kernel, self.service, self.slice).await;
            }
            other => disturb(&self.bench.kernel, &other),
        }
        self
    }
}

fn disturb(kernel: &FakeKernel, step: &Step) {
    let vip = mk_vip(Protocol::Udp);
    let mut inside = kernel.inside();
    match step {
        Step::Refuse => inside.failures.push_back(mk_failure()),
        Step::LoseAnswer => inside.lost_answers.push_back(mk_failure()),
        Step::FailListing => inside.failing_listings += 1,
        Step::Send(client) => inside.send(vip, *client),
        Step::Add(slot) => {
            let backend = Backend { address: ip("10.1.0.99"), port: 8080 };
            inside.state.elements.entry(Key::Endpoint(vip, *slot)).or_insert(Value::Backend(backend));
            inside.generation += 1;
        }
        Step::Remove(which) => {
            let mut keys: Vec<_> = inside.state.elements.keys().copied().collect();
            keys.sort();
            if let Some(key) = which.checked_rem(keys.len()).map(|at| keys[at]) {
                inside.state.elements.remove(&key);
                inside.generation += 1;
            }
        }
        Step::Flush => {
            drop(inside);
            kernel.flush();
        }
        _ => {}
    }
}

/// A model of the last objects, with the programmed slots.
fn mk_model(life: &Life) -> Model {
    let mut model = Model::new(Config::default());
    let mut node = Node::new("here".into(), Args::parse_from(["portico-nodeproxy"]).traffic);
    let InputEvent::Node(object) = mk_node() else { unreachable!("a node") };
    node.set_object(object);
    model.apply(Event::Node(node.info()));
    for input in life.service.iter().chain(&life.slice) {
        let InputEvent::Change(event, _) = input else { continue };
        model.apply((**event).clone());
    }
    model.adopt(&life.bench.kernel.inside().state);
    model
}

async fn live(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut life = Life::begin(FakeKernel::default(), Some(mk_udp(None)), None).await;
    for step in steps {
        life = life.take(step).await;
    }
    // Longer than the longest pause between two tries, and some of them.
    tokio::time::sleep(Duration::from_mins(2)).await;
    let model = mk_model(&life);
    prop_assert!(model.shadow().is_settled(), "{}", model.shadow().plan());
    let stale = flows::stale_flows(&model, flows::frontends(&model));
    let (reads, listings, applied) = {
        let inside = life.bench.kernel.inside();
        for ((frontend, client), to) in &inside.tracked {
            let lost = stale.iter().any(|s| s.is_stale(frontend, to));
            prop_assert!(!lost, "client {client} still sends to {to} by way of {frontend}");
        }
        (inside.reads, inside.listings, inside.applied.len())
    };
    prop_assert!(life.bench.health.healthz().healthy);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let inside = life.bench.kernel.inside();
    prop_assert_eq!(
        (reads, listings, applied),
        (inside.reads, inside.listings, inside.applied.len()),
        "at rest"
    );
    Ok(())
}

#[test]
fn any_history_of_the_loop_ends_at_rest_with_what_its_last_objects_ask_for() {
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(step(), 1..30), |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(live(steps))
    });
    run.expect("every history ends there");
}
