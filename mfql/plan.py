"""`mfql plan`: jobs, hours and gigabytes of a configuration on this machine, before anything runs.

Estimates, not promises: an update's floating-point operations from the settings' sizes, held against the
matrix-product rate that this machine shows in a moment's measurement.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mfql.errors import UserError
from mfql.settings import checkpoint_stage, raw_settings
from mfql.tasks import Task, find_task, select_tasks

EXIT_WANTS_GPU = 3
# Hours on the processor from which a configuration is refused without a GPU, unless one insists.
_MOST_CPU_HOURS = 48.0
_SMALLER = "config/quickstart.yaml takes minutes, config/laptop.yaml a night."

# Share of the matrix-product rate that an update reaches, and the least time that its many small operations take.
_EFFICIENCY, _LEAST_SECONDS = 0.35, 0.006
# One update of a packed seed on a recent data-centre GPU.
_GPU_SECONDS = 0.0012
# One environment step of one worker, and steps of a typical episode.
_STEP_SECONDS, _EPISODE_STEPS = 0.0007, 500
_ROWS, _BYTES_A_ROW = 1_000_000, 450
# Weights, targets and both moments, of the last two checkpoints.
_COPIES, _CHECKPOINTS = 5, 2


@dataclass(frozen=True)
class Run:
    """One method, task and stage, for all seeds."""

    method: str
    task: Task
    stage: str
    settings: dict[str, Any]

    @property
    def steps(self) -> int:
        """Updates, or environment steps online."""
        return int(self.settings["online_steps" if self.stage == "online" else "offline_steps"])

    @property
    def parameters(self) -> tuple[int, int]:
        """Weights of the policy's blocks and of the critics, near enough for an estimate."""
        hidden, blocks = self.settings.get("policy_hidden", 256), self.settings.get("policy_blocks", 3)
        policy = blocks * 10 * hidden**2 + 50 * hidden
        if "alpha" not in self.settings:
            return policy, 0
        sizes = [50, *self.settings.get("critic_hidden", [512] * 4), 1]
        critics = sum(a * b for a, b in pairwise(sizes))
        return policy, critics * self.settings.get("num_critics", 2)

    @property
    def operations(self) -> float:
        """Floating-point operations of one update: forward 2 a weight and row, backward 4, candidates forward alone."""
        policy, critics = self.parameters
        candidates = self.settings.get("num_candidates", 5) if critics else 0
        batch = self.settings.get("batch_size", 256)
        return 2.0 * batch * (policy * (candidates + 7) + critics * (candidates + 5))

    def cpu_hours(self, rate: float) -> float:
        """Hours of one seed at a matrix-product rate, in operations a second."""
        return self.steps * max(self.operations / (_EFFICIENCY * rate), _LEAST_SECONDS) / 3600 + self.episode_hours

    @property
    def gpu_hours(self) -> float:
        """Hours of one seed on a GPU that it shares with others."""
        return self.steps * _GPU_SECONDS / 3600

    @property
    def episode_hours(self) -> float:
        """Core-hours of one seed's evaluations."""
        evaluations = math.ceil(self.steps / self.settings.get("eval_interval", 100_000))
        return evaluations * self.settings.get("eval_episodes", 50) * _EPISODE_STEPS * _STEP_SECONDS / 3600


def planned_runs(config: dict[str, Any], config_dir: Path) -> list[Run]:
    """Every run that a configuration asks for; a stage that another reuses counts once."""
    wanted: dict[tuple[str, str, str], None] = {}
    for method in config["offline"]["methods"]:
        for task in select_tasks(config["offline"]["tasks"], config_dir):
            wanted[method, task, "offline"] = None
    for method in config["online"]["methods"]:
        for task in select_tasks(config["online"]["tasks"], config_dir):
            wanted[method, task, checkpoint_stage(method, task, config_dir)] = None
            wanted[method, task, "online"] = None
    return [
        Run(method, find_task(task, config_dir), stage, raw_settings(method, task, stage, config_dir))
        for method, task, stage in wanted
    ]


def plan(config_file: Path, config_dir: Path, allow_cpu: bool) -> int:
    """Print what a configuration takes here.

    Args:
        config_file: a complete configuration.
        allow_cpu: go on without a GPU however long it takes.

    Returns:
        0, or `EXIT_WANTS_GPU` where a full-size configuration meets a machine without a GPU.
    """
    config = _read(config_file)
    runs, seeds = planned_runs(config, config_dir), len(config["seeds"])
    gpus, cores = _gpus(), os.cpu_count() or 1
    jobs = len(runs) * math.ceil(seeds / config["seeds_per_job"])
    if gpus:
        hours = seeds * sum(run.gpu_hours for run in runs) / gpus
    else:
        rate = _matmul_rate()
        hours = seeds * sum(run.cpu_hours(rate) for run in runs)
    datasets = {run.task.dataset for run in runs}
    print(f"{config['name']}: {len(runs)} runs of {seeds} seeds in {jobs} training jobs, {len(datasets)} datasets")
    print(f"  this machine: {cores} cores, {f'{gpus} GPU' if gpus else 'no GPU'}")
    print(f"  about {_duration(hours)} of {'GPU' if gpus else 'processor'} time, unless finished before")
    data = sum(_dataset_bytes(name, config) for name in datasets) / 1e9
    kept = sum(4 * sum(run.parameters) * _COPIES * _CHECKPOINTS for run in runs) * seeds / 1e9
    print(f"  about {data:.2g} GB of data and {kept:.2g} GB of results")
    if not gpus and hours > _MOST_CPU_HOURS and not allow_cpu:
        print(f"This configuration wants a GPU, and this machine has none. {_SMALLER}")
        print("To go on all the same: --config allow_cpu=true")
        return EXIT_WANTS_GPU
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            f"cannot read {path}: {error}", "Give a configuration such as config/quickstart.yaml."
        ) from error


def _dataset_bytes(name: str, config: dict[str, Any]) -> float:
    """Bytes on disk: official datasets have about a million rows, generated ones what the configuration says."""
    made = config["datasets"].get(name, {})
    return (
        made["episodes"] * 1100 * _BYTES_A_ROW / 4 if made.get("source") == "generate" else 1.1 * _ROWS * _BYTES_A_ROW
    )


def _gpus() -> int:
    """Visible GPUs, without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def _matmul_rate() -> float:
    """Operations a second of a float32 matrix product at the critics' shape, the best of a few."""
    left, right = np.ones((512, 512), np.float32), np.ones((512, 512), np.float32)
    best = math.inf
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2.0 * 512**3 / best


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"
