"""One task at the paper's size, from data generated here to a curve and a score, in as many calls as it takes.

Data and runs are `mfql data generate`'s and `mfql train`'s, in folders of the check that the workflow could go on with.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.check.part import Check, Outcome
from benchmarks.results import ROOT, Found, Measurement
from mfql.cores import usable_cores
from mfql.data.paths import description_path
from mfql.documents import read_json
from mfql.experiment.run import RunFolder

TASK, _DATASET, _STAGE = "cube-single-play-singletask-task2-v0", "cube-single-play-v0", "offline"
# A million rows take about three minutes on 16 cores; what is begun there is not kept if it is ended.
_DATA_SECONDS = 300.0
# For the checkpoints of all seeds, when the trainer is asked to end.
_SAVING_SECONDS = 30.0
_CONTINUES = 75  # As `mfql train` ends when it was asked to.


def task(check: Check) -> Outcome:
    """Generate what is missing, train until it is finished or time runs out, and read the curve."""
    data = check.out / "data"
    if not description_path(data, _DATASET).exists():
        if check.seconds_left() < _DATA_SECONDS and check.size.episodes is None:
            return Outcome(left=f"{_DATASET} is still to be generated, which takes {_DATA_SECONDS / 60:.0f} minutes")
        episodes = [] if check.size.episodes is None else ["--episodes", str(check.size.episodes)]
        workers = str(usable_cores())
        done = _mfql("data", "generate", _DATASET, "--out", str(data.resolve()), "--workers", workers, *episodes)
        if done.wait():
            return Outcome(failures=[f"mfql data generate {_DATASET} ended with status {done.returncode}"])
    status = _train(check, data)
    if status == _CONTINUES:
        return Outcome(found=_progress(check), left=f"trained to step {_step(check):,}")
    if status:
        return Outcome(failures=[f"mfql train ended with status {status}"])
    return Outcome(found=_progress(check) + _score(check))


def _train(check: Check, data: Path) -> int:
    """The trainer's exit status; it is asked to end in time to save."""
    if check.seconds_left() < 2 * _SAVING_SECONDS:
        return _CONTINUES
    seeds = [str(seed) for seed in range(check.size.seeds)]
    results = str((check.out / "results").resolve())
    training = _mfql(
        "train", "--method", check.size.method, "--task", TASK, "--stage", _STAGE, "--seeds", *seeds,
        "--data", str(data.resolve()), "--results", results, "--device", check.device.type,
        "--threads", str(torch.get_num_threads()), "--checkpoint-seconds", "60",
        "--wait",  # A trainer may live on that an earlier call began.
    )  # fmt: skip
    left = check.seconds_left() - _SAVING_SECONDS
    try:
        return training.wait(None if left == float("inf") else left)
    except subprocess.TimeoutExpired:
        training.send_signal(signal.SIGTERM)
        return training.wait()


def _mfql(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "mfql.cli", *arguments], cwd=ROOT)


def _runs(check: Check) -> list[RunFolder]:
    results = check.out / "results"
    return [RunFolder(results, check.size.method, TASK, seed, _STAGE) for seed in range(check.size.seeds)]


def _step(check: Check) -> int:
    """The step that all seeds have a checkpoint of."""
    return min(max(run.checkpoints.steps(), default=0) for run in _runs(check))


def _progress(check: Check) -> Found:
    """How fast it trained in each session, as the log of the runs has it."""
    manifest = _runs(check)[0].manifest() or {}
    case = {"task": TASK, "method": check.size.method, "seeds": check.size.seeds}
    found: Found = [Measurement.of("task", "sessions", "", len(manifest.get("sessions", [])), **case)]
    if (milliseconds := manifest.get("step_ms")) is not None:
        rate = 1e3 * check.size.seeds / milliseconds
        found.append(Measurement.of("task", "seed-updates of the last session", "1/s", rate, **case))
    return found


def _score(check: Check) -> Found:
    """The curve and the score, means over seeds."""
    results = [read_json(run.folder / "evaluation.json") for run in _runs(check)]
    case = {"task": TASK, "method": check.size.method, "seeds": check.size.seeds}
    curve = [
        _over_seeds("success", [_at(one, number) for one in results], {**case, "step": first["step"]})
        for number, first in enumerate(results[0]["evaluations"])
        if all(len(one["evaluations"]) > number for one in results)
    ]
    scores = [one["score"] for one in results if one["score"] is not None]
    diverged = sum(one["status"] == "diverged" for one in results)
    found: Found = [*curve, Measurement.of("task", "diverged seeds", "", diverged, **case)]
    return [*found, _over_seeds("score", scores, case)] if scores else found


def _at(result: dict[str, Any], number: int) -> float:
    return float(result["evaluations"][number]["success"])


def _over_seeds(quantity: str, values: Sequence[float], case: dict[str, Any]) -> Measurement:
    mean = sum(values) / len(values)
    return Measurement("task", quantity, "%", mean, min(values), max(values), len(values), case)
