"""Write the digest of an image's content into the image, so that each result can name the environment that made it.

A file cannot hold its own checksum, and neither a registry's digest nor a SIF file's is known inside the container. The
digest is therefore taken of what is in the image: path, kind, permissions, and content or target of every file. Images
of Apptainer and Docker with the same content have the same digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# What a container's runtime makes, mounts or replaces; the last three are Apptainer's own.
RUNTIME = {
    *("/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/mnt", "/home", "/root", "/.dockerenv"),
    *("/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/.build.labels"),
    *("/.singularity.d", "/environment", "/singularity"),
}


def main() -> None:
    """Write `digest`, `version` and `revision` as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {
        "digest": f"sha256:{content_digest(Path('/'), RUNTIME | {str(options.out)})}",
        "version": options.version,
        "revision": options.revision,
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(found["digest"])


def content_digest(root: Path, left_out: set[str]) -> str:
    """The sha256 of a tree's listing, in the order of the paths. Owners and dates are no part of it."""
    total = hashlib.sha256()
    for path in walk(root, left_out):
        total.update(describe(path).encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()


def walk(folder: Path, left_out: set[str]) -> Iterator[Path]:
    """Every path below the folder, sorted, without those left out and what lies in them."""
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if str(path) in left_out or (name.startswith(".") and path.parent == Path("/") and path.is_symlink()):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path, left_out)


def describe(path: Path) -> str:
    """One line of the listing."""
    status = path.lstat()
    kind, permissions = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    if path.is_symlink():
        return f"{path} link {os.readlink(path)}"
    if path.is_file():
        with open(path, "rb") as file:
            return f"{path} file {permissions:o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return f"{path} {kind:o} {permissions:o}"


if __name__ == "__main__":
    main()
