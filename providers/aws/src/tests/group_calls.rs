//! How many calls Services cost that share a load balancer, counted by the emulator: at most so many.
//!
//! Owns: the ceilings, and the table. Leaves to others: Services with one of their own (`calls`), whether it ends right
//! (`contract`, `crash`). Invariant: members go one after the other, as an operator lets them.

use std::collections::BTreeMap;

use portico_provider::{
    Desired, GroupName, LoadBalancer, LoadBalancerProvider, Owner, Protocol, Replacement, ServiceName,
};

use super::crash::{Status, attempt};
use super::emulator::Emulator;
use super::{mk_listener, mk_load_balancer, mk_nodes};
use crate::AwsProvider;
use crate::observed::Observed;

const MEMBERS: u16 = 10;

/// One Service, as an operator knows it.
struct Member {
    desired: LoadBalancer,
    observed: Option<Observed>,
    status: Status,
}

impl Member {
    fn new(n: u16, nodes: &[String]) -> Self {
        let name = format!("s{n}");
        let owner = Owner {
            cluster: "group-calls".parse().unwrap(),
            service: format!("uid-group-calls-{n}").parse().unwrap(),
            name: ServiceName::new("calls", &name).unwrap(),
        };
        let desired = LoadBalancer {
            listeners: [mk_listener(Protocol::Tcp, 1000 + n)].into(),
            group: GroupName::new("calls", "edge"),
            replacement: Replacement::Allowed,
            ..mk_load_balancer(owner, nodes)
        };
        Self { desired, observed: None, status: Status::new() }
    }
}

struct Run {
    emulator: Emulator,
    provider: AwsProvider,
    members: Vec<Member>,
}

type Calls = BTreeMap<String, usize>;

impl Run {
    fn provider(emulator: &Emulator) -> AwsProvider {
        let cluster = "group-calls".parse().unwrap();
        AwsProvider::new(emulator.sdk.clone(), emulator.config(&cluster)).unwrap()
    }

    /// As after a start, or at a resync; whether nobody has anything to do.
    async fn list(&mut self) -> bool {
        let services = self.provider.inventory().await.unwrap().services;
        let mut idle = true;
        for Member { desired, observed, status } in &mut self.members {
            *observed = services.get(&desired.owner.service).map(|owned| owned.observed.clone());
            let shown = LoadBalancer { published: status.clone(), ..desired.clone() };
            idle &= self.provider.plan(Desired::Present(&shown), observed.as_ref()).is_settled();
        }
        idle
    }

    /// Until this one has nothing to do; `gone`: until nothing of it is left.
    async fn settle(&mut self, n: usize, gone: bool) {
        let Member { desired, observed, status } = &mut self.members[n];
        let to = (!gone).then_some(&*desired);
        Box::pin(attempt(&self.provider, &desired.owner, to, observed, status)).await.unwrap();
    }

    async fn settle_all(&mut self) {
        for n in 0..self.members.len() {
            self.settle(n, false).await;
        }
    }

    /// What was called since the last note: for each of so many members no more than so many.
    fn at_most(&self, each: usize, members: usize, what: &str) -> Calls {
        let calls = self.emulator.calls();
        let all: usize = calls.values().sum();
        println!("{what:<24} {all:>4} calls for {members}: {calls:?}");
        assert!(all <= each * members, "{what}: {all} calls for {members}: {calls:?}");
        calls
    }

    fn nodes(&mut self, nodes: &[String]) {
        for member in &mut self.members {
            member.desired.targets = mk_nodes(nodes);
        }
    }
}

/// Of each of these one for every member, and nothing else that writes but the notes of what is done.
fn writes(calls: &Calls, members: usize, expected: &[&str]) {
    let reads = |kind: &str| kind.starts_with("Describe") || kind.starts_with("Get") || kind == "AddTags";
    let written: BTreeMap<&str, usize> =
        calls.iter().filter(|(kind, _)| !reads(kind)).map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(written, expected.iter().map(|kind| (*kind, members)).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_cost_no_more_calls_than_they_must() {
    let Some(emulator) = Emulator::start().await else { return };
    let nodes = emulator.instances.clone();
    let members = (0..MEMBERS).map(|n| Member::new(n, &nodes[..2])).collect();
    let provider = Run::provider(&emulator);
    let mut run = Run { emulator, provider, members };
    let (all, others) = (run.members.len(), run.members.len() - 1);
    run.list().await;
    drop(run.emulator.calls());

    run.settle(0, false).await;
    run.at_most(16, 1, "the first is made");
    run.settle_all().await;
    let made = ["CreateTargetGroup", "RegisterTargets", "AuthorizeSecurityGroupIngress", "CreateListener"];
    writes(&run.at_most(15, others, "others are made"), others, &made);
    let hostname = run.members[0].status.clone();
    assert!(hostname.len() == 1 && run.members.iter().all(|member| member.status == hostname));

    // A page holds a hundred things: ten listeners, ten target groups, and what is shared.
    for what in ["resync", "restart"] {
        assert!(run.list().await);
        assert_eq!(run.at_most(1, 1, what), [("GetResources".to_owned(), 1)].into());
        run.provider = Run::provider(&run.emulator);
    }

    // The synced hash proves which targets there are: nothing that is shared is read.
    assert!(run.list().await);
    drop(run.emulator.calls());
    run.nodes(&nodes[1..2]);
    run.settle_all().await;
    writes(&run.at_most(4, all, "a node leaves"), all, &["DeregisterTargets"]);
    run.nodes(&nodes[1..3]);
    run.settle_all().await;
    writes(&run.at_most(3, all, "a node joins"), all, &["RegisterTargets"]);

    run.members[1].desired.listeners.insert(mk_listener(Protocol::Tcp, 443));
    run.settle(1, false).await;
    writes(&run.at_most(23, 1, "a port is added, unread"), 1, &made);
    run.members[1].desired.listeners.remove(&mk_listener(Protocol::Tcp, 443));
    run.settle(1, false).await;
    let unmade = ["DeleteListener", "DeleteTargetGroup", "RevokeSecurityGroupIngress"];
    // Whatever becomes of the rest, a port that went takes its targets along.
    let untargeted = [&["DeregisterTargets"], unmade.as_slice()].concat();
    writes(&run.at_most(9, 1, "a port is removed"), 1, &untargeted);

    let group = run.members[2].desired.group.take();
    run.settle(2, false).await;
    run.at_most(39, 1, "one leaves");
    assert_ne!(run.members[2].status, hostname);
    run.members[2].desired.group = group;
    run.settle(2, false).await;
    run.at_most(53, 1, "and joins again");
    assert_eq!(run.members[2].status, hostname);

    for n in 0..others {
        run.settle(n, true).await;
    }
    writes(&run.at_most(22, others, "all but one are deleted"), others, &unmade);
    run.settle(others, true).await;
    run.at_most(25, 1, "the last is deleted");
    assert!(run.provider.inventory().await.unwrap().services.is_empty());
}
