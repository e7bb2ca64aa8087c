"""Each file of a study in turn is replaced by each of `tests/support/bad_files.py`, and each command asked for.

Nothing ends in a traceback or waits for ever, the other runs are all there; verify never says that nothing is wrong.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mfql.cli import main
from tests.support.bad_files import KINDS, replaced
from tests.support.training_runs import ROOT, TASK, Workplace

RUN = f"results/runs/first/{TASK}/seed0"
STUDY = "results/study"
SCORES = ("--scores", f"{STUDY}/scores.csv")
AGGREGATES = ("--aggregates", f"{STUDY}/aggregate")
COMMANDS = {
    "status": ("status",),
    "verify": ("verify",),
    "clean": ("clean", "--list"),
    "scores": ("scores", "--from-file", "runs.txt", "--out", "out.csv", "--partial"),
    "aggregate": ("aggregate", f"{STUDY}/scores.csv", "--out", "aggregate"),
    "report": ("report", "--partial", *SCORES, *AGGREGATES, "--out", "out.html"),
    "summary": ("summary", *AGGREGATES, "--report", "out.html"),
    "verdict": (
        *("verdict", *SCORES, "--published", "published", "--tasks", "config/tasks.csv", "--results", "results"),
        *("--out", "verdict"),
    ),
    "ship": ("ship", STUDY, "--out", "shipped"),
    "list": ("list", "methods"),
    "evaluate": ("evaluate", f"results/runs/third/{TASK}/seed0/offline", "--episodes", "1", "--out", "out.json"),
    "train": (
        *("train", "--method", "third", "--task", TASK, "--stage", "offline", "--seeds", "0", "1", "--data", "data"),
        *("--results", "results", "--config-dir", "config", "--device", "cpu", "--threads", "1", "--no-progress"),
    ),
}
OF_A_RUN = ("status", "verify", "clean", "scores", "report", "ship")
FILES = {
    f"{RUN}/offline/evaluation.json": OF_A_RUN,
    f"{RUN}/offline/run/evaluation.json": OF_A_RUN,
    f"{RUN}/offline/run/manifest.json": (*OF_A_RUN, "train", "evaluate"),
    f"{RUN}/offline/run/metrics.csv": ("status", "verify", "report"),
    f"{RUN}/offline/run/policy/policy.json": ("status", "verify", "clean", "ship"),
    f"{RUN}/offline/final.json": OF_A_RUN,
    f"{RUN}/offline/failure.json": ("status", "verify", "clean"),
    f"{RUN}/offline/lock": ("status", "verify", "clean"),
    f"{RUN}/online/run/manifest.json": ("status", "verify", "clean", "scores"),
    f"{RUN}/offline": ("status", "verify", "clean"),
    RUN: ("status", "verify", "clean"),
    f"{STUDY}/scores.csv": ("verify", "aggregate", "verdict", "report", "ship"),
    f"{STUDY}/aggregate/tasks.csv": ("report", "summary"),
    f"{STUDY}/aggregate/curves.csv": ("report", "summary"),
    "data/pointmaze-medium-navigate-v0.json": ("status", "verify", "clean"),
    "config/tasks.csv": ("status", "verify", "clean", "list", "train", "verdict"),
    "config/methods/first.yaml": ("status", "verify", "clean", "list", "train"),
    "published/mfql.csv": ("verdict",),
}


@contextmanager
def ends_soon() -> Iterator[None]:
    """An error after a minute of processor or other time: of what waits for a pipe, too."""

    def late(*_: object) -> None:
        raise AssertionError("it does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)  # On a machine that others use; alone, a second.
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def study(finished_runs: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs with all that is made of them."""
    folder = tmp_path_factory.mktemp("study") / "place"
    shutil.copytree(finished_runs.folder, folder)
    shutil.copytree(ROOT / "published", folder / "published")
    runs = sorted(path.relative_to(folder) for path in folder.glob("results/runs/*/*/*/*/evaluation.json"))
    (folder / "runs.txt").write_text("".join(f"{path}\n" for path in runs), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["scores", "--from-file", "runs.txt", "--out", f"{STUDY}/scores.csv"]) == 0
        assert main(["aggregate", f"{STUDY}/scores.csv", "--out", f"{STUDY}/aggregate"]) == 0
        assert main(["verify"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.mark.usefixtures("few_repetitions")
@pytest.mark.parametrize("file", FILES)
def test_no_bad_file_ends_a_command_with_more_than_a_sentence(study, monkeypatch, capsys, file):
    monkeypatch.chdir(study)
    for kind in KINDS:
        with replaced(study / file, kind):
            for command in FILES[file]:
                case = f"{file} is {kind}: {command}"
                with ends_soon():
                    status = main(list(COMMANDS[command]))
                printed = capsys.readouterr()
                said = printed.out + printed.err
                assert status in (0, 1, 2), case
                assert status == 0 or said.strip(), case
                if command == "status":
                    assert all(f"{method} {TASK}" in said for method in ("second", "third")), f"{case}\n{said}"
                if command == "verify" and (study / file).parent.is_dir() and status == 0:
                    # What nothing rests on: an absent file that need not be there, or one that says the same.
                    assert kind in ("nothing", "link to nothing") or file.endswith(("lock", "failure.json")), case
        for name in ("out.csv", "out.html", "out.json"):
            Path(name).unlink(missing_ok=True)
        for name in ("aggregate", "verdict", "shipped"):
            shutil.rmtree(name, ignore_errors=True)
    assert main(["verify"]) == 0
