//! Versions that are received in any order, and the one that counts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;

fn version(text: &str) -> Option<ResourceVersion> {
    ResourceVersion::of(&ObjectMeta { resource_version: Some(text.to_owned()), ..ObjectMeta::default() })
}

fn received(key: &'static str, at: &str, value: u32) -> Received<&'static str, u32> {
    Received { key, version: version(at), value: Some(value) }
}

fn keys(changed: Vec<Changed<&'static str, u32>>) -> Vec<&'static str> {
    let mut keys: Vec<_> = changed.into_iter().map(|it| it.key).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_relist_shows_the_old_until_it_is_complete_and_then_says_what_changed() {
    let mut table = Table::default();
    for key in ["a", "b", "c"] {
        assert!(table.put(received(key, "1", 1)).is_some());
    }
    assert!(table.put(received("a", "1", 1)).is_none(), "the same again is no change");
    table.begin();
    for (key, value) in [("a", 1), ("b", 2), ("d", 1)] {
        table.stage(received(key, "2", value));
    }
    assert_eq!(table.get(&"c"), Some(&1));
    assert!(!table.is_synced());
    assert_eq!(keys(table.finish()), ["b", "c", "d"]);
    assert!(table.is_synced() && table.remove("c", version("3")).is_none());
}

#[test]
fn an_older_version_neither_replaces_a_newer_one_nor_brings_back_what_is_gone() {
    let mut table = Table::default();
    table.put(received("a", "10", 10));
    assert!(table.put(received("a", "9", 9)).is_none() && table.remove("a", version("9")).is_none());
    assert_eq!(table.get(&"a"), Some(&10));
    table.answered(&"a", version("9"), 9);
    assert_eq!(table.get(&"a"), Some(&10), "an answer that is processed late");
    assert!(table.remove("a", version("12")).is_some());
    assert!(table.put(received("a", "11", 11)).is_none(), "received again after its end");
    assert!(table.put(received("a", "13", 13)).is_some(), "made again");
}

#[test]
fn what_an_answer_showed_first_is_a_change_when_the_watch_shows_it() {
    let mut table = Table::default();
    table.put(received("a", "1", 1));
    table.answered(&"a", version("3"), 3);
    assert_eq!(table.get(&"a"), Some(&3));
    assert!(table.put(received("a", "2", 2)).is_none());
    let changed = table.put(received("a", "3", 3));
    assert_eq!(changed, Some(Changed { key: "a", before: Some(3) }), "others' writes are in it, too");
    assert!(table.put(received("a", "3", 3)).is_none());
    table.answered(&"b", version("3"), 3);
    assert_eq!(table.get(&"b"), None, "what is gone meanwhile stays gone");
}

#[test]
fn a_relist_counts_but_for_answers_that_came_while_it_ran() {
    let mut table = Table::default();
    table.put(received("a", "50", 50));
    table.begin();
    table.stage(received("a", "7", 7));
    assert_eq!(keys(table.finish()), ["a"]);
    assert_eq!(table.get(&"a"), Some(&7), "an etcd that was restored");
    table.begin();
    table.answered(&"a", version("9"), 9);
    table.stage(received("a", "8", 8));
    table.finish();
    assert_eq!(table.get(&"a"), Some(&9));
    table.begin();
    table.answered(&"a", version("10"), 10);
    assert_eq!(keys(table.finish()), ["a"], "gone before it was listed");
}

#[test]
fn versions_that_do_not_compare_leave_it_to_the_watch() {
    let mut table = Table::default();
    table.put(received("a", "x-2", 2));
    table.answered(&"a", version("x-1"), 1);
    assert_eq!(table.get(&"a"), Some(&2));
    assert!(table.put(received("a", "x-3", 3)).is_some());
}

#[test]
fn memory_of_what_is_gone_ends() {
    let mut table: Table<u64, u8> = Table::default();
    for number in 1..10_000_u64 {
        let at = || version(&number.to_string());
        table.put(Received { key: number, version: at(), value: Some(1) });
        table.remove(number, at());
    }
    assert_eq!(table.gone.len(), LONGEST_MEMORY);
    table.begin();
    table.finish();
    assert!(table.gone.is_empty());
}

proptest! {
    #[test]
    fn whatever_the_order_the_newest_counts(order in Just((1_u32..12).collect::<Vec<_>>()).prop_shuffle(), answers in any::<u16>()) {
        let mut table = Table::default();
        table.put(received("a", "1", 1));
        let mut newest = 1;
        for at in order {
            if answers & (1 << at) == 0 {
                table.put(received("a", &at.to_string(), at));
            } else {
                table.answered(&"a", version(&at.to_string()), at);
            }
            newest = newest.max(at);
            prop_assert_eq!(table.get(&"a"), Some(&newest));
        }
    }
}
