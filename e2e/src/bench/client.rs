//! The client of the measurements: blocking sockets, in the thread and namespace of the caller. Every connection is new,
//! and reads the one byte that names the endpoint. It ends with a reset, so that neither side keeps a `TIME_WAIT` and
//! source ports do not run out.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

/// How long one try may take. A SYN that meets no rule yet gets no answer; a try that waited longer would blur the moment
/// at which the rule was there.
const TRY: Duration = Duration::from_millis(20);

/// Pause between tries, which leaves the processor to the proxy that is being measured.
const PAUSE: Duration = Duration::from_micros(100);

/// The endpoint that answered, by the byte that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub u8);

/// Opens one connection: who answered, and how long the connect took (without reading the answer).
pub fn connect(to: SocketAddr, limit: Duration) -> io::Result<(Identity, Duration)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    let took = start.elapsed();
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(limit))?;
    let mut identity = [0];
    stream.read_exact(&mut identity)?;
    Ok((Identity(identity[0]), took))
}

/// Connects to `to` until `wanted` answers; when that was. None: not before `deadline`.
pub fn until_answered_by(to: SocketAddr, wanted: Identity, deadline: Instant) -> Option<Instant> {
    until(deadline, || matches!(connect(to, TRY), Ok((identity, _)) if identity == wanted))
}

/// Connects to each of `targets` until all have answered; when the last one did. The error is the first one that had not
/// answered before `deadline`. One after the other is enough: a Service that answered keeps answering.
pub fn until_all_answer(targets: &[SocketAddr], deadline: Instant) -> Result<Instant, SocketAddr> {
    let mut last = Instant::now();
    for target in targets {
        last = until(deadline, || connect(*target, TRY).is_ok()).ok_or(*target)?;
    }
    Ok(last)
}

fn until(deadline: Instant, mut is_done: impl FnMut() -> bool) -> Option<Instant> {
    while Instant::now() < deadline {
        if is_done() {
            return Some(Instant::now());
        }
        thread::sleep(PAUSE);
    }
    None
}

/// Result of one window of a closed loop.
#[derive(Clone, Debug)]
pub struct Window {
    /// How long each successful connect took.
    pub connects: Vec<Duration>,
    /// How many connections failed.
    pub failures: usize,
    /// How long the window really was.
    pub length: Duration,
}

impl Window {
    /// Connections a second.
    pub fn rate(&self) -> anyhow::Result<f64> {
        Ok(f64::from(u32::try_from(self.connects.len())?) / self.length.as_secs_f64())
    }
}

/// Opens connections to `targets` in turn, each as soon as the one before is done, for `length`.
pub fn closed_loop(targets: &[SocketAddr], length: Duration) -> Window {
    let limit = Duration::from_millis(500); // beyond this a SYN was lost, and the next retry would hide it
    let (mut connects, mut failures) = (Vec::new(), 0);
    let start = Instant::now();
    for target in targets.iter().cycle() {
        if start.elapsed() >= length {
            break;
        }
        match connect(*target, limit) {
            Ok((_, took)) => connects.push(took),
            Err(_lost) => failures += 1,
        }
    }
    Window { connects, failures, length: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::TcpListener};

    use super::*;

    /// Answers the first connection with `first`, all later ones with `then`.
    fn mk_server(first: u8, then: u8) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        thread::spawn(move || {
            let answers = [first].into_iter().chain(std::iter::repeat(then));
            for (stream, answer) in listener.incoming().zip(answers) {
                let _client_gone = stream.and_then(|mut stream| stream.write_all(&[answer]));
            }
        });
        address
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn an_answer_of_another_endpoint_does_not_count() {
        let address = mk_server(1, 2);
        assert!(until_answered_by(address, Identity(2), soon()).is_some());
        assert!(
            until_answered_by(address, Identity(1), Instant::now() + Duration::from_millis(50)).is_none()
        );
    }

    #[test]
    fn the_target_that_does_not_answer_is_named() {
        let (open, closed) = (mk_server(1, 1), SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(until_all_answer(&[open, open], soon()).is_ok());
        let silent = until_all_answer(&[open, closed], Instant::now() + Duration::from_millis(50));
        assert_eq!(silent.err(), Some(closed));
    }

    #[test]
    fn a_closed_loop_counts_successes_and_failures_apart() {
        let window = closed_loop(&[mk_server(1, 1)], Duration::from_millis(50));
        assert!(!window.connects.is_empty() && window.failures == 0, "{window:?}");
        let window = closed_loop(&[SocketAddr::from(([127, 0, 0, 1], 1))], Duration::from_millis(5));
        assert!(window.connects.is_empty() && window.failures > 0, "{window:?}");
    }
}
