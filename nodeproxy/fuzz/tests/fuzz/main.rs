//! The fuzz targets. As a test: the corpus and a fixed number of inputs by a fixed seed. With feature `fuzzing`: a libFuzzer
//! binary that runs the target that `FUZZ_TARGET` names (`make fuzz`).
//!
//! A target takes any bytes and panics when something is wrong.

#![cfg_attr(feature = "fuzzing", no_main)]

mod api;
mod lived;
mod looped;
mod netlink;
mod relabelled;
mod shapes;
mod watch;

use std::panic::{self, AssertUnwindSafe};

use portico_nodeproxy_fuzz::{Damaged, Input, corpus};

/// Inputs of the targets by this seed are the same on every machine.
const SEED: u64 = 5;

/// Runs a target, and leaves an input that it dies of where the message says.
fn run(target: &str, check: impl FnOnce(&[u8]), input: &[u8]) {
    let died = panic::catch_unwind(AssertUnwindSafe(|| check(input))).is_err();
    let path = format!("{}/died-of-{target}", env!("CARGO_TARGET_TMPDIR"));
    if died {
        std::fs::write(&path, input).expect("room for an input");
    }
    assert!(!died, "{target} dies of what is in {path}");
}

fn mk_corpus(target: &str) -> Vec<Input> {
    let inputs = corpus(target).expect("a folder of inputs");
    assert!(!inputs.is_empty(), "no inputs for {target}");
    inputs
}

#[test]
fn every_captured_message_holds_values_that_read_back_the_same() {
    for Input { name, bytes } in mk_corpus("netlink") {
        run("netlink", |bytes| assert!(netlink::check(bytes) > 0, "{name} says nothing"), &bytes);
    }
}

#[test]
fn no_bytes_in_place_of_the_kernels_end_or_stall_a_reader() {
    for input in Damaged::new(&mk_corpus("netlink"), SEED).take(20_000) {
        run("netlink", |bytes| _ = netlink::check(bytes), &input);
    }
}

#[test]
fn every_history_of_the_corpus_ends_where_its_last_objects_lead() {
    for Input { name, bytes } in mk_corpus("watch") {
        run("watch", |bytes| assert!(watch::check(bytes) > 0, "{name} puts nothing into the kernel"), &bytes);
    }
}

#[test]
fn no_watch_events_end_the_proxy_or_leave_a_wrong_state() {
    for input in Damaged::new(&mk_corpus("watch"), SEED).take(250) {
        run("watch", |bytes| _ = watch::check(bytes), &input);
    }
}

/// libFuzzer calls this for each input. It ignores all results but 0 and -1.
#[cfg(feature = "fuzzing")]
#[expect(unsafe_code, reason = "libFuzzer calls this name, and hands over a pointer and a length")]
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
    use std::{env, sync::LazyLock};
    static TARGET: LazyLock<String> = LazyLock::new(|| env::var("FUZZ_TARGET").unwrap_or_default());
    // SAFETY: libFuzzer owns `size` bytes at `data` until this function returns.
    let input = unsafe { std::slice::from_raw_parts(data, size) };
    match TARGET.as_str() {
        "netlink" => _ = netlink::check(input),
        "watch" => _ = watch::check(input),
        other => assert_eq!(other, "netlink or watch", "FUZZ_TARGET"),
    }
    0
}
