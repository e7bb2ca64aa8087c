"""Each line of docs/inputs.md, tried."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest

from tests.support.inputs.lab import CASES, TINY, Lab
from tests.support.training_runs import ROOT

for part in ("datasets", "minari", "lerobot", "environments", "tables", "names", "paths"):
    importlib.import_module(f"tests.support.inputs.{part}")

PAGE = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
LINES = {
    given: (outcome, said)
    for given, outcome, said in re.findall(
        r"^\| (.+?) \| (accepted|converted|warned|refused) \| ?(.*?) \|$", PAGE, re.MULTILINE
    )
}
MARKS = {"accepted": (), "converted": ("mfql: note: ",), "warned": ("mfql: warning: ",), "refused": ()}


@pytest.fixture
def a_lab(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A copy of the page's `mylab`, with a method that learns nothing."""
    folder = tmp_path / "mylab"
    shutil.copytree(lab / "mylab", folder)
    (folder / "methods" / "tiny.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(ROOT)
    return Lab(folder)


def test_every_line_has_what_tries_it() -> None:
    assert set(LINES) == set(CASES)
    assert sum(line.startswith("| ") for line in PAGE.splitlines()) == len(LINES) + PAGE.count("| given |")


@pytest.mark.parametrize("line", sorted(CASES))
def test_the_line_holds(line: str, a_lab: Lab) -> None:
    said = CASES[line](a_lab)
    outcome, words = LINES[line]
    assert (said.status != 0) == (outcome == "refused"), said.text
    quoted = [one or other for one, other in re.findall(r"`` (.+?) ``|`(.+?)`", words)]
    for part in (*MARKS[outcome], *quoted):
        assert part.strip() in " ".join(said.text.split()), said.text
    assert "Traceback" not in said.text
    if outcome in ("accepted", "refused"):
        assert not re.search("^mfql: (warning|note): ", said.text, re.MULTILINE), said.text
