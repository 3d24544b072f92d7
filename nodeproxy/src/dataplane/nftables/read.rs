//! Reads the kernel's tables as a [`State`], or finds the reason to rebuild them.
//!
//! A table is adopted only if every chain, rule, set and element of it is exactly as this version would write
//! it under this configuration. Any difference is a reason to rebuild, in words.

use std::collections::BTreeMap;

use portico_netlink::nftables::{Client, Rule, Table};
use portico_proxy_core::{
    affinity::MOST,
    plan::{Chain, State},
    table::Family,
};

use super::{
    Config,
    classes::{self, Classes},
    element, kernel_family,
    names::{self, BALANCES, CLASSES, PICKERS},
    skeleton::{self, Skeleton},
    target,
};

/// Attempts at one consistent read while other programs change their own tables.
const TRIES: usize = 5;

/// Fewer elements than this certainly come in one message, under one lock.
const ONE_MESSAGE: usize = 64;

/// Result of reading a table.
pub(super) enum Read {
    /// Ours, and complete.
    Whole(State, Classes),
    /// It must be rebuilt, for this reason.
    Rebuild(String),
}

/// Reads the tables of all families.
pub(super) fn read(
    client: &mut Client,
    families: &[Family],
    config: &Config,
) -> portico_netlink::Result<Read> {
    for _ in 1..TRIES {
        let generation = client.generation()?;
        let found = read_once(client, families, config)?;
        if client.generation()? == generation {
            return Ok(found);
        }
    }
    // Other programs write all the time. Each dump was consistent in itself; a picture that does not fit together is rebuilt
    // or refused when it is written to.
    read_once(client, families, config)
}

fn read_once(client: &mut Client, families: &[Family], config: &Config) -> portico_netlink::Result<Read> {
    let (mut state, mut classes) = (State::default(), Classes::default());
    for family in families {
        if let Err(reason) = read_family(client, *family, config, &mut state, &mut classes)? {
            return Ok(Read::Rebuild(format!("table {family} {}: {reason}", names::TABLE)));
        }
    }
    Ok(Read::Whole(state, classes))
}

/// Adds one family's table to `state`; the inner error is a reason to rebuild.
fn read_family(
    client: &mut Client,
    family: Family,
    config: &Config,
    state: &mut State,
    classes: &mut Classes,
) -> portico_netlink::Result<Result<(), String>> {
    let table = names::table(kernel_family(family));
    if !client.tables(table.family)?.contains(&table) {
        return Ok(Err("there is none yet".to_owned()));
    }
    let skeleton = Skeleton::new(table.family, config);
    if let Err(reason) = read_chains(client, family, config, &skeleton, state)? {
        return Ok(Err(reason));
    }
    let counts = match read_sets(client, &skeleton, state)? {
        Ok(counts) => counts,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Err(reason) = read_classes(client, &table, family, state, classes)? {
        return Ok(Err(reason));
    }
    for name in skeleton.sets.keys().filter(|name| ![CLASSES, BALANCES, PICKERS].contains(&name.as_str())) {
        let count = counts.get(name).copied();
        if let Err(reason) = read_elements(client, &table, family, (name, count), state, classes)? {
            return Ok(Err(format!("unknown element: {reason}")));
        }
    }
    Ok(Ok(()))
}

/// Adds all elements of a set. While the kernel still grows a large set's hash table after a write, a listing
/// of several messages misses some elements and repeats others, without a change of the generation
/// (`nft_rhash_walk` continues after the walk is reset). So a set of more than one message is listed until the
/// count is the kernel's (`count`). Where the kernel has none, or another one, it is listed until a listing
/// brings nothing new.
fn read_elements(
    client: &mut Client,
    table: &Table,
    family: Family,
    (set, count): (&str, Option<u32>),
    state: &mut State,
    classes: &Classes,
) -> portico_netlink::Result<Result<(), String>> {
    let others = state.elements.len();
    for listing in 0..TRIES {
        let elements = client.elements(table, set, Some)?;
        let is_one_message = elements.len() < ONE_MESSAGE;
        let decoded = match element::decode(family, set, elements, classes) {
            Ok(decoded) => decoded,
            Err(reason) => return Ok(Err(reason)),
        };
        let before = state.elements.len();
        state.elements.extend(decoded);
        let is_all = count.is_some_and(|count| state.elements.len() - others == count as usize);
        if is_one_message || is_all || (listing > 0 && state.elements.len() == before) {
            break;
        }
    }
    Ok(Ok(()))
}

/// Reads the numbers: every balancing chain has one, and nothing else has.
fn read_classes(
    client: &mut Client,
    table: &Table,
    family: Family,
    state: &State,
    classes: &mut Classes,
) -> portico_netlink::Result<Result<(), String>> {
    let mut has_external = false;
    for map in [CLASSES, PICKERS] {
        let elements = client.elements(table, map, Some)?;
        has_external |= elements.contains(&classes::external());
        if let Some(odd) = elements.iter().find(|element| !classes.learn(family, map, element)) {
            return Ok(Err(format!("{map} has {odd:02x?}")));
        }
    }
    let mut balances = Classes::default();
    let found = client.elements(table, BALANCES, Some)?;
    let learnt = found.iter().all(|element| balances.learn(family, BALANCES, element));
    let numbers = |classes: &Classes| classes.numbers_in(family, BALANCES);
    if !learnt || numbers(&balances) != numbers(classes) {
        return Ok(Err(format!("{BALANCES} is not {CLASSES}")));
    }
    let chains = state.chains.iter().filter(|chain| chain.family == family);
    if !has_external || !classes.of(family).eq(chains) {
        return Ok(Err(format!("{CLASSES} does not name every chain once")));
    }
    Ok(Ok(()))
}

fn read_chains(
    client: &mut Client,
    family: Family,
    config: &Config,
    skeleton: &Skeleton,
    state: &mut State,
) -> portico_netlink::Result<Result<(), String>> {
    let chains = client.chains(&skeleton.table)?;
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for rule in client.rules(&skeleton.table)? {
        rules.entry(rule.chain.clone()).or_default().push(rule);
    }
    let mut fixed = 0;
    for chain in chains {
        let found = rules.remove(&chain.name).unwrap_or_default();
        let (wanted, wanted_rules) = match (skeleton.chains.get(&chain.name), target::parse(&chain.name)) {
            (Some((wanted, rules)), _) => {
                fixed += 1;
                (wanted.clone(), rules.clone())
            }
            (None, Some(target)) => {
                state.chains.insert(Chain { family, target });
                let rules = target::rules(chain.table.family, &target, config.masquerade_mark);
                (target::chain(chain.table.family, &target), rules)
            }
            (None, None) => return Ok(Err(format!("chain {} is not ours", chain.name))),
        };
        if chain != wanted {
            return Ok(Err(format!("chain {} hangs elsewhere", chain.name)));
        }
        if let Some(reason) = different_rules(&chain.name, &found, &wanted_rules) {
            return Ok(Err(reason));
        }
    }
    Ok(if fixed == skeleton.chains.len() { Ok(()) } else { Err("some of its chains are missing".to_owned()) })
}

fn different_rules(chain: &str, found: &[Rule], wanted: &[Rule]) -> Option<String> {
    if found.len() != wanted.len() {
        return Some(format!("chain {chain} has {} rules and not {}", found.len(), wanted.len()));
    }
    let position = found.iter().zip(wanted).position(|(found, wanted)| found != wanted)?;
    Some(format!("rule {} of chain {chain} is another one", position + 1))
}

/// Checks declarations; returns the kernel's number of elements by set.
fn read_sets(
    client: &mut Client,
    skeleton: &Skeleton,
    state: &mut State,
) -> portico_netlink::Result<Result<BTreeMap<String, u32>, String>> {
    let (mut fixed, mut counts) = (0, BTreeMap::new());
    for mut set in client.sets(&skeleton.table)? {
        counts.extend(set.count.take().map(|count| (set.name.clone(), count)));
        let affinity = target::parse_map_name(set.table.family, &set.name);
        let wanted = match (skeleton.sets.get(&set.name), affinity) {
            (Some(wanted), _) => {
                fixed += 1;
                wanted.clone()
            }
            (None, Some(map)) => {
                state.affinity.insert(map);
                // Once a rule fills it, the kernel says how many fit.
                set.size.take_if(|size| usize::try_from(*size) == Ok(MOST));
                skeleton::affinity_map(&map)
            }
            (None, None) => return Ok(Err(format!("set {} is not ours", set.name))),
        };
        if set != wanted {
            return Ok(Err(format!("set {} is declared differently", set.name)));
        }
    }
    Ok(if fixed == skeleton.sets.len() { Ok(counts) } else { Err("some of its sets are missing".to_owned()) })
}
