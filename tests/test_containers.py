"""The images' inputs, and what a run inside an image says of it. `make check-image` builds and runs the images."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest
import torch

from mfql.training import provenance

CONTAINERS = Path(__file__).parents[1] / "containers"
LOCKS = sorted(CONTAINERS.glob("torch-*.lock"))


def pins(lock: Path) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def test_images_have_a_lock_for_the_processor_and_one_for_cuda() -> None:
    assert {lock.stem for lock in LOCKS} >= {"torch-cpu", "torch-cu130"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_torch_of_the_images_is_the_version_that_the_installation_takes(lock: Path) -> None:
    version = pins(lock)["torch"].partition("+")[0]
    assert f"torch=={version}" == (CONTAINERS / "torch.txt").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("lock", [*LOCKS, CONTAINERS / "requirements-macos.lock"], ids=lambda lock: lock.stem)
def test_packages_in_two_locks_have_one_version(lock: Path) -> None:
    shared = pins(CONTAINERS / "requirements.lock")
    assert all(shared.get(name, version) == version for name, version in pins(lock).items())


@pytest.mark.parametrize("lock", [*LOCKS, CONTAINERS / "tools.lock"], ids=lambda lock: lock.stem)
def test_every_package_of_an_image_has_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=[\w.-]+==)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_both_recipes_start_from_the_same_base() -> None:
    found = {
        re.search(r"BASE=(\S+)", (CONTAINERS / name).read_text(encoding="utf-8")) for name in ("Dockerfile", "mfql.def")
    }
    bases = {match.group(1) for match in found if match}
    assert len(bases) == 1
    assert re.fullmatch(r"debian:\S+@sha256:[0-9a-f]{64}", bases.pop())


def test_manifest_holds_the_image_that_the_run_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"digest": "sha256:0123", "version": "0.1.0", "revision": "abc"}
    monkeypatch.setattr(provenance, "IMAGE", tmp_path / "image.json")
    assert provenance.provenance(torch.device("cpu"), "mfql")["image"] is None
    provenance.IMAGE.write_text(json.dumps(found), encoding="utf-8")
    assert provenance.provenance(torch.device("cpu"), "mfql")["image"] == found


def sif_file(path: Path, identifier: bytes, date: int) -> Path:
    """A SIF file of two places for descriptors, of which one is used, and some content."""
    table = 4096
    descriptor = struct.pack("<i?IIIqqqqq", 0x4002, True, 1, 0, 0, 8192, 4, 4, date, date)
    header = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0" + b"02\0" + identifier
    header += struct.pack("<qqqqqq", date, date, 1, 2, table, 2 * 585)
    path.write_bytes(header.ljust(table, b"\0") + descriptor.ljust(2 * 585, b"\0").ljust(4096, b"\0") + b"data")
    return path


def fix_header(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONTAINERS / "fix_sif_header.py"), str(path)]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


def test_sif_files_of_the_same_content_become_the_same_file(tmp_path: Path) -> None:
    one = sif_file(tmp_path / "one.sif", bytes(range(16)), 1_700_000_000)
    other = sif_file(tmp_path / "other.sif", bytes(16 * [7]), 1_800_000_000)
    for path in (one, other):
        assert fix_header(path).returncode == 0
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().endswith(b"data")


def test_file_that_is_no_sif_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.img"
    path.write_bytes(bytes(range(200)))
    done = fix_header(path)
    assert done.returncode != 0
    assert "other.img is not a SIF file" in done.stderr
    assert path.read_bytes() == bytes(range(200))


def _wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels", CONTAINERS / "wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_wheel_that_is_brought_along_is_locked_with_its_hashes():
    wheels = _wheels()
    for name in wheels._BROUGHT:
        first, *hashes = wheels.locked(name).splitlines()
        assert first.startswith(f"{name}==")
        assert hashes
        assert all(line.lstrip().startswith("--hash=sha256:") for line in hashes)


def test_a_wheel_cut_down_lacks_the_folders_in_its_content_and_in_its_record(tmp_path):
    wheel = tmp_path / "one-1-py3-none-any.whl"
    files = {"one/a.py": "1", "one/large/b.py": "2", "one-1.dist-info/RECORD": "one/a.py,,\none/large/b.py,,\n"}
    with ZipFile(wheel, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    _wheels().without(wheel, ("one/large/",))
    with ZipFile(wheel) as file:
        assert file.namelist() == ["one/a.py", "one-1.dist-info/RECORD"]
        assert file.read("one-1.dist-info/RECORD") == b"one/a.py,,\n"
    assert list(tmp_path.iterdir()) == [wheel]
