#!/usr/bin/env bash
# What cargo runs in place of rustc for this workspace's crates (RUSTC_WORKSPACE_WRAPPER, scripts/fuzz.sh): counts coverage in them,
# and links libFuzzer. Dependencies are those of every other build.
set -euo pipefail
flags=(-Copt-level=1 -Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
exec "$@" "${flags[@]}" -Clink-arg="$LIBFUZZER" -Clink-arg=-lstdc++
