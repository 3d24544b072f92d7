//! Load balancers to try, and the operator's loop as these tests drive it.
//!
//! Owns: what the contract suite asks of a fixture. Leaves to others: judging.
//! Invariant: every desired load balancer here fits the emulator's seeded nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portico_provider::contract::{CloudFixture, Registered, Variation};
use portico_provider::{
    ClusterUid, Desired, ExternalTrafficPolicy, Field, HealthCheck, IpFamily, Listener, ListenerKey,
    LoadBalancer, LoadBalancerProvider, NodeName, NodeTarget, Outcome, Owner, Port, Protocol, ProviderError,
    ProxyProtocol, ReadMode, Scheme, ServiceName, SessionAffinity, Targets,
};
use portico_provider_gce::resource::Resource;
use portico_provider_gce::{Backends, Config, GceProvider, Observed, SdkCloud};
use serde_json::Value;

use crate::emulator::{Emulator, PROJECT, REGION, STATIC};
use crate::watched::Watched;

pub(crate) type Provider = GceProvider<Watched>;

pub(crate) struct GceFixture {
    pub(crate) emulator: Emulator,
    pub(crate) cloud: Arc<SdkCloud>,
    pub(crate) backends: Backends,
    /// Whether the network is another project's.
    pub(crate) shared_vpc: bool,
}

impl GceFixture {
    pub(crate) async fn new(emulator: Emulator) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default()); // the second test finds it installed
        let cloud = SdkCloud::connect(PROJECT, None, REGION, Some(&emulator.url)).await.unwrap();
        Self { emulator, cloud: Arc::new(cloud), backends: Backends::EndpointGroups, shared_vpc: false }
    }

    /// One in the network of a host project.
    pub(crate) async fn in_shared_vpc(emulator: Emulator) -> Self {
        let fixture = Self::new(emulator).await;
        let url = &fixture.emulator.url;
        let cloud = SdkCloud::connect(PROJECT, Some("host"), REGION, Some(url)).await.unwrap();
        Self { cloud: Arc::new(cloud), shared_vpc: true, ..fixture }
    }

    /// One whose load balancers share instance groups.
    pub(crate) async fn sharing(emulator: Emulator) -> Self {
        // A second cluster needs nodes of its own: an instance is in one load-balanced group only.
        for (number, zone) in ["b", "b", "c"].into_iter().enumerate() {
            let body = format!(
                r#"{{"name": "other-{number}", "machineType": "zones/{REGION}-{zone}/machineTypes/e2-small",
                "networkInterfaces": [{{"network": "global/networks/default", "networkIP": "10.128.0.{}"}}]}}"#,
                number + 60
            );
            emulator.insert(&format!("zones/{REGION}-{zone}/instances"), &body);
        }
        emulator.settle();
        Self { backends: Backends::InstanceGroups, ..Self::new(emulator).await }
    }

    pub(crate) fn on(&self, cloud: Watched, cluster: &ClusterUid) -> Provider {
        let config = Config {
            project: PROJECT.to_owned(),
            network_project: self.shared_vpc.then(|| "host".to_owned()),
            region: REGION.to_owned(),
            network: if self.shared_vpc { "shared" } else { "default" }.to_owned(),
            subnetwork: if self.shared_vpc { "shared" } else { "default" }.to_owned(),
            backends: self.backends,
            endpoint: Some(self.emulator.url.clone()),
            cluster: cluster.clone(),
        };
        GceProvider::new(cloud, config)
    }

    pub(crate) fn one(&self, cluster: &ClusterUid) -> Provider {
        self.on(Watched::new(Arc::clone(&self.cloud)), cluster)
    }

    pub(crate) fn desired(&self, service: &str) -> LoadBalancer {
        let owner = Owner {
            cluster: "cluster-1".parse().unwrap(),
            service: format!("uid-{service}").parse().unwrap(),
            name: ServiceName::new("shop", service).unwrap(),
        };
        self.base(owner)
    }
}

pub(crate) fn mk_listener(protocol: Protocol, port: i32) -> Listener {
    let name = format!("{protocol}-{port}").to_lowercase();
    let node_port = Some(Port::try_from(30_000 + port).unwrap());
    Listener { protocol, port: Port::try_from(port).unwrap(), name, node_port }
}

fn mk_node(number: u8) -> NodeTarget {
    let zone = format!("{REGION}-{}", ["b", "b", "c"][usize::from(number)]);
    NodeTarget {
        name: NodeName(format!("node-{number}")),
        addresses: BTreeSet::from([[10, 128, 0, number + 2].into()]),
        external_addresses: BTreeSet::new(),
        provider_id: Some(format!("gce://{PROJECT}/{zone}/node-{number}")),
        zone: Some(zone),
        has_ready_endpoints: true,
    }
}

pub(crate) fn mk_nodes(numbers: &[u8]) -> Targets {
    Targets::Nodes(numbers.iter().map(|number| mk_node(*number)).collect())
}

fn of_the_second_cluster(targets: Targets) -> Targets {
    let Targets::Nodes(nodes) = targets else { return targets };
    let other = |node: NodeTarget| {
        let provider_id = node.provider_id.map(|id| id.replace("/node-", "/other-"));
        NodeTarget { provider_id, ..node }
    };
    Targets::Nodes(nodes.into_iter().map(other).collect())
}

/// One turn of the operator's loop, with the status as an operator writes it; whether it found nothing to do.
pub(crate) async fn round(
    provider: &Provider,
    desired: Desired<'_>,
) -> Result<(bool, Option<LoadBalancer>), ProviderError> {
    let observed = provider.observe_for(desired, ReadMode::Full).await?;
    let mut now = match desired {
        Desired::Present(load_balancer) => Some(load_balancer.clone()),
        Desired::Absent(_) => None,
    };
    if let Some(load_balancer) = &mut now {
        let report = provider.report(load_balancer, observed.as_ref());
        if !report.ingress.is_empty() {
            load_balancer.published = report.ingress.into_iter().map(|it| it.address).collect();
        }
    }
    let plan = provider.plan(now.as_ref().map_or(desired, Desired::Present), observed.as_ref());
    assert!(plan.additive_first(), "{plan}");
    for planned in plan.steps() {
        if let Outcome::InProgress { .. } = provider.execute(&planned.step).await? {
            break;
        }
    }
    Ok((plan.steps().is_empty() && plan.waiting().is_none(), now))
}

/// As the operator goes about it: targets first, each look as close as it has to be, and again after a wait. Answers with how
/// often it waited.
pub(crate) async fn attempt(provider: &Provider, desired: &LoadBalancer) -> Result<usize, ProviderError> {
    let (mut desired, mut read_mode, mut waits) = (desired.clone(), ReadMode::Cached, 0);
    for _ in 0..200 {
        let wanted = Desired::Present(&desired);
        let observed = provider.observe_for(wanted, read_mode).await?;
        let targets = observed.as_ref().map(|it| provider.plan_targets(&desired.backends(), it));
        let plan = targets
            .filter(|it| !it.steps().is_empty())
            .unwrap_or_else(|| provider.plan(wanted, observed.as_ref()));
        let report = provider.report(&desired, observed.as_ref());
        if let Some(closer) = read_mode.before(wanted, observed.is_some(), &plan) {
            read_mode = closer;
            continue;
        }
        read_mode = ReadMode::Cached;
        for planned in plan.steps() {
            if let Outcome::InProgress { .. } = provider.execute(&planned.step).await? {
                (read_mode, waits) = (ReadMode::Pending, waits + 1);
            }
        }
        if plan.steps().is_empty() {
            if plan.waiting().is_none() {
                return Ok(waits);
            }
            (read_mode, waits) = (ReadMode::Pending, waits + 1);
        }
        if !report.ingress.is_empty() {
            desired.published = report.ingress.into_iter().map(|it| it.address).collect();
        }
    }
    Err(ProviderError::unavailable("attempt", "still busy after 200 reads"))
}

/// Until there is nothing to do.
pub(crate) async fn settle(provider: &Provider, desired: Desired<'_>) -> Result<(), ProviderError> {
    let mut current = None;
    for _ in 0..80 {
        let (settled, now) = round(provider, current.as_ref().map_or(desired, Desired::Present)).await?;
        if settled {
            return Ok(());
        }
        current = now;
    }
    Err(ProviderError::unavailable("settle", "still busy after 80 rounds"))
}

/// Distinct addresses that forwarding rules listen on.
pub(crate) fn frontends(observed: &Observed) -> usize {
    let addresses = observed.resources.values().filter_map(|resource| match resource {
        Resource::ForwardingRule(rule) => Some(format!("{:?}", rule.address)),
        _ => None,
    });
    addresses.collect::<BTreeSet<_>>().len()
}

/// Where packets to each open port of this owner's addresses go: through a rule, its backend service and that one's groups.
fn registered(state: &Value, owner: &Owner) -> Registered {
    let ours = |it: &&Value| {
        let text = it["description"].as_str().unwrap_or_default();
        text.contains(&format!("{:?}", owner.service.as_str()))
            && text.contains(&format!("{:?}", owner.cluster.as_str()))
    };
    let of = |collection: &str| -> Vec<&Value> {
        let all = state["resources"].as_object().into_iter().flatten();
        let here = all.filter(|(path, _)| path.contains(&format!("/{collection}/"))).map(|(_, value)| value);
        here.filter(ours).collect()
    };
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let members = |service: &Value| -> BTreeSet<(String, Option<Port>)> {
        let urls = service["backends"].as_array().into_iter().flatten();
        let paths =
            urls.filter_map(|it| it["group"].as_str()?.split_once("/compute/v1/").map(|(_, path)| path));
        let names = paths.filter_map(|path| state["members"][path].as_object()).flat_map(|it| it.keys());
        names.map(|name| (name.rsplit('/').next().unwrap_or_default().to_owned(), None)).collect()
    };
    let mut registered = Registered::new();
    let opens = |it: &&Value| it["disabled"] != true && !texts(&it["destinationRanges"]).is_empty();
    for firewall in of("firewalls").into_iter().filter(opens) {
        for allowed in firewall["allowed"].as_array().into_iter().flatten() {
            let protocol = allowed["IPProtocol"].as_str().unwrap_or_default().to_uppercase();
            for port in texts(&allowed["ports"]) {
                let forwards = |rule: &&Value| {
                    let address =
                        rule["IPAddress"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
                    let here = texts(&firewall["destinationRanges"])
                        .iter()
                        .any(|it| it.split('/').next() == Some(address));
                    let own = rule["IPProtocol"] == protocol.as_str() || rule["IPProtocol"] == "L3_DEFAULT";
                    here && own && (rule["allPorts"] == true || texts(&rule["ports"]).contains(&port))
                };
                let key = ListenerKey {
                    protocol: protocol.parse().unwrap(),
                    port: Port::try_from(port.parse::<i32>().unwrap()).unwrap(),
                };
                for rule in of("forwardingRules").into_iter().filter(forwards) {
                    let services = of("backendServices").into_iter();
                    let behind = services.filter(|it| it["selfLink"] == rule["backendService"]);
                    registered.entry(key).or_default().extend(behind.flat_map(members));
                }
            }
        }
    }
    registered
}

impl CloudFixture for GceFixture {
    type Provider = Provider;

    fn provider(&self, cluster: &ClusterUid) -> Provider {
        self.one(cluster)
    }

    fn base(&self, owner: Owner) -> LoadBalancer {
        let second = self.backends == Backends::InstanceGroups && owner.cluster.as_str() == "contract-b";
        LoadBalancer {
            health_check: HealthCheck::node_proxy(),
            ..LoadBalancer::plain(
                owner,
                BTreeSet::from([mk_listener(Protocol::Tcp, 80), mk_listener(Protocol::Udp, 80)]),
                if second { of_the_second_cluster(mk_nodes(&[0, 1, 2])) } else { mk_nodes(&[0, 1, 2]) },
            )
        }
    }

    fn variations(&self, base: &LoadBalancer) -> Vec<Variation> {
        let mut all = Vec::new();
        let mut vary = |field, change: &dyn Fn(&mut LoadBalancer)| {
            let mut desired = base.clone();
            change(&mut desired);
            all.push(Variation { field, desired });
        };
        let local = HealthCheck::local_endpoints(Port::try_from(31_000i32).unwrap());
        let deny = BTreeMap::from([("portico.dev/gce-deny-firewall".to_owned(), "true".to_owned())]);
        vary(Field::Listeners, &|it| {
            it.listeners = BTreeSet::from([mk_listener(Protocol::Tcp, 443), mk_listener(Protocol::Udp, 80)]);
        });
        // In the same zones; and then a zone is left, whose group goes, too.
        vary(Field::Targets, &|it| it.targets = mk_nodes(&[1, 2]));
        vary(Field::Targets, &|it| it.targets = mk_nodes(&[1]));
        vary(Field::HealthCheck, &|it| it.health_check = Some(local.clone()));
        vary(Field::SourceRanges, &|it| it.source_ranges = BTreeSet::from(["192.0.2.0/24".parse().unwrap()]));
        vary(Field::SessionAffinity, &|it| {
            it.session_affinity = SessionAffinity::ClientIp { timeout: Duration::from_mins(1) };
        });
        vary(Field::ExternalTrafficPolicy, &|it| {
            it.external_traffic_policy = ExternalTrafficPolicy::Local;
            it.health_check = Some(local.clone());
        });
        vary(Field::RequestedAddresses, &|it| {
            it.requested_addresses = BTreeSet::from([STATIC.parse().unwrap()]);
        });
        vary(Field::Scheme, &|it| it.scheme = Scheme::Internal);
        vary(Field::IpFamilies, &|it| it.ip_families = vec![IpFamily::IPv4, IpFamily::IPv6]);
        vary(Field::Options, &|it| it.options = deny.clone().into_iter().collect());
        all
    }

    fn unsupported(&self, base: &LoadBalancer) -> Vec<Variation> {
        let mut all = Vec::new();
        let mut vary = |field, change: &dyn Fn(&mut LoadBalancer)| {
            let mut desired = base.clone();
            change(&mut desired);
            all.push(Variation { field, desired });
        };
        let option = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into_iter().collect();
        vary(Field::TargetKind, &|it| it.targets = Targets::Pods(BTreeSet::new()));
        vary(Field::ProxyProtocol, &|it| it.proxy_protocol = ProxyProtocol::V2);
        vary(Field::Listeners, &|it| it.listeners = BTreeSet::from([mk_listener(Protocol::Sctp, 80)]));
        vary(Field::Options, &|it| it.options = option("networking.gke.io/l4lb-config", "x"));
        vary(Field::Options, &|it| it.options = option("cloud.google.com/network-tier", "fast"));
        vary(Field::SourceRanges, &|it| {
            it.source_ranges = BTreeSet::from(["2001:db8::/32".parse().unwrap()]);
        });
        all
    }

    /// One has an address of each family.
    fn count(&self, observed: &Observed) -> usize {
        let six = |resource: &Resource| {
            let Resource::ForwardingRule(rule) = resource else { return false };
            rule.family == IpFamily::IPv6
        };
        let mut four = observed.clone();
        four.resources.retain(|_, resource| !six(resource));
        frontends(&four).max(frontends(observed) - frontends(&four))
    }

    /// The emulator's operations end when they are looked at.
    async fn pause(&self, _duration: Duration) {}

    fn left_in_the_cloud(&self, owner: &Owner) -> Vec<String> {
        let cluster = owner.cluster.as_str();
        let mut left = self.emulator.ours(&format!("\"{}\"", owner.service.as_str()));
        left.retain(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            // The twin of another cluster has the same Service UID.
            // Instance groups are everybody's: `shared` looks at them.
            !path.contains("/instanceGroups/") && self.emulator.cluster_of(name).as_deref() == Some(cluster)
        });
        left
    }

    async fn registered(&self, owner: &Owner) -> Registered {
        self.emulator.settle();
        registered(&self.emulator.everything(), owner)
    }

    fn lose_reply_of_write(&self, n: u32) -> bool {
        self.emulator.hook("lose", Some(&n.to_string()));
        true
    }
}
