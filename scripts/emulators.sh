#!/usr/bin/env bash
# Installs the emulators of clouds that tests talk to, each into a Python environment of its own under target/tools.
# Where pip cannot reach its registry, it says so, and the tests that need an emulator fail unless PORTICO_SKIP names them.
set -euo pipefail
cd "$(dirname "$0")/.."

aws() {
  local venv=target/tools/aws
  [ -e "$venv/.ready" ] && return
  echo "installing the emulator of AWS (moto) into $venv (about 320 MB; once)"
  if ! python3 -m venv "$venv"; then
    echo "emulators: python3 has no venv module; install python3-venv. Tests against AWS will fail" >&2
    return
  fi
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.2.5' boto3; then
    echo "emulators: pip could not reach its registry (see above). Tests against AWS will fail" >&2
    rm -rf "$venv"
    return
  fi
  touch "$venv/.ready"
}

for emulator in "${@:-aws}"; do
  "$emulator"
done
