"""A run that is killed and continued, against one that is not disturbed: they must end bit-equal.

Each is a process of its own with the trainer's loop, step, checkpoints and log, on random rows and without evaluations:
these change no state, and need a simulator. `python -m benchmarks.check.killed FOLDER DEVICE SIZE STEP` trains, and
kills itself after that step, with 0 at none.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.check.part import SIZES, Check, Outcome
from benchmarks.job import Context, random_rows
from benchmarks.results import ROOT, Measurement
from mfql.data.transitions import Dataset, Transitions
from mfql.experiment.run import RunFolder
from mfql.tasks import find_task
from mfql.training.checkpoint import Checkpoints
from mfql.training.device import set_precision
from mfql.training.loop import Execution, Trainer

_ROWS, _SEEDS, _TASK = 1_000, 2, "antmaze-large-navigate-singletask-task1-v0"


class Disturbed(Trainer):
    """Trains without evaluations; where one is due it has a checkpoint. It kills itself after a step."""

    kill_after = 0

    def evaluate(self) -> None:
        """Not here."""

    def _tick(self) -> None:
        super()._tick()
        if self.step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(check: Check) -> Outcome:
    """Train undisturbed, killed, and on; compare what is left."""
    folder, steps = check.out / "killed", check.size.killed_steps
    shutil.rmtree(folder, ignore_errors=True)
    disturbed = folder / "disturbed"
    # Between two checkpoints, so that steps are repeated.
    sessions = [(folder / "undisturbed", 0), (disturbed, steps * 5 // 8), (disturbed, 0)]
    for place, step in sessions:
        done = _process(place, check, step)
        if done.returncode != (-signal.SIGKILL if step else 0):
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            return Outcome(failures=[f"a training process ended with status {done.returncode}:\n{last}"])
    differ = _differences(_run(folder / "undisturbed"), _run(disturbed))
    shutil.rmtree(folder, ignore_errors=True)
    case = {"seeds": _SEEDS, "steps": steps, "killed after": steps * 5 // 8}
    return Outcome(
        [Measurement.of("killed", "arrays that differ", "", len(differ), **case)],
        [f"killed and continued, it ends otherwise in {', '.join(differ)}"] if differ else [],
    )


def _process(folder: Path, check: Check, step: int) -> subprocess.CompletedProcess[str]:
    command = ["-m", "benchmarks.check.killed", str(folder.resolve()), check.device.type, check.size.name, str(step)]
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, encoding="utf-8")


def _run(folder: Path) -> RunFolder:
    """The first seed's; the others lie beside it."""
    return RunFolder(folder.resolve(), "mfql", _TASK, 0, "offline")


def _differences(one: RunFolder, other: RunFolder) -> list[str]:
    """The names of what two runs of all seeds do not have bit for bit alike."""
    differ = []
    for seed in range(_SEEDS):
        first, second = (replace(run, seed=seed) for run in (one, other))
        differ += [f"seed {seed} {name}" for name in _unequal(_state(first), _state(second))]
        if (first.trained / "metrics.csv").read_bytes() != (second.trained / "metrics.csv").read_bytes():
            differ.append(f"seed {seed} metrics.csv")
    return differ


def _state(run: RunFolder) -> dict[str, Any]:
    checkpoints = Checkpoints(run.trained / "checkpoint")
    return checkpoints.load(checkpoints.steps()[-1])["state"]


def _unequal(one: Any, other: Any, name: str = "") -> list[str]:
    if isinstance(one, dict):
        return [part for key in one for part in _unequal(one[key], other[key], f"{name} {key}".strip())]
    return [] if torch.equal(one, other) else [name]


def _dataset(rows: dict[str, np.ndarray]) -> Dataset:
    """Random rows as a dataset that is its own validation part."""
    own = {**rows, "terminals": np.zeros(len(rows["rewards"]), np.float32)}
    size = rows["observations"].shape[1]
    return Dataset(
        **own,
        val=Transitions(**own),
        observation_mean=np.zeros(size, np.float32),
        observation_std=np.ones(size, np.float32),
        sha256="",
        name="random",
        source="generated",
    )


def main(arguments: list[str]) -> None:
    """Train in a folder; continue what lies there."""
    folder, device, size, step = Path(arguments[0]), torch.device(arguments[1]), SIZES[arguments[2]], int(arguments[3])
    torch.set_num_threads(1)
    steps = size.killed_steps
    agent = Context(size.effort, device).agent(
        offline_steps=steps, eval_interval=steps // 4, log_interval=steps // 10, precision="tf32"
    )
    set_precision(agent.settings.precision, device)
    task = find_task(_TASK, ROOT / "config")
    runs = [replace(_run(folder), seed=seed) for seed in range(_SEEDS)]
    found = [Checkpoints(run.checkpoints.folder).usable() for run in runs]
    # A kill may come between the seeds' checkpoints.
    common = sorted(set.intersection(*(set(one) for one in found)))
    saved = [one[common[-1]] for one in found] if common else None
    execution = Execution(device, workers=0, checkpoint_seconds=1e9, compiled=device.type == "cuda", progress=False)
    trainer = Disturbed(agent, _dataset(random_rows(agent, _ROWS)), task, runs, execution, saved=saved)
    trainer.kill_after = step
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1:])
