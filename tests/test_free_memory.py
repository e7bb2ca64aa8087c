"""What asks for more memory than there is is refused before it takes any, by its name; absurd counts are, too."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from mfql import footprint
from mfql.agents.interface import load_agent
from mfql.cli import main
from mfql.data.generate import generate
from mfql.data.transitions import Dataset, Transitions
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.experiment.schema import schema
from mfql.files import CannotRead
from mfql.methods import raw_settings
from mfql.settings import MOST_EPISODES, build_settings
from mfql.training.checkpoint import Checkpoints, save_tensors
from mfql.training.memory import require_memory_for
from tests.support.training_runs import ROOT, TASK


def group(root: Path, place: str, files: dict[str, str]) -> None:
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / place / name).write_text(text, encoding="utf-8")


GIGABYTE = 1 << 30
SECOND = {
    "memory.max": f"{2 * GIGABYTE}\n",
    "memory.current": f"{GIGABYTE}\n",
    "memory.stat": f"anon 5\nactive_file 7\ninactive_file {GIGABYTE // 2}\nslab 9\n",
}
FIRST = {
    "memory.limit_in_bytes": f"{3 * GIGABYTE}\n",
    "memory.usage_in_bytes": f"{GIGABYTE}\n",
    "memory.stat": "cache 1\ntotal_active_file 3\ntotal_inactive_file 4\n",
}
UNLIMITED = {"memory.max": "max\n", "memory.current": "5\n", "memory.stat": "anon 5\n"}


@pytest.mark.parametrize(
    ("said", "groups", "free"),
    [
        ("0::/slice/job\n", {"slice/job": SECOND}, [GIGABYTE + GIGABYTE // 2 + 7]),
        ("0::/slice/job\n", {"slice/job": UNLIMITED, "slice": SECOND}, [GIGABYTE + GIGABYTE // 2 + 7]),
        ("0::/out/of/sight\n", {".": SECOND}, [GIGABYTE + GIGABYTE // 2 + 7]),
        ("9:cpu,memory:/job\n4:pids:/job\n0::/\n", {"memory/job": FIRST}, [2 * GIGABYTE + 7]),
        ("0::/job\n", {"job": UNLIMITED}, []),
        ("0::/\n", {}, []),
    ],
)
def test_the_limit_of_a_control_group_counts_and_its_files_are_free(monkeypatch, tmp_path, said, groups, free):
    (tmp_path / "self").write_text(said, encoding="utf-8")
    for place, files in groups.items():
        group(tmp_path / "fs", place, files)
    monkeypatch.setattr(footprint, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(footprint, "_OF_THIS_PROCESS", tmp_path / "self")
    assert list(footprint._free_of_groups()) == free
    machine = psutil.virtual_memory().available
    assert footprint.free_memory() == pytest.approx(min([machine, *free]), abs=GIGABYTE // 4)


def test_the_limit_of_a_process_counts():
    program = "from mfql.footprint import free_memory; print(free_memory())"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * GIGABYTE, 4 * GIGABYTE))

    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=limited,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert 0 < int(done.stdout) < 4 * GIGABYTE


# --- training ---------------------------------------------------------------------------------------------------------


def rows(count: int) -> Dataset:
    """Rows that take no memory."""

    def none(*shape: int) -> np.ndarray:
        return np.broadcast_to(np.float32(0.0), shape)

    given = Transitions(none(count, 4), none(count, 2), none(count), none(count), none(count), none(count, 4))
    return Dataset(
        **vars(given),
        val=given,
        observation_mean=none(4),
        observation_std=none(4),
        sha256="",
        name="many-v0",
        source="own",
    )


@pytest.mark.parametrize(
    ("changed", "count", "said"),
    [
        ({}, 100, None),
        ({"online_steps": 10**12}, 100, "online_steps 1,000,000,000,000"),
        ({"batch_size": 10**11}, 100, "batch_size 100,000,000,000 and what each of its rows draws"),
        ({"num_candidates": 10**9}, 100, "batch_size 16 and what each of its rows draws"),
        ({"policy_hidden": 10**8}, 100, "the networks, by their sizes"),
        ({}, 10**12, "1,000,000,000,000 rows of many-v0"),
    ],
)
def test_a_job_that_no_memory_holds_is_refused_by_what_asks_for_it(changed, count, said):
    raw = raw_settings("mfql-miniature", TASK, "online", ROOT / "config")
    kind = load_agent(raw.pop("agent"))
    settings = build_settings(kind.settings_type, raw | changed, "this test")
    agent = kind(settings, (4,), 2)
    if said is None:
        require_memory_for(agent, rows(count), [0, 1], "online")
        return
    with pytest.raises(UserError, match=rf"training seeds 0, 1, above all for {said}.*, asks for [\d,]+ bytes"):
        require_memory_for(agent, rows(count), [0, 1], "online")


def test_an_offline_job_is_not_asked_for_online_rows():
    raw = raw_settings("mfql-miniature", TASK, "offline", ROOT / "config")
    kind = load_agent(raw.pop("agent"))
    settings = build_settings(kind.settings_type, raw | {"online_steps": 10**12}, "this test")
    require_memory_for(kind(settings, (4,), 2), rows(10), [0], "offline")


def test_a_checkpoint_that_memory_does_not_hold_now_is_not_passed_over(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save_tensors(checkpoints.path(10), {"segments": [], "open_rows": {}, "more": torch.zeros(1000)})
    assert list(checkpoints.usable()) == [10]
    monkeypatch.setattr("mfql.training.checkpoint.free_memory", lambda: 100)
    with pytest.raises(CannotRead, match=r"step-000000010\.pt.* asks for [\d,]+ bytes of memory, and 100 are free"):
        checkpoints.usable()


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("mfql-miniature", {"eval_episodes": MOST_EPISODES + 1}),
        ("mfql-miniature", {"policy_blocks": 10**10}),
        ("mfql-miniature", {"generation_steps": 10**10, "derivative": "none"}),
        ("fql-miniature", {"flow_steps": 10**10}),
        ("mfql-miniature", {"batch_size": 10**400}),
        ("mfql-miniature", {"alpha": 10**400}),
    ],
)
def test_a_setting_that_nobody_means_is_refused_by_its_name(method, changed):
    raw = raw_settings(method, TASK, "offline", ROOT / "config")
    kind = load_agent(raw.pop("agent"))
    with pytest.raises(UserError, match=rf"setting {next(iter(changed))} is .*\n.* (at most|from 1 to) "):
        build_settings(kind.settings_type, raw | changed, "this test")


def test_too_many_episodes_and_workers_are_refused(tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match="100,001 episodes are more than 100,000"):
        evaluate(tmp_path, 100_001, tmp_path / "a.json", None, workers=0)
    assert schema("config")["properties"]["final_episodes"]["maximum"] == MOST_EPISODES
    with pytest.raises(UserError, match="episodes is 1000000000000"):
        generate("pointmaze-medium-navigate-v0", tmp_path, episodes=10**12, progress=False)
    monkeypatch.setattr(footprint, "free_memory", lambda: 1 << 20)
    with pytest.raises(UserError, match=r"navigate-v0 of 1,000 episodes asks for [\d,]+ bytes .* 1,048,576"):
        generate("pointmaze-medium-navigate-v0", tmp_path, episodes=1000, progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path), "--out", str(tmp_path / "a.json"), "--workers", "1000000"])
    assert "--workers: 1000000 is above" in capsys.readouterr().err
