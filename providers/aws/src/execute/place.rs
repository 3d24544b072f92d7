//! The subnets of a load balancer: by tag, by name or by ID.
//!
//! Owns: finding subnets. Leaves to others: who asks. Invariants: discovery takes one subnet of each zone, the same
//! one every time, with room where any of the zone has. It takes none that is marked as another cluster's, and none of a
//! Local Zone. Ambiguous names, and subnets that AWS would refuse, are reported by their IDs.

use std::collections::BTreeMap;

use ipnet::Ipv6Net;
use portico_provider::{ProviderError, Scheme};

use super::Executor;
use crate::cloud::resources::{Subnet, SubnetMapping};
use crate::wanted::mapping;
use crate::wanted::{Addressing, Placement};

const OPERATION: &str = "choose subnets";
const CLUSTER_TAG: &str = "kubernetes.io/cluster/";

impl Executor<'_> {
    /// `least`: so many addresses have to be free in a named subnet.
    pub(super) async fn place(
        &self,
        scheme: Scheme,
        placement: &Placement,
        least: u32,
    ) -> Result<Vec<SubnetMapping>, ProviderError> {
        // What was read a moment ago may lack a subnet that was made, or tagged, since.
        if let Some(Ok(found)) = self.cache.subnets().map(|kept| self.placed(&kept, scheme, placement, least))
        {
            return Ok(found);
        }
        let all = self.batches.subnets(&self.config.vpc).await?;
        self.cache.saw_subnets(&all);
        self.placed(&all, scheme, placement, least)
    }

    fn placed(
        &self,
        all: &[Subnet],
        scheme: Scheme,
        placement: &Placement,
        least: u32,
    ) -> Result<Vec<SubnetMapping>, ProviderError> {
        let addresses = match placement {
            Placement::Named(wishes) => return self.named(all, wishes, least),
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
        paired(vpc, found, addresses.map(Vec::as_slice)).or_else(invalid)
    }

    /// The named subnets by their IDs.
    fn named(
        &self,
        all: &[Subnet],
        wishes: &[SubnetMapping],
        least: u32,
    ) -> Result<Vec<SubnetMapping>, ProviderError> {
        let (mut mappings, mut chosen) = (Vec::new(), Vec::new());
        for wish in wishes {
            let found = one(&self.config.vpc, all, &wish.subnet).map_err(|why| refused(&why))?;
            holds(found, wish)?;
            chosen.push(found);
            mappings.push(SubnetMapping { subnet: found.id.clone(), ..wish.clone() });
        }
        fit(&chosen, least).map_err(|why| refused(&why))?;
        Ok(mappings)
    }
}

fn refused(why: &str) -> ProviderError {
    let message = format!("annotation {}: {why}", crate::capabilities::SUBNETS);
    ProviderError::Invalid { operation: OPERATION, message }
}

/// The discovered subnets, with their addresses: given ones are counted against all, as a full subnet may have room again.
fn paired(
    vpc: &str,
    found: Vec<&Subnet>,
    addresses: Option<&[Addressing]>,
) -> Result<Vec<SubnetMapping>, String> {
    if let Some(addresses) = addresses.filter(|addresses| addresses.len() != found.len()) {
        let (given, tagged) = (addresses.len(), found.len());
        return Err(format!("{given} addresses for {tagged} tagged subnets of {vpc}: name one for each"));
    }
    let (roomy, full): (Vec<&Subnet>, Vec<&Subnet>) = found.into_iter().partition(|subnet| subnet.has_room());
    match addresses {
        Some(_) if !full.is_empty() => Err(self::full(&full)),
        None if roomy.is_empty() => Err(self::full(&full)),
        None => Ok(roomy.iter().map(|subnet| mapping(&subnet.id, None)).collect()),
        Some(addresses) => {
            let pairs = roomy.iter().zip(addresses.iter().cloned());
            Ok(pairs.map(|(subnet, address)| mapping(&subnet.id, Some(address))).collect())
        }
    }
}

/// The subnet of this ID, or the only one of this name.
fn one<'a>(vpc: &str, all: &'a [Subnet], wish: &str) -> Result<&'a Subnet, String> {
    if let Some(found) = all.iter().find(|it| it.id == wish) {
        return Ok(found);
    }
    let named: Vec<&Subnet> =
        all.iter().filter(|it| it.tags.get("Name").is_some_and(|name| name == wish)).collect();
    match named.as_slice() {
        [] => Err(format!("{vpc} has no subnet {wish:?}: correct it")),
        [found] => Ok(found),
        several => {
            let ids: Vec<&str> = several.iter().map(|it| it.id.as_str()).collect();
            Err(format!("{wish:?} is the name of {}: name them by their IDs", ids.join(", ")))
        }
    }
}

/// Whether a load balancer can be in all of these.
fn fit(chosen: &[&Subnet], least: u32) -> Result<(), String> {
    for (n, subnet) in chosen.iter().enumerate() {
        match chosen[..n].iter().find(|it| it.zone == subnet.zone) {
            Some(same) if same.id == subnet.id => {
                return Err(format!("{} is named twice: name it once", subnet.id));
            }
            Some(other) => {
                let (one, two) = (&other.id, &subnet.id);
                return Err(format!(
                    "{one} and {two} are both in zone {}: name one of each zone",
                    subnet.zone
                ));
            }
            None => {}
        }
    }
    let full: Vec<&Subnet> =
        chosen.iter().copied().filter(|it| it.free.is_some_and(|free| free < least)).collect();
    if full.is_empty() { Ok(()) } else { Err(self::full(&full)) }
}

/// The message for subnets without room.
fn full(subnets: &[&Subnet]) -> String {
    let each = subnets.iter().map(|it| format!("{} has {}", it.id, it.free.unwrap_or_default()));
    format!(
        "a load balancer needs {} free addresses in each of its subnets: {}: free some, or take other subnets",
        Subnet::LEAST,
        each.collect::<Vec<_>>().join(", ")
    )
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

/// The tagged subnets, one for each zone, in the order of the zones; with room, where any of the zone has.
fn discovered<'a>(all: &'a [Subnet], scheme: Scheme, cluster: Option<&str>) -> Vec<&'a Subnet> {
    let is_ours = |subnet: &Subnet| {
        let mut marks = subnet.tags.keys().filter_map(|key| key.strip_prefix(CLUSTER_TAG)).peekable();
        marks.peek().is_none() || cluster.is_none_or(|cluster| marks.any(|mark| mark == cluster))
    };
    let has_role =
        |subnet: &Subnet| subnet.tags.get(role(scheme)).is_some_and(|value| value.is_empty() || value == "1");
    let mut zones: BTreeMap<&str, &Subnet> = BTreeMap::new();
    for subnet in all.iter().filter(|subnet| has_role(subnet) && is_ours(subnet) && !subnet.is_local()) {
        let chosen = zones.entry(subnet.zone.as_str()).or_insert(subnet);
        let rank = |it: &Subnet| (!it.has_room(), it.id.clone());
        if rank(subnet) < rank(chosen) {
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
        Subnet { id: id.to_owned(), zone: zone.to_owned(), ipv6: Vec::new(), free: None, tags }
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

    #[test]
    fn subnets_with_room_come_first_and_local_zones_not_at_all() {
        let elb = ("kubernetes.io/role/elb", "1");
        let with = |id, zone, free| Subnet { free: Some(free), ..mk_subnet(id, zone, &[elb]) };
        let all = [
            with("subnet-a", "us-east-1a", 7),
            with("subnet-b", "us-east-1a", 8),
            with("subnet-c", "us-east-1b", 3),
            with("subnet-d", "us-east-1-bos-1a", 200),
            with("subnet-e", "us-east-1-wl1-bos-wlz-1", 200),
        ];
        let found = discovered(&all, Scheme::External, None);
        let ids: Vec<&str> = found.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["subnet-b", "subnet-c"]);
        assert!(!found[1].has_room(), "it is the only one of its zone");
        for zone in ["us-east-1a", "us-gov-west-1b", "ap-southeast-2c", "cn-north-1a"] {
            assert!(!mk_subnet("s", zone, &[]).is_local(), "{zone}");
        }
    }

    #[test]
    fn given_addresses_count_against_full_subnets_too_and_wait_for_room() {
        let with = |id, zone, free| Subnet { free: Some(free), ..mk_subnet(id, zone, &[]) };
        let (a, b, full) = (with("a", "z1", 8), with("b", "z2", 9), with("c", "z3", 7));
        let addresses =
            ["eipalloc-1", "eipalloc-2", "eipalloc-3"].map(|id| Addressing::Allocation(id.to_owned()));
        let paired = |found: &[&Subnet], given: Option<usize>| -> Result<Vec<String>, String> {
            let pairs = paired("vpc-1", found.to_vec(), given.map(|given| &addresses[..given]))?;
            let word = |it: SubnetMapping| format!("{} {}", it.subnet, it.allocation.unwrap_or_default());
            Ok(pairs.into_iter().map(word).collect())
        };
        let words = |all: &[&str]| Ok(all.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(paired(&[&a, &full, &b], None), words(&["a ", "b "]));
        assert_eq!(paired(&[&a, &b], Some(2)), words(&["a eipalloc-1", "b eipalloc-2"]));
        let is_full = "a load balancer needs 8 free addresses in each of its subnets: c has 7";
        for (found, given, part) in [
            (&[&a, &b, &full] as &[&Subnet], Some(3), is_full),
            (&[&a, &b, &full], Some(2), "2 addresses for 3 tagged subnets of vpc-1: name one for each"),
            (&[&a, &b], Some(3), "3 addresses for 2 tagged subnets of vpc-1: name one for each"),
            (&[&full], None, is_full),
        ] {
            let why = paired(found, given).unwrap_err();
            assert!(why.starts_with(part), "{why}");
        }
    }

    #[test]
    fn a_refused_subnet_is_reported_with_the_remedy() {
        let name =
            |id, zone, name, free| Subnet { free: Some(free), ..mk_subnet(id, zone, &[("Name", name)]) };
        let all = [
            name("subnet-a", "z1", "private", 100),
            name("subnet-b", "z2", "private", 100),
            name("subnet-c", "z3", "own", 100),
            name("subnet-d", "z3", "full", 5),
        ];
        let named = |wishes: &[&str]| -> Result<Vec<&str>, String> {
            let found = wishes.iter().map(|wish| one("vpc-1", &all, wish)).collect::<Result<Vec<_>, _>>()?;
            fit(&found, Subnet::LEAST)?;
            Ok(found.into_iter().map(|it| it.id.as_str()).collect())
        };
        assert_eq!(named(&["subnet-a", "own"]), Ok(vec!["subnet-a", "subnet-c"]));
        for (wishes, part) in [
            (&["private"] as &[&str], "is the name of subnet-a, subnet-b: name them by their IDs"),
            (&["subnet-a", "subnet-a"], "subnet-a is named twice"),
            (&["own", "subnet-c"], "subnet-c is named twice"),
            (&["own", "subnet-d"], "subnet-c and subnet-d are both in zone z3"),
            (&["full"], "8 free addresses in each of its subnets: subnet-d has 5"),
            (&["none"], "vpc-1 has no subnet"),
        ] {
            let why = named(wishes).unwrap_err();
            assert!(why.contains(part), "{wishes:?}: {why}");
        }
    }
}
