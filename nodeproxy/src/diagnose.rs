//! `trace`, `explain` and `dump`: the outcome of a packet, the program of a Service, and the comparison of both
//! with the kernel.
//!
//! ```text
//!   command ── question ──► socket ──► sync loop (model, between two events) ──┐
//!      └────── question ──► dump file ─────────────────────────────────────────┴─► answer, checked against the kernel
//! ```
//!
//! Owns questions and answers. Leaves the content of answers to [`portico_proxy_core`], and the kernel to a
//! dataplane. The kernel is read on a connection of its own, so a slow read never delays a change.
//!
//! Invariant: nothing here changes anything, in the model or in the kernel.

pub mod affinity;
pub mod command;
pub mod dump;
pub mod socket;
pub mod ways;

use std::{net::IpAddr, sync::Arc, time::Duration};

use portico_proxy_core::{
    check::{Check, Wanted},
    explain::{self, Explanation},
    input::{Config, NodeInfo, ServiceName},
    interface::{InterfaceName, PodInterfaces},
    model::Model,
    oracle::{self, Outcome, Packet, Source},
    table::Frontend,
    trace::{self, Trace},
    walk::PacketContext,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::dataplane::{DataplaneError, Observed};
use affinity::{AffinityClient, AffinityEntry, ReadAffinity};
use dump::Dump;
use ways::Ways;
pub use ways::source_towards;

#[cfg(test)]
mod tests;

/// Reads of the kernel while it differs, since it differs for a moment after every change.
const READS: u32 = 3;
/// Pause between two reads, longer than the destructive phase waits.
const PAUSE: Duration = Duration::from_millis(250);

/// A question to a running proxy or a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// The outcome of a connection.
    Trace {
        /// Source address of the connection.
        from: IpAddr,
        /// Destination of the connection.
        to: Frontend,
        /// Interface on which its packets arrive; by default the one towards the source.
        #[serde(default)]
        interface: Option<InterfaceName>,
        /// Whether to check the answer against the kernel.
        kernel: bool,
    },
    /// The program of a Service.
    Explain {
        /// Namespace and name.
        service: ServiceName,
        /// Whether to check the answer against the kernel.
        kernel: bool,
    },
    /// All objects of the proxy, as a file that answers elsewhere.
    Dump,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Question::Trace`].
    Trace(Box<Trace>),
    /// To [`Question::Explain`].
    Explain(Box<Explanation>),
    /// To [`Question::Dump`].
    Dump(Box<Dump>),
    /// The reason for a missing answer.
    Error(String),
}

/// Reasons for a missing answer.
#[derive(Debug, thiserror::Error)]
pub enum DiagnoseError {
    /// The proxy has no such Service.
    #[error(
        "the node proxy of node {node} serves no Service {service}: it does not exist, is headless or of type ExternalName, \
         or is another proxy's (label service.kubernetes.io/service-proxy-name)"
    )]
    NoSuchService {
        /// The requested name.
        service: ServiceName,
        /// Node whose proxy answers.
        node: String,
    },
    /// The proxy still waits for some source's first list.
    #[error("the node proxy has just started and still reads the cluster's Services; ask again in a moment")]
    Starting,
    /// The proxy is about to end.
    #[error("the node proxy is ending")]
    Ending,
    /// The kernel could not be read.
    #[error("cannot read the kernel's tables")]
    Kernel(#[source] DataplaneError),
    /// Pods are recognised by interface, and the interface is not known.
    #[error(
        "this node proxy takes what arrives on {pods} for packets of pods, and nothing says on which interface those of {from} \
         arrive; say so with --in-interface"
    )]
    NoInterface {
        /// Source address of the connection.
        from: IpAddr,
        /// The interfaces of pods.
        pods: PodInterfaces,
    },
    /// The dump was made without the kernel's tables.
    #[error("the dump holds no kernel tables, so --kernel has nothing to compare with")]
    NoKernel,
}

impl DiagnoseError {
    /// Whether asking again may help.
    pub fn retry(&self) -> bool {
        match self {
            Self::Starting | Self::Kernel(_) => true,
            Self::NoSuchService { .. } | Self::Ending | Self::NoInterface { .. } | Self::NoKernel => false,
        }
    }

    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchService { .. } => "NoSuchService",
            Self::Starting => "Starting",
            Self::Ending => "Ending",
            Self::Kernel(_) => "Kernel",
            Self::NoInterface { .. } => "NoInterface",
            Self::NoKernel => "NoKernel",
        }
    }
}

/// Input of an answer.
#[derive(Clone, Copy, Debug)]
pub struct InquiryContext<'a> {
    /// Services, endpoints and this node.
    pub model: &'a Model,
    /// Addresses in this network namespace.
    pub local_addresses: &'a [IpAddr],
    /// Whether every source has sent its first list.
    pub complete: bool,
}

/// Work for the loop that owns the model, done between two events.
pub type Inquiry = Box<dyn FnOnce(InquiryContext<'_>) + Send>;
/// Reads the kernel on a connection of its own; blocks.
pub type ReadKernel = Arc<dyn Fn() -> Result<Observed, DataplaneError> + Send + Sync>;

/// Answers questions about the running proxy.
#[derive(Clone)]
pub struct Responder {
    inquiries: mpsc::Sender<Inquiry>,
    read: ReadKernel,
    read_affinity: ReadAffinity,
    ways: Ways,
}

/// An answer before its comparison with the kernel.
#[derive(Debug)]
struct Draft {
    answer: Answer,
    claim: Option<Claim>,
    /// The client whose affinity entry to read, if there can be one.
    client: Option<AffinityClient>,
}

/// The part of an answer that the kernel can confirm.
#[derive(Debug)]
struct Claim {
    wanted: Wanted,
    walk: Option<Walked>,
}

/// Outcome of a packet by the elements, and its other inputs.
#[derive(Debug)]
struct Walked {
    packet: Packet,
    outcome: Outcome,
    config: Config,
    node: NodeInfo,
    affinity_id: Option<u32>,
}

impl Responder {
    /// Sends work to the loop behind `inquiries`.
    pub fn new(
        inquiries: mpsc::Sender<Inquiry>,
        read: ReadKernel,
        read_affinity: ReadAffinity,
        ways: Ways,
    ) -> Self {
        Self { inquiries, read, read_affinity, ways }
    }

    /// Answers one question.
    pub async fn answer(&self, question: &Question) -> Result<Answer, DiagnoseError> {
        let mut reads = 1;
        loop {
            let mut draft = self.draft(question, None).await?;
            if let Some(entry) = self.read_entry(draft.client).await {
                draft = self.draft(question, Some(entry)).await?;
            }
            if let Answer::Trace(trace) = &mut draft.answer {
                see_sources(trace, |endpoint| (self.ways.source)(endpoint).into_iter().collect());
            }
            let is_dump = matches!(draft.answer, Answer::Dump(_));
            if draft.claim.is_none() && !is_dump {
                return Ok(draft.answer);
            }
            let read = self.read.clone();
            let read = tokio::task::spawn_blocking(move || read()).await;
            let observed = read.map_err(|_panicked| DiagnoseError::Ending)?.map_err(DiagnoseError::Kernel)?;
            let answer = draft.check(&observed);
            if answer.agrees() || reads == READS {
                return Ok(answer);
            }
            reads += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The affinity entry of a client. If it cannot be read, the answer is that of a client without one.
    async fn read_entry(&self, client: Option<AffinityClient>) -> Option<AffinityEntry> {
        let (client, read_affinity) = (client?, self.read_affinity.clone());
        match tokio::task::spawn_blocking(move || read_affinity(&client)).await.ok()? {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!(error = portico_runtime::chain(&error), "affinity entries cannot be read");
                None
            }
        }
    }

    async fn draft(&self, question: &Question, entry: Option<AffinityEntry>) -> Result<Draft, DiagnoseError> {
        let (send, drafted) = oneshot::channel();
        let mut question = question.clone();
        if let Question::Trace { from, interface: interface @ None, .. } = &mut question {
            *interface = (self.ways.interface)(*from);
        }
        let inquiry: Inquiry = Box::new(move |known| {
            // Whoever asked may have gone.
            drop(send.send(draft(&question, known, entry)));
        });
        self.inquiries.send(inquiry).await.map_err(|_closed| DiagnoseError::Ending)?;
        drafted.await.map_err(|_closed| DiagnoseError::Ending)?
    }
}

fn draft(
    question: &Question,
    known: InquiryContext<'_>,
    entry: Option<AffinityEntry>,
) -> Result<Draft, DiagnoseError> {
    let model = known.model;
    if !known.complete {
        return Err(DiagnoseError::Starting);
    }
    match question {
        Question::Trace { from, to, interface, kernel } => {
            let packet = known.packet(*from, *to, *interface)?;
            let client = affinity::client(model, &packet);
            let last = client.zip(entry).and_then(|(client, entry)| {
                affinity::endpoint(model, model.service_of(&packet.to)?, &client, entry)
            });
            let claim = || Claim {
                wanted: Wanted::by_packet(model, &packet),
                walk: Some(Walked {
                    packet,
                    outcome: oracle::outcome_by_elements(model, &packet, last),
                    config: model.config().clone(),
                    node: model.node_info().clone(),
                    affinity_id: last.and_then(|last| model.affinity_id(&packet.to, last)),
                }),
            };
            let mut trace = trace::trace_with_affinity(model, &packet, last);
            see_sources(&mut trace, |endpoint| known.addresses_towards(endpoint));
            let answer = Answer::Trace(Box::new(trace));
            Ok(Draft { answer, claim: kernel.then(claim), client })
        }
        Question::Explain { service, kernel } => {
            let explanation =
                explain::explain(model, service).ok_or_else(|| DiagnoseError::NoSuchService {
                    service: service.clone(),
                    node: model.node_info().name.to_string(),
                })?;
            let claim = || Claim { wanted: explain::wanted(model, service), walk: None };
            Ok(Draft {
                answer: Answer::Explain(Box::new(explanation)),
                claim: kernel.then(claim),
                client: None,
            })
        }
        Question::Dump => {
            let dump = Dump::of(model, known.local_addresses);
            Ok(Draft { answer: Answer::Dump(Box::new(dump)), claim: None, client: None })
        }
    }
}

/// Names the node's addresses that endpoints see, where they are known.
fn see_sources(trace: &mut Trace, sources: impl Fn(IpAddr) -> Vec<IpAddr>) {
    for target in trace.endpoints.iter_mut().filter(|target| target.sees == Some(Source::Masqueraded)) {
        let sources = sources(target.backend.address);
        if !sources.is_empty() {
            target.source_addresses = sources;
        }
    }
}

impl InquiryContext<'_> {
    /// All addresses of the node of an endpoint's family, its own first: one of them is what the endpoint sees.
    fn addresses_towards(&self, endpoint: IpAddr) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for address in self.model.node_info().addresses.iter().chain(self.local_addresses) {
            if address.is_ipv4() == endpoint.is_ipv4() && !all.contains(address) {
                all.push(*address);
            }
        }
        all
    }

    /// The first packet of a connection. This node's own packets arrive on no interface.
    fn packet(
        &self,
        source: IpAddr,
        to: Frontend,
        interface: Option<InterfaceName>,
    ) -> Result<Packet, DiagnoseError> {
        let from_node = self.is_this_node(source);
        let interface = interface.filter(|_| !from_node);
        match self.model.config().pod_interfaces {
            Some(pods) if !from_node && interface.is_none() => {
                Err(DiagnoseError::NoInterface { from: source, pods })
            }
            _ => Ok(Packet { source, from_node, interface, to }),
        }
    }

    /// Whether the kernel has this address itself.
    fn is_this_node(&self, address: IpAddr) -> bool {
        self.local_addresses.contains(&address) || self.model.node_info().has(address)
    }
}

impl Draft {
    /// Adds the comparison with the kernel.
    fn check(self, observed: &Observed) -> Answer {
        let Observed { state, rebuild } = observed;
        let check = self.claim.map(|Claim { wanted, walk }| {
            let check = wanted.check(state, rebuild.clone());
            match walk {
                Some(Walked { packet, outcome, config, node, affinity_id }) => {
                    let context = PacketContext { config: &config, node: &node, affinity_id };
                    check.walked(state, context, &packet, &outcome)
                }
                None => check,
            }
        });
        match self.answer {
            Answer::Trace(trace) => Answer::Trace(Box::new(Trace { kernel: check, ..*trace })),
            Answer::Explain(explanation) => {
                Answer::Explain(Box::new(Explanation { kernel: check, ..*explanation }))
            }
            Answer::Dump(dump) => Answer::Dump(Box::new(dump.with_kernel(observed.clone()))),
            error @ Answer::Error(_) => error,
        }
    }
}

impl Answer {
    /// Whether the kernel agrees, as far as the question included it.
    pub fn agrees(&self) -> bool {
        let agrees = |check: &Option<Check>| check.as_ref().is_none_or(Check::agrees);
        match self {
            Self::Trace(trace) => agrees(&trace.kernel),
            Self::Explain(explanation) => agrees(&explanation.kernel),
            Self::Dump(_) | Self::Error(_) => true,
        }
    }
}
