#!/bin/sh
# Builds an image with whatever of docker, podman and buildah runs here.
#
#   deploy/build.sh server cpu            localhost/conveyor-server:cpu
#   deploy/build.sh server gpu            localhost/conveyor-server:gpu
#   deploy/build.sh exporter              localhost/conveyor-exporter:latest
#   deploy/build.sh model FOLDER [TAG]    the CPU server with a model repository baked in; SERVER names another image
#
# BUILDER chooses the program, BASE and BUILD_BASE the base images; BUILD_FLAGS are handed on as they are.
set -eu
cd "$(dirname "$0")/.."

say() { echo "$@" >&2; }
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' deploy/build.sh >&2; exit 2; }

what=${1:-}
context=.
case $what in
    server)
        variant=${2:-cpu}
        case $variant in cpu | gpu) ;; *) usage ;; esac
        tag=conveyor-server:$variant
        set -- --build-arg "VARIANT=$variant"
        ;;
    exporter)
        tag=conveyor-exporter:latest
        set -- ${TORCH_INDEX:+--build-arg "TORCH_INDEX=$TORCH_INDEX"}
        ;;
    model)
        context=${2:?deploy/build.sh model FOLDER}
        tag=${3:-conveyor-model:latest}
        set -- ${SERVER:+--build-arg "SERVER=$SERVER"}
        ;;
    *) usage ;;
esac

if [ -z "${BUILDER:-}" ]; then
    # A docker without its daemon is of no use.
    for BUILDER in docker podman buildah none; do
        "$BUILDER" info >/dev/null 2>&1 && break
    done
fi
if [ "$BUILDER" = none ]; then
    say "Building an image needs docker, podman or buildah; none of them is installed and runs."
    exit 1
fi

if [ "$what" != model ]; then
    set -- "$@" ${BASE:+--build-arg "BASE=$BASE"} ${BUILD_BASE:+--build-arg "BUILD_BASE=$BUILD_BASE"}
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$what/pyproject.toml")
    set -- "$@" --build-arg "VERSION=$version"
    set -- "$@" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
fi
case $BUILDER in
    docker) command="docker build" ;;
    podman) command="podman build --format docker" ;; # OCI's own format has no health check
    *) command="$BUILDER build --format docker" ;;
esac
say "Building localhost/$tag with $BUILDER"
# Both are lists of words.
# shellcheck disable=SC2086
exec $command ${BUILD_FLAGS:-} "$@" --tag "localhost/$tag" --file "deploy/$what.Containerfile" "$context"
