#!/usr/bin/env bash
# fuzz.sh TARGET SECONDS: builds the node proxy's fuzz targets with coverage counters and lets libFuzzer run one for some time.
# libFuzzer comes from the distribution's LLVM; stable Rust inserts the counters by LLVM's own options (nodeproxy/fuzz/rustc.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1 seconds=$2
LIBFUZZER=$(compgen -G "/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-$(uname -m).a" | sort -V | tail -1)
export LIBFUZZER RUSTC_WORKSPACE_WRAPPER=$PWD/nodeproxy/fuzz/rustc.sh FUZZ_TARGET=$target
new=$PWD/target/fuzz/corpus/$target
mkdir -p "$new"
# --workspace, as in `make test`: then dependencies have the same features and are there already.
cargo test --quiet --workspace --features portico-nodeproxy-fuzz/fuzzing --test fuzz -- \
  -max_total_time="$seconds" -timeout=10 -max_len=16384 -print_final_stats=1 -artifact_prefix="$PWD/target/fuzz/$target-" \
  "$new" "$PWD/nodeproxy/fuzz/corpus/$target"
