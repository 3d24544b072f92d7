//! Dataplane setup from the flags: a dataplane, its flows, and its readers for other tasks.
//!
//! Owns which parts belong to which flag. Leaves the start of tasks to `run`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use portico_proxy_core::plan::AffinityMap;
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

use crate::{
    affinity::{CountClients, MapUsage},
    args::{Args, DataplaneKind},
    conntrack::{self, Flows},
    dataplane::{
        Dataplane, DataplaneError, Observed,
        nftables::{Config, Nftables},
        userspace::{
            Userspace,
            clients::Affinity,
            counters::Counters,
            faults::{self, Fault},
            files::{self, Files},
            flows::ProxiedFlows,
            kernel_addresses,
            localhost::Localhost,
            proxy::Proxy,
        },
    },
    diagnose::{
        ReadKernel,
        affinity::{AffinityClient, AffinityEntry, ReadAffinity},
    },
};

/// The parts of a dataplane that the sync loop and other tasks need.
pub struct DataplaneSetup {
    /// Programs Services: nftables or userspace.
    pub dataplane: Box<dyn Dataplane>,
    /// Deletes flows whose endpoint serves no more.
    pub flows: Box<dyn Flows>,
    /// Reads the programmed state on a connection of its own.
    pub read: ReadKernel,
    /// Reads the affinity entry of a client.
    pub read_affinity: ReadAffinity,
    /// Counts the clients of each affinity map.
    pub count_clients: CountClients,
    /// Reports of the userspace proxy to owners of Services, if it runs.
    pub faults: Option<mpsc::Receiver<Fault>>,
}

/// Builds the parts for the flags; `config` is that of the kernel's tables.
pub fn build(args: &Args, config: Config, counters: &Counters) -> anyhow::Result<DataplaneSetup> {
    match args.dataplane {
        DataplaneKind::Nftables if args.traffic.nodeport_addresses.has_localhost() => {
            let (proxy, faults) = proxy(args, counters, None);
            let localhost = Localhost::new(open(config.clone())?, proxy);
            let (read_affinity, count_clients) = in_kernel(&config);
            Ok(DataplaneSetup {
                read_affinity,
                count_clients,
                flows: Box::new(ProxiedFlows::beside(localhost.sockets(), Box::new(conntrack::Kernel))),
                read: Arc::new(localhost.reader(reader(config))),
                dataplane: Box::new(localhost),
                faults: Some(faults),
            })
        }
        DataplaneKind::Nftables => {
            let (read_affinity, count_clients) = in_kernel(&config);
            Ok(DataplaneSetup {
                read_affinity,
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
            let (read_affinity, count_clients) = in_process(&proxy);
            let userspace = Userspace::new(open(config.clone())?, proxy, Box::new(kernel_addresses));
            Ok(DataplaneSetup {
                read_affinity,
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

/// Affinity entries in the kernel's maps.
fn in_kernel(config: &Config) -> (ReadAffinity, CountClients) {
    let (lookup, count) = (config.clone(), config.clone());
    let read_affinity = move |client: &AffinityClient| {
        let mut tables = Nftables::open(lookup.clone())?;
        let AffinityClient { address, port, map } = client;
        Ok(tables.affinity_entry(map, *address, port)?.map(AffinityEntry::Id))
    };
    let count = move || {
        let counted = Nftables::open(count.clone())?.clients()?;
        let map = |(map, clients): (AffinityMap, usize)| MapUsage {
            pool: map.pool,
            place: map.to_string(),
            clients,
        };
        Ok(counted.into_iter().map(map).collect())
    };
    (Arc::new(read_affinity), Arc::new(count))
}

/// Affinity entries in this process.
fn in_process(proxy: &Arc<Proxy>) -> (ReadAffinity, CountClients) {
    let (lookup, count) = (proxy.clone(), proxy.clone());
    let read_affinity = move |client: &AffinityClient| {
        let AffinityClient { address, port, map } = *client;
        let timeout = Duration::from_secs(map.seconds.into());
        let affinity = Affinity { port, pool: map.pool, timeout };
        Ok(lookup.clients.get(&affinity, address, Instant::now()).map(AffinityEntry::Endpoint))
    };
    let map = |(pool, clients)| MapUsage { pool, place: "in the userspace proxy".to_owned(), clients };
    let count = move || Ok(count.clients.counts().into_iter().map(map).collect());
    (Arc::new(read_affinity), Arc::new(count))
}

fn proxy(args: &Args, counters: &Counters, mark: Option<u32>) -> (Arc<Proxy>, mpsc::Receiver<Fault>) {
    let (faults, reported) = mpsc::channel(faults::BACKLOG);
    let options = args.userspace.options(mark);
    let proxy = Proxy {
        runtime: Handle::current(),
        options,
        files: Files::new(files::raise_limit()),
        clients: Arc::default(),
        counters: counters.clone(),
        faults,
    };
    (Arc::new(proxy), reported)
}
