"""What commands read of a study with many seeds: settings once a job, however many runs have them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.many import CONFIGURATION, write_study
from mfql import declared
from mfql.cli import main
from mfql.extensions import keep_what_is_read, reading_once
from mfql.methods import declared_settings, settings_hash

TASKS = ["cube-double-play-singletask-task2-v0", "pen-cloned-v1"]
METHODS = ["bc", "mfql"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Path]]:
    """Makes a study of so many seeds, of which the commands are called in its folder."""

    def made(seeds: int) -> Path:
        folder = tmp_path / str(seeds)
        asked = {"methods": METHODS, "tasks": TASKS}
        write_study(folder, seeds, METHODS, offline=asked, online=asked)
        monkeypatch.chdir(folder)
        return folder

    return made


def _count(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the times that settings are built and checked."""
    calls: Counter[str] = Counter()
    original = declared.build_settings

    def counted(kind: Any, values: dict[str, Any], where: str) -> Any:
        calls[where] += 1
        return original(kind, values, where)

    monkeypatch.setattr(declared, "build_settings", counted)
    return calls


@pytest.mark.parametrize("command", [["verify"], ["clean"], ["status", "--configfile", CONFIGURATION]])
def test_settings_are_read_once_a_job_whatever_the_seeds(
    command: list[str],
    study: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = []
    for seeds in (1, 4):
        study(seeds)
        calls = _count(monkeypatch)
        assert main(command) == 0
        monkeypatch.undo()
        found.append(calls)
    assert found[0] == found[1]
    # With torch imported or its placeholder in its place: twice at most.
    assert max(found[0].values(), default=0) <= 2
    capsys.readouterr()


def test_a_study_that_is_made_up_is_finished_and_nothing_is_wrong_with_it(
    study: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study(2)
    runs = len(list(folder.glob("results/runs/*/*/*/*/evaluation.json")))
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == f"{runs} finished runs and 0 tables of scores: nothing is wrong\n"
    assert main(["status", "--configfile", CONFIGURATION]) == 0
    assert capsys.readouterr().out.startswith(f"{runs} runs: {runs} finished\n")
    files = sorted(map(str, folder.glob("results/runs/*/*/*/*/evaluation.json")))
    assert main(["scores", *files, "--out", "scores.csv"]) == 0
    assert capsys.readouterr().out == f"scores.csv: {runs} runs\n"


def test_an_altered_run_is_found_in_it(study: Callable[[int], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = study(2)
    manifest = folder / "results/runs/mfql" / TASKS[0] / "seed1/offline/run/manifest.json"
    altered = json.loads(manifest.read_text(encoding="utf-8"))
    altered["settings"]["alpha"] = 1.25
    manifest.write_text(json.dumps(altered), encoding="utf-8")
    assert main(["verify"]) == 1
    assert "run/manifest.json has other settings, versions or data than its identity is of" in capsys.readouterr().out


def test_outside_the_block_a_changed_file_counts_at_once(study: Callable[[int], Path]) -> None:
    folder = study(1)
    method = folder / "config/methods/bc.yaml"
    before = settings_hash("bc", TASKS[0], "offline")
    with reading_once():
        keep_what_is_read()  # As the Snakefile does within `mfql plan`: it ends with the block.
        assert settings_hash("bc", TASKS[0], "offline", Path("config")) == before
        method.write_text(method.read_text(encoding="utf-8") + "\nbatch_size: 32\n", encoding="utf-8")
        assert settings_hash("bc", TASKS[0], "offline") == before
    assert settings_hash("bc", TASKS[0], "offline") != before
    assert declared_settings("bc", TASKS[0], "offline")[1].batch_size == 32


def test_scores_are_collected_without_what_draws(study: Callable[[int], Path]) -> None:
    folder = study(1)
    files = sorted(str(file.relative_to(folder)) for file in folder.glob("results/runs/*/*/*/*/evaluation.json"))
    said = (
        "import sys; from mfql.cli import main; "
        f"status = main(['scores', *{files!r}, '--out', 'scores.csv']); "
        "print(status, sorted({'matplotlib', 'scipy', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
