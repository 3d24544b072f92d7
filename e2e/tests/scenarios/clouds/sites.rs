//! The two clouds as scenarios see them: class, proxy, machines, and what an account holds, read past every proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use portico_e2e::{
    cloud::{Aws, Cloud, FaultProxy, Gce, Place, aws, gce},
    cluster::{Cluster, Member},
    fabric::{CONTROL_PLANE, Host},
    portico::release::Release,
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Things of others in each account, by names like ours.
const STRANGERS: usize = 4;

/// After so long without a call an operator has nothing left to do; longer than its polls of a load balancer in the making.
const QUIET: Duration = Duration::from_secs(8);

/// Machines in each account: two nodes, and one that joins later.
const MACHINES: u8 = 3;

/// Name of the release of a cloud's operator.
pub(crate) fn release_name(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Aws => "portico-aws",
        Cloud::Gce => "portico-gce",
    }
}

/// Both clouds, with proxies before them.
pub(crate) struct Sites {
    aws: Aws,
    gce: Gce,
    aws_proxy: FaultProxy,
    gce_proxy: FaultProxy,
    aws_machines: Vec<aws::Instance>,
    gce_machines: Vec<gce::Instance>,
    http: reqwest::Client,
    /// Everything in the accounts before any operator ran.
    before: BTreeMap<String, Value>,
}

impl Sites {
    /// Starts them; the proxies listen where pods reach them.
    pub(crate) async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let logs = cluster.home().logs();
        let place = Place { logs: &logs, crashes: cluster.crashes(), address: None };
        let (aws, gce) =
            tokio::try_join!(Aws::start(cluster.tools(), &place), Gce::start(cluster.tools(), &place))?;
        let (aws, gce) = (aws.context("no emulator of AWS")?, gce.context("no emulator of Google Cloud")?);
        let aws_machines = aws.add_instances(MACHINES.into()).await?;
        let gce_machines: Vec<_> = (0..MACHINES).map(google_machine).collect();
        for machine in &gce_machines {
            gce.add_instance(machine).await?;
        }
        tokio::try_join!(aws.add_strangers("clouds", STRANGERS), gce.add_strangers("clouds", STRANGERS))?;
        let listen = (CONTROL_PLANE, 0).into();
        let mut sites = Self {
            aws_proxy: FaultProxy::start(listen, &aws.url(), 1).await?,
            gce_proxy: FaultProxy::start(listen, &gce.url(), 2).await?,
            aws,
            gce,
            aws_machines,
            gce_machines,
            http: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?,
            before: BTreeMap::new(),
        };
        sites.before = sites.things().await?;
        Ok(sites)
    }

    /// The proxy before a cloud.
    pub(crate) fn proxy(&self, cloud: Cloud) -> &FaultProxy {
        match cloud {
            Cloud::Aws => &self.aws_proxy,
            Cloud::Gce => &self.gce_proxy,
        }
    }

    /// Node `number` as a machine of a cloud: odd ones are AWS's. By twos, as many as there are machines.
    pub(crate) fn member(&self, number: u8) -> anyhow::Result<(Cloud, Member)> {
        let (index, is_aws) = (usize::from(number.saturating_sub(1) / 2), number % 2 == 1);
        let (cloud, machine) = if is_aws {
            let machine = self.aws_machines.get(index);
            (Cloud::Aws, machine.map(|machine| (machine.provider_id(), machine.zone.clone())))
        } else {
            let machine = self.gce_machines.get(index);
            (Cloud::Gce, machine.map(|machine| (machine.provider_id(), machine.zone.clone())))
        };
        let (id, zone) = machine.with_context(|| format!("no machine for node {number}"))?;
        Ok((cloud, Member { number, provider_id: Some(id), zone: Some(zone) }))
    }

    /// How a node's machine is called as a target.
    pub(crate) fn target(&self, number: u8) -> anyhow::Result<String> {
        let (_, member) = self.member(number)?;
        let id = member.provider_id.unwrap_or_default();
        Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// The release of a cloud's operator.
    pub(crate) fn release(&self, cloud: Cloud) -> Release {
        let url = self.proxy(cloud).url();
        let operator = match cloud {
            Cloud::Aws => {
                let env = aws::CREDENTIALS.map(|(name, value)| json!({"name": name, "value": value}));
                json!({
                    "provider": "aws", "aws": {"region": aws::REGION, "vpcId": self.aws.vpc(), "poll": "2s"},
                    "extraEnv": env,
                    "defaultClass": false, "extraArgs": [format!("--aws-endpoint-url={url}")],
                })
            }
            Cloud::Gce => json!({
                "provider": "gce", "gce": {"project": gce::PROJECT, "region": gce::REGION},
                "defaultClass": false, "extraArgs": [format!("--gce-endpoint={url}")],
            }),
        };
        Release { name: release_name(cloud).to_owned(), values: json!({"operator": operator}) }
    }

    /// Resources of a Service in a cloud, by the UID in tags and descriptions.
    pub(crate) async fn owned(&self, cloud: Cloud, service: &Service) -> anyhow::Result<BTreeSet<String>> {
        let uid = service.metadata.uid.as_deref().context("a Service without a UID")?;
        match cloud {
            Cloud::Aws => self.tagged("portico.dev/service-uid", uid).await,
            Cloud::Gce => {
                let things = self.gce.things().await?;
                let ours = things.into_iter().filter(|(_, thing)| thing.to_string().contains(uid));
                Ok(ours.map(|(path, _)| path).collect())
            }
        }
    }

    /// Resources that Services of group `namespace/name` share at AWS, and those that each has there.
    pub(crate) async fn of_group(&self, group: &str) -> anyhow::Result<BTreeSet<String>> {
        self.tagged("portico.dev/group", group).await
    }

    /// By the tagging API itself: one call, and nothing that is read changes by being read. Signatures are not checked.
    async fn tagged(&self, key: &str, value: &str) -> anyhow::Result<BTreeSet<String>> {
        let body = json!({"TagFilters": [{"Key": key, "Values": [value]}]});
        let credential = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{}/tagging/aws4_request, SignedHeaders=host, Signature=0",
            aws::REGION
        );
        let answer = self
            .http
            .post(self.aws.url())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "ResourceGroupsTaggingAPI_20170126.GetResources")
            .header("authorization", credential)
            .body(body.to_string())
            .send()
            .await
            .context("asking the emulator of AWS")?;
        let answer: Value = serde_json::from_slice(&answer.error_for_status()?.bytes().await?)?;
        let list = answer["ResourceTagMappingList"].as_array().context("no list of resources")?;
        Ok(list.iter().filter_map(|thing| thing["ResourceARN"].as_str().map(str::to_owned)).collect())
    }

    /// Load balancers among what a Service owns: NLBs, forwarding rules.
    pub(crate) async fn balancers(&self, cloud: Cloud, service: &Service) -> anyhow::Result<usize> {
        let kind = match cloud {
            Cloud::Aws => ":loadbalancer/net/",
            Cloud::Gce => "/forwardingRules/",
        };
        Ok(self.owned(cloud, service).await?.iter().filter(|thing| thing.contains(kind)).count())
    }

    /// Whether a Service's only load balancer is internal.
    pub(crate) async fn is_internal(&self, cloud: Cloud, service: &Service) -> anyhow::Result<bool> {
        let owned = self.owned(cloud, service).await?;
        let things = self.things().await?;
        let mut schemes = owned.iter().filter_map(|id| {
            let thing = things.get(id)?;
            thing["Scheme"].as_str().or_else(|| thing["loadBalancingScheme"].as_str())
        });
        let scheme =
            schemes.next().with_context(|| format!("{cloud} holds no load balancer in {owned:?}"))?;
        Ok(scheme.eq_ignore_ascii_case("internal"))
    }

    /// Waits until an operator has made no call for [`QUIET`].
    pub(crate) async fn settle(&self, cloud: Cloud, patience: Duration) -> anyhow::Result<()> {
        let (start, proxy) = (Instant::now(), self.proxy(cloud));
        let (mut number, mut last) = (proxy.number(), Instant::now());
        while last.elapsed() < QUIET {
            ensure!(start.elapsed() < patience, "{cloud} is still called after {patience:?}");
            sleep(Duration::from_millis(200)).await;
            if proxy.number() != number {
                (number, last) = (proxy.number(), Instant::now());
            }
        }
        Ok(())
    }

    /// An error unless nothing is a Service's in a cloud.
    pub(crate) async fn nothing_of(&self, cloud: Cloud, service: &Service) -> anyhow::Result<()> {
        let owned = self.owned(cloud, service).await?;
        ensure!(owned.is_empty(), "{cloud:?} holds {owned:#?}");
        Ok(())
    }

    /// An error unless both accounts are as they were before any operator ran.
    pub(crate) async fn untouched(&self) -> anyhow::Result<()> {
        let now = self.things().await?;
        let names: BTreeSet<&String> = self.before.keys().chain(now.keys()).collect();
        let changed: Vec<String> = names
            .into_iter()
            .filter(|name| self.before.get(*name) != now.get(*name))
            .map(|name| format!("{name}: {:?} is now {:?}", self.before.get(name), now.get(name)))
            .collect();
        ensure!(changed.is_empty(), "the accounts have changed:\n{}", changed.join("\n"));
        Ok(())
    }

    /// An error if a message did not fit Google's discovery document.
    pub(crate) async fn no_violations(&self) -> anyhow::Result<()> {
        let violations = self.gce.violations().await?;
        ensure!(violations.is_empty(), "messages against Google's document: {violations:#?}");
        Ok(())
    }

    async fn things(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let (mut all, gce) = tokio::try_join!(self.aws.things(), self.gce.things())?;
        all.extend(gce);
        Ok(all)
    }
}

/// Google's machine behind node `2 * (index + 1)`, whose address it has: an endpoint is a machine and an address of its own.
fn google_machine(index: u8) -> gce::Instance {
    let zone = ["b", "c", "d"].into_iter().cycle().nth(index.into()).unwrap_or("b");
    gce::Instance {
        name: format!("machine-{index}"),
        zone: format!("{}-{zone}", gce::REGION),
        address: Host::node(2 * (index + 1)).address,
    }
}
