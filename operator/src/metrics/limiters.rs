//! Metrics of the provider's rate limiters, read when they are scraped.
//!
//! Owns: names and labels. Leaves to others: the limiters (`portico-limits`).
//! Invariant: labels are classes of calls and priorities, which are few and fixed.

use std::fmt;
use std::sync::Arc;

use portico_limits::{Limiter, Priority, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A collector of the limiters' state.
#[derive(Debug)]
pub(crate) struct LimiterMetrics(pub(crate) Vec<Arc<Limiter>>);

impl Collector for LimiterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshots: Vec<Snapshot> = self.0.iter().map(|limiter| limiter.snapshot()).collect();
        let mut family = |name: &str, help: &str, kind, metric: &dyn Fn(&Snapshot) -> Value| {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            snapshots.iter().try_for_each(|snapshot| {
                metric(snapshot).encode(family.encode_family(&[("class", snapshot.class)])?)
            })
        };
        family(
            "portico_operator_api_rate",
            "Calls a second that the provider's API is found to allow",
            MetricType::Gauge,
            &|it| Value::Gauge(it.rate),
        )?;
        family("portico_operator_api_calls", "Calls to the provider's API", MetricType::Counter, &|it| {
            Value::Counter(it.admitted)
        })?;
        family(
            "portico_operator_api_throttled",
            "Calls that the provider's API refused as too many",
            MetricType::Counter,
            &|it| Value::Counter(it.throttled),
        )?;
        family(
            "portico_operator_api_wait_duration_seconds",
            "Time that calls to the provider's API have waited for their turn",
            MetricType::Counter,
            &|it| Value::Seconds(it.waited.as_secs_f64()),
        )?;
        let help = "Calls to the provider's API that wait for their turn";
        let mut waiting =
            encoder.encode_descriptor("portico_operator_api_waiting", help, None, MetricType::Gauge)?;
        for Snapshot { class, waiting: counts, .. } in &snapshots {
            for (priority, count) in Priority::ALL.into_iter().zip(counts) {
                let labels = [("class", *class), ("priority", priority.word())];
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                ConstGauge::new(count).encode(waiting.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

enum Value {
    Gauge(f64),
    Counter(u64),
    Seconds(f64),
}

impl Value {
    fn encode(self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Gauge(value) => ConstGauge::new(value).encode(encoder),
            Self::Counter(value) => ConstCounter::new(value).encode(encoder),
            Self::Seconds(value) => ConstCounter::new(value).encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use portico_limits::Limit;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn each_class_is_shown_with_its_rate_and_who_waits() {
        let limiter = Arc::new(Limiter::new("elb-reads", Limit { burst: 2.0, rate: 10.0 }));
        let call = || async { Ok::<(), ()>(()) };
        limiter.call(Priority::Targets, call, |_answer| false).await.unwrap();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(LimiterMetrics(vec![limiter])));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"portico_operator_api_rate{class="elb-reads"} 10.0"#,
            r#"portico_operator_api_calls_total{class="elb-reads"} 1"#,
            r#"portico_operator_api_waiting{class="elb-reads",priority="background"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
