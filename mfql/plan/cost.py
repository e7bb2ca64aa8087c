"""Hours of training and evaluation: from measured speed where there is a file of it, else from the settings' sizes.

A file of measured speed is JSON: `machine` (its `gpu` or, without one, `cpu`), `date`, `command`, `threads` that a
processor's steps took, and `measurements`, each with

    device        cuda or cpu; one without measurements of both stages is left out
    stage         offline or online
    seeds         trained together
    operations    of one update of one seed, as `operations` gives them
    seconds       of one step of the job, environment steps included where the stage has them

Between two measurements of a device and stage, seconds are interpolated in operations times seeds; above the largest
they grow in proportion, below the smallest they stay.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mfql.documents import read_json
from mfql.errors import UserError
from mfql.experiment.configuration import Run
from mfql.extensions import is_own
from mfql.plan.footprints import FOOTPRINTS
from mfql.plan.launch import STEP_SECONDS, TrainingJob, episode_seconds

# Share of the rate of matrix products that a compiled update reaches, and the least time of its many small operations.
_EFFICIENCY, _LEAST_SECONDS = 0.5, 0.003
# One update of the critics of off-policy evaluation on a processor core.
_FQE_SECONDS = 0.012
# One update of a packed seed on a recent data-centre GPU.
_GPU_SECONDS = 0.0012
# The convolutions of the image encoder, forward, for one stack of frames.
_IMAGE_OPERATIONS = 46e6
# Observation and action of a typical task.
_INPUTS = 50


def parameters(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Weights of the policy and of the networks of values, near enough for an estimate."""
    if "actor_hidden" in settings:
        policy = _weights(settings["actor_hidden"])
        members = settings.get("num_critics", 0) + ("expectile" in settings)
        return policy, _weights(settings.get("critic_hidden", ())) * members
    hidden, blocks = settings.get("policy_hidden", 256), settings.get("policy_blocks", 3)
    policy = blocks * 10 * hidden**2 + 50 * hidden
    if "alpha" not in settings:
        return policy, 0
    return policy, _weights(settings.get("critic_hidden", [512] * 4)) * settings.get("num_critics", 2)


def _weights(hidden: Sequence[int]) -> int:
    """The weights of a plain network with typical inputs."""
    return sum(a * b for a, b in pairwise([_INPUTS, *hidden, 1]))


def counted_parameters(run: Run) -> tuple[int, int]:
    """`parameters` of a configured run; all of a method of one's own, as its agent says, count as its policy's."""
    if is_own(run.agent):
        return FOOTPRINTS.of(run).parameters, 0
    return parameters(run.settings)


def operations(settings: Mapping[str, Any], pixels: bool = False) -> float:
    """Floating-point operations of one seed's update, in all updates of a step.

    A pass forward takes 2 a weight and row, one backward 4. MFQL's candidates, a flow's steps and Cal-QL's actions
    count for themselves.
    """
    policy, values = parameters(settings)
    if "actor_hidden" in settings:
        passes = policy * (4 + settings.get("flow_steps", 0)) + values * (6 + 10 * settings.get("cql_actions", 0))
    else:
        candidates = settings.get("num_candidates", 5) if values else 0
        passes = policy * (candidates + 7) + values * (candidates + 5)
    # Of two groups' encoders, forward and backward on observations and forward on the next ones.
    images = 8 * _IMAGE_OPERATIONS if pixels else 0.0
    rows = settings.get("batch_size", 256) * settings.get("updates_per_step", 1)
    return rows * (2.0 * passes + images)


def operations_of(run: Run) -> float:
    """`operations` of a configured run.

    Of a method of one's own a row passes all parameters forward and backward, and forward once more for a target.
    """
    if is_own(run.agent):
        rows = run.settings["batch_size"] * run.settings.get("updates_per_step", 1)
        return rows * 2.0 * 4 * FOOTPRINTS.of(run).parameters
    return operations(run.settings, pixels=run.task.pixels)


class Speed(Protocol):
    """How long a step of a training job takes."""

    @property
    def source(self) -> str:
        """Where the speed is known from, for people."""

    @property
    def threads(self) -> int | None:
        """Cores that a job has at that speed; None where it may be all."""

    def seconds(self, run: Run, seeds: int) -> float:
        """Seconds of one step of a job with so many seeds."""


@dataclass(frozen=True)
class MeasuredSpeed:
    """Speed from a file.

    Args:
        points: operations times seeds and seconds, ascending, by stage.
    """

    source: str
    points: Mapping[str, list[tuple[float, float]]]
    threads: int | None = None

    def seconds(self, run: Run, seeds: int) -> float:
        """Seconds of one step of a job with so many seeds."""
        work, seconds = zip(*self.points["online" if run.stage == "online" else "offline"], strict=True)
        asked = operations_of(run) * seeds
        return float(np.interp(asked, work, seconds)) * max(1.0, asked / work[-1])


@dataclass(frozen=True)
class GPUSpeed:
    """Speed of a GPU of which nothing was measured."""

    source = "a rule of thumb for a recent data-centre GPU"
    threads = 1

    def seconds(self, run: Run, seeds: int) -> float:
        """Seconds of one step of a job with so many seeds."""
        step = STEP_SECONDS if run.stage == "online" else 0.0
        return seeds * (_GPU_SECONDS + step) * max(1.0, operations_of(run) / 25e9)


@dataclass(frozen=True)
class CPUSpeed:
    """Speed from the rate of matrix products that this machine's processor shows.

    Args:
        rate: floating-point operations a second.
        threads: cores of a job, which has so large a part of them.
    """

    rate: float
    threads: int
    source = "this processor's matrix products"

    def seconds(self, run: Run, seeds: int) -> float:
        """Seconds of one step of a job with so many seeds."""
        step = STEP_SECONDS if run.stage == "online" else 0.0
        return seeds * (max(operations_of(run) / (_EFFICIENCY * self.rate), _LEAST_SECONDS) + step)


def find_speed(file: Path, gpus: int, threads: int = 1, cores: int = 1) -> Speed:
    """The measured speed of a device of the kind that there is, if the file has one, else an estimate.

    Args:
        threads: cores of one training job.
        cores: of this machine.

    Raises:
        UserError: the file is there and is no file of measured speed.
    """
    measured = _read_speed(file, "cuda" if gpus else "cpu") if file.exists() else None
    if measured is not None:
        return measured
    return GPUSpeed() if gpus else CPUSpeed(min(threads / cores, 1.0) * _matmul_rate(), threads)


def _read_speed(file: Path, device: str) -> MeasuredSpeed | None:
    content = read_json(file)
    try:
        points: dict[str, list[tuple[float, float]]] = {"offline": [], "online": []}
        for one in content["measurements"]:
            work, seconds = float(one["operations"]) * int(one["seeds"]), float(one["seconds"])
            if one["device"] == device:
                points[one["stage"]].append((work, seconds))
        machine = content["machine"]
        name = (machine.get("gpu") if device == "cuda" else None) or machine["cpu"]
        source = f"measured on {name} on {content['date']} by `{content['command']}` ({file})"
        threads = int(content["threads"]) if "threads" in content else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is no file of measured speed: {type(error).__name__} {error}", "Measure anew, or delete it."
        ) from error
    if not all(points.values()):
        return None
    return MeasuredSpeed(source, {stage: sorted(found) for stage, found in points.items()}, threads)


@dataclass(frozen=True)
class Hours:
    """What a launch takes.

    Args:
        gpu: of GPUs; cpu: of processor cores; elapsed: on this machine from start to end.
    """

    gpu: float
    cpu: float
    elapsed: float


def hours_of(jobs: Iterable[TrainingJob], others: float, speed: Speed, threads: int, gpus: int, cores: int) -> Hours:
    """Hours of training jobs and of what runs beside them.

    Args:
        others: core-seconds of what is no training.
        threads: cores of one training job.
        gpus: jobs that train at once; without one, as many as find cores.
    """
    each = [(job.run, _job_seconds(job, speed, threads) / 3600) for job in jobs]
    training, beside = sum(hours for _, hours in each), others / 3600
    if gpus:
        return Hours(training, training * threads + beside, max(training / gpus, beside / cores))
    taken = min(max(threads, speed.threads or cores), cores)
    return Hours(0.0, training * taken + beside, max(training / (cores // taken), _longest(each)) + beside / cores)


def _longest(each: Sequence[tuple[Run, float]]) -> float:
    """The hours of the longest job together with that which it starts from and waits for."""
    hours = {(run.method, run.task.name, run.seeds, run.stage): found for run, found in each}
    before = [hours.get((run.method, run.task.name, run.seeds, run.start or ""), 0.0) for run, _ in each]
    return max((own + start for (_, own), start in zip(each, before, strict=True)), default=0.0)


def _job_seconds(job: TrainingJob, speed: Speed, threads: int) -> float:
    settings = job.run.settings
    total = 0.0
    for seeds, steps in job.parts:
        episodes = seeds * evaluations_in(job, steps) * settings["eval_episodes"]
        total += steps * speed.seconds(job.run, seeds) + episode_seconds(job.run, episodes) / threads
        total += seeds * _estimate_seconds(job.run)
    return total


def _estimate_seconds(run: Run) -> float:
    """Seconds of off-policy evaluation, at the end of a run whose task has no environment."""
    registered = run.task.registered
    return _FQE_SECONDS * registered.fqe_steps if registered is not None and registered.fqe_steps else 0.0


def evaluations_in(job: TrainingJob, steps: int) -> int:
    """Evaluations in the last so many steps of a run: at each interval by the steps' numbers, and at the end."""
    settings, interval = job.run.settings, job.run.settings["eval_interval"]
    last = settings["online_steps" if job.run.stage == "online" else "offline_steps"]
    last = last if job.until is None else min(last, job.until)
    return last // interval - (last - steps) // interval + (last % interval > 0)


def _matmul_rate() -> float:
    """Operations a second of a float32 matrix product at the critics' shape, the best of a few."""
    left, right = np.ones((512, 512), np.float32), np.ones((512, 512), np.float32)
    best = math.inf
    for _ in range(30):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2.0 * 512**3 / best
