//! A proxy's own metrics, as far as a bench reads them: counters and histograms in Prometheus' text form.
//! Owns the request and the reading. The numbers are the proxy's own word, unlike all others of a bench.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Longest that an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A page of metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page(String);

/// One bucket: its upper bound in the metric's unit, and how many are in it or below.
type Bucket = (f64, u64);

impl Page {
    /// Fetches `/metrics` from the namespace of the calling thread.
    pub fn fetch(from: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&from, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: proxy\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Self(answer))
    }

    /// The value of a metric without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    fn buckets(&self, name: &str) -> Vec<Bucket> {
        let start = format!("{name}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        };
        self.0.lines().filter_map(bucket).collect()
    }

    /// Observations of a histogram since `before`: for each the upper bound of its bucket.
    pub fn observed_since(&self, before: &Self, name: &str) -> Vec<f64> {
        let earlier = before.buckets(name);
        let count_before = |bound: f64| {
            earlier.iter().find(|(other, _)| other.total_cmp(&bound).is_eq()).map_or(0, |(_, count)| *count)
        };
        let mut below = 0;
        let mut all = Vec::new();
        for (bound, count) in self.buckets(name) {
            let until = count.saturating_sub(count_before(bound));
            for _ in below..until {
                all.push(bound);
            }
            below = below.max(until);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_page(first: u64, second: u64, all: u64) -> Page {
        Page(format!(
            "# TYPE took histogram\ntook_bucket{{le=\"0.1\"}} {first}\ntook_bucket{{le=\"0.2\"}} {second}\n\
             took_bucket{{le=\"+Inf\"}} {all}\ntook_count {all}\nchanges_total 7\n"
        ))
    }

    #[test]
    fn observations_are_those_between_two_pages_by_the_bound_of_their_bucket() {
        let seen = mk_page(3, 5, 6).observed_since(&mk_page(2, 2, 2), "took");
        assert_eq!(seen, [0.1, 0.2, 0.2, f64::INFINITY]);
        assert!(mk_page(3, 5, 6).observed_since(&mk_page(3, 5, 6), "took").is_empty());
        assert_eq!(mk_page(1, 1, 1).observed_since(&Page::default(), "took"), [0.1]);
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        assert_eq!(mk_page(0, 0, 0).value("changes_total"), Some(7.0));
        assert_eq!(mk_page(0, 0, 0).value("changes"), None);
    }
}
