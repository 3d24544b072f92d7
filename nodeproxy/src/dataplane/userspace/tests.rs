//! The whole dataplane over a kernel in memory, with real sockets on loopback.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use portico_proxy_core::table::{AFFINITY_TAG, Alias, Balance, List, Pick, Protocol, Recall, Verdict};
use tokio::sync::mpsc;

use super::{
    counters::Counters,
    faults::{Fault, Why},
    files::Files,
    pool::Choice,
    proxy::Options,
    *,
};
use crate::sync::fake::FakeKernel;

mod connections;
mod datagrams;
mod sockets;

/// How long an answer may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn mk_proxy(files: u64) -> (Arc<Proxy>, mpsc::Receiver<Fault>) {
    let (faults, reported) = mpsc::channel(faults::BACKLOG);
    let options = Options { choice: Choice::RoundRobin, udp_timeout: Duration::from_mins(2), mark: None };
    let proxy = Proxy {
        runtime: tokio::runtime::Handle::current(),
        options,
        files: Files::new(files),
        clients: Arc::default(),
        counters: Counters::default(),
        faults,
    };
    (Arc::new(proxy), reported)
}

/// A node whose address is 127.0.0.1, which stands for one that is not loopback.
struct Bench {
    kernel: FakeKernel,
    dataplane: Userspace,
    faults: mpsc::Receiver<Fault>,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    stands: State,
}

impl Bench {
    fn new() -> Self {
        Self::over(FakeKernel::default(), 100_000)
    }

    fn over(kernel: FakeKernel, files: u64) -> Self {
        let (proxy, faults) = mk_proxy(files);
        let addresses = Arc::new(Mutex::new(vec![IpAddr::from([127, 0, 0, 1])]));
        let node = addresses.clone();
        let list: Addresses = Box::new(move || Ok(node.lock().expect("no panic").clone()));
        let dataplane = Userspace::new(Box::new(kernel.clone()), proxy, list);
        Self { kernel, dataplane, faults, addresses, stands: State::default() }
    }

    /// Commits both phases, like the sync loop.
    fn sync(&mut self, desired: &State) {
        let observed = self.dataplane.read().expect("reads").state;
        let plan = diff(&observed, desired);
        self.dataplane.apply(&plan.additive).expect("commits");
        self.dataplane.apply(&plan.destructive).expect("commits");
        self.stands = desired.clone();
        let observed = self.dataplane.read().expect("reads");
        assert_eq!((observed.rebuild, observed.state.elements), (None, desired.elements.clone()));
    }

    /// The socket to which the kernel redirects clients of a frontend.
    fn redirect(&self, frontend: Frontend) -> Option<SocketAddr> {
        let inside = self.kernel.inside();
        let leads = inside.state.elements.contains_key(&Key::Service(frontend));
        match inside.state.elements.get(&Key::Endpoint(frontend, 0)) {
            Some(Value::Backend(Backend { address, port })) if leads => Some((*address, *port).into()),
            _ => None,
        }
    }

    fn dial(&self, frontend: Frontend) -> TcpStream {
        let stream = TcpStream::connect(self.redirect(frontend).expect("redirected")).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// Which server answers.
    fn ask(&self, frontend: Frontend) -> String {
        say(self.dial(frontend))
    }
}

fn say(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).map_or_else(|error| format!("{:?}", error.kind()), |_| text)
}

fn mk_frontend(number: u8, protocol: Protocol) -> Frontend {
    Frontend { address: [10, 96, 0, number].into(), protocol, port: 80 }
}

fn mk_state(frontend: Frontend, backends: &[Backend], affinity: Option<u32>) -> State {
    let mut state = State::default();
    let endpoints = u32::try_from(backends.len()).expect("few");
    let (list, masquerade, protocol) = (List::Cluster, true, frontend.protocol);
    if backends.is_empty() {
        state.insert(Key::NoEndpoints(frontend), Value::Verdict(Verdict::Reject));
        return state;
    }
    let Some(seconds) = affinity else {
        let balance = Balance { endpoints, list, masquerade };
        state.insert(Key::Service(frontend), Value::Verdict(Verdict::Balance(balance)));
        for (slot, backend) in (0..).zip(backends) {
            state.insert(Key::Endpoint(frontend, slot), Value::Backend(*backend));
        }
        return state;
    };
    let alias = Alias { address: [240, 0, 0, 1].into(), protocol };
    let recall = Recall { seconds, pool: 1, list, masquerade };
    state.insert(Key::Service(frontend), Value::Verdict(Verdict::Recall(recall)));
    state.insert(Key::AffinityPort(frontend), Value::Alias(alias.address));
    let pick = Verdict::Pick(Pick { endpoints, list });
    state.insert(Key::AffinityPick(alias, list), Value::Verdict(pick));
    for (slot, backend) in (0..).zip(backends) {
        let id = AFFINITY_TAG | u32::from(backend.port);
        state.insert(Key::AffinitySlot(alias, slot), Value::Id(id));
        state.insert(Key::AffinityEndpoint(alias, list, id), Value::Backend(*backend));
    }
    state
}

/// A server that says its name and closes.
fn mk_server(name: &'static str) -> Backend {
    mk_custom_server(move |mut client| drop(client.write_all(name.as_bytes())))
}

fn mk_custom_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(client));
        }
    });
    Backend { address: address.ip(), port: address.port() }
}

/// An address where nobody listens, and where no other test will: the port is taken, for as long as the tests run.
fn mk_dead() -> Backend {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("any port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    std::mem::forget(socket);
    Backend { address: address.ip(), port: address.port() }
}
