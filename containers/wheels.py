"""Wheels to bring along to a machine without a package index, which has torch and the usual packages but no simulator.

    python containers/wheels.py 3.12 wheels        for that Python, on Linux for x86-64 (make wheels FOR=3.12)

The releases and hashes are those of requirements.lock. Of dm_control, whose wheel is larger than all others together,
only the models' language is kept: its suites, walkers and their pictures serve none of the environments here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

_LOCK = Path(__file__).with_name("requirements.lock")
# The simulator's packages with all that they import (imageio is gymnasium's), what checks records and descriptions, and
# what installs this project. tests/test_check.py runs with these and with what such machines have.
_BROUGHT = [
    "absl-py",
    "attrs",
    "cloudpickle",
    "dm-control",
    "dm-env",
    "dm-tree",
    "farama-notifications",
    "fastjsonschema",
    "glfw",
    "gymnasium",
    "imageio",
    "jsonschema",
    "jsonschema-specifications",
    "lxml",
    "mujoco",
    "mujoco-core",
    "mujoco-studio",
    "ogbench",
    "pyopengl",
    "referencing",
    "rpds-py",
    "setuptools",
    "websockets",
]
_UNUSED = tuple(
    f"dm_control/{part}/"
    for part in (
        "blender",
        "composer",
        "entities",
        "locomotion",
        "manipulation",
        "mujoco/testing",
        "suite",
        "third_party",
        "viewer",
    )
)
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")


def main(python: str, folder: Path) -> None:
    """Fill the folder and say how large it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text("".join(locked(name) for name in _BROUGHT), encoding="utf-8")
        platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", python, *platforms, "--dest", str(folder)]
        subprocess.run([*command, "--require-hashes", "--requirement", str(wanted)], check=True)
    for wheel in folder.glob("dm_control-*.whl"):
        without(wheel, _UNUSED)
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{folder}: {len(wheels)} wheels for Python {python}, {size:.0f} MB")


def locked(name: str) -> str:
    """The lines of a package in the lock file: its release and hashes."""
    found = re.search(
        rf"^{re.escape(name)}==.*?(?=^\S|\Z)", _LOCK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise SystemExit(f"{_LOCK} has no {name}")
    return re.sub(r"^ +#.*\n", "", found[0], flags=re.MULTILINE)


def without(wheel: Path, unused: tuple[str, ...]) -> None:
    """Write a wheel anew without some of its folders, in its list of files too."""
    smaller = wheel.with_suffix(".part")
    with ZipFile(wheel) as old, ZipFile(smaller, "w", ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename.startswith(unused):
                continue
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not line.startswith(unused)).encode()
            new.writestr(entry, content, ZIP_DEFLATED)
    smaller.replace(wheel)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
