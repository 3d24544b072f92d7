#!/usr/bin/env bash
# Builds Portico's container images under target/images: one static program each, from scratch, as OCI image layouts, and
# prints sizes and digests; beside each its bill of materials (CycloneDX). The same sources and tools give the same digests: files and images carry SOURCE_DATE_EPOCH, by
# default the time of the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "images: $*" >&2; exit 1; }

CERTIFI=2026.10.18
images=$PWD/target/images
machine=$(uname -m)
target=$machine-unknown-linux-musl
programs=$PWD/target/$target/image
version=$(scripts/version.sh)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

if ! test -d "$(rustc --print target-libdir --target "$target")"; then
  rustup target add "$target" || fail "no standard library for $target: run \`rustup target add $target\` where the network allows it"
fi

# One package at a time: together each program would hold the features that another asks of a shared crate. The paths
# in a program must not say where its sources lay.
export RUSTFLAGS="--remap-path-prefix=$PWD=/portico --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
build() {
  echo "building $2 for $target (cold: some minutes)"
  cargo build --profile image --locked --quiet --target "$target" --package "$1" --bin "$2" "${@:3}"
}

# Mozilla's certificate authorities, by which the operator knows a cloud's API.
authorities() {
  local dir=$images/.certifi-$CERTIFI
  [ -e "$dir/certifi/cacert.pem" ] ||
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir" "certifi==$CERTIFI" ||
    fail "pip could not get certifi $CERTIFI (see above)"
  echo "$dir/certifi/cacert.pem"
}

store() { buildah --storage-driver vfs --root "$images/.storage" --runroot "$images/.run" "$@"; }

# image NAME USER [FILE=PATH]: a layout of the program, and of further files at paths of the image.
image() {
  local name=$1 user=$2 layout=$images/$1 files=$images/.files container
  shift 2
  rm -rf "$layout" "$files"
  install -D -m 0755 "$programs/$name" "$files/usr/local/bin/$name"
  for file in "$@"; do
    install -D -m 0644 "${file%%=*}" "$files/${file#*=}"
  done
  container=$(store from scratch)
  store add --quiet "$container" "$files" /
  store config --entrypoint "[\"$name\"]" --env PATH=/usr/local/bin --user "$user" \
    --label "org.opencontainers.image.title=$name" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$revision" \
    --label "org.opencontainers.image.licenses=Apache-2.0" "$container"
  store commit --quiet --rm --disable-compression=false --timestamp "$SOURCE_DATE_EPOCH" "$container" "oci:$layout:$version"
  python3 - "$layout" <<'PYTHON'
import json, pathlib, sys

layout = pathlib.Path(sys.argv[1])
digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
size = sum(layer["size"] for layer in manifest["layers"])
print(f"{layout.name:<18} {size / 1e6:5.1f} MB compressed  {digest}")
PYTHON
}

operator=(--no-default-features --features "${PROVIDERS:-aws bare-metal gce local}")
build portico-operator portico-operator "${operator[@]}"
build portico-nodeproxy portico-nodeproxy
build portico-provider-local portico-lb
mkdir -p "$images"
certificates=$(authorities)
image portico-operator 65532:65532 "$certificates=etc/ssl/certs/ca-certificates.crt"
image portico-nodeproxy 0:0
image portico-lb 0:0

# Bills of materials, from Cargo.lock. Paths in them must not say where the sources lay either.
target/tools/cargo-cyclonedx cyclonedx --manifest-path operator/Cargo.toml --format json --spec-version 1.5 --describe binaries \
  --target "$target" --no-build-deps --quiet "${operator[@]}"
for name in portico-operator portico-nodeproxy portico-lb; do
  sed "s|file://$PWD|file:///portico|g" "$(find operator nodeproxy providers -name "${name}_bin.cdx.json")" >"$images/$name.cdx.json"
done
find operator nodeproxy providers e2e -name '*_bin.cdx.json' -delete
