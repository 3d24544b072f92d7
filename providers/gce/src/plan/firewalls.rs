//! Who may send: Google's probes, the Service's clients, and on request nobody else.
//!
//! Owns: the firewalls of each family; one firewall cannot mix them. Leaves to others: when they change (`plan`).
//! Invariants: what is let in is widened first and narrowed last; a firewall without senders would let in everybody, so
//! none is ever made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use portico_provider::{IpFamily, Protocol, Scheme};

use super::address;
use crate::observed::frontends::existing_frontends;
use crate::plan::draft::Draft;
use crate::resource::{Firewall, Id, Kind, Resource, Verdict};
use crate::wanted::{Frontend, everybody};

use super::Stages;

/// Where Google's probes come from.
/// <https://cloud.google.com/load-balancing/docs/health-check-concepts#ip-ranges>
const PROBES_V4: [[u8; 5]; 4] =
    [[35, 191, 0, 0, 16], [130, 211, 0, 0, 22], [209, 85, 152, 0, 22], [209, 85, 204, 0, 22]];

/// The same for IPv6.
const PROBES_V6_INTERNAL: &str = "2600:2d00:1:b029::/64";
const PROBES_V6_EXTERNAL: &str = "2600:1901:8001::/48";

/// Stronger than the deny-all below it, and than the default of a thousand.
pub(super) const ALLOW: u32 = 999;
const DENY: u32 = 1000;

impl Stages<'_> {
    /// The name of a family's part: `fw`, `fw6`.
    fn part_of(&self, part: &str, family: IpFamily) -> String {
        match family {
            IpFamily::IPv4 => self.part(part),
            IpFamily::IPv6 => self.part(&format!("{part}6")),
        }
    }

    /// Every firewall that a family can have.
    pub(super) fn firewall_names(&self, family: IpFamily) -> [String; 3] {
        ["hc-fw", "fw", "deny"].map(|part| self.part_of(part, family))
    }

    /// Google's probes, to the port that is asked.
    pub(super) fn probes(&self, frontend: &Frontend) -> Firewall {
        let v4 = |[a, b, c, d, length]: &[u8; 5]| IpNet::new(IpAddr::from([*a, *b, *c, *d]), *length).ok();
        Firewall {
            name: self.part_of("hc-fw", frontend.family),
            network: self.config.network.clone(),
            priority: ALLOW,
            sources: match (frontend.family, frontend.scheme) {
                (IpFamily::IPv4, _) => PROBES_V4.iter().filter_map(v4).collect(),
                (IpFamily::IPv6, Scheme::Internal) => PROBES_V6_INTERNAL.parse().into_iter().collect(),
                (IpFamily::IPv6, Scheme::External) => PROBES_V6_EXTERNAL.parse().into_iter().collect(),
            },
            destinations: BTreeSet::new(),
            verdict: Verdict::Allow(BTreeSet::from([(Protocol::Tcp, self.wanted.check.port)])),
        }
    }

    /// The wanted firewall rule; `None` as long as the address is not known.
    pub(super) fn allow(&self, wanted: &Frontend) -> Option<Firewall> {
        let mut destinations = BTreeSet::from([IpNet::from(address::ip(wanted, self.observed)?)]);
        let alike =
            existing_frontends(self.observed).into_iter().filter(|other| other.family() == wanted.family);
        destinations.extend(alike.map(|other| IpNet::from(other.ip)));
        let sources = self.wanted.sources.iter().copied();
        Some(Firewall {
            name: self.part_of("fw", wanted.family),
            network: self.config.network.clone(),
            priority: ALLOW,
            sources: sources.filter(|source| IpFamily::of(source.addr()) == wanted.family).collect(),
            destinations,
            verdict: Verdict::Allow(self.wanted.ports.clone()),
        })
    }

    /// It, with all that is let in now.
    pub(super) fn widened(&self, exact: Firewall) -> Firewall {
        let Some(Resource::Firewall(now)) =
            self.observed.resources.get(&Resource::Firewall(exact.clone()).id())
        else {
            return exact;
        };
        let mut wide = exact;
        wide.sources.extend(now.sources.iter().copied());
        wide.destinations.extend(now.destinations.iter().copied());
        if let (Verdict::Allow(ports), Verdict::Allow(now)) = (&mut wide.verdict, &now.verdict) {
            ports.extend(now.iter().copied());
        }
        wide
    }

    /// Everybody else out, once those who may come are in.
    pub(super) fn outsiders(&self, draft: &mut Draft<'_>) {
        for frontend in self.wanted.frontends.iter().filter(|_| self.wanted.deny_others) {
            if let Some(allow) = self.allow(frontend) {
                let deny = Firewall {
                    name: self.part_of("deny", frontend.family),
                    priority: DENY,
                    sources: BTreeSet::from([everybody(frontend.family)]),
                    verdict: Verdict::DenyAll,
                    ..allow
                };
                draft.ensure(Resource::Firewall(deny));
            }
        }
    }

    /// Nobody is let in any more who need not be.
    pub(super) fn restrict_firewalls(&self, frontend: &Frontend, draft: &mut Draft<'_>) {
        let name = self.part_of("deny", frontend.family);
        let deny = Id { kind: Kind::Firewall, zone: None, name };
        if !self.wanted.deny_others && self.observed.resources.contains_key(&deny) {
            draft.delete(deny, "others need not be shut out any more");
        }
        draft.shrink(Resource::Firewall(self.probes(frontend)));
        if let Some(exact) = self.allow(frontend) {
            draft.shrink(Resource::Firewall(exact));
        }
    }
}
