//! Other Service proxies on this node. Two of them work until they disagree, so the proxy warns about them.

use portico_netlink::nftables::{Client, Family, Table};

/// Names of the tables and chains of other proxies. iptables rules are found if they are nf_tables underneath
/// (`iptables-nft`).
pub(super) fn find(client: &mut Client) -> portico_netlink::Result<Vec<String>> {
    let mut found = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        for Table { family, name } in client.tables(family)? {
            match name.as_str() {
                "kube-proxy" => found.push(format!(
                    "kube-proxy's table {family} {name} (nftables mode): stop kube-proxy on this node, then `kube-proxy \
                     --cleanup` or `nft delete table {family} {name}` removes it"
                )),
                "nat" => {
                    let chains = client.chains(&Table { family, name })?;
                    if chains.iter().any(|chain| chain.name == "KUBE-SERVICES") {
                        found.push(format!(
                            "kube-proxy's chain KUBE-SERVICES in table {family} nat (iptables mode): stop kube-proxy on this \
                             node, then `kube-proxy --cleanup` removes it"
                        ));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}
