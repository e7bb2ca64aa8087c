"""The rooms of docs/architecture.md and the contract that `make lint` holds them to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]


def layers() -> list[list[str]]:
    """The contract's layers from the top, each with its modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return [layer.split(" | ") for layer in contracts[0]["layers"]]


def test_the_table_has_the_contracts_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`mfql/\S+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    named = [[re.sub(r"\.py$|/$", "", name) for name in re.findall(r"`mfql/(\S+?)`", row)] for row in rows]
    assert [sorted(row) for row in named] == [sorted(layer) for layer in layers()]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package with its contract, in a folder of its own."""
    shutil.copytree(ROOT / "mfql", tmp_path / "mfql", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, encoding="utf-8")


def test_the_contract_is_kept(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "imported", "said"),
    [
        ("data/paths.py", "mfql.training.train", "mfql.data is not allowed to import mfql.training"),
        ("plan/cost.py", "mfql.report.scores", "mfql.plan is not allowed to import mfql.report"),
        ("envs/units.py", "mfql.envs.isolated", "No circle of modules BROKEN"),
    ],
)
def test_an_import_that_a_function_hides_breaks_it(copy: Path, module: str, imported: str, said: str) -> None:
    with open(copy / "mfql" / module, "a", encoding="utf-8") as file:
        file.write(f"\n\ndef planted() -> None:\n    import {imported}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert said in done.stdout
