"""Which Pythons `make test` finds, and which build of torch `make` installs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.pythons import pythons

ROOT = Path(__file__).parents[1]


def outside_make() -> dict[str, str]:
    """The environment without what a `make` that runs these tests hands on, which is not meant for another."""
    given = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PIP", "PYTHON", "TORCH", "TORCH_INDEX", "VENV")
    return {name: value for name, value in os.environ.items() if name not in given}


def planned(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What `make install` would run for an environment that is not there yet."""
    command = ["make", "--dry-run", "install", f"VENV={folder / 'venv'}", *options]
    return subprocess.run(command, cwd=ROOT, env=outside_make(), capture_output=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "pip --disable-pip-version-check --quiet install --requirement containers/torch.txt"),
        (["TORCH=cpu"], "--torch-backend cpu --reinstall-package torch --requirement containers/torch.txt"),
        (["TORCH_INDEX=mirror"], "install --index-url mirror --requirement containers/torch.txt"),
    ],
)
def test_torch_comes_from_where_one_says(tmp_path: Path, options: list[str], named: str) -> None:
    done = planned(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert named in " ".join(done.stdout.replace("\\\n", " ").split())
    assert done.stdout.count("containers/torch.txt") == 1


def test_a_build_of_torch_and_an_index_of_it_are_not_both_taken(tmp_path: Path) -> None:
    done = planned(tmp_path, "TORCH=cpu", "TORCH_INDEX=mirror")
    assert done.returncode != 0
    assert "TORCH=cpu and TORCH_INDEX=mirror both say where torch comes from" in done.stderr


def test_with_wheels_no_index_is_asked_for_anything(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    done = planned(tmp_path, f"WHEELS={tmp_path / 'wheels'}")
    assert done.returncode == 0, done.stderr
    installs = [line for line in done.stdout.splitlines() if "pip --python" in line]
    assert len(installs) == 2
    assert all("--no-index" in line for line in installs)


@pytest.mark.parametrize(("name", "refused"), [("it's a lab", False), *((f"a{sign}lab", True) for sign in '"$`\\')])
def test_a_folder_that_installed_programs_cannot_start_from_is_refused(
    tmp_path: Path, name: str, refused: bool
) -> None:
    folder = tmp_path / name
    shutil.copytree(ROOT / "containers", folder / "containers")
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", ".venv/bin/python", f"PYTHON={interpreter(tmp_path / 'python')}"]
    done = subprocess.run(command, cwd=folder, env=outside_make(), capture_output=True, encoding="utf-8")
    assert (done.returncode != 0) == refused, done.stderr
    assert ("Move the project" in done.stderr) == refused


def interpreter(place: Path, prints: str = "", status: int = 0) -> Path:
    """A program that answers as an interpreter would that is asked for its release."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n", encoding="utf-8")
    place.chmod(0o755)
    return place


def test_a_release_is_found_beside_the_running_one_when_its_name_in_path_starts_nothing(tmp_path: Path) -> None:
    own = interpreter(tmp_path / "versions/3.11.7/bin/python3.11", "3.11")
    other = interpreter(tmp_path / "versions/3.12.1/bin/python3.12", "3.12")
    shims = interpreter(tmp_path / "shims/python3.12", "", 127).parent
    assert pythons(own.parents[1], str(shims)) == {"3.11": own, "3.12": other}


def test_path_comes_first_and_what_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    own = interpreter(tmp_path / "versions/cpython-3.13.0-linux/bin/python3.13", "3.13")
    interpreter(tmp_path / "first/python3.13", "", 1)  # As one without ensurepip.
    second = interpreter(tmp_path / "second/python3.13", "3.13")
    path = f"{tmp_path / 'first'}:{tmp_path / 'second'}"
    assert pythons(own.parents[1], path) == {"3.13": second}


def test_a_name_that_starts_another_release_is_not_taken_for_it(tmp_path: Path) -> None:
    own = interpreter(tmp_path / "versions/a/bin/python3.11", "3.11")
    interpreter(tmp_path / "bin/python3.12", "3.11")
    assert pythons(own.parents[1], str(tmp_path / "bin")) == {"3.11": own}
