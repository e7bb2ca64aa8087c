"""What a login node does: the workflow planned with profiles/slurm, and `mfql` without what only trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mfql.extensions import VARIABLE
from tests.support.project import clone

ROOT = Path(__file__).parents[1]

# Hides every package that the launcher's environment does not have.
_SITE = """
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions

THERE = {there!r}
HIDDEN = {{
    name for name, packages in packages_distributions().items()
    if not any(package.lower().replace("_", "-").replace(".", "-") in THERE for package in packages)
}}

class Hide(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"the launcher has no {{name}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture
def launcher(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python has the packages of requirements-launcher.lock alone."""
    lock = (ROOT / "containers/requirements-launcher.lock").read_text(encoding="utf-8")
    there = {"mfql", "pip", *re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)}
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(_SITE.format(there=there), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    # Compiling, in another test of this process, names a cache of its own, which the profile would keep. Extensions are
    # the configuration's to name.
    outer = {name: value for name, value in os.environ.items() if name not in ("TORCHINDUCTOR_CACHE_DIR", VARIABLE)}
    return outer | {"PYTHONPATH": path, "MFQL_CACHE": str(tmp_path / "caches"), "NO_COLOR": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working copy, without results."""
    return clone(tmp_path / "mfql").folder


def call(environment: dict[str, str], project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, encoding="utf-8", timeout=600
    )


@pytest.mark.slow
def test_the_workflow_is_planned_with_the_slurm_profile(
    launcher: dict[str, str], project: Path, tmp_path: Path
) -> None:
    options = ("--workflow-profile", "profiles/slurm", "--configfile", "tests/miniature.yaml")
    planned = call(launcher, project, "-m", "snakemake", "-n", *options)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "slurm_extra=--signal=TERM@180" in planned.stdout + planned.stderr
    caches = {path.name for path in (tmp_path / "caches").iterdir()}
    assert caches >= {"apptainer", "matplotlib", "torchinductor", "triton"}


@pytest.mark.parametrize("command", ["plan", "status"])
def test_a_launchs_plan_and_its_status_need_nothing_that_trains(
    launcher: dict[str, str], project: Path, command: str
) -> None:
    done = call(launcher, project, "-m", "mfql.cli", command, "--configfile", "tests/miniature.yaml")
    assert done.returncode == 0, done.stderr
    assert "miniature" in done.stdout
