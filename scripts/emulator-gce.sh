#!/usr/bin/env bash
# emulator-gce.sh setup|run [PORT]|judge URL: Compute Engine's counterpart on loopback, in a Python venv of its own.
# setup fetches Google's discovery document and Python clients from PyPI; the others need nothing but loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/tools/gce
packages=(google-api-python-client==2.202.0 google-cloud-compute==1.57.0)

case ${1:-} in
setup)
  [[ -e $venv/.complete ]] && exit 0
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv" || { echo "emulator-gce: python3 with its venv module is needed (Debian: python3-venv)" >&2; exit 1; }
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; then
    echo "emulator-gce: pip cannot fetch ${packages[*]}: is a Python package index reachable from here?" >&2
    exit 1
  fi
  touch "$venv/.complete"
  ;;
run) exec "$venv/bin/python" -B emulators/gce/server.py "${2:-0}" ;;
judge) exec "$venv/bin/python" -B emulators/gce/judge.py "$2" ;;
*)
  echo "usage: emulator-gce.sh setup | run [PORT] | judge URL" >&2
  exit 2
  ;;
esac
