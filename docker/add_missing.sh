#!/usr/bin/env bash
# Installs, of the packages that a list names, those that are not there; fails if one that was there has changed.
#   add_missing.sh LOCK LIST
# Without dependencies and without upgrades: torch, numpy, tensorrt and their kin are those that NVIDIA tested together.
set -euo pipefail
lock=$1 list=$2
# Ubuntu 24.04 marks its Python as managed by apt; in an image it is ours.
export PIP_BREAK_SYSTEM_PACKAGES=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Neither hook nor version check of pip may add a line.
installed() { python3 -m pip list --format=freeze --disable-pip-version-check | sort; }

installed > "$work/before"
# pip writes some names with capitals, dots or underscores; the lock has the canonical ones.
cut -d= -f1 "$work/before" | tr '[:upper:]_.' '[:lower:]--' > "$work/names"
{ grep -v '^#' "$list" | grep -Fxv -f "$work/names" || true; } > "$work/missing"
python3 "$(dirname "$0")/subset.py" "$lock" "$work/missing" > "$work/subset"
if [ -s "$work/missing" ]; then
    python3 -m pip install --no-cache-dir --no-deps --require-hashes --disable-pip-version-check -r "$work/subset"
fi
installed > "$work/after"
changed=$(comm -23 "$work/before" "$work/after")
if [ -n "$changed" ]; then
    printf 'packages of the base image have changed — %s\n' "$changed" >&2
    exit 1
fi
