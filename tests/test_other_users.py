"""Results, locks, datasets and logs that another user owns: what cannot be read is neither right nor absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from mfql.cli import main
from mfql.experiment.configuration import LOCK, find_run, read_configuration
from mfql.experiment.run import Fate
from mfql.files import CannotRead
from mfql.locks import locked
from mfql.plan.outlook import Outlooks
from mfql.report.scores import collect, write_scores
from mfql.training.checkpoint import Checkpoints
from tests.support.forbidden import forbidden
from tests.support.training_runs import TASK, Workplace

RUN = f"results/runs/second/{TASK}/seed0/offline"
# Of a run, what stands between a user and what it says.
CLOSED = [f"{RUN}/run/manifest.json", f"{RUN}/run", RUN, f"results/runs/second/{TASK}/seed0"]
HIDING = [f"results/runs/second/{TASK}", "results/runs/second"]
RESULT = f"{RUN}/run/evaluation.json"


@pytest.fixture(scope="module")
def folder(finished_runs, tmp_path_factory) -> Path:
    """Finished runs in which nothing is wrong, their scores, and a configuration that asks for them; to be read."""
    folder = tmp_path_factory.mktemp("others") / "place"
    shutil.copytree(finished_runs.folder, folder)
    write_scores(collect(folder.glob("results/runs/*/*/*/*/evaluation.json")), folder / "results/study/scores.csv")
    configuration = {
        "name": "study",
        "offline": {"methods": ["second"], "tasks": [TASK]},
        "online": {"methods": [], "tasks": []},
        "seeds": [0],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return folder


@pytest.fixture
def place(folder, monkeypatch) -> Workplace:
    monkeypatch.chdir(folder)
    return Workplace(folder)


def said(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    status = main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_nothing_is_closed_to_begin_with(place, capsys):
    assert said(capsys, "verify")[1].endswith("nothing is wrong\n")
    assert "cannot read" not in said(capsys, "status")[1]


@pytest.mark.parametrize(
    "closed", [*CLOSED, *HIDING, RESULT, f"{RUN}/evaluation.json", "results/study", "results/study/scores.csv"]
)
def test_what_cannot_be_read_is_not_verified(place, capsys, closed):
    with forbidden(Path(closed)):
        status, text = said(capsys, "verify")
    assert status == 1
    assert "unreadable: nobody knows" in text
    assert f"cannot read {closed}" in text
    assert "altered" not in text
    assert "stale" not in text


@pytest.mark.parametrize("closed", ["data", "data/pointmaze-medium-navigate-v0.json"])
def test_data_that_cannot_be_read_are_not_as_they_were_used(place, capsys, closed):
    with forbidden(Path(closed)):
        status, text = said(capsys, "verify")
    assert status == 1
    assert "unreadable: nobody knows" in text
    assert "stale" not in text


@pytest.mark.parametrize("closed", [*CLOSED, RESULT])
def test_a_run_that_cannot_be_read_has_no_other_status(place, capsys, closed):
    with forbidden(Path(closed)):
        folder = said(capsys, "status")
        asked = said(capsys, "status", "--configfile", "study.yaml")
    for status, text in (folder, asked):
        assert status == 0
        assert "unreadable" in text or "cannot be" in text or "its runs are not looked at" in text, text
        assert f"cannot read {closed}" in text
    assert "1 run: 1 unreadable" in asked[1]


@pytest.mark.parametrize("closed", HIDING)
def test_folders_that_cannot_be_looked_into_are_named(place, capsys, closed):
    with forbidden(Path(closed)):
        assert f"cannot read {closed}" in said(capsys, "status")[1]
        assert "kept: 1 that cannot be read" in said(capsys, "clean")[1]
    with forbidden(Path("results/runs")):
        for command in ("status", "clean"):
            status, text = said(capsys, command)
            assert status == 2
            assert "cannot read results/runs" in text


@pytest.mark.parametrize("closed", CLOSED)
def test_nothing_is_removed_of_a_run_that_cannot_be_read(place, capsys, closed):
    assert f"  second/{TASK}/seed0/offline: checkpoint/step-" in said(capsys, "clean", "--list")[1]
    with forbidden(Path(closed)):
        text = said(capsys, "clean", "--list")[1]
    assert f"  second/{TASK}/seed0/offline: checkpoint/step-" not in text
    assert ": that cannot be read, of which nobody knows what they need" in text


def test_a_lock_that_cannot_be_read_is_somebodys(place, capsys):
    lock = Path(RUN, "lock")
    with locked(lock), forbidden(lock):
        assert "1 run: 1 unreadable" in said(capsys, "status", "--configfile", "study.yaml")[1]
        assert f"kept: second/{TASK}/seed0/offline: that cannot be read" in said(capsys, "clean", "--list")[1]


@pytest.mark.parametrize("closed", [f"{RUN}/run/policy/policy.safetensors", f"{RUN}/run/policy", *CLOSED])
def test_a_policy_that_cannot_be_read_is_not_absent(place, capsys, closed):
    with forbidden(Path(closed)):
        status, text = said(capsys, "evaluate", RUN, "--out", "evaluated.json", "--workers", "0")
    assert status == 2
    assert "cannot read" in text
    assert closed in text
    assert "Permission denied" in text


def test_an_extension_that_cannot_be_read_is_one(place, capsys):
    Path("own").mkdir(exist_ok=True)
    with forbidden(Path("own")):
        status, text = said(capsys, "--extension", "own", "status")
    assert status == 2
    assert "cannot read" in text
    assert "is no extension" not in text


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(place):
    checkpoints = Checkpoints(Path(RUN, "run", "checkpoint"))
    step = max(checkpoints.usable())
    with forbidden(checkpoints.path(step)), pytest.raises(CannotRead, match=r"checkpoint/step-0*10\.pt: Permission"):
        checkpoints.usable()
    with forbidden(checkpoints.folder), pytest.raises(CannotRead, match="checkpoint: Permission"):
        checkpoints.usable()


@pytest.mark.parametrize("closed", [f"{RUN}/evaluation.json", f"{RUN}/run/manifest.json", f"{RUN}/run", RUN])
def test_scores_are_not_taken_without_what_cannot_be_read(place, capsys, closed):
    with forbidden(Path(closed)):
        one = said(capsys, "scores", f"{RUN}/evaluation.json", "--out", "some.csv")
        partly = said(capsys, "report", "--partial", "--configfile", "study.yaml")
    for status, text in (one, partly):
        assert status == 2, text
        assert "cannot read " in text
        assert closed in text
    assert not Path("some.csv").exists()


@pytest.mark.parametrize("closed", [*CLOSED, "data/pointmaze-medium-navigate-v0.json", "data"])
def test_a_launch_does_not_train_anew_what_it_cannot_read(place, closed):
    configuration = read_configuration(Path("study.yaml"), Path("config"))
    run = find_run(configuration, "config", "second", TASK, "offline")
    assert Outlooks(configuration, Path("results"), LOCK).of(run, 0).fate is Fate.FINISHED
    with forbidden(Path(closed)):
        outlook = Outlooks(configuration, Path("results"), LOCK).of(run, 0)
    assert outlook.fate is Fate.REFUSED
    assert outlook.reason.startswith(f"cannot read {closed}")
