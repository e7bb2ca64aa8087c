"""How much of a GPU's memory a training job takes, and how many seeds of it fit; without torch.

Rows are counted from the sizes of their fields; what an agent takes beside them says `mfql.plan.footprints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mfql.experiment.configuration import Run
from mfql.footprint import NUMBER, Footprint, row_bytes
from mfql.plan.footprints import FOOTPRINTS
from mfql.plan.launch import TrainingJob
from mfql.suites import suite_of

GIGABYTE = 1e9
# What CUDA takes for its context, kernels and libraries, and what the allocator loses to rounding: an allowance.
_CONTEXT = 1.0 * GIGABYTE
# `mfql.training.distance`: rows of the dataset that actions are held against, and rows held.
_REFERENCE, _HELD = 50_000, 128
# Jobs that are named as too large.
_SHOWN = 8


@dataclass(frozen=True)
class JobMemory:
    """Bytes that a training job takes on its device.

    Args:
        rows: of the dataset and its validation split, shared by all seeds; without images, which stay on the host where
            they do not fit.
        tail: of the online rows of one seed.
        seed: what else a seed takes at most, see `Footprint`: state twice, since capturing a step keeps a copy, two
            blocks of draws, the update, which a captured step keeps, and acting.
        shared: an allowance for CUDA itself, and what diagnostics hold of the dataset.
    """

    rows: float
    tail: float
    seed: float
    shared: float

    def total(self, seeds: int) -> float:
        """The bytes of a job of so many seeds: at most, but for the allowance."""
        return self.rows + self.shared + seeds * (self.tail + self.seed)

    def certain(self, seeds: int, state: float) -> float:
        """The bytes of rows and state alone, without which no job starts."""
        return self.rows + seeds * (self.tail + state)

    def fitting(self, memory: float) -> int:
        """The most seeds that share a card of so many bytes; 0 where one does not fit."""
        return max(0, int((memory - self.rows - self.shared) // (self.tail + self.seed)))


def job_memory(run: Run, found: Footprint, episodes: int | None = None) -> JobMemory:
    """What a job of this run takes.

    Args:
        found: the agent's footprint.
        episodes: of a dataset that is generated.
    """
    suite = suite_of(run.task.dataset)
    row, images = suite.row(run.task.dataset), run.task.pixels
    size = row_bytes(row.observation, row.action, found.fields, images=images)
    updates = found.updates_per_step if run.stage == "online" else 1
    held = _REFERENCE * (0 if images else row.observation) + _REFERENCE * row.action + 2 * _REFERENCE * _HELD
    return JobMemory(
        rows=suite.rows(run.task.dataset, episodes) * size,
        tail=float(run.steps * size if run.stage == "online" else 0),
        seed=2.0 * found.state + 2.0 * updates * found.draws + found.update + found.acting,
        shared=_CONTEXT + NUMBER * held,
    )


@dataclass(frozen=True)
class _Sized:
    """A training job with its seeds, what it takes, and the most seeds that fit."""

    run: Run
    seeds: int
    takes: JobMemory
    found: Footprint
    fitting: int

    @property
    def total(self) -> float:
        return self.takes.total(self.seeds)

    def too_large(self, memory: float) -> bool:
        """Whether the card cannot even hold the job's rows and state."""
        return self.takes.certain(self.seeds, self.found.state) > memory


def card_lines(jobs: Iterable[TrainingJob], config: Mapping[str, Any], memory: float) -> tuple[list[str], bool]:
    """What a plan says of the jobs on a card of so many bytes, and whether one cannot start on it."""
    sized = _sized(list(jobs), config, memory)
    if not sized:
        return [], False
    largest, tightest = max(sized, key=lambda one: one.total), _tightest(sized)
    fit = ", ".join(f"{stage} {one.fitting} ({one.run.task.environment})" for stage, one in tightest.items())
    lines = [
        f"  memory of the GPU: up to {_gigabytes(largest.total)} a job of {_gigabytes(memory)} ({_said(largest)})",
        f"  seeds a job that fit (seeds_per_job): {fit}",
    ]
    if unknown := sorted({one.run.agent for one in sized if not one.found.known}):
        names = ", ".join(unknown)
        lines.append(f"  not asked how large {names} is (no torch here, or its code is not trusted): counted as mfql")
    small: dict[tuple[str, str], _Sized] = {}
    for one in sized:
        key = one.run.stage, one.run.task.environment
        if one.fitting < one.seeds and (key not in small or one.fitting < small[key].fitting):
            small[key] = one
    for one in list(small.values())[:_SHOWN]:
        lines.append(
            f"  THE CARD IS TOO SMALL for {one.seeds} seeds a job: {_said(one)} takes {_gigabytes(one.total)}, "
            f"{one.fitting or 'not one'} fit{'s' if one.fitting < 2 else ''}"
        )
    least = min((one.fitting for one in small.values()), default=0)
    if least:
        lines.append(f"  Give the launch --config seeds_per_job={least}")
    return lines, any(one.too_large(memory) for one in sized)


def _sized(jobs: list[TrainingJob], config: Mapping[str, Any], memory: float) -> list[_Sized]:
    sized = []
    FOOTPRINTS.ask(job.run for job in jobs)
    for job in jobs:
        seeds = max((seeds for seeds, _ in job.parts), default=0)
        if seeds:
            found = FOOTPRINTS.of(job.run)
            takes = job_memory(job.run, found, config["datasets"].get(job.run.task.dataset, {}).get("episodes"))
            sized.append(_Sized(job.run, seeds, takes, found, takes.fitting(memory)))
    return sized


def _tightest(sized: list[_Sized]) -> dict[str, _Sized]:
    """The job of each stage of which the fewest seeds fit."""
    tightest: dict[str, _Sized] = {}
    for one in sized:
        if one.run.stage not in tightest or one.fitting < tightest[one.run.stage].fitting:
            tightest[one.run.stage] = one
    return tightest


def _said(one: _Sized) -> str:
    return f"{one.run.method} {one.run.task.name} {one.run.stage}, {one.seeds} seeds"


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB"
