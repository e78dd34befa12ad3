#!/bin/sh
# Installs the Debian packages that are named, or else those that the tests need, where they are missing.
#   libb64-0d   a library of perf_analyzer
#   haproxy     one of the balancers that tests/fleet runs
set -eu
[ $# -gt 0 ] || set -- libb64-0d haproxy

missing=""
for package in "$@"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q ' installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
if ! command -v apt-get >/dev/null; then
    echo "These Debian packages, or their like on this system, are needed:$missing" >&2
    exit 1
fi
echo "Installing$missing"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
