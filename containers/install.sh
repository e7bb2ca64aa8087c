#!/bin/sh
# What both recipes run inside the image, as root, one step after the other:
#   system     Debian's packages
#   python     /mfql/venv: what the lock files name, checked against their hashes, and nothing else
#   project    /mfql/repository, the commands in /mfql/bin, the list of components, the image's digest
#
# The recipes' build arguments come as environment variables. The same inputs leave the same content: nothing that is made
# here holds a date, a random number or a build path.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
site=$source/containers/site
tools=/mfql/tools  # not in /tmp, which is the building machine's under Apptainer
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 HOME=/mfql/home
umask 022
# One date for all that is not the project, whatever the recipe gives: Debian ties compiled Python to dates where it has none.
[ "$1" = project ] || export SOURCE_DATE_EPOCH=86400
# pip and uv trust the machine's authorities, or those that the site gives.
[ ! -e "$site/ca.crt" ] || export PIP_CERT="$site/ca.crt" SSL_CERT_FILE="$site/ca.crt"

# git: a run's manifest names the commit of its code. gcc and Python's headers: torch.compile builds its launchers with them.
# The rest: MuJoCo renders off screen through EGL, on the processor where no GPU's driver offers it.
packages="ca-certificates gcc git libc6-dev libegl1 libgl1 libgl1-mesa-dri libopengl0 python3 python3-dev python3-venv"

install_system() {
    mkdir -p /mfql
    package_list > /mfql/sources.list
    set -- -qq -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0
    [ ! -s /mfql/sources.list ] ||
        set -- "$@" -o Dir::Etc::SourceList=/mfql/sources.list -o Dir::Etc::SourceParts=/dev/null
    apt-get "$@" update
    # shellcheck disable=SC2086
    apt-get "$@" install --yes --no-install-recommends $packages > /dev/null
    git config --system --add safe.directory '*'  # a mounted checkout may belong to another user's number
    useradd --create-home --uid 1000 --user-group mfql
    mkdir --mode 1777 /work
    clean
}

# Where Debian's packages come from, as sources.list has it; nothing where the base's own list is to be used.
package_list() {
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "deb $DEBIAN_MIRROR $release main"
        echo "deb $DEBIAN_MIRROR $release-updates main"
        [ -z "${DEBIAN_SECURITY_MIRROR:-}" ] || echo "deb $DEBIAN_SECURITY_MIRROR $release-security main"
    else
        # Debian's images name in comments the snapshots that they were made from.
        for url in $(sed -n 's/^# \(https\{0,1\}:[^ ]*\/archive\/debian[^ ]*\)$/\1/p' \
            /etc/apt/sources.list.d/debian.sources 2> /dev/null); do
            case $url in
            */debian-security/*) echo "deb $url $release-security main" ;;
            *) echo "deb $url $release main" && echo "deb $url $release-updates main" ;;
            esac
        done
    fi
}

install_python() {
    make_tools
    build=cpu
    [ -z "${CUDA:-}" ] || build=cu$(echo "$CUDA" | tr -d .)
    lock=$source/containers/torch-$build.lock
    if [ ! -e "$lock" ]; then
        echo "There is no lock file for CUDA $CUDA. Have: $(cd "$source/containers" && echo torch-*.lock)." \
            "Write it with: make lock CUDA=$CUDA" >&2
        exit 1
    fi
    python3 -m venv --without-pip /mfql/venv
    # shellcheck disable=SC2046
    uv pip sync --python /mfql/venv/bin/python --require-hashes --link-mode copy \
        --build-constraints "$source/containers/requirements.lock" $(torch_source "$lock" "$build") \
        "$source/containers/requirements.lock" "$lock"
    compile /mfql/venv/lib
    drop_dates
    clean
}

# uv's options for where torch comes from. A build with a mark of its own, such as 2.13.0+cpu, is in an index of its own.
torch_source() {
    if ls "$site"/torch-*.whl > /dev/null 2>&1 || ! grep -q '^torch==[^ ]*+' "$1"; then
        return
    elif [ -n "${TORCH_INDEX:-}" ]; then
        echo "--index $TORCH_INDEX"
    else
        echo "--torch-backend $2"
    fi
}

# What builds the image and is not in it: uv, and what lists the components.
make_tools() {
    [ -z "${PIP_INDEX:-}" ] || export PIP_INDEX_URL="$PIP_INDEX"
    python3 -m venv "$tools"
    "$tools/bin/pip" --disable-pip-version-check --no-cache-dir --quiet install --no-deps --require-hashes \
        --find-links "$site" --requirement "$source/containers/tools.lock"
}

uv() {
    [ -z "${PIP_INDEX:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX"
    [ ! -d "$site" ] || export UV_FIND_LINKS="$site"
    UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 "$tools/bin/uv" "$@"
}

# Beside what it installs from a folder uv notes that folder's dates.
drop_dates() {
    find /mfql/venv/lib -name uv_cache.json -delete
    find /mfql/venv/lib -name RECORD -exec sed -i '/\/uv_cache\.json,/d' {} +
}

# Python can write nothing into a finished image, so that without these files each process would compile what it imports. They
# are tied to the sources' content, not to their dates.
compile() {
    # Some packages hold files for other versions of Python, which do not compile.
    python3 -W ignore -m compileall -qq --invalidation-mode unchecked-hash "$@" || true
}

install_project() {
    make_tools
    mkdir -p /mfql/repository /mfql/bin
    (cd "$source" && find . -path ./containers/site -prune -o -name __pycache__ -prune -o \( -type f -o -type l \) -print0) |
        LC_ALL=C sort -z | (cd "$source" && tar --create --null --files-from - --mode 'u=rwX,go=rX' --owner 0 --group 0) |
        tar --extract --directory /mfql/repository
    install -m 755 "$source/containers/run.sh" /mfql/bin/run
    install -m 755 "$source/containers/check.sh" /mfql/bin/mfql-check
    install -m 755 "$source/containers/quickstart.sh" /mfql/bin/mfql-quickstart
    install -m 644 "$source/containers/environment.sh" /mfql/environment.sh
    uv pip install --python /mfql/venv/bin/python --quiet --no-deps --no-build-isolation --editable /mfql/repository
    compile /mfql/repository/mfql
    drop_dates
    list_components
    clean
    python3 "$source/containers/digest.py" --version "$VERSION" --revision "$REVISION" --out /mfql/image.json
}

# What is in the image, with versions and licences (CycloneDX): Debian's packages and the Python packages as one list. Debian's
# licences are those of copyright files that a machine can read; every file is in /usr/share/doc.
list_components() {
    date=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    set -- --sbom-type cdx --cdx-schema-version 1.6 --timestamp "$date" \
        --cdx-serialnumber 00000000-0000-4000-8000-000000000000
    "$tools/bin/debsbom" generate "$@" --with-licenses --out "$tools/debian"
    "$tools/bin/cyclonedx-py" environment --output-reproducible --spec-version 1.6 \
        --pyproject /mfql/repository/pyproject.toml --output-file "$tools/python.cdx.json" /mfql/venv/bin/python
    "$tools/bin/debsbom" merge "$@" --distro-name "mfql image" --distro-version "$VERSION" --out "$tools/sbom" \
        "$tools/debian.cdx.json" "$tools/python.cdx.json"
    install -m 644 "$tools/sbom.cdx.json" /mfql/sbom.cdx.json
}

# What installing leaves behind and nothing needs: caches, logs, backups, all of which hold dates.
clean() {
    rm -rf "$tools" "$HOME" /mfql/sources.list /root/.cache /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig \
        /var/lib/apt/lists/* /var/lib/dpkg/*-old /var/log/apt /var/log/*.log /etc/passwd- /etc/group- /etc/shadow- \
        /etc/gshadow- /etc/subuid- /etc/subgid-
}

"install_$1"
