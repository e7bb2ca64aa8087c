#!/usr/bin/env bash
# Build the image: `containers/build.sh apptainer` writes containers/mfql.sif, `containers/build.sh docker` an image mfql. Both go
# through `make`. Settings, as environment variables (docs/containers.md):
#   CUDA=13.0                NVIDIA's GPUs, with the CUDA that containers/torch-cu130.lock is for; the processor without it
#   BASE, BOOTSTRAP          another base, and for Apptainer how it is read (docker, oci-archive, localimage)
#   DEBIAN_MIRROR, DEBIAN_SECURITY_MIRROR, PIP_INDEX, TORCH_INDEX
#                            URLs of a site's mirrors
#   SITE=DIR                 what a site brings itself: wheels (*.whl), its certificate authorities (ca.crt)
#   IMAGE                    the file or name of the image
#   ENGINE, ENGINE_FLAGS     docker, podman or buildah, and options for its build
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "$1" >&2; echo "  $2" >&2; exit 2; }

# Exactly the files under version control, as they are in the working tree: what lies beside them is no part of an image.
stage() {
    stage=$(mktemp -d "${TMPDIR:-/tmp}/mfql-image.XXXXXX")
    trap 'rm -rf "$stage"' EXIT
    git ls-files -z | while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | xargs -0 cp --parents --no-dereference --target-directory "$stage"
    mkdir -p "$stage/containers/site"
    if [ -n "${SITE:-}" ]; then
        [ -d "$SITE" ] || fail "SITE=$SITE is no folder." "Name a folder with *.whl or ca.crt."
        find -L "$SITE" -maxdepth 1 \( -name '*.whl' -o -name '*.tar.gz' -o -name ca.crt \) -type f \
            -exec cp --target-directory "$stage/containers/site" {} +
    fi
    chmod -R u=rwX,go=rX "$stage"
}

describe() {
    git rev-parse --git-dir > /dev/null 2>&1 ||
        fail "An image is built from a git checkout, whose commit it names." "Clone the repository, and build there."
    VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
    REVISION=$(git rev-parse HEAD)
    git diff --quiet HEAD -- || REVISION=$REVISION-dirty
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    case ${CUDA:-} in
    "") MINIMUM_DRIVER= ;;
    12.*) MINIMUM_DRIVER=525.60.13 ;;
    13.*) MINIMUM_DRIVER=580.65.06 ;;
    *) fail "CUDA=$CUDA is not known." "Versions 12 and 13 are, such as CUDA=13.0." ;;
    esac
    export SOURCE_DATE_EPOCH
    arguments=(VERSION="$VERSION" REVISION="$REVISION" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH")
    arguments+=(CUDA="${CUDA:-}" MINIMUM_DRIVER="$MINIMUM_DRIVER")
    for name in BASE DEBIAN_MIRROR DEBIAN_SECURITY_MIRROR PIP_INDEX TORCH_INDEX; do
        [ -z "${!name:-}" ] || arguments+=("$name=${!name}")
    done
}

# Written beside and renamed: a build that fails leaves the image that was there.
build_apptainer() {
    command -v apptainer > /dev/null || fail "apptainer is not in PATH." "Install Apptainer 1.3 or later, or: make image-docker"
    image=${IMAGE:-containers/mfql.sif}
    arguments+=(DATE="$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)")
    [ -z "${BOOTSTRAP:-}" ] || arguments+=(BOOTSTRAP="$BOOTSTRAP")
    apptainer build --force --notest --bind "$stage:/mnt:ro" "${arguments[@]/#/--build-arg=}" \
        "$image.part" "$stage/containers/mfql.def"
    python3 containers/fix_sif_header.py "$image.part"
    apptainer test "$image.part"
    mv "$image.part" "$image"
    sha256sum "$image"
}

build_docker() {
    engine=${ENGINE:-$(for name in docker podman buildah; do command -v $name > /dev/null && echo $name && break; done)}
    [ -n "$engine" ] || fail "None of docker, podman and buildah is in PATH." "Install one, or: make image"
    image=${IMAGE:-mfql}
    case $engine in
    docker) build=(docker build --provenance false) ;;
    podman) build=(podman build --format docker --timestamp "$SOURCE_DATE_EPOCH") ;;
    buildah) build=(buildah bud --format docker --layers --timestamp "$SOURCE_DATE_EPOCH") ;;
    *) fail "ENGINE=$engine is not known." "docker, podman and buildah are." ;;
    esac
    arguments+=(INPUTS="$(cat "$stage"/containers/install.sh "$stage"/containers/*.lock | sha256sum | cut -c 1-16)")
    # shellcheck disable=SC2086
    "${build[@]}" ${ENGINE_FLAGS:-} "${arguments[@]/#/--build-arg=}" --tag "$image" \
        --file "$stage/containers/Dockerfile" "$stage"
}

describe
stage
case ${1:-} in
apptainer | docker) "build_$1" ;;
*) fail "containers/build.sh apptainer|docker" "or: make image, make image-docker" ;;
esac
