"""One bad file costs one run: what a study's commands do with the rest, and what they say of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mfql import load_policy
from mfql.cli import main
from mfql.data.opening import open_hdf5, open_npz
from mfql.data.unpacked import altered_copy
from mfql.errors import UserError
from mfql.experiment.find import panel_files, run_of
from mfql.extensions import TRUSTED, VARIABLE
from mfql.parity.comparison import read_arrays
from mfql.report.answer import answer
from mfql.report.frames import read_frame
from mfql.report.scores import collect
from mfql.report.tasks import by_task
from mfql.training.log import TrainingLog
from tests.support.bad_files import KINDS, replaced
from tests.support.fake_results import write_run
from tests.support.forbidden import forbidden
from tests.support.training_runs import TASK, Workplace

RUN = f"first/{TASK}/seed1/offline"
# Those that a manifest's reader tells from others by other means than its neighbours.
OF_A_MANIFEST = (
    "folder", "link loop", "pipe", "a tebibyte", "Latin-1", "cut", "deep", "huge number", "a list", "other types",
    "other types within", "half of its entries",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(finished_runs: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs, one of which each test here spoils and mends."""
    folder = tmp_path_factory.mktemp("bad") / "place"
    shutil.copytree(finished_runs.folder, folder)
    return folder


@pytest.fixture
def say(place, monkeypatch, capsys):
    """Runs a command there; returns its status, and all that it printed."""
    monkeypatch.chdir(place)

    def said(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return said


@pytest.mark.parametrize("kind", OF_A_MANIFEST)
def test_a_manifest_that_is_none_costs_its_own_run_alone(place, say, kind):
    others = [f"{method} {TASK} offline" for method in ("second", "third")]
    files = [str(path) for path in sorted(Path("results").glob("runs/*/*/*/*/evaluation.json"))]
    with replaced(place / "results" / "runs" / RUN / "run" / "manifest.json", kind):
        status, said = say("status")
        assert status == 0
        assert all(other in said for other in others), said
        status, said = say("verify")
        assert status == 1
        assert RUN in said
        assert "nothing is wrong" not in said
        assert not any(line.startswith(("  second", "  third")) for line in said.splitlines()), said
        status, said = say("clean", "--list")
        assert status == 0
        assert f"first/{TASK}/seed0/offline" in said
        if kind == "half of its entries":  # Which an earlier version may not have written, and need not.
            return
        assert say("scores", *files, "--out", "scores.csv")[0] == 2
        assert not Path("scores.csv").exists()
        status, said = say("scores", *files, "--out", "scores.csv", "--partial")
        assert status in (0, 1)  # 1 where what is left is not what its manifest says.
        assert "scores.csv: 5 runs" in said
        assert "Left out" in said
        assert f"{RUN}/run/manifest.json" in said
    Path("scores.csv").unlink()
    assert say("verify")[0] == 0


@pytest.mark.parametrize("kind", ["pipe", "link loop", "deep", "other types", "a tebibyte"])
def test_a_result_that_is_none_is_unreadable_and_passes_for_nothing_else(place, say, kind):
    with replaced(place / "results" / "runs" / RUN / "run" / "evaluation.json", kind):
        assert "1 unreadable" in say("status")[1]
        status, said = say("verify")
        assert status == 1
        assert RUN in said


def test_a_file_in_a_seeds_place_is_no_run_that_waits(place, say):
    with replaced(place / "results" / "runs" / RUN, "empty"):
        assert "1 unreadable" in say("status")[1]
    with replaced((place / "results" / "runs" / RUN).parent, "empty"):
        assert "seed1: Not a directory" in say("status")[1]
        status, said = say("verify")
        assert status == 1
        assert "seed1" in said


def _npz(path: Path) -> None:
    with open_npz(path):
        pass


def _hdf5(path: Path) -> None:
    with open_hdf5(path):
        pass


@pytest.mark.parametrize("read", [_npz, _hdf5, altered_copy, read_arrays], ids=lambda read: read.__name__)
def test_no_pipe_is_waited_for_in_the_place_of_arrays(tmp_path, read):
    os.mkfifo(tmp_path / "arrays")
    with pytest.raises(UserError, match="arrays: it is a named pipe, no file"):
        read(tmp_path / "arrays")


@pytest.mark.parametrize("size", [None, 20])
def test_no_pipe_is_waited_for_in_the_place_of_a_training_log(tmp_path, size):
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(UserError, match=r"metrics\.csv: it is a named pipe, no file"):
        TrainingLog(tmp_path, size, 0)


def test_no_pipe_is_waited_for_in_the_place_of_a_policys_weights(place):
    weights = place / "results" / "runs" / RUN / "run" / "policy" / "policy.safetensors"
    with replaced(weights, "pipe"), pytest.raises(UserError, match="it is a named pipe, no file"):
        load_policy(weights.parent)


def test_a_policy_whose_weights_are_gone_says_so(place):
    weights = place / "results" / "runs" / RUN / "run" / "policy" / "policy.safetensors"
    with (
        replaced(weights, "nothing"),
        pytest.raises(UserError, match=r"safetensors is not there.*manifest"),
    ):
        load_policy(weights.parent)


def test_the_manifest_of_another_run_is_not_taken_for_this_ones(place):
    file = place / "results" / "runs" / RUN / "run" / "manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    with replaced(file, "nothing"):
        file.write_text(json.dumps(content | {"seed": 0}), encoding="utf-8")
        run = run_of(file.parent.with_name("evaluation.json"))
        with pytest.raises(UserError, match=f"{file} says that it is the run first/{TASK}/seed0/offline"):
            run.manifest()


def test_every_run_that_cannot_be_scored_is_named_at_once(tmp_path):
    files = [write_run(tmp_path, [10.0], seed=seed) for seed in range(4)]
    for file in files[:2]:
        file.write_text("{", encoding="utf-8")
    (files[2].parent / "run" / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="3 of 4 runs cannot be scored") as caught:
        collect(files)
    assert all(str(file.parent) in str(caught.value) for file in files[:3])
    assert set(collect(files, partial=True)["seed"]) == {3}


AGENTS = {
    "syntax": ("import torch\ndef f(:\n", "syntax.py, line 2: SyntaxError"),
    "running": ("import math\n\n\nmath.floor('x')\n", "running.py, line 4: TypeError"),
    "leaving": ("import sys\nsys.exit(3)\n", "leaving.py, line 2: SystemExit: 3"),
    "coded": (b"# caf\xe9\n", "coded.py: line 1: the byte 0xe9"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agents_error_is_said_with_file_and_line_and_costs_its_methods_alone(tmp_path, monkeypatch, capsys, name):
    code, said = AGENTS[name]
    for folder in ("agents", "methods"):
        (tmp_path / folder).mkdir()
    (tmp_path / "agents" / f"{name}.py").write_bytes(code if isinstance(code, bytes) else code.encode())
    (tmp_path / "methods" / "mine.yaml").write_text(f"agent: {name}\n", encoding="utf-8")
    for variable in (VARIABLE, TRUSTED):
        monkeypatch.setenv(variable, str(tmp_path))
    assert main(["list", "methods"]) == 0
    printed = capsys.readouterr()
    assert "mfql-small" in printed.out
    assert said in printed.err
    assert "the method is not listed" in printed.err
    assert main(["list", "methods", "mine"]) == 2
    assert said in capsys.readouterr().err


def test_panels_in_a_folder_that_nobody_here_may_look_into_are_missed_aloud(tmp_path, capsys):
    for name in ("toy/one", "ablations/two", "aggregate/three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "panel.json").write_text("{}", encoding="utf-8")
    assert [path.parent.name for path in panel_files(tmp_path)] == ["two", "one"]
    with forbidden(tmp_path / "ablations" / "two"):
        assert [path.parent.name for path in panel_files(tmp_path)] == ["one"]
    said = capsys.readouterr().err
    assert f"cannot read {tmp_path / 'ablations' / 'two'}" in said
    assert "its panels are not shown" in said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('task,value\none,1\ntwo,"2\n', "EOF inside string"),
        ("task,value\none,1\ntwo,x\n", ":3: value is 'x', no finite number"),
        ("task,value\none,1e999\n", ":2: value is .*, no finite number"),
        ("task\none\n", "lacks the columns value"),
        (b"task,value\ncaf\xe9,1\n", "can't decode byte 0xe9"),
        ("", "No columns to parse"),
    ],
)
def test_a_table_that_no_column_can_hold_is_refused_with_its_line(tmp_path, text, fault):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"{path}.*{fault}"):
        read_frame(path, "", ("task", "value"), ("task",))


def test_the_answer_says_which_scores_are_of_episodes_that_broke(tmp_path):
    files = [write_run(tmp_path, [0.0, 0.0], seed=seed) for seed in range(3)]
    for file, broken in zip(files, (50, 3, 0), strict=True):
        content = json.loads(file.read_text(encoding="utf-8"))
        for one in content["evaluations"]:
            one["broken"] = broken
        file.write_text(json.dumps(content), encoding="utf-8")
    tasks = by_task(collect(files))
    assert tasks[["broken", "all_broken"]].values.tolist() == [[106, 1]]
    frames = {"tasks": tasks, "aggregate": None, "comparisons": None}
    said = [line.striptags() for line in answer({**frames, "comparisons": _no_comparisons()})]
    assert said[-1] == (
        f"mfql on {TASK}, offline: every episode of the evaluations of 1 of 3 seeds broke: its environment failed, and"
        " the score says nothing of a policy."
    )


def _no_comparisons():
    import pandas as pd

    from mfql.report.tasks import COMPARISON_COLUMNS

    return pd.DataFrame(columns=COMPARISON_COLUMNS)


def test_the_kinds_are_each_put_there_and_taken_away(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "b", "c": {"d": 1}}', encoding="utf-8")
    before = path.read_bytes()
    for kind in KINDS:
        with replaced(path, kind):
            assert not path.is_file() or path.stat().st_size != len(before) or path.read_bytes() != before
        assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
        assert path.read_bytes() == before
