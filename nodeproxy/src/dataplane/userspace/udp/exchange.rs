//! History of one UDP flow: its last use, and the datagrams without an answer.
//!
//! Owns the end of a flow, the choice of the idlest flows, and the datagrams that go to another endpoint after
//! a refusal. Leaves sockets and tasks to the flows. Pure: every moment is an argument. Invariants: an answered
//! datagram is never sent again. No more is stored than one datagram may hold.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use portico_proxy_core::table::Backend;
use tokio::time::Instant;

/// The largest UDP payload (RFC 768: 65,535 less the header).
pub(super) const DATAGRAM: usize = 65_527;
/// Timeout of a flow with one question and its answers, as in the kernel (`nf_conntrack_udp_timeout`).
pub(super) const SHORT: Duration = Duration::from_secs(30);
/// Longest time between a datagram and a refusal of it. A refusal of an older datagram is none: the endpoint
/// existed when it arrived.
const REFUSAL: Duration = Duration::from_secs(1);
/// When files are short, one in so many of a pool's flows is closed.
const EVICTED: usize = 8;

/// Datagrams without an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Its datagrams, the oldest first.
    pub(super) questions: Vec<Vec<u8>>,
    /// Endpoints that refused them.
    pub(super) tried: Vec<Backend>,
}

/// History of a flow.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    backend: Backend,
    /// Time of the last datagram of either direction.
    used: Instant,
    questions: u64,
    answered: bool,
    unanswered: VecDeque<(Instant, Vec<u8>)>,
    tried: Vec<Backend>,
}

impl Exchange {
    /// A new flow to this endpoint, after refusals of others.
    pub(super) fn new(backend: Backend, tried: &[Backend], now: Instant) -> Self {
        let tried = tried.to_vec();
        Self { backend, used: now, questions: 0, answered: false, unanswered: VecDeque::new(), tried }
    }

    /// Records a datagram of the client.
    pub(super) fn asks(&mut self, question: &[u8], now: Instant) {
        self.used = now;
        self.questions += 1;
        self.unanswered.push_back((now, question.to_vec()));
        while self.unanswered.iter().map(|(_, question)| question.len()).sum::<usize>() > DATAGRAM {
            self.unanswered.pop_front();
        }
    }

    /// Records an answer of the endpoint.
    pub(super) fn answers(&mut self, now: Instant) {
        self.used = now;
        self.answered = true;
        self.unanswered.clear();
        self.tried.clear();
    }

    /// Records a refusal; returns the datagrams for another endpoint. Empty the second time.
    pub(super) fn refused(&mut self, now: Instant) -> Pending {
        let recent = |(asked, _): &(Instant, _)| now.saturating_duration_since(*asked) < REFUSAL;
        let questions = self.unanswered.drain(..).filter(recent).map(|(_, question)| question).collect();
        self.tried.push(self.backend);
        Pending { questions, tried: std::mem::take(&mut self.tried) }
    }

    /// Time of the last use.
    pub(super) fn used(&self) -> Instant {
        self.used
    }

    /// Whether the flow has timed out. The timeout of a question with its answers is shorter than a
    /// conversation's.
    pub(super) fn is_over(&self, udp_timeout: Duration, now: Instant) -> bool {
        let is_conversation = self.answered && self.questions > 1;
        let patience = if is_conversation { udp_timeout } else { udp_timeout.min(SHORT) };
        now.saturating_duration_since(self.used) >= patience
    }
}

/// Numbers of the flows to close when files are short, out of all with their last uses.
pub(super) fn idlest(mut flows: Vec<(Instant, u64)>) -> HashSet<u64> {
    let closed = flows.len().div_ceil(EVICTED);
    if closed < flows.len() {
        flows.select_nth_unstable(closed);
    }
    flows.into_iter().take(closed).map(|(_used, number)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::super::pool::tests::mk_backend, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn mk_exchange(now: Instant) -> Exchange {
        Exchange::new(mk_backend(1), &[], now)
    }

    fn questions(pending: Pending) -> Vec<String> {
        pending.questions.into_iter().map(|question| String::from_utf8(question).expect("text")).collect()
    }

    #[test]
    fn all_that_is_unanswered_goes_to_another_endpoint_and_only_once() {
        let now = Instant::now();
        let mut exchange = mk_exchange(now);
        exchange.asks(b"A", now);
        exchange.asks(b"AAAA", now);
        assert_eq!(questions(exchange.refused(now)), ["A", "AAAA"]);
        assert_eq!(questions(exchange.refused(now)), [""; 0]);
    }

    #[test]
    fn a_question_is_not_kept_after_its_answer() {
        let now = Instant::now();
        let mut exchange = mk_exchange(now);
        exchange.asks(b"first", now);
        exchange.answers(now);
        assert_eq!(questions(exchange.clone().refused(now)), [""; 0]);
        exchange.asks(b"second", now);
        assert_eq!(questions(exchange.refused(now)), ["second"]);
    }

    #[test]
    fn a_refusal_is_about_what_was_said_just_before() {
        let start = Instant::now();
        let mut exchange = mk_exchange(start);
        exchange.asks(b"old", start);
        exchange.asks(b"new", start + REFUSAL / 2);
        assert_eq!(questions(exchange.refused(start + REFUSAL)), ["new"]);
    }

    #[test]
    fn no_more_is_kept_than_a_datagram_may_hold() {
        let now = Instant::now();
        let mut exchange = mk_exchange(now);
        for length in [DATAGRAM, 1, DATAGRAM - 1] {
            exchange.asks(&vec![b'?'; length], now);
        }
        let lengths: Vec<_> = exchange.refused(now).questions.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, DATAGRAM - 1], "the newest");
    }

    #[test]
    fn endpoints_that_refused_are_passed_on_until_one_answers() {
        let now = Instant::now();
        let tried = |exchange: &Exchange| exchange.clone().refused(now).tried;
        let mut exchange = Exchange::new(mk_backend(2), &[mk_backend(1)], now);
        assert_eq!(tried(&exchange), [1, 2].map(mk_backend));
        exchange.answers(now);
        assert_eq!(tried(&exchange), [mk_backend(2)], "the first may be back when the second goes");
    }

    /// Timeout of a flow with so many questions and answers, in seconds after its last datagram.
    fn patience(questions: u64, answers: u64, udp_timeout: u64) -> Duration {
        let (start, udp_timeout) = (Instant::now(), Duration::from_secs(udp_timeout));
        let last = start + 100 * SECOND;
        let mut exchange = mk_exchange(start);
        (0..questions).for_each(|_| exchange.asks(b"?", last));
        (0..answers).for_each(|_| exchange.answers(last));
        let over = |seconds: &u32| exchange.is_over(udp_timeout, last + *seconds * SECOND);
        let first = (0..1000).find(over).expect("once");
        assert!((first..1000).all(|seconds| over(&seconds)), "and for ever");
        first * SECOND
    }

    #[test]
    fn a_conversation_may_be_idle_for_the_configured_time_and_anything_less_for_a_short_one() {
        for (questions, answers, udp_timeout, expected) in [
            (2, 1, 120, 120 * SECOND),
            (2, 1, 300, 300 * SECOND),
            (2, 1, 10, 10 * SECOND),
            (1, 1, 120, SHORT),
            (1, 9, 120, SHORT),
            (9, 0, 120, SHORT),
            (1, 1, 10, 10 * SECOND),
        ] {
            let about = format!("{questions} questions, {answers} answers, --udp-timeout={udp_timeout}");
            assert_eq!(patience(questions, answers, udp_timeout), expected, "{about}");
        }
    }

    #[test]
    fn either_side_keeps_a_flow_alive() {
        let start = Instant::now();
        let mut exchange = mk_exchange(start);
        exchange.asks(b"?", start + 5 * SECOND);
        assert_eq!(exchange.used(), start + 5 * SECOND);
        exchange.answers(start + 9 * SECOND);
        assert_eq!(exchange.used(), start + 9 * SECOND);
    }

    #[test]
    fn one_in_eight_flows_makes_room_the_idlest_first() {
        let start = Instant::now();
        // Flow 0 was used last, flow 1 before, and so on.
        let mk_flows = |count: u64| {
            (0..count).map(|number| (start + Duration::from_secs(100 - number), number)).collect()
        };
        let closed = |count| {
            let mut closed: Vec<_> = idlest(mk_flows(count)).into_iter().collect();
            closed.sort_unstable();
            closed
        };
        assert_eq!(closed(0), [0u64; 0]);
        assert_eq!(closed(1), [0]);
        assert_eq!(closed(4), [3]);
        assert_eq!(closed(17), [14, 15, 16]);
    }

    #[test]
    fn flows_that_were_used_at_the_same_moment_do_not_all_make_room() {
        let now = Instant::now();
        assert_eq!(idlest((0..16).map(|number| (now, number)).collect()), HashSet::from([0, 1]));
    }
}
