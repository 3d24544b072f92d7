#!/usr/bin/env bash
# Fails when a Rust file belongs to no crate: one that no `mod` reaches compiles nowhere and is tested nowhere.
# The compiler's own dependency files say which sources were read, so cargo must have checked the workspace before.
set -euo pipefail
cd "$(dirname "$0")/.."
read_sources=$(find target/debug/deps -name '*.d' -newer Cargo.toml -exec sed -n 's/^\([^ ]*\.rs\):$/\1/p' {} + | sed "s#^$PWD/##" | sort -u)
orphans=$(comm -23 <(git ls-files '*.rs' | sort) <(printf '%s\n' "$read_sources"))
if [ -n "$orphans" ]; then
  printf 'orphaned: no crate reads this file\n%s\n' "$orphans" >&2
  exit 1
fi
