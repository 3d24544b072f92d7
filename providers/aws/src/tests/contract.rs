//! The contract suite, on the emulator; and somebody else's things, which are the same afterwards.
//!
//! Owns: this provider's base and variations. Leaves to others: what is promised (`portico_provider::contract`).
//! Invariant: `left_in_the_cloud` reads past the provider, by the tags of everything there is.

use std::time::Duration;

use portico_provider::contract::{self, CloudFixture, Registered, Variation};
use portico_provider::{
    ClusterUid, ExternalTrafficPolicy, Field, GroupName, HealthCheck, IpFamily, ListenerKey, LoadBalancer,
    Owner, Protocol, ProxyProtocol, Scheme, SessionAffinity,
};

use super::emulator::Emulator;
use super::faulty::{Fault, Faults};
use super::{mk_listener, mk_load_balancer, mk_nodes, mk_options, mk_pods, mk_port};
use crate::AwsProvider;
use crate::cloud::resources::{Health, Kind, Listener};
use crate::cloud::{Sdk, codes};
use crate::observed::Observed;

pub(super) struct Aws {
    pub(super) emulator: Emulator,
    pub(super) faults: Faults,
    /// With these faults.
    sdk: Sdk,
}

impl Aws {
    pub(super) async fn start() -> Option<Self> {
        let emulator = Emulator::start().await?;
        let faults = Faults::default();
        let sdk = emulator.faulty(&faults).await;
        Some(Self { emulator, faults, sdk })
    }
}

impl CloudFixture for Aws {
    type Provider = AwsProvider;

    fn provider(&self, cluster: &ClusterUid) -> Self::Provider {
        AwsProvider::new(self.sdk.clone(), self.emulator.config(cluster)).unwrap()
    }

    fn base(&self, owner: Owner) -> LoadBalancer {
        mk_load_balancer(owner, &self.emulator.instances[..2])
    }

    fn variations(&self, base: &LoadBalancer) -> Vec<Variation> {
        let mut all = Vec::new();
        let mut vary = |field, change: &dyn Fn(&mut LoadBalancer)| {
            let mut desired = base.clone();
            change(&mut desired);
            all.push(Variation { field, desired });
        };
        vary(Field::Listeners, &|it| {
            it.listeners = [mk_listener(Protocol::Udp, 53), mk_listener(Protocol::Tcp, 443)].into();
        });
        vary(Field::Targets, &|it| it.targets = mk_nodes(&self.emulator.instances[1..]));
        vary(Field::TargetKind, &|it| {
            it.targets = mk_pods(&["10.0.0.7", "10.0.1.7"], &it.listeners);
            it.health_check = Some(HealthCheck::tcp_traffic());
        });
        vary(Field::HealthCheck, &|it| it.health_check = Some(HealthCheck::tcp_traffic()));
        vary(Field::SourceRanges, &|it| {
            it.source_ranges = ["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into();
        });
        vary(Field::SourceRanges, &|it| {
            it.source_ranges = (0..140).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
        });
        let lists = &self.emulator.prefix_lists;
        vary(Field::Options, &|it| {
            it.options = mk_options(&[(crate::capabilities::PREFIX_LISTS, &lists.join(","))]);
        });
        vary(Field::SessionAffinity, &|it| {
            it.session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_hours(3) };
        });
        vary(Field::ExternalTrafficPolicy, &|it| {
            it.external_traffic_policy = ExternalTrafficPolicy::Local;
            it.health_check = Some(HealthCheck::local_endpoints(mk_port(31_000)));
        });
        vary(Field::ProxyProtocol, &|it| it.proxy_protocol = ProxyProtocol::V2);
        vary(Field::IpFamilies, &|it| it.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6]);
        vary(Field::Scheme, &|it| it.scheme = Scheme::Internal);
        vary(Field::Options, &|it| {
            it.options = mk_options(&[
                (crate::capabilities::ATTRIBUTES, "load_balancing.cross_zone.enabled=true"),
                (crate::capabilities::SUBNETS, "net-a,net-b,net-c"),
            ]);
        });
        vary(Field::Options, &|it| it.options = mk_options(&super::listeners::EXTRAS));
        vary(Field::Group, &|it| it.group = GroupName::new("contract", "edge"));
        all
    }

    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation> {
        let sctp = [mk_listener(Protocol::Sctp, 80)].into();
        let nonsense = mk_options(&[(crate::capabilities::CHECK_INTERVAL, "1")]);
        let refused = mk_options(&[(crate::capabilities::NOT_HONOURED[0].key, "x")]);
        let many = (0..241).map(|n| format!("10.{n}.0.0/30").parse().unwrap()).collect();
        let variation = |field, desired| Variation { field, desired };
        vec![
            variation(Field::Listeners, LoadBalancer { listeners: sctp, ..base.clone() }),
            variation(Field::Options, LoadBalancer { options: nonsense, ..base.clone() }),
            variation(Field::Options, LoadBalancer { options: refused, ..base.clone() }),
            variation(Field::SourceRanges, LoadBalancer { source_ranges: many, ..base.clone() }),
            variation(Field::IpFamilies, LoadBalancer { ip_families: vec![IpFamily::IPv6], ..base.clone() }),
            variation(
                Field::RequestedAddresses,
                LoadBalancer { requested_addresses: ["192.0.2.1".parse().unwrap()].into(), ..base.clone() },
            ),
        ]
    }

    fn count(&self, observed: &Observed) -> usize {
        observed.load_balancers()
    }

    async fn pause(&self, _duration: Duration) {
        // The emulator's time passes with each look.
        tokio::task::yield_now().await;
    }

    fn left_in_the_cloud(&self, owner: &Owner) -> Vec<String> {
        let read =
            async { self.emulator.sdk.tagged(&crate::tags::of_any(std::slice::from_ref(owner))).await };
        let found = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(read));
        found.unwrap().into_iter().map(|(id, _)| id.0).collect()
    }

    async fn registered(&self, owner: &Owner) -> Registered {
        let sdk = &self.emulator.sdk;
        let mut registered = Registered::new();
        let found = sdk.tagged(&crate::tags::of_any(std::slice::from_ref(owner))).await.unwrap();
        for (id, _) in found.iter().filter(|(id, _)| id.kind() == Some(Kind::LoadBalancer)) {
            for Listener { spec, group, .. } in sdk.listeners(id).await.unwrap() {
                let health = sdk.target_health(&group.unwrap()).await.unwrap();
                let targets = health.into_iter().filter(|(_, health)| *health != Health::Draining);
                let targets: Vec<_> = targets.map(|(it, _)| (it.id, Some(mk_port(it.port)))).collect();
                for protocol in
                    [Protocol::Tcp, Protocol::Udp].into_iter().filter(|it| spec.protocol.carries(*it))
                {
                    let key = ListenerKey { protocol, port: mk_port(spec.port) };
                    registered.entry(key).or_default().extend(targets.iter().cloned());
                }
            }
        }
        registered
    }

    fn hold_health(&self, held: bool) {
        self.emulator.health("*", held.then_some("initial"));
    }

    fn lose_reply_of_write(&self, n: u32) -> bool {
        self.faults.arm((n > 0).then_some(Fault::LoseReply(n as usize)));
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_and_other_peoples_things_stay_as_they_are() {
    let Some(fixture) = Aws::start().await else { return };
    let before = fixture.emulator.account("list");
    fixture.emulator.calls();
    Box::pin(contract::run(&fixture)).await.unwrap_or_else(|violation| panic!("{violation}"));
    let calls = fixture.emulator.calls();
    let known = |call: &String| codes::CALLS.iter().any(|(_, calls)| calls.contains(&call.as_str()));
    assert!(calls.len() > 20 && calls.keys().all(known), "documented permissions lack some of {calls:?}");
    assert_eq!(fixture.emulator.account("list"), before, "an empty account, but for what was there");
}
