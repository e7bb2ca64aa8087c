"""Searches with Optuna through the workflow: killed and gone on with, points given up, and the best frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import yaml

from mfql.documents import read_json
from mfql.extensions import VARIABLE
from tests.support.project import clone
from tests.support.training_runs import TASK

SHORT = "+offline_steps=10+eval_interval=5+eval_episodes=1"
IQL = {"expectile": {"low": 0.5, "high": 0.95}, "alpha": {"low": 0.1, "high": 10, "log": True}}
SPACE = {"alpha": {"low": 0.1, "high": 100, "log": True}, "num_candidates": {"low": 1, "high": 8}}
SEARCH = {
    "name": "searched",
    "tuning": {
        "seeds": [100],
        "search": {
            "trials": 6,
            "at_once": 3,
            "spaces": {f"mfql-miniature{SHORT}": SPACE, f"iql-miniature{SHORT}": IQL},
        },
    },
}


def test_a_point_that_was_given_up_goes_on_by_its_usual_target(tmp_path: Path) -> None:
    project = clone(tmp_path)
    run_of = f"results/runs/mfql-miniature{SHORT}/{TASK}/seed100/offline"
    project.miniature(f"{run_of}/paused-5.json")
    assert not (tmp_path / run_of / "evaluation.json").exists()
    assert "1 interrupted" in project.mfql("--extension", "tests/miniature", "status", run_of)
    assert "--pause-at" not in project.miniature(f"{run_of}/evaluation.json")
    assert read_json(tmp_path / run_of / "evaluation.json")["status"] == "finished"
    sessions = read_json(tmp_path / run_of / "run/manifest.json")["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 5]


def test_a_search_of_two_methods_that_was_killed_ends_with_each_point_trained_once_and_is_frozen(
    tmp_path: Path,
) -> None:
    project = clone(tmp_path)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(SEARCH), encoding="utf-8")
    files = ("--configfile", "tests/miniature.yaml", "--configfile", "search.yaml")
    command = ("tune", "search", *files, "--snakemake", "--cores", "2")
    with open(tmp_path / "log.txt", "w", encoding="utf-8") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "mfql.cli", *command],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", VARIABLE: ""},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while len(results := sorted(tmp_path.glob("results/runs/*/*/*/*/evaluation.json"))) < 2:
                assert running.poll() is None, (tmp_path / "log.txt").read_text(encoding="utf-8")
                time.sleep(0.1)
        finally:
            os.killpg(running.pid, signal.SIGKILL)  # With all that it started, as a machine that stops.
            running.wait()
    finished = {file.parents[3].name for file in results}
    before = {name: dates for name, dates in project.trained().items() if name.partition("/")[0] in finished}
    project.snakemake("--unlock", "--configfile", "tests/miniature.yaml")
    project.mfql(*command)
    storage = str(tmp_path / "results/searched/tuning/search.db")
    ended = {
        method: optuna.load_study(study_name=f"{method} on {TASK}", storage=f"sqlite:///{storage}").get_trials()
        for method in SEARCH["tuning"]["search"]["spaces"]
    }
    assert [[trial.state.name for trial in own] for own in ended.values()] == [["COMPLETE"] * 6] * 2
    runs = list(tmp_path.glob("results/runs/*/*/seed100/offline/run/manifest.json"))
    assert len(runs) == 12
    after = project.trained()
    assert {name: after[name] for name in before} == before
    # A run that was killed before its first checkpoint begins anew; none went on after its end.
    assert all(session["from_step"] < 10 for file in runs for session in read_json(file)["sessions"])
    assert len([file for file in runs if len(read_json(file)["sessions"]) > 1]) <= 6 - len(finished)
    # Nothing was learnt, and a person chooses.
    source = tmp_path / f"results/searched/tuning/search/iql-miniature{SHORT}.yaml"
    entries = yaml.safe_load(source.read_text(encoding="utf-8"))
    entry = entries[TASK]
    assert entry["search"]["complete"] == len(entry["points"]) == 6
    entry["chosen"] = {key: entry["points"][0][key] for key in entry["settings"]}
    (tmp_path / "reviewed.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    freezing = ("--extension", "tests/miniature", "tune", "freeze", "reviewed.yaml", "--new-method", "chosen")
    project.mfql(*freezing, "--into", "tests/miniature")
    printed = project.miniature("offline", "-n", config=("offline={methods: [chosen]}", "seeds=[0]"))
    assert f"results/runs/chosen/{TASK}/seed0/offline/evaluation.json" in printed
    shown = project.mfql("--extension", "tests/miniature", "list", "settings", "--method", "chosen", "--task", TASK)
    assert any(
        line.split()[0] == "expectile" and str(entry["chosen"]["expectile"]) in line
        for line in shown.splitlines()
        if line
    )
