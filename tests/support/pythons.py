"""The supported Pythons that this machine has, a path a line, one of each release: `python tests/support/pythons.py`.

Looked for in PATH and beside the Python that runs this, in the folder of an interpreter manager such as pyenv or uv:
there every release lies in a folder of its own, and a name in PATH may start none of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13")
# A release that cannot make virtual environments is of no use.
_PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


def pythons(prefix: Path, path: str) -> dict[str, Path]:
    """Interpreters by release, those that run and can make virtual environments.

    Args:
        prefix: where the Python that asks is installed; folders beside it are searched too.
        path: folders to search first, as in PATH.
    """
    found = {}
    for release in SUPPORTED:
        usable = (place for place in _places(release, prefix, path) if _release(place) == release)
        if (first := next(usable, None)) is not None:
            found[release] = first
    return found


def _places(release: str, prefix: Path, path: str) -> Iterator[Path]:
    name = f"python{release}"
    for folder in path.split(os.pathsep):
        if folder and (place := shutil.which(name, path=folder)):
            yield Path(place)
    yield prefix / "bin" / name
    yield from sorted(prefix.parent.glob(f"*{release}*/bin/{name}"), reverse=True)


def _release(place: Path) -> str | None:
    try:
        done = subprocess.run([place, "-c", _PROBE], capture_output=True, encoding="utf-8", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    for place in pythons(Path(sys.base_prefix), os.environ.get("PATH", "")).values():
        print(place)
