#!/usr/bin/env bash
# `make check-image`: builds both images and uses them as their users do. Run as an ordinary user, with apptainer and one of
# docker, podman and buildah in PATH; the settings of containers/build.sh hold here too. Where no registry of images is
# reachable, LOCAL_BASE=base.tar makes the base from that file, which mmdebstrap writes from the machine's Debian mirror.
set -euo pipefail
LOCAL_BASE=${LOCAL_BASE:+$(realpath "$LOCAL_BASE")}
cd "$(dirname "$0")/../.."

engine=${ENGINE:-docker}
work=$(mktemp -d "${TMPDIR:-/tmp}/mfql-check-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log

step() { printf '\n== %s (%s)\n' "$1" "$(date +%H:%M:%S)"; }
fail() { echo "check-image: $1" >&2; [ ! -e "$log" ] || tail -n 40 "$log" >&2; exit 1; }
# Each run's files with their dates: a run that trains changes them.
runs() { (cd "$1" && find results/runs -path '*/run/*' -type f -printf '%p %T@\n' | sort); }
miniature() { (cd "$1" && shift && snakemake --configfile tests/miniature.yaml --cores 2 "$@") > "$log" 2>&1; }
in_image() { miniature "$@" --software-deployment-method apptainer; }
digest() { python3 -c 'import json, sys; print(json.load(sys.stdin)["digest"])'; }
# A command in a container of the OCI image, as the image's own user.
run_docker() {
    if [ "$engine" = buildah ]; then
        container=$(buildah from --pull-never "$1")
        buildah run ${RUN_FLAGS:-} "$container" -- /mfql/bin/run "${@:2}"
        buildah rm "$container" > /dev/null
    else
        "$engine" run --rm "$@"
    fi
}

[ "$(id -u)" != 0 ] || fail "run this as an ordinary user, as the image's users are"
git clone --quiet . "$work/mfql"
cd "$work/mfql"

apptainer_base=() docker_base=()
if [ -n "${LOCAL_BASE:-}" ]; then
    step "a base of Debian without a registry"
    [ -e "$LOCAL_BASE" ] || mmdebstrap --quiet --variant=apt bookworm "$LOCAL_BASE" 2> "$log" || fail "mmdebstrap failed"
    mkdir "$work/base" && cp "$LOCAL_BASE" "$work/base/base.tar"
    printf 'FROM scratch\nADD base.tar /\nCMD ["/bin/sh"]\n' > "$work/base/Dockerfile"
    buildah bud --quiet --timestamp 0 --tag localhost/mfql-base "$work/base" > "$log"
    buildah push --quiet localhost/mfql-base "oci-archive:$work/base.oci.tar"
    apptainer_base=(BOOTSTRAP=oci-archive BASE="$work/base.oci.tar") docker_base=(BASE=localhost/mfql-base)
fi

step "the miniature workflow to its end, without an image"
miniature . || fail "the miniature failed without an image"
before=$(runs .)

step "the Apptainer image, built and tested"
env "${apptainer_base[@]}" containers/build.sh apptainer > "$log" 2>&1 || fail "the build failed"
grep '^mfql-check: ' "$log"
first=$(sha256sum < containers/mfql.sif)
built=$(apptainer exec containers/mfql.sif cat /mfql/image.json | digest)
echo "$(stat --format %s containers/mfql.sif) bytes, content $built"

step "a finished workflow switched to the image trains nothing"
in_image . || fail "the switched workflow failed"
grep -q "Nothing to be done" "$log" || fail "there was something to do"
rm results/runs/mfql-miniature/*/seed1/offline/evaluation.json
in_image . || fail "restoring a lost result in the image failed"
grep -q "mfql.sif" "$log" || fail "the lost result was not restored in the image"
[ "$(runs .)" = "$before" ] || fail "runs were trained"

step "built again: the same file?"
env "${apptainer_base[@]}" containers/build.sh apptainer > "$log" 2>&1 || fail "the second build failed"
second=$(sha256sum < containers/mfql.sif)
printf '%s\n%s\n' "$first" "$second"
[ "$first" = "$second" ] || fail "two builds of the same inputs differ"

step "switched to the rebuilt image: trains nothing"
in_image . || fail "the workflow failed in the rebuilt image"
rm results/runs/mfql-miniature/*/seed2/offline/evaluation.json
in_image . || fail "restoring a lost result in the rebuilt image failed"
[ "$(runs .)" = "$before" ] || fail "runs were trained"

step "the miniature workflow in the image, from the start"
git clone --quiet . "$work/fresh"
ln containers/mfql.sif "$work/fresh/containers/"
in_image "$work/fresh" || fail "the miniature failed in the image"
for manifest in "$work"/fresh/results/runs/*/*/seed*/*/run/manifest.json; do
    found=$(python3 -c 'import json, sys; run = json.load(open(sys.argv[1])); print(run["image"]["digest"], run["code"]["commit"])' "$manifest")
    [ "$found" = "$built $(git rev-parse HEAD)" ] || fail "$manifest names $found"
done
echo "$(ls "$work"/fresh/results/runs/*/*/seed*/*/run/manifest.json | wc -l) runs name the image and the checkout's commit"

step "the list of what is in the image"
make --no-print-directory sbom > "$log" 2>&1 || fail "make sbom failed"
python3 - containers/mfql.cdx.json <<'PYTHON'
import json, sys
components = json.load(open(sys.argv[1]))["components"]
names = {component["name"] for component in components}
assert {"torch", "mujoco", "libc6", "snakemake"} <= names, names
print(f"{len(components)} components, {sum(bool(found.get('licenses')) for found in components)} with a licence's name")
PYTHON

step "the Dockerfile, built with $engine and checked as the image's user"
env "${docker_base[@]}" IMAGE=localhost/mfql-check ENGINE="$engine" containers/build.sh docker > "$log" 2>&1 ||
    fail "the build failed"
run_docker localhost/mfql-check mfql-check || fail "the check failed"
[ "$(run_docker localhost/mfql-check cat /mfql/image.json | digest)" = "$built" ] ||
    fail "the two images differ in content"
echo "its content is the Apptainer image's"

step "all checks passed"
