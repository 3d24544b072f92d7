#!/usr/bin/env bash
# changelog.sh VERSION: prints the section of that version, which a release's page shows. Without one there is no release.
set -euo pipefail
section=$(sed -n "/^## $1\$/,/^## /{/^## /!p}" "$(dirname "$0")/../CHANGELOG.md")
[ -n "$section" ] || { echo "changelog: CHANGELOG.md has no section '## $1'" >&2; exit 1; }
echo "$section"
