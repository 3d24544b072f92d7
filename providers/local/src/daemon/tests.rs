//! The contract suite against a real daemon on loopback, and restarts of it.

mod caller;
mod disk;
mod targets;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use portico_provider::contract::{self, CloudFixture, Registered, Variation};
use portico_provider::{
    ClusterUid, Desired, ExternalTrafficPolicy, Field, HealthCheck, IpFamily, Listener, ListenerKey,
    LoadBalancer, LoadBalancerProvider, NodeName, NodeTarget, Options, Outcome, Owner, PodTarget, Port,
    Protocol, ProviderError, ProxyProtocol, ReadMode, Retry, Scheme, ServiceName, SessionAffinity, Targets,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::run::Daemon;
use crate::api::View;
use crate::{Config, LocalProvider};

const TOKEN: &str = "let-me-in";

fn mk_port(number: u16) -> Port {
    Port::try_from(number).unwrap()
}

fn mk_owner(cluster: &str, service: &str) -> Owner {
    Owner {
        cluster: cluster.parse().unwrap(),
        service: service.parse().unwrap(),
        name: ServiceName::new("default", "frontend").unwrap(),
    }
}

fn mk_load_balancer(owner: Owner) -> LoadBalancer {
    let listener = |protocol, port, node_port| Listener {
        protocol,
        port: mk_port(port),
        name: format!("{protocol}-{port}").to_lowercase(),
        node_port: Some(mk_port(node_port)),
    };
    LoadBalancer::plain(
        owner,
        [listener(Protocol::Tcp, 8080, 30080), listener(Protocol::Tcp, 8443, 30443)].into(),
        mk_nodes(&["127.201.0.1"]),
    )
}

fn mk_nodes(addresses: &[&str]) -> Targets {
    let node = |address: &&str| NodeTarget {
        name: NodeName((*address).to_owned()),
        addresses: [address.parse().unwrap()].into(),
        external_addresses: BTreeSet::new(),
        provider_id: None,
        zone: None,
        has_ready_endpoints: true,
    };
    Targets::Nodes(addresses.iter().map(node).collect())
}

/// A daemon in this process, with everything that a restart would keep on disk.
struct Running {
    endpoint: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

async fn start(directory: &Path, range: &str, extra: &[&str]) -> anyhow::Result<Running> {
    let token_file = directory.join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n"))?;
    let state = directory.join("state");
    let paths = [token_file.to_str().unwrap(), state.to_str().unwrap()];
    let mut flags = vec!["portico-lb", "--range", range, "--listen", "127.0.0.1:0"];
    flags.extend(["--drain-timeout", "300ms", "--token-file", paths[0], "--state-dir", paths[1]]);
    flags.extend(extra);
    drop(rustls::crypto::ring::default_provider().install_default()); // the second test finds it installed
    let daemon = Daemon::start(&Args::try_parse_from(flags)?).await?;
    let (endpoint, stop) = (daemon.address()?, CancellationToken::new());
    let served = tokio::spawn(daemon.serve(stop.clone()));
    Ok(Running { endpoint, stop, served })
}

impl Running {
    fn provider(&self, cluster: &ClusterUid) -> LocalProvider {
        self.provider_with(cluster, TOKEN)
    }

    fn provider_with(&self, cluster: &ClusterUid, token: &str) -> LocalProvider {
        let endpoint = format!("http://{}", self.endpoint);
        LocalProvider::new(Config { endpoint, token: token.to_owned(), cluster: cluster.clone() }).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
    }
}

async fn create(provider: &LocalProvider, desired: &LoadBalancer) -> Outcome {
    let plan = provider.plan(Desired::Present(desired), None);
    provider.execute(&plan.steps()[0].step).await.unwrap()
}

async fn view(provider: &LocalProvider, desired: &LoadBalancer) -> View {
    provider.observe(&desired.owner, ReadMode::Full).await.unwrap().unwrap()
}

/// Its targets are nobody, so a connection may have been reset before it is looked at.
async fn assert_listens(address: SocketAddr) {
    if let Err(error) = tokio::net::TcpStream::connect(address).await {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

struct Loopback {
    daemon: Running,
    spare: IpAddr,
}

impl CloudFixture for Loopback {
    type Provider = LocalProvider;

    fn provider(&self, cluster: &ClusterUid) -> LocalProvider {
        self.daemon.provider(cluster)
    }

    fn base(&self, owner: Owner) -> LoadBalancer {
        mk_load_balancer(owner)
    }

    fn variations(&self, base: &LoadBalancer) -> Vec<Variation> {
        let vary = |field, change: &dyn Fn(&mut LoadBalancer)| {
            let mut desired = base.clone();
            change(&mut desired);
            Variation { field, desired }
        };
        let pod = PodTarget {
            address: "127.201.0.7".parse().unwrap(),
            ports: base.listeners.iter().map(|listener| (listener.key(), mk_port(80))).collect(),
            node: None,
            zone: None,
        };
        let minute = Duration::from_mins(1);
        vec![
            vary(Field::Listeners, &|lb| drop(lb.listeners.pop_last())),
            vary(Field::Targets, &|lb| lb.targets = mk_nodes(&["127.201.0.1", "127.201.0.2"])),
            vary(Field::TargetKind, &|lb| lb.targets = Targets::Pods([pod.clone()].into())),
            vary(Field::HealthCheck, &|lb| lb.health_check = Some(HealthCheck::tcp_traffic())),
            vary(Field::SourceRanges, &|lb| lb.source_ranges = ["127.0.0.0/8".parse().unwrap()].into()),
            vary(Field::SessionAffinity, &|lb| {
                lb.session_affinity = SessionAffinity::ClientIp { timeout: minute }
            }),
            vary(Field::ExternalTrafficPolicy, &|lb| {
                lb.external_traffic_policy = ExternalTrafficPolicy::Local;
                lb.health_check = Some(HealthCheck::local_endpoints(mk_port(31000)));
            }),
            vary(Field::ProxyProtocol, &|lb| lb.proxy_protocol = ProxyProtocol::V2),
            vary(Field::IpFamilies, &|lb| lb.ip_families.push(IpFamily::IPv6)),
            vary(Field::RequestedAddresses, &|lb| lb.requested_addresses = [self.spare].into()),
            vary(Field::Options, &|lb| lb.options = mk_options("5m")),
        ]
    }

    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation> {
        let vary = |field, change: &dyn Fn(&mut LoadBalancer)| {
            let mut desired = base.clone();
            change(&mut desired);
            Variation { field, desired }
        };
        let with = |base: &LoadBalancer, protocol, node_port| {
            let change = |port: Listener| Listener { protocol, node_port, ..port };
            base.listeners.iter().cloned().map(change).collect::<BTreeSet<_>>()
        };
        vec![
            vary(Field::Scheme, &|lb| lb.scheme = Scheme::Internal),
            vary(Field::Options, &|lb| lb.options = mk_options("soon")),
            vary(Field::Listeners, &|lb| lb.listeners = with(base, Protocol::Sctp, Some(mk_port(30000)))),
            vary(Field::Listeners, &|lb| lb.listeners = with(base, Protocol::Tcp, None)),
            vary(Field::ProxyProtocol, &|lb| {
                lb.listeners = with(base, Protocol::Udp, Some(mk_port(30000)));
                lb.proxy_protocol = ProxyProtocol::V2;
            }),
            vary(Field::RequestedAddresses, &|lb| lb.requested_addresses = ["::1".parse().unwrap()].into()),
            vary(Field::HealthCheck, &|lb| {
                lb.health_check =
                    Some(HealthCheck { interval: Duration::ZERO, ..HealthCheck::tcp_traffic() });
            }),
        ]
    }

    fn count(&self, _observed: &View) -> usize {
        1
    }

    async fn registered(&self, owner: &Owner) -> Registered {
        let Owner { cluster, service, name: _ } = owner;
        let url = format!("http://{}/v1/load-balancers/{cluster}/{service}", self.daemon.endpoint);
        let answer = reqwest::Client::new().get(url).bearer_auth(TOKEN).send().await.unwrap();
        let Ok(answer) = answer.error_for_status() else { return Registered::new() };
        let View { spec, .. } = answer.json().await.unwrap();
        let shown = |target: SocketAddr| (target.ip().to_string(), Some(mk_port(target.port())));
        let behind = spec.listeners.into_iter();
        behind.map(|(key, targets)| (key, targets.into_iter().map(shown).collect())).collect()
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration.min(Duration::from_millis(50))).await;
    }
}

fn mk_options(delay: &str) -> Options {
    [(crate::capabilities::PROVISIONING_DELAY.to_owned(), delay.to_owned())].into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_daemon_that_answers_at_once_keeps_the_contract() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.200.0.0/24", &["--range", "::1/128"]).await.unwrap();
    let fixture = Loopback { daemon, spare: "127.200.0.9".parse().unwrap() };
    contract::run(&fixture).await.unwrap();
    fixture.daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_daemon_that_takes_a_while_keeps_the_contract() {
    let directory = TempDir::new().unwrap();
    let flags = ["--provisioning-delay", "120ms", "--range", "::1/128"];
    let daemon = start(directory.path(), "127.199.0.0/24", &flags).await.unwrap();
    let fixture = Loopback { daemon, spare: "127.199.0.9".parse().unwrap() };
    contract::run(&fixture).await.unwrap();
    fixture.daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_appears_only_after_the_provisioning_delay_of_its_option() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.202.0.0/24", &[]).await.unwrap();
    let mut slow = mk_load_balancer(mk_owner("c", "slow"));
    slow.options = mk_options("1h");
    let provider = daemon.provider(&slow.owner.cluster);
    assert!(matches!(create(&provider, &slow).await, Outcome::InProgress { .. }));
    let seen = view(&provider, &slow).await;
    assert!(seen.addresses.is_empty());
    assert!(provider.report(&slow, Some(&seen)).ingress.is_empty());
    let plan = provider.plan(Desired::Present(&slow), Some(&seen));
    assert!(plan.steps().is_empty() && plan.waiting().is_some(), "{plan}");
    let quick = mk_load_balancer(mk_owner("c", "quick"));
    assert_eq!(create(&provider, &quick).await, Outcome::Done);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_keeps_addresses_and_listeners() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.203.0.0/24", &[]).await.unwrap();
    let (first, second) =
        (mk_load_balancer(mk_owner("c", "first")), mk_load_balancer(mk_owner("c", "second")));
    let provider = daemon.provider(&first.owner.cluster);
    create(&provider, &first).await;
    create(&provider, &second).await;
    let before = view(&provider, &second).await;
    let plan = provider.plan(Desired::Absent(&first.owner), Some(&before));
    provider.execute(&plan.steps()[0].step).await.unwrap();
    daemon.end().await;
    // The first one's address is lower and free: a start that allocated before claiming would hand it out.
    let daemon = start(directory.path(), "127.203.0.0/24", &[]).await.unwrap();
    let provider = daemon.provider(&first.owner.cluster);
    assert_eq!(view(&provider, &second).await, before);
    assert!(provider.observe(&first.owner, ReadMode::Full).await.unwrap().is_none());
    let address = SocketAddr::new(*before.addresses.first().unwrap(), 8080);
    assert_listens(address).await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_that_cannot_be_read_stops_the_start() {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    std::fs::write(directory.path().join("state/load-balancers.json"), "[{").unwrap();
    let error = start(directory.path(), "127.204.0.0/24", &[]).await.err().unwrap();
    assert!(format!("{error:#}").contains("is not a state of portico-lb"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_requested_address_is_given_or_refused_with_the_reason() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.205.0.0/29", &[]).await.unwrap();
    let wish: IpAddr = "127.205.0.5".parse().unwrap();
    let mut lucky = mk_load_balancer(mk_owner("c", "lucky"));
    lucky.requested_addresses = [wish].into();
    let mut late = lucky.clone();
    late.owner = mk_owner("c", "late");
    let provider = daemon.provider(&lucky.owner.cluster);
    create(&provider, &lucky).await;
    assert_eq!(view(&provider, &lucky).await.addresses, [wish].into());
    let plan = provider.plan(Desired::Present(&late), None);
    let error = provider.execute(&plan.steps()[0].step).await.unwrap_err();
    assert!(matches!(error, ProviderError::Conflict { .. }), "{error}");
    assert_eq!((error.reason(), error.retry()), ("Conflict", Retry::Never));
    late.requested_addresses = ["192.0.2.1".parse().unwrap()].into();
    let plan = provider.plan(Desired::Present(&late), None);
    let error = provider.execute(&plan.steps()[0].step).await.unwrap_err();
    assert!(matches!(error, ProviderError::Invalid { .. }), "{error}");
    for index in 0..5 {
        create(&provider, &mk_load_balancer(mk_owner("c", &format!("filler-{index}")))).await;
    }
    let plan = provider.plan(Desired::Present(&mk_load_balancer(mk_owner("c", "none"))), None).clone();
    let error = provider.execute(&plan.steps()[0].step).await.unwrap_err();
    assert!(matches!(error, ProviderError::Exhausted { .. }), "{error}");
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_token_is_denied_and_a_wrong_endpoint_is_not_absence() {
    let directory = TempDir::new().unwrap();
    let daemon = start(directory.path(), "127.206.0.0/24", &[]).await.unwrap();
    let owner = mk_owner("c", "s");
    let error =
        daemon.provider_with(&owner.cluster, "wrong").observe(&owner, ReadMode::Full).await.unwrap_err();
    assert!(matches!(error, ProviderError::Denied { .. }), "{error}");
    let elsewhere = format!("http://{}/elsewhere", daemon.endpoint);
    let config = Config { endpoint: elsewhere, token: TOKEN.to_owned(), cluster: owner.cluster.clone() };
    let error = LocalProvider::new(config).unwrap().observe(&owner, ReadMode::Full).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error}");
    daemon.end().await;
}

#[test]
fn a_range_outside_loopback_needs_an_interface() {
    let flags = ["portico-lb", "--range", "172.30.10.0/24", "--token-file", "t", "--state-dir", "s"];
    let error = Args::try_parse_from(flags).unwrap().placement().unwrap_err();
    assert!(error.to_string().contains("--interface"), "{error}");
}
