//! UDP clients and their endpoints; the life of a flow is tested in `udp`.

use std::net::UdpSocket;

use super::*;

/// A UDP server that says its name and the port it sees.
fn mk_udp_server(name: &'static str) -> Backend {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(format!("{name} {}", from.port()).as_bytes(), from));
        }
    });
    Backend { address: address.ip(), port: address.port() }
}

fn mk_client() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn ask_udp(client: &UdpSocket, to: SocketAddr) -> String {
    client.send_to(b"?", to).expect("sends");
    let mut buffer = [0; 64];
    let (length, from) = client.recv_from(&mut buffer).expect("is answered");
    assert_eq!(from, to, "the answer comes from where the question went");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_udp_client_has_a_flow_with_a_socket_of_its_own_until_its_endpoint_leaves() {
    let mut bench = Bench::new();
    let f = mk_frontend(1, Protocol::Udp);
    let (one, two) = (mk_udp_server("one"), mk_udp_server("two"));
    bench.sync(&mk_state(f, &[one, two], None));
    let to = bench.redirect(f).expect("redirected");
    let (first, second) = (mk_client(), mk_client());
    let (of_first, of_second) = (ask_udp(&first, to), ask_udp(&second, to));
    assert_ne!(of_first, of_second, "another endpoint and another socket");
    for _ in 0..5 {
        assert_eq!((ask_udp(&first, to), ask_udp(&second, to)), (of_first.clone(), of_second.clone()));
    }
    let (stays, goes) = if of_first.starts_with("one") { (one, two) } else { (two, one) };
    bench.sync(&mk_state(f, &[stays], None));
    assert_eq!(ask_udp(&second, to), of_second, "an endpoint that only takes no new flows keeps its own");
    assert_eq!(bench.dataplane.sockets().keep_flows(f, &BTreeSet::from([stays])), 1);
    assert_eq!(ask_udp(&first, to), of_first, "flows to endpoints that stay are not touched");
    let name = of_first.split(' ').next().expect("a name");
    assert!(ask_udp(&second, to).starts_with(name), "{goes} is gone");
}
