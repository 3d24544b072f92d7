#!/usr/bin/env bash
# Builds Portico's container images: one static program each, from scratch, as OCI image layouts under target/images.
#
#   scripts/images.sh            target/images/<name> (the layout), <name>.cdx.json (CycloneDX SBOM), and the sizes
#
# The same sources give the same digests: files and images carry SOURCE_DATE_EPOCH, by default the time of the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "images: $*" >&2; }
fail() { say "$*"; exit 1; }

images=target/images
CERTIFI=2026.10.18
machine=$(uname -m)
case $machine in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) fail "no images for $machine: x86_64 and aarch64 are supported" ;;
esac
target=$machine-unknown-linux-musl
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

if ! rustc --print target-libdir --target "$target" | xargs test -d; then
  rustup target add "$target" || fail "the standard library for $target cannot be had: run rustup target add $target where the network allows it"
fi

# What a program says of its own sources must not depend on where they lie.
export RUSTFLAGS="--remap-path-prefix=$PWD=/portico --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
build() {
  say "building the static programs for $target (cold: about 10 minutes)"
  cargo build --release --locked --quiet --target "$target" --bin portico-operator --bin portico-nodeproxy --bin portico-lb
}

# Certificate authorities that the operator trusts for a cloud's API: Mozilla's, as certifi has them.
certificates() {
  local dir=$images/.certifi
  [ -e "$dir/certifi/cacert.pem" ] ||
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$dir" "certifi==$CERTIFI" ||
    fail "pip could not get certifi $CERTIFI (see above)"
  echo "$dir/certifi/cacert.pem"
}
# image NAME USER [FILE=PATH IN THE IMAGE]...
image() {
  local name=$1 user=$2 layout=$images/$1 files=$images/.files/$1
  shift 2
  rm -rf "$layout" "$files"
  install -D -m 0755 "target/$target/release/$name" "$files/usr/local/bin/$name"
  for file in "$@"; do
    install -D -m 0644 "${file%%=*}" "$files/${file#*=}"
  done
  find "$files" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
  umoci init --layout "$layout"
  umoci new --image "$layout:$version"
  umoci insert --rootless --image "$layout:$version" --history.created "$created" "$files" /
  umoci config --image "$layout:$version" --created "$created" --history.created "$created" \
    --architecture "$architecture" --os linux \
    --config.user "$user" --config.env PATH=/usr/local/bin --config.entrypoint "$name" --clear=config.cmd \
    --config.label "org.opencontainers.image.title=$name" \
    --config.label "org.opencontainers.image.version=$version" \
    --config.label "org.opencontainers.image.revision=$revision" \
    --config.label "org.opencontainers.image.created=$created" \
    --config.label "org.opencontainers.image.licenses=Apache-2.0"
  umoci gc --layout "$layout"
  python3 - "$layout" "$images/.files/$name/usr/local/bin/$name" <<'PYTHON'
import json, os, sys
layout, program = sys.argv[1:]
blob = lambda digest: os.path.join(layout, "blobs", *digest.split(":"))
digest = json.load(open(os.path.join(layout, "index.json")))["manifests"][0]["digest"]
size = sum(layer["size"] for layer in json.load(open(blob(digest)))["layers"])
name = os.path.basename(layout)
print(f"{name:<20} {size / 1e6:5.1f} MB compressed, {os.path.getsize(program) / 1e6:5.1f} MB program  {digest}")
PYTHON
}

mkdir -p "$images"
build
authorities=$(certificates)
image portico-operator 65532:65532 "$authorities=etc/ssl/certs/ca-certificates.crt"
image portico-nodeproxy 0:0
image portico-lb 0:0
