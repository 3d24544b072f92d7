#!/usr/bin/env bash
# packages.sh [conformance|fuzz|images]: sees to the Debian packages that the cluster on this machine needs, or says which are missing.
set -euo pipefail

declare -A package=([ip]=iproute2 [nft]=nftables [redis-server]=redis-server [redis-cli]=redis-tools [unshare]=util-linux
  [sysctl]=procps [conntrack]=conntrack [iptables]=iptables [cc]=gcc)
[ "${1:-}" != conformance ] || package+=([dig]=bind9-dnsutils [nc]=netcat-openbsd [curl]=curl)
[ "${1:-}" != fuzz ] || package+=([c++]=g++)
[ "${1:-}" != images ] || package+=([buildah]=buildah [musl-gcc]=musl-tools)
missing=()
for program in "${!package[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [ "${1:-}" = fuzz ] && ! compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a' >/dev/null; then
  missing+=(libclang-rt-dev)
fi
for program in cargo go; do
  command -v "$program" >/dev/null || { echo "setup: $program is not on PATH; install Rust and Go first" >&2; exit 1; }
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "setup: missing programs; as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing Debian packages: ${missing[*]}"
apt-get update -qq
# RUNLEVEL=1: a freshly installed redis-server is a program for pods here, and is not started on this machine.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
