//! How much a proxy has received from the API server, as its sockets say (`ss -i`). Owns the question and the reading.

use super::testbed::Testbed;

/// Bytes received on the connections to the API server that are open on the proxies' node; no other process there has any.
pub async fn received(testbed: &Testbed) -> anyhow::Result<u64> {
    Ok(parse(&testbed.on_node(&["ss", "-tinH", "dport", "=", ":6443"]).await?))
}

fn parse(sockets: &str) -> u64 {
    let counts = sockets.split_whitespace().filter_map(|word| word.strip_prefix("bytes_received:"));
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_count() {
        let sockets = "ESTAB 0 0 172.30.1.1:5 172.30.0.1:6443\n\t cubic bytes_acked:9 bytes_received:100 segs_in:3\n\
                       ESTAB 0 0 172.30.1.1:6 172.30.0.1:6443\n\t cubic bytes_received:11\n";
        assert_eq!(parse(sockets), 111);
        assert_eq!(parse(""), 0);
    }
}
