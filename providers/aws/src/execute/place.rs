//! Where a load balancer goes: subnets by tag, by name or by ID.
//!
//! Owns: finding subnets. Leaves to others: who asks. Invariant: one subnet for each zone, the same ones every time;
//! subnets that are marked as another cluster's are left out.

use std::collections::BTreeMap;

use ipnet::Ipv6Net;
use portico_provider::{ProviderError, Scheme};

use super::Executor;
use crate::cloud::Cloud;
use crate::cloud::resources::{Subnet, SubnetMapping};
use crate::translate::mapping;
use crate::wanted::Placement;

const OPERATION: &str = "choose subnets";
const CLUSTER_TAG: &str = "kubernetes.io/cluster/";

impl<C: Cloud> Executor<'_, C> {
    pub(super) async fn place(
        &self,
        scheme: Scheme,
        placement: &Placement,
    ) -> Result<Vec<SubnetMapping>, ProviderError> {
        // What was read a moment ago may lack a subnet that was made, or tagged, since.
        if let Some(Ok(found)) = self.memory.subnets().map(|kept| self.placed(&kept, scheme, placement)) {
            return Ok(found);
        }
        let all = self.batches.subnets(self.cloud, &self.config.vpc).await?;
        self.memory.saw_subnets(&all);
        self.placed(&all, scheme, placement)
    }

    fn placed(
        &self,
        all: &[Subnet],
        scheme: Scheme,
        placement: &Placement,
    ) -> Result<Vec<SubnetMapping>, ProviderError> {
        let addresses = match placement {
            Placement::Named(wishes) => return self.named(all, wishes),
            Placement::Discovered => None,
            Placement::Addressed(addresses) => Some(addresses),
        };
        let found = discovered(all, scheme, self.config.cluster_name.as_deref());
        let vpc = &self.config.vpc;
        let invalid = |message: String| Err(ProviderError::Invalid { operation: OPERATION, message });
        if found.is_empty() {
            let role = role(scheme);
            return invalid(format!(
                "no subnet of {vpc} has tag {role}=1: tag one in each zone, or name them by annotation {}",
                crate::capabilities::SUBNETS
            ));
        }
        let Some(addresses) = addresses else {
            return Ok(found.iter().map(|subnet| mapping(&subnet.id, None)).collect());
        };
        if addresses.len() != found.len() {
            return invalid(format!(
                "{} addresses for {} tagged subnets of {vpc}: name one for each",
                addresses.len(),
                found.len()
            ));
        }
        let pairs = found.iter().zip(addresses.iter().cloned());
        Ok(pairs.map(|(subnet, address)| mapping(&subnet.id, Some(address))).collect())
    }

    /// The named subnets by their IDs.
    fn named(&self, all: &[Subnet], wishes: &[SubnetMapping]) -> Result<Vec<SubnetMapping>, ProviderError> {
        let mut mappings = Vec::new();
        for wish in wishes {
            let matches = |it: &&Subnet| it.id == wish.subnet || it.tags.get("Name") == Some(&wish.subnet);
            let found = all.iter().find(matches).ok_or_else(|| ProviderError::Invalid {
                operation: OPERATION,
                message: format!(
                    "{} has no subnet {:?}: correct annotation {}",
                    self.config.vpc,
                    wish.subnet,
                    crate::capabilities::SUBNETS
                ),
            })?;
            holds(found, wish)?;
            mappings.push(SubnetMapping { subnet: found.id.clone(), ..wish.clone() });
        }
        Ok(mappings)
    }
}

/// Whether chosen IPv6 addresses and prefixes are of the subnet's own ranges.
fn holds(subnet: &Subnet, wish: &SubnetMapping) -> Result<(), ProviderError> {
    let SubnetMapping { subnet: _, allocation: _, private_address: _, ipv6_address, source_prefix } = wish;
    let address = ipv6_address.map(|it| (Ipv6Net::from(it), crate::capabilities::IPV6_ADDRESSES));
    let prefix = source_prefix.map(|it| (it, crate::capabilities::SOURCE_PREFIXES));
    let within = |net: &Ipv6Net| subnet.ipv6.iter().any(|range| range.contains(net));
    let Some((net, key)) = address.into_iter().chain(prefix).find(|(net, _)| !within(net)) else {
        return Ok(());
    };
    let ranges: Vec<String> = subnet.ipv6.iter().map(ToString::to_string).collect();
    let ranges =
        if ranges.is_empty() { "has no IPv6 range".to_owned() } else { format!("has {}", ranges.join(", ")) };
    let message = format!(
        "annotation {key}: {net} is not of {}, which {ranges}: choose from the subnet's range",
        subnet.id
    );
    Err(ProviderError::Invalid { operation: OPERATION, message })
}

fn role(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::External => "kubernetes.io/role/elb",
        Scheme::Internal => "kubernetes.io/role/internal-elb",
    }
}

/// The tagged subnets, one for each zone, in the order of the zones.
fn discovered<'a>(all: &'a [Subnet], scheme: Scheme, cluster: Option<&str>) -> Vec<&'a Subnet> {
    let is_ours = |subnet: &Subnet| {
        let mut marks = subnet.tags.keys().filter_map(|key| key.strip_prefix(CLUSTER_TAG)).peekable();
        marks.peek().is_none() || cluster.is_none_or(|cluster| marks.any(|mark| mark == cluster))
    };
    let has_role =
        |subnet: &Subnet| subnet.tags.get(role(scheme)).is_some_and(|value| value.is_empty() || value == "1");
    let mut zones: BTreeMap<&str, &Subnet> = BTreeMap::new();
    for subnet in all.iter().filter(|subnet| has_role(subnet) && is_ours(subnet)) {
        let chosen = zones.entry(subnet.zone.as_str()).or_insert(subnet);
        if subnet.id < chosen.id {
            *chosen = subnet;
        }
    }
    zones.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_subnet(id: &str, zone: &str, tags: &[(&str, &str)]) -> Subnet {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Subnet { id: id.to_owned(), zone: zone.to_owned(), ipv6: Vec::new(), tags }
    }

    #[test]
    fn one_subnet_of_each_zone_is_found_and_none_of_another_cluster() {
        let elb = ("kubernetes.io/role/elb", "1");
        let all = [
            mk_subnet("subnet-b", "z1", &[elb]),
            mk_subnet("subnet-a", "z1", &[elb]),
            mk_subnet("subnet-c", "z2", &[elb, ("kubernetes.io/cluster/theirs", "owned")]),
            mk_subnet("subnet-d", "z2", &[elb, ("kubernetes.io/cluster/ours", "shared")]),
            mk_subnet("subnet-e", "z3", &[("kubernetes.io/role/internal-elb", "1")]),
        ];
        let ids = |scheme, cluster| -> Vec<&str> {
            discovered(&all, scheme, cluster).into_iter().map(|subnet| subnet.id.as_str()).collect()
        };
        assert_eq!(ids(Scheme::External, Some("ours")), ["subnet-a", "subnet-d"]);
        assert_eq!(ids(Scheme::Internal, Some("ours")), ["subnet-e"]);
        assert_eq!(ids(Scheme::External, None), ["subnet-a", "subnet-c"]);
    }
}
