//! The fixed part of our table, as data: chains on hooks, maps and sets, and the rules between them.
//!
//! docs/nftables.md shows it as nft prints it. This file is that page in code, with the reason for the hook of
//! each rule. A skeleton depends only on the family and the [`Config`]. `read` compares two of them to detect
//! another version or other settings.

use std::collections::BTreeMap;

use portico_netlink::nftables::{
    BaseChain, Chain, ChainKind, Expression, Family, Hook, Rule, Set, SetKind, Table,
};
use portico_netlink::probe::Feature;
use portico_proxy_core::plan::AffinityMap;

use super::{
    Config, LocalDetector,
    datatype::{self, Field},
    kernel_family,
    names::{BALANCES, CLASS_TAG, CLASSES, EXTERNAL, PICKERS, REFUSE, TAG_MASK, table},
    rules::{self, FRONTEND, Part, Words},
};

/// The key of every map that has frontends as keys.
const FRONTEND_FIELDS: [Field; 3] = [Field::Address, Field::Protocol, Field::Port];

/// The fixed part of one family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skeleton {
    pub(super) table: Table,
    /// Maps and sets, by name.
    pub(super) sets: BTreeMap<String, Set>,
    /// Chains and their rules, by name.
    pub(super) chains: BTreeMap<String, (Chain, Vec<Rule>)>,
}

/// Declaration of the dynamic affinity map. A programmed one also has its size:
/// [`MOST`](portico_proxy_core::affinity::MOST).
pub(super) fn affinity_map(map: &AffinityMap) -> Set {
    let key = [Field::Address, Field::Address];
    let set = keyed(kernel_family(map.family), &map.name(), &key, Some(&[Field::Id]));
    Set { timeout: Some(u64::from(map.seconds) * 1000), ..set }
}

/// A set (`data` is `None`) or a map of data.
fn keyed(family: Family, name: &str, key: &[Field], data: Option<&[Field]>) -> Set {
    Set {
        table: table(family),
        name: name.to_owned(),
        key_datatype: datatype::datatype(key, family),
        key_length: datatype::length(key, family),
        kind: datatype::data_kind(data.unwrap_or_default(), family),
        intervals: false,
        fields: Vec::new(),
        timeout: None,
        size: None,
        userdata: datatype::userdata(key, data, family),
        count: None,
    }
}

fn verdicts(family: Family, name: &str, key: &[Field]) -> Set {
    let userdata = datatype::userdata(key, Some(&[]), family);
    Set { kind: SetKind::Verdicts, userdata, ..keyed(family, name, key, None) }
}

fn sets(family: Family, config: &Config) -> Vec<Set> {
    let [address, protocol, port] = FRONTEND_FIELDS;
    let slot = [address, protocol, port, Field::Slot];
    let (alias, alias_slot, alias_id) =
        ([address, protocol], [address, protocol, Field::Slot], [address, protocol, Field::Id]);
    let pair = [address, address, protocol, port];
    let backend = Some(&[Field::Address, Field::Port][..]);
    let range = [address, protocol, port, address];
    let ranges = |name| Set { intervals: true, ..keyed(family, name, &[address], None) };
    let fields = range.iter().map(|field| field.length(family)).collect();
    let mut sets = vec![
        keyed(family, "services", &FRONTEND_FIELDS, Some(&[Field::Id])),
        keyed(family, "short", &FRONTEND_FIELDS, Some(&[Field::Id])),
        keyed(family, "local", &FRONTEND_FIELDS, Some(&[Field::Id])),
        verdicts(family, CLASSES, &[Field::Id]),
        verdicts(family, BALANCES, &[Field::Id]),
        verdicts(family, "no-endpoints", &FRONTEND_FIELDS),
        keyed(family, "endpoints", &slot, backend),
        keyed(family, "affinity-ports", &FRONTEND_FIELDS, Some(&[address])),
        keyed(family, "affinity-picks", &alias, Some(&[Field::Id])),
        keyed(family, "affinity-picks-local", &alias, Some(&[Field::Id])),
        verdicts(family, PICKERS, &[Field::Id]),
        keyed(family, "affinity-slots", &alias_slot, Some(&[Field::Id])),
        keyed(family, "affinity-endpoints", &alias_id, backend),
        keyed(family, "affinity-endpoints-local", &alias_id, backend),
        keyed(family, "node-addresses", &[address], None),
        keyed(family, "node-port-stand-ins", &[protocol], Some(&[address])),
        keyed(family, "node-ports", &[protocol, port], None),
        verdicts(family, "no-endpoints-node-ports", &[protocol, port]),
        keyed(family, "cluster-ips", &[address], None),
        keyed(family, "hairpin", &pair, None),
        keyed(family, "firewalled", &FRONTEND_FIELDS, None),
        ranges("pod-cidrs"),
        ranges("node-pods"),
        ranges("service-cidrs"),
    ];
    if config.has(family, Feature::ConcatenatedRanges) {
        sets.push(Set { intervals: true, fields, ..keyed(family, "source-ranges", &range, None) });
    }
    sets
}

impl Skeleton {
    /// The skeleton of a family under a configuration.
    pub(super) fn new(family: Family, config: &Config) -> Self {
        let sets = sets(family, config).into_iter().map(|set| (set.name.clone(), set)).collect();
        let mut skeleton = Self { table: table(family), sets, chains: BTreeMap::new() };
        skeleton.firewall(family, config);
        skeleton.dispatch(family, config);
        skeleton.postrouting(family, config.masquerade_mark);
        skeleton.filter(family, config);
        skeleton
    }

    fn chain(
        &mut self,
        name: &str,
        base: Option<BaseChain>,
        rules: impl IntoIterator<Item = Vec<Expression>>,
    ) {
        let table = self.table.clone();
        let rule = |expressions| Rule { table: table.clone(), chain: name.to_owned(), expressions };
        let rules = rules.into_iter().map(rule).collect();
        self.chains.insert(name.to_owned(), (Chain { table, name: name.to_owned(), base }, rules));
    }

    /// `loadBalancerSourceRanges`: before destinations are rewritten (priority -100), while the packet still
    /// has the frontend's address. On prerouting for packets that arrive, and on output for this node's own
    /// clients.
    fn firewall(&mut self, family: Family, config: &Config) {
        let w = Words { family };
        let to_firewall = || [[rules::first_packet(), rules::jump("firewall")].concat()];
        let prerouting = base(ChainKind::Filter, Hook::Prerouting, -110);
        if config.proxied {
            // The node's own packets to the proxy come back through loopback, redirected already: they have passed.
            let passed = [rules::rewritten(), rules::accept()].concat();
            let [first] = to_firewall();
            self.chain("prerouting-firewall", prerouting, [passed, first]);
        } else {
            self.chain("prerouting-firewall", prerouting, to_firewall());
        }
        self.chain("output-firewall", base(ChainKind::Filter, Hook::Output, -110), to_firewall());
        let client = [FRONTEND[0], FRONTEND[1], FRONTEND[2], Part::Source];
        // Where the kernel cannot look up ranges, nobody may come.
        let stranger = if config.has(family, Feature::ConcatenatedRanges) {
            w.no_member(&client, "source-ranges")
        } else {
            Vec::new()
        };
        let denied = [w.member(&FRONTEND, "firewalled"), stranger, rules::drop_packet()];
        self.chain("firewall", None, [denied.concat()]);
    }

    /// Destination rewriting: nat hooks see the first packet of each connection only, so these rules cost later
    /// packets nothing.
    fn dispatch(&mut self, family: Family, config: &Config) {
        let w = Words { family };
        let bit = config.masquerade_mark;
        self.chain("prerouting", base(ChainKind::Nat, Hook::Prerouting, -100), [rules::jump("dispatch")]);
        let output = base(ChainKind::Nat, Hook::Output, -100);
        if config.proxied {
            // An endpoint may have the address of a Service; its packets must not come back to the proxy that sends them.
            let own = [rules::marked(bit), rules::accept()].concat();
            self.chain("output", output, [own, rules::jump("dispatch")]);
        } else {
            self.chain("output", output, [rules::jump("dispatch")]);
        }
        let masquerade = stranger(w, config).map(|stranger| {
            [w.member(&[Part::Destination], "cluster-ips"), stranger, rules::mark(bit)].concat()
        });
        let services = w.dispatch("services", CLASSES);
        // A NodePort with endpoints has the elements of one address, which replaces the others here. One without endpoints is
        // not in `node-ports`: a refusal must come from the address that was dialled.
        let node_port = [
            w.member(&[Part::Protocol, Part::Port], "node-ports"),
            w.member(&[Part::Destination], "node-addresses"),
            w.destination_from(&[Part::Protocol], "node-port-stand-ins"),
        ];
        let rules = [node_port.concat()].into_iter().chain(masquerade).chain([services]);
        self.chain("dispatch", None, rules);
        // `externalTrafficPolicy: Local` is for clients outside; pods of this node and the node itself use all endpoints. So
        // do pods of other nodes when there is none here, but masqueraded: an endpoint on a third node would answer them
        // past this one. Those arrive on the same interfaces as other clients.
        let to_short = || w.dispatch("short", BALANCES);
        let to_local = w.dispatch("local", BALANCES);
        let (from_own_pod, from_far_pod) = match &config.local_detector {
            LocalDetector::Interfaces(interfaces) => (rules::arrived_on(interfaces), None),
            LocalDetector::Addresses(_) => {
                (w.member(&[Part::Source], "node-pods"), Some(w.member(&[Part::Source], "pod-cidrs")))
            }
        };
        let mut external = vec![[from_own_pod, to_short()].concat()];
        if config.has(family, Feature::RouteTypes) {
            external.push([rules::from_this_node(), rules::mark(bit)].concat());
            external.push([rules::from_this_node(), to_short()].concat());
        }
        external.push(to_local);
        if let Some(from_far_pod) = from_far_pod {
            external.push([from_far_pod.clone(), rules::mark(bit)].concat());
            external.push([from_far_pod, to_short()].concat());
        }
        self.chain(EXTERNAL, None, external);
        // Dispatch carries a class in the priority, and session affinity an endpoint's id; nobody behind us may see them.
        let clean = || {
            [[rules::first_packet(), rules::priority_is(TAG_MASK, CLASS_TAG), rules::forget_priority()]
                .concat()]
        };
        self.chain("prerouting-clean", base(ChainKind::Filter, Hook::Prerouting, -90), clean());
        self.chain("output-clean", base(ChainKind::Filter, Hook::Output, -90), clean());
    }

    /// Source rewriting: the last hook, where the outgoing interface is known. The mark is cleared before the
    /// packet leaves, so that no later tunnel or second stack on this node takes it for its own.
    fn postrouting(&mut self, family: Family, bit: u32) {
        let w = Words { family };
        let hairpin = [Part::Source, Part::Destination, Part::Protocol, Part::Port];
        self.chain(
            "postrouting",
            base(ChainKind::Nat, Hook::Postrouting, 100),
            [
                [rules::marked(bit), rules::flip_mark(bit), rules::masquerade()].concat(),
                [rules::rewritten(), w.member(&hairpin, "hairpin"), rules::masquerade()].concat(),
            ],
        );
    }

    /// Refusals: in the filter hooks, where kernels before 5.9 can reject, for packets that no chain above rewrote.
    fn filter(&mut self, family: Family, config: &Config) {
        let w = Words { family };
        let no_endpoints = || [rules::first_packet(), w.verdict_of(&FRONTEND, "no-endpoints")].concat();
        let no_such_port = || {
            [rules::first_packet(), w.member(&[Part::Destination], "cluster-ips"), rules::goto(REFUSE)]
                .concat()
        };
        let unallocated = || {
            [rules::first_packet(), w.member(&[Part::Destination], "service-cidrs"), rules::drop_packet()]
                .concat()
        };
        let no_endpoints_node_port = || {
            let refused = w.verdict_of(&[Part::Protocol, Part::Port], "no-endpoints-node-ports");
            [rules::first_packet(), w.member(&[Part::Destination], "node-addresses"), refused].concat()
        };
        let all = || [no_endpoints(), no_endpoints_node_port(), no_such_port(), unallocated()];
        if config.has(family, Feature::Reject) {
            self.chain(REFUSE, None, [rules::reset(), w.reject()]);
        } else {
            self.chain(REFUSE, None, [rules::drop_packet()]);
        }
        let (input, forward) =
            (base(ChainKind::Filter, Hook::Input, 0), base(ChainKind::Filter, Hook::Forward, 0));
        let for_node = || [no_endpoints(), no_endpoints_node_port()];
        if config.drop_invalid {
            // An invalid packet belongs to no flow, so nothing says whether its flow was rewritten: what can be asked is
            // whether it looks like an endpoint's answer within a connection. Here, where rewriting is over: what arrives
            // with an endpoint's own address is what makes a client reset its connection. What opens a connection, or gives
            // one up, or comes from a client's port passes: the node may see one direction of a connection only.
            let pod = match &config.local_detector {
                LocalDetector::Addresses(_) => w.member(&[Part::Source], "pod-cidrs"),
                LocalDetector::Interfaces(interfaces) => rules::arrived_on(interfaces),
            };
            let invalid = || {
                let answer = [rules::from_a_server(), rules::within_a_connection()].concat();
                let drop = [rules::count(), rules::drop_packet()].concat();
                [rules::invalid(), pod.clone(), rules::tcp(), answer, drop].concat()
            };
            self.chain("input", input, [invalid()].into_iter().chain(for_node()));
            self.chain("forward", forward, [invalid()].into_iter().chain(all()));
        } else {
            self.chain("input", input, for_node());
            self.chain("forward", forward, all());
        }
        self.chain("output-filter", base(ChainKind::Filter, Hook::Output, 0), all());
    }
}

/// The sources to replace on the way to a ClusterIP, since the answer must come back through this node: all (no
/// words), or those that are no pods. `None`: none. Endpoints never see the clients of a proxy.
fn stranger(w: Words, config: &Config) -> Option<Vec<Expression>> {
    if config.proxied {
        return None;
    }
    if config.masquerade_all {
        return Some(Vec::new());
    }
    match &config.local_detector {
        LocalDetector::Interfaces(interfaces) => Some(rules::not_arrived_on(interfaces)),
        LocalDetector::Addresses(families) => {
            let is_known = families.iter().any(|known| kernel_family(*known) == w.family);
            is_known.then(|| w.no_member(&[Part::Source], "pod-cidrs"))
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "every caller wants an Option, as chains without a hook have none"
)]
fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority })
}
