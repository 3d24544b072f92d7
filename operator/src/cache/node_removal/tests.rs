//! Nodes that go one by one, and nodes that vanish together.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::cache::targets::EXCLUDE_LABEL;
use crate::cache::targets::tests::tainted;
use crate::testing::mk_node;

const LIMITS: NodeRemovalLimits =
    NodeRemovalLimits { unready: Duration::from_mins(5), share: 50, hold: Duration::from_mins(2) };
const NOON: i64 = 1_800_000_000;

struct Cluster {
    guard: NodeRemovalLimiter,
    version: u64,
    start: Instant,
}

impl Cluster {
    fn new(limits: NodeRemovalLimits) -> Self {
        Self { guard: NodeRemovalLimiter::new(limits), version: 0, start: Instant::now() }
    }

    /// Names of admitted nodes, and how many of them are held, so many seconds after noon.
    fn read(&mut self, second: u64, nodes: &[Node]) -> (Vec<String>, usize) {
        self.version += 1;
        let AdmittedNodes { nodes, held, again: _ } = self.ask(second, nodes);
        (nodes.iter().map(|node| node.name.0.clone()).collect(), held)
    }

    fn ask(&mut self, second: u64, nodes: &[Node]) -> AdmittedNodes {
        let states = || nodes.iter().filter_map(|node| NodeState::of(node).map(|(_, state)| state)).collect();
        let wall = Timestamp::from_second(NOON + i64::try_from(second).unwrap()).unwrap();
        self.guard.admit(self.version, states, self.start + Duration::from_secs(second), wall)
    }
}

fn ready(names: &[&str]) -> Vec<Node> {
    names.iter().map(|name| mk_node(name, "10.0.0.1", true)).collect()
}

/// Not ready since so many seconds after noon; made an hour before.
fn unready(name: &str, since: i64) -> Node {
    let mut node = mk_node(name, "10.0.0.1", false);
    let time = |second| Some(Time(Timestamp::from_second(second).unwrap()));
    node.metadata.creation_timestamp = time(NOON - 3_600);
    let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0].last_transition_time = time(NOON + since);
    node
}

fn excluded(mut node: Node) -> Node {
    node.metadata.labels.get_or_insert_default().insert(EXCLUDE_LABEL.to_owned(), String::new());
    node
}

#[tokio::test(start_paused = true)]
async fn nodes_that_vanish_together_are_held_and_go_when_they_stay_away() {
    let mut cluster = Cluster::new(LIMITS);
    assert_eq!(cluster.read(0, &ready(&["a", "b", "c", "d", "e"])).1, 0);
    let left = ready(&["a"]);
    assert_eq!(cluster.read(10, &left), (["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(), 4));
    assert_eq!(cluster.read(129, &left).1, 4, "still within two minutes");
    assert_eq!(cluster.read(130, &left), (vec!["a".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_come_back_were_never_gone() {
    let mut cluster = Cluster::new(LIMITS);
    let all = ready(&["a", "b", "c", "d", "e"]);
    cluster.read(0, &all);
    assert_eq!(cluster.read(10, &ready(&["a"])).1, 4);
    assert_eq!(cluster.read(60, &all).1, 0);
    assert_eq!(cluster.read(300, &ready(&["a"])).1, 4, "the next accident has its own two minutes");
    assert_eq!(
        cluster.read(301, &ready(&["a", "b", "c", "d"])),
        (["a", "b", "c", "d"].map(str::to_owned).to_vec(), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn relabelling_every_node_takes_nothing_away_at_once() {
    let mut cluster = Cluster::new(LIMITS);
    let all = ready(&["a", "b", "c"]);
    cluster.read(0, &all);
    let relabelled: Vec<Node> = all.into_iter().map(excluded).collect();
    assert_eq!(cluster.read(1, &relabelled).1, 3);
    assert_eq!(cluster.read(200, &relabelled).0.len(), 0, "it was meant");
}

#[tokio::test(start_paused = true)]
async fn what_is_meant_or_small_goes_at_once() {
    let mut cluster = Cluster::new(LIMITS);
    let all = ready(&["a", "b", "c", "d", "e", "f"]);
    cluster.read(0, &all);
    let drained: Vec<Node> =
        all.iter().cloned().enumerate().map(|(at, node)| if at < 4 { tainted(node) } else { node }).collect();
    assert_eq!(
        cluster.read(1, &drained),
        (["e", "f"].map(str::to_owned).to_vec(), 0),
        "the autoscaler's own"
    );
    assert_eq!(cluster.read(2, &ready(&["f"])), (vec!["f".to_owned()], 0), "one of two is few");
    let mut never = Cluster::new(NodeRemovalLimits { hold: Duration::ZERO, ..LIMITS });
    never.read(0, &all);
    assert_eq!(never.read(1, &ready(&["a"])).1, 0, "switched off");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_unready_for_a_moment_stays_and_one_that_never_was_ready_does_not_come() {
    let mut cluster = Cluster::new(LIMITS);
    let mut joining = unready("c", 0);
    joining.metadata.creation_timestamp = Some(Time(Timestamp::from_second(NOON - 1).unwrap()));
    let nodes = [mk_node("a", "10.0.0.1", true), unready("b", 0), joining];
    assert_eq!(cluster.read(10, &nodes).0, ["a", "b"]);
    cluster.version += 1;
    let again = cluster.ask(20, &nodes).again.unwrap();
    assert_eq!(again - cluster.start, Duration::from_mins(5), "somebody has to read again then");
    assert_eq!(cluster.ask(299, &nodes).nodes.len(), 2, "from memory");
    assert_eq!(cluster.ask(300, &nodes).nodes.len(), 1, "without any event");
}

#[tokio::test(start_paused = true)]
async fn when_no_node_is_ready_for_long_traffic_is_not_taken_from_those_that_may_still_serve() {
    let mut cluster = Cluster::new(LIMITS);
    let nodes = [unready("a", 0), unready("b", 0), tainted(mk_node("c", "10.0.0.3", true))];
    assert_eq!(cluster.read(4_000, &nodes).0, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_changes_no_grace_that_has_begun_and_makes_none_longer() {
    let mut cluster = Cluster::new(LIMITS);
    // By a clock that is an hour ahead of ours.
    let nodes = [ready(&["a"]), vec![unready("b", 3_600)]].concat();
    assert_eq!(cluster.read(0, &nodes).0, ["a", "b"]);
    assert_eq!(cluster.read(301, &nodes).0, ["a"], "the grace and no more");
    let mut cluster = Cluster::new(LIMITS);
    let nodes = [ready(&["a"]), vec![unready("b", 0)]].concat();
    assert_eq!(cluster.read(10, &nodes).0, ["a", "b"]);
    cluster.start -= Duration::from_hours(2);
    // The wall says two hours later, and no more than twenty seconds have passed.
    let states = || nodes.iter().filter_map(|node| NodeState::of(node).map(|(_, state)| state)).collect();
    let wall = Timestamp::from_second(NOON + 7_220).unwrap();
    let now = cluster.start + Duration::from_hours(2) + Duration::from_secs(20);
    assert_eq!(cluster.guard.admit(9, states, now, wall).nodes.len(), 2);
}
