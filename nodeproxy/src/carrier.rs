//! What carries the packets, put together from the flags: a dataplane, the flows that go with it, and how others look at both.
//!
//! Owns which parts belong to which flag. Leaves starting tasks to `run`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use portico_proxy_core::plan::AffinityMap;
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

use crate::{
    affinity::{CountClients, Room},
    args::{Args, DataplaneKind},
    conntrack::{self, Flows},
    dataplane::{
        Dataplane, DataplaneError, Observed,
        nftables::{Config, Nftables},
        userspace::{
            Userspace,
            counters::Counters,
            faults::{self, Fault},
            files::{self, Files},
            flows::ProxiedFlows,
            kernel_addresses,
            localhost::Localhost,
            pool::Affinity,
            proxy::Proxy,
        },
    },
    diagnose::{
        ReadKernel,
        memory::{Client, Had, Recollect},
    },
};

/// All that the sync loop and its neighbours need of a dataplane.
pub struct Carrier {
    /// Where Services are written.
    pub dataplane: Box<dyn Dataplane>,
    /// Flows that end with their endpoint.
    pub flows: Box<dyn Flows>,
    /// A look at what stands that the loop's own connection knows nothing of.
    pub read: ReadKernel,
    /// Which endpoint a client had last.
    pub recollect: Recollect,
    /// How many clients are remembered.
    pub count_clients: CountClients,
    /// What the userspace proxy, if there is one, wants owners of Services to know.
    pub faults: Option<mpsc::Receiver<Fault>>,
}

/// Puts together what the flags ask for; `config` is that of the kernel's tables.
pub fn carrier(args: &Args, config: Config, counters: &Counters) -> anyhow::Result<Carrier> {
    match args.dataplane {
        DataplaneKind::Nftables if args.traffic.nodeport_addresses.has_localhost() => {
            let (proxy, faults) = proxy(args, counters, None);
            let localhost = Localhost::new(open(config.clone())?, proxy);
            let (recollect, count_clients) = in_kernel(&config);
            Ok(Carrier {
                recollect,
                count_clients,
                flows: Box::new(ProxiedFlows::beside(localhost.sockets(), Box::new(conntrack::Kernel))),
                read: Arc::new(localhost.reader(reader(config))),
                dataplane: Box::new(localhost),
                faults: Some(faults),
            })
        }
        DataplaneKind::Nftables => {
            let (recollect, count_clients) = in_kernel(&config);
            Ok(Carrier {
                recollect,
                count_clients,
                dataplane: open(config.clone())?,
                flows: Box::new(conntrack::Kernel),
                read: Arc::new(reader(config)),
                faults: None,
            })
        }
        DataplaneKind::Userspace => {
            let config = Config { proxied: true, ..config };
            let (proxy, faults) = proxy(args, counters, Some(config.masquerade_mark));
            let (recollect, count_clients) = in_process(&proxy);
            let userspace = Userspace::new(open(config.clone())?, proxy, Box::new(kernel_addresses));
            Ok(Carrier {
                recollect,
                count_clients,
                flows: Box::new(ProxiedFlows::redirected(userspace.sockets(), Box::new(conntrack::Kernel))),
                read: Arc::new(userspace.reader(reader(config))),
                dataplane: Box::new(userspace),
                faults: Some(faults),
            })
        }
    }
}

fn open(config: Config) -> anyhow::Result<Box<dyn Dataplane>> {
    Ok(Box::new(Nftables::open(config).context("cannot open the nftables dataplane")?))
}

fn reader(config: Config) -> impl Fn() -> Result<Observed, DataplaneError> + Send + Sync + 'static {
    move || {
        let mut tables = Nftables::open(config.clone())?;
        // What the kernel lacks is not missed in its tables.
        tables.probe()?;
        tables.read()
    }
}

/// Clients that the kernel's maps remember.
fn in_kernel(config: &Config) -> (Recollect, CountClients) {
    let (lookup, count) = (config.clone(), config.clone());
    let recollect = move |client: &Client| {
        let mut tables = Nftables::open(lookup.clone())?;
        let Client { address, port, map } = client;
        Ok(tables.remembered(map, *address, port)?.map(Had::Id))
    };
    let count = move || {
        let counted = Nftables::open(count.clone())?.clients()?;
        let room =
            |(map, clients): (AffinityMap, usize)| Room { pool: map.pool, place: map.to_string(), clients };
        Ok(counted.into_iter().map(room).collect())
    };
    (Arc::new(recollect), Arc::new(count))
}

/// Clients that this process remembers.
fn in_process(proxy: &Arc<Proxy>) -> (Recollect, CountClients) {
    let (lookup, count) = (proxy.clone(), proxy.clone());
    let recollect = move |client: &Client| {
        let Client { address, port, map } = *client;
        let timeout = Duration::from_secs(map.seconds.into());
        let affinity = Affinity { port, pool: map.pool, timeout };
        Ok(lookup.clients.get(&affinity, address, Instant::now()).map(Had::Endpoint))
    };
    let room = |(pool, clients)| Room { pool, place: "in the userspace proxy".to_owned(), clients };
    let count = move || Ok(count.clients.counts().into_iter().map(room).collect());
    (Arc::new(recollect), Arc::new(count))
}

fn proxy(args: &Args, counters: &Counters, mark: Option<u32>) -> (Arc<Proxy>, mpsc::Receiver<Fault>) {
    let (faults, told) = mpsc::channel(faults::BACKLOG);
    let options = args.userspace.options(mark);
    let proxy = Proxy {
        runtime: Handle::current(),
        options,
        files: Files::new(files::raise_limit()),
        clients: Arc::default(),
        counters: counters.clone(),
        faults,
    };
    (Arc::new(proxy), told)
}
