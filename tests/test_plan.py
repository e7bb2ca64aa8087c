"""The plan of a launch: what it counts, and when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mfql.cli import main
from mfql.plan import EXIT_WANTS_GPU, planned_runs

ROOT = Path(__file__).parents[1]
TASK = "pointmaze-medium-navigate-singletask-task2-v0"


@pytest.fixture
def config(tmp_path):
    def write(**changes) -> str:
        content = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
        content |= yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text()) | changes
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def plan(path: str, *more: str) -> int:
    return main(["plan", "--configfile", path, "--config-dir", str(ROOT / "config"), *more])


def test_a_small_configuration_starts_without_a_gpu(config, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert plan(config()) == 0
    printed = capsys.readouterr().out
    assert "quickstart: 4 runs of 3 seeds in 4 training jobs, 1 datasets" in printed
    assert "no GPU" in printed


def test_a_full_size_one_stops_without_a_gpu_and_names_the_smaller_ones(config, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    paper = {"methods": ["mfql"], "tasks": [TASK]}
    path = config(offline=paper, online=paper, seeds=list(range(8)))
    assert plan(path) == EXIT_WANTS_GPU
    printed = capsys.readouterr().out
    assert "config/quickstart.yaml" in printed
    assert "allow_cpu=true" in printed
    assert plan(path, "--allow-cpu") == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert plan(path) == 0
    assert "2 GPU" in capsys.readouterr().out


def test_a_reused_offline_run_counts_once():
    paper = {"methods": ["mfql"], "tasks": ["cube-double-play-singletask-task2-v0"]}
    runs = planned_runs({"offline": paper, "online": paper}, ROOT / "config")
    assert [run.stage for run in runs] == ["offline", "online"]


def test_a_paper_sized_update_costs_what_the_networks_say():
    """About 21 GFLOP at observation 29, action 8, batch 256, K 5 after the exact shortcuts, within a quarter."""
    paper = {"methods": ["mfql"], "tasks": ["antmaze-large-navigate-singletask-task1-v0"]}
    (run,) = planned_runs({"offline": paper, "online": {"methods": [], "tasks": []}}, ROOT / "config")
    assert run.operations == pytest.approx(21e9, rel=0.25)


def test_an_unreadable_configuration_is_named(tmp_path, capsys):
    assert plan(str(tmp_path / "absent.yaml")) == 2
    assert "absent.yaml" in capsys.readouterr().err
