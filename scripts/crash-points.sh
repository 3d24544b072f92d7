#!/usr/bin/env bash
# crash-points.sh begin|tell: what was skipped, and what the crash tests survived, all of them together.
# Each skipped test leaves a line `NAME: TEST` in the file that PORTICO_SKIPPED names, where NAME is one of PORTICO_SKIP's.
# Each test that stops a provider around every call leaves `SURVIVED of POINTS` in target/crash-points/PROVIDER/WHAT; begin
# forgets those of earlier runs, tell adds them up in one line. A test that did not run is a failure here, unless there is no
# emulator of its cloud: then it said that it was skipped, and so does the line.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=target/crash-points
skipped=${PORTICO_SKIPPED:-target/skipped}
tests=(aws/services aws/groups gce/endpoint-groups gce/instance-groups)
declare -A emulator=([aws]=target/tools/aws/.ready [gce]=target/tools/gce/.complete)

# Whether the tests of one provider had their emulator.
has_emulator() { [[ ,${PORTICO_SKIP:-}, != *,emulators,* && -e ${emulator[$1]} ]]; }

# SURVIVED of POINTS of one provider.
sum() {
  if ! has_emulator "$1"; then
    echo "skipped without its emulator"
    return
  fi
  awk '{ survived += $1; points += $3 } END { printf "%d of %d", survived, points; exit !(points && survived == points) }' "$dir/$1"/*
}

case ${1:-} in
begin) rm -rf "$dir" "$skipped" ;;
tell)
  touch "$skipped"
  names=$(cut -d: -f1 "$skipped" | sort -u | paste -sd, | sed 's/,/, /g')
  echo "skipped: $(wc -l <"$skipped")${names:+ ($names)}"
  for test in "${tests[@]}"; do
    if has_emulator "${test%/*}" && [[ ! -e $dir/$test ]]; then
      echo "crash-points: nothing of $test: its test did not run" >&2
      exit 1
    fi
  done
  aws=$(sum aws) gce=$(sum gce)
  echo "crash points survived: aws $aws, gce $gce"
  ;;
*)
  echo "usage: crash-points.sh begin | tell" >&2
  exit 2
  ;;
esac
