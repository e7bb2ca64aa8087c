"""Names and values of files steer no terminal: control characters are shown as escapes wherever a command prints."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfql.cli import main
from mfql.errors import UserError, in_one_line, message_of, note, printing, shown, warn
from mfql.tasks import find_task
from tests.support.fake_results import TASK, write_run
from tests.support.project import clone
from tests.support.training_runs import ROOT

# Clears the screen, names the window, rings, turns the line round, ends it early, begins a forged one; C1's own CSI.
STEERING = "a\x1b[2J\x1b]0;mine\x07\u202eb\u2066\r\x9b31m"
FORGED = "x\nmfql: note: nothing is wrong"
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_that_steers_is_left_and_all_else_is_as_it_was(text: str) -> None:
    said = shown(text)
    assert not _STEERS.search(said)
    assert shown(said) == said
    if not _STEERS.search(text):
        assert said == text
    assert "\n" not in in_one_line(text)


def test_a_message_keeps_its_lines_and_begins_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError(f"{STEERING} of {FORGED}", "Mend it:\n  so,\nor so.")
    said = "a\\x1b[2J\\x1b]0;mine\\x07\\u202eb\\u2066\\x0d\\x9b31m of x"
    assert str(error) == f"{said}\n  mfql: note: nothing is wrong\n  Mend it:\n  so,\n  or so."
    assert str(UserError(f"there: {error}")) == f"there: {error}"  # once said, it stays
    warn(f"{STEERING}{FORGED}", "Mend it.")
    note(f"{STEERING}{FORGED}")
    printed = capsys.readouterr().err
    assert not _STEERS.search(printed)
    assert [line for line in printed.splitlines() if not line.startswith(" ")] == [
        "mfql: warning: " + message_of(STEERING) + "x",
        "mfql: note: " + message_of(STEERING) + "x",
    ]


def test_what_is_printed_without_a_message_is_shown_too_and_bars_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with printing():
        print(STEERING)
        print("10 %\r20 %", file=sys.stderr)
    out, err = capsys.readouterr()
    assert out == f"{shown(STEERING)}\n"
    assert err == "10 %\r20 %\n"


def test_a_table_of_tasks_with_such_names_is_refused_in_lines_of_ours(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "tasks.csv").write_text(
        f'task,env_id,data,metric\n"{STEERING}\nmfql: all is well",Pendulum-v1,a.npz,return\n',
        encoding="utf-8",
        newline="",
    )
    monkeypatch.setenv("MFQL_EXTENSIONS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        find_task("mine", ROOT / "config")
    assert not _STEERS.search(str(caught.value))
    assert not [line for line in str(caught.value).splitlines()[1:] if not line.startswith("  ")]


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Results of methods with such names, in a folder with such a name."""
    results = tmp_path / f"results {STEERING}"
    for method in (STEERING, FORGED):
        file = write_run(results, [20.0, 40.0], method, TASK)
        shutil.copy(file, file.parent / "run")  # As the trainer leaves a finished run: verify finds much to say.
    return results


def test_commands_take_such_folders_and_print_no_line_of_theirs(
    strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = str(strange), strange / "scores.csv"
    files = sorted(str(path) for path in strange.glob("runs/*/*/*/*/evaluation.json"))
    for command, status in (
        (["status", "--results", results, "--logs", str(tmp_path / STEERING)], 0),
        (["verify", results, "--config-dir", str(ROOT / "config"), "--data", results], 1),
        (["clean", results, "--config-dir", str(ROOT / "config"), "--data", results, "--list"], 0),
        (["scores", *files, "--out", str(out)], 0),
        (["summary", "--aggregates", results, "--report", str(out)], 2),
        (["status", "--results", f"{results}{FORGED}"], 2),
        (["--extension", results, "list", "tasks"], 2),
        (["evaluate", f"{results}/runs/{STEERING}/{TASK}/seed0/offline", "--out", str(out)], 2),
    ):
        assert main(command) in (status, 0), command
        printed = capsys.readouterr()
        for text in printed:
            assert not _STEERS.search(text), command
            assert not re.search("^mfql: note: nothing is wrong", text, re.MULTILINE), command
    assert out.is_file()


@pytest.mark.slow
def test_snakemake_prints_such_paths_shown_and_takes_the_files(tmp_path: Path) -> None:
    project = clone(tmp_path / "mfql")
    # Of control characters a configuration's paths may have these alone.
    table = project.folder / "a\u202eb\x9b31m.csv"
    table.write_text(f"task,method,stage,mean,std,seeds,source\n{TASK},theirs,offline,1,2,3,a\n", encoding="utf-8")
    asked = {"outside_scores": [table.name], "offline": {"methods": ["mfql"], "tasks": [TASK]}, "name": "strange"}
    (project.folder / "strange.yaml").write_text(json.dumps(asked), encoding="utf-8")
    said = project.snakemake("-n", "verdict", "-p", "--configfile", "strange.yaml")
    assert "a\\u202eb\\x9b31m.csv" in said
    assert not _STEERS.search(said.replace("\r\n", "\n"))
