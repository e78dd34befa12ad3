#!/bin/sh
# Builds the server image for real, runs its own command in it, predicts from outside, and stops it as an engine would.
#
#   deploy/image_test.sh            with buildah on a base that debootstrap makes; needs root, a network and 2 GB of disk
#
# What a build needs to reach the package index from here comes from the caller: pip's settings (PIP_INDEX_URL, PIP_CERT,
# as `pip config` knows them) are mounted into the build, and never get into an image. IMAGE_TEST_BASE, a folder, keeps
# the base for the next run. Everything else is gone at the end. It takes some minutes; nothing waits for ever.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
BUILD_SECONDS=900
LIMIT_MB=250

if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap >/dev/null
fi

work=$(mktemp -d)
base=${IMAGE_TEST_BASE:-$work/base}
images() { buildah --storage-driver vfs --root "$work/store" --runroot "$work/run" "$@"; }
finish() {
    images umount --all >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

if [ ! -e "$base/usr/bin/python3" ]; then
    echo "Making a Debian base with Python"
    timeout "$BUILD_SECONDS" debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$base" >"$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; exit 1; }
fi
container=$(images from scratch)
images copy --quiet "$container" "$base" / >/dev/null
images commit --quiet --rm "$container" localhost/base >/dev/null

# pip's way to the index, for the time of the build.
setting() { "$PYTHON" -m pip config get "global.$1" 2>/dev/null || "$PYTHON" -m pip config get ":env:.$1" 2>/dev/null || true; }
echo "[global]" >"$work/pip.conf"
index=$(setting index-url)
[ -z "$index" ] || echo "index-url = $index" >>"$work/pip.conf"
certificates=$(setting cert)
mounts="--volume $work/pip.conf:/etc/pip.conf:ro"
if [ -n "$certificates" ]; then
    echo "cert = /etc/pip-ca.crt" >>"$work/pip.conf"
    mounts="$mounts --volume $certificates:/etc/pip-ca.crt:ro"
fi
start=$(date +%s)
BUILDER="buildah --storage-driver vfs --root $work/store --runroot $work/run" BASE=localhost/base \
    BUILD_FLAGS="--quiet --isolation chroot $mounts" timeout "$BUILD_SECONDS" deploy/build.sh server cpu >/dev/null
echo "Built in $(($(date +%s) - start)) s"

container=$(images from localhost/conveyor-server:cpu)
root=$(images mount "$container")
images inspect --type image localhost/conveyor-server:cpu >"$work/config.json"
bytes() { du --summarize --apparent-size --block-size=1 --one-file-system "$@" | cut -f1; }
before=$(bytes "$base")
added=$((($(bytes "$root") - before) / 1000000))
compressed=$(($(tar --create --directory "$root" opt | gzip -6 | wc -c) / 1000000))
echo "The server adds $added MB to a base of $((before / 1000000)) MB; $compressed MB compressed"
[ "$added" -le "$LIMIT_MB" ] || { echo "That is more than $LIMIT_MB MB." >&2; exit 1; }
timeout 300 "$PYTHON" deploy/image_check.py "$root" "$work/config.json"

# A model repository can be baked in as well.
mkdir -p "$work/models"
"$PYTHON" -c 'import sys; sys.path.insert(0, "tests"); from pathlib import Path
from support.onnx_models import classifier, save; save(classifier(), Path(sys.argv[1]), "digits")' "$work/models"
BUILDER="buildah --storage-driver vfs --root $work/store --runroot $work/run" SERVER=localhost/conveyor-server:cpu \
    BUILD_FLAGS="--quiet --isolation chroot" timeout "$BUILD_SECONDS" deploy/build.sh model "$work/models" >/dev/null
baked=$(images from localhost/conveyor-model:latest)
[ -r "$(images mount "$baked")/models/digits/1/model.onnx" ] && echo "A repository was baked in"
