//! Callers that go away.

use futures::FutureExt as _;

use super::*;
use crate::api::{Put, Spec};
use crate::daemon::ipam::Ipam;
use crate::daemon::placement::Placement;
use crate::daemon::registry::{Registry, Setup};
use crate::daemon::store::Store;
use crate::dataplane::metrics::Metrics;
use crate::dataplane::{Shared, Timing};

fn mk_setup(directory: &Path, range: &str) -> Setup {
    let minute = Duration::from_mins(1);
    let timing = Timing { drain: minute, udp_idle: minute, connect: minute };
    Setup {
        ipam: Ipam::new(vec![range.parse().unwrap()]),
        placement: Placement::Loopback,
        store: Store::open(directory).unwrap(),
        provisioning_delay: Duration::ZERO,
        shared: Shared { timing, metrics: Arc::new(Metrics::default()) },
    }
}

fn mk_put(port: u16) -> Put {
    let Owner { name, .. } = mk_owner("c", "s");
    let key = ListenerKey { protocol: Protocol::Tcp, port: mk_port(port) };
    let spec = Spec::plain([(key, BTreeSet::new())].into());
    Put { name, spec, claim: BTreeSet::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_whose_caller_goes_away_is_done_as_a_whole() {
    let directory = TempDir::new().unwrap();
    let registry = Registry::start(mk_setup(directory.path(), "127.208.0.0/24")).await.unwrap();
    let owner = mk_owner("c", "s");
    let view = registry.put(owner.clone(), mk_put(8080)).await.unwrap();
    let address = *view.addresses.first().unwrap();
    // It closes a listener, so it cannot be done at once; its caller asks once and never again.
    assert!(registry.put(owner, mk_put(8081)).now_or_never().is_none());
    let address = SocketAddr::new(address, 8081);
    let opened = tokio::time::timeout(Duration::from_secs(10), async {
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        while tokio::net::TcpStream::connect(address).await.is_err_and(refused) {
            tokio::task::yield_now().await;
        }
    });
    assert!(opened.await.is_ok(), "the change was left half done");
}
