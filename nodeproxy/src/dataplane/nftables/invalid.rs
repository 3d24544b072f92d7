//! Number of dropped invalid packets of pods (docs/nftables.md, "Invalid packets").
//!
//! Owns reading the counters, once for each scrape. They restart with the table.

use std::fmt;

use portico_netlink::nftables::{Client, Expression, Packets};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

use super::{FAMILIES, kernel_family, names};

/// The metric `portico_nodeproxy_invalid_packets_dropped_total`.
#[derive(Debug)]
pub struct DroppedInvalid;

/// Sum of the counters in the tables of this network namespace.
pub fn dropped() -> portico_netlink::Result<u64> {
    let mut client = Client::open()?;
    let mut dropped = 0;
    for family in FAMILIES.map(kernel_family) {
        let table = names::table(family);
        if !client.tables(family)?.contains(&table) {
            continue;
        }
        let rules = client.rules(&table)?;
        let counts = rules.iter().flat_map(|rule| &rule.expressions).map(|expression| match expression {
            Expression::Counter(Packets(packets)) => *packets,
            _ => 0,
        });
        dropped += counts.sum::<u64>();
    }
    Ok(dropped)
}

impl Collector for DroppedInvalid {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = match dropped() {
            Ok(dropped) => ConstCounter::new(dropped),
            Err(error) => {
                tracing::warn!(%error, "the counters of dropped packets were not read");
                return Ok(());
            }
        };
        let help = "TCP packets of pods that connection tracking took for invalid and the proxy dropped";
        let name = "portico_nodeproxy_invalid_packets_dropped";
        dropped.encode(encoder.encode_descriptor(name, help, None, dropped.metric_type())?)
    }
}
