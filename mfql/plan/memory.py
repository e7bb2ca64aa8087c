"""How much of a GPU's memory a training job takes, and how many seeds of it fit; without torch.

Rows are counted from the sizes of their fields. What an agent takes beside them is asked of the agent itself, built and
updated once on tensors without memory in a process that has torch (`mfql.training.footprint`): of any method, one's own
too. A launcher without torch has `_KNOWN`, the same answers for the shipped agents at the paper's size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mfql.plan.configuration import Run
from mfql.plan.launch import TrainingJob
from mfql.plan.sizes import IMAGE_SHAPE, dataset_rows, row_sizes
from mfql.tasks import is_visual

GIGABYTE = 1e9
_NUMBER, _INDEX, _STACKED = 4, 8, 3
# What CUDA takes for its context, kernels and libraries, and what the allocator loses to rounding: an allowance.
_CONTEXT = 1.0 * GIGABYTE
# `mfql.training.distance`: rows of the dataset that actions are held against, and rows held.
_REFERENCE, _HELD = 50_000, 128
# Jobs that are named as too large.
_SHOWN = 8
# Settings that no tensor's size depends on.
_SIZELESS = ("alpha", "discount", "offline_steps", "online_steps", "eval_interval", "log_interval")
# Parameters, and bytes of state, draws, update and acting of a seed at 69 observations and 21 actions, the largest that
# the task table has, and of `pixels`; updates a step, and fields.
_KNOWN: dict[str, tuple[int, int, int, int, int, int, tuple[str, ...]]] = {
    "mfql": (5_127_959, 68_249_333, 9_830_400, 103_468_063, 27_133_976, 1, ()),
    "bc": (834_581, 10_015_125, 131_072, 23_554_983, 1_737_728, 1, ()),
    "flow_bc": (3_449_621, 41_395_605, 1_572_864, 96_754_599, 17_193_984, 1, ()),
    "fql": (3_369_516, 47_148_061, 4_325_376, 60_658_528, 2_851_844, 1, ()),
    "ifql": (3_352_600, 46_945_117, 1_572_864, 60_569_352, 20_410_600, 1, ()),
    "iql": (3_341_336, 46_809_949, 131_072, 60_545_824, 3_317_764, 1, ()),
    "rebrac": (2_512_919, 40_207_129, 1_507_328, 57_232_080, 1_759_232, 1, ()),
    "rlpd": (2_523_693, 36_998_173, 2_883_584, 57_253_720, 1_737_728, 1, ()),
    "calql": (2_523_694, 36_998_369, 56_557_568, 622_284_872, 1_738_752, 1, ("mc_returns",)),
    "fawac": (3_352_600, 46_945_117, 2_949_120, 60_569_368, 3_314_688, 1, ()),
    "fbrac": (2_524_183, 37_003_929, 4_325_376, 74_096_656, 3_357_700, 1, ()),
    "pixels": (7_882_247, 107_473_461, 2_621_696, 662_907_924, 174_595_072, 1, ()),
}


@dataclass(frozen=True)
class Footprint:
    """Bytes of one seed, as `mfql.training.footprint.Footprint` has them; `known` is False of an assumption."""

    parameters: int
    state: int
    draws: int
    update: int
    acting: int
    updates_per_step: int
    fields: tuple[str, ...]
    known: bool = True


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
        """Of a job of so many seeds: at most, but for the allowance."""
        return self.rows + self.shared + seeds * (self.tail + self.seed)

    def certain(self, seeds: int, state: float) -> float:
        """Of rows and state alone, without which no job starts."""
        return self.rows + seeds * (self.tail + state)

    def fitting(self, memory: float) -> int:
        """The most seeds that share a card of so many bytes; 0 where one does not fit."""
        return max(0, int((memory - self.rows - self.shared) // (self.tail + self.seed)))


def row_bytes(observation: int, action: int, fields: Iterable[str], *, images: bool = False) -> int:
    """Bytes of a transition on the device: observation, the next, action, reward and mask, and a method's own fields.

    Args:
        observation, action: D and A.
        fields: `next_actions` and `mc_returns`, where they are kept.
        images: observations are numbers of images, three each.
    """
    own = {"next_actions": action, "mc_returns": 1}
    seen = 2 * _STACKED * _INDEX if images else 2 * observation * _NUMBER
    return seen + _NUMBER * (action + 2 + sum(own[name] for name in fields))


@dataclass
class Footprints:
    """The footprints of runs, asked for together and once."""

    _found: dict[str, Footprint] = field(default_factory=dict)

    def ask(self, runs: Iterable[Run]) -> None:
        """Find those of these runs, in one process."""
        questions = {_key(run): _question(run) for run in runs if _key(run) not in self._found}
        if questions:
            answers = _answers(list(questions.values()))
            for (key, question), answer in zip(questions.items(), answers, strict=True):
                self._found[key] = _assumed(question) if answer is None else answer

    def of(self, run: Run) -> Footprint:
        """That of a run."""
        self.ask([run])
        return self._found[_key(run)]


def job_memory(run: Run, found: Footprint, episodes: int | None = None) -> JobMemory:
    """What a job of this run takes.

    Args:
        found: the agent's footprint.
        episodes: of a dataset that is generated.
    """
    observation, action = row_sizes(run.task.dataset)
    images = is_visual(run.task.name)
    size = row_bytes(observation, action, found.fields, images=images)
    updates = found.updates_per_step if run.stage == "online" else 1
    held = _REFERENCE * (0 if images else observation) + _REFERENCE * action + 2 * _REFERENCE * _HELD
    return JobMemory(
        rows=dataset_rows(run.task.dataset, episodes) * size,
        tail=float(run.steps * size if run.stage == "online" else 0),
        seed=2.0 * found.state + 2.0 * updates * found.draws + found.update + found.acting,
        shared=_CONTEXT + _NUMBER * held,
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
        """Whether it cannot even hold its rows and its state."""
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
        lines.append(f"  no torch here to ask how large {', '.join(unknown)} is: counted as mfql")
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
    footprints, sized = Footprints(), []
    footprints.ask(job.run for job in jobs)
    for job in jobs:
        seeds = max((seeds for seeds, _ in job.parts), default=0)
        if seeds:
            found = footprints.of(job.run)
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


def _question(run: Run) -> dict[str, Any]:
    observation, action = row_sizes(run.task.dataset)
    shape = IMAGE_SHAPE if is_visual(run.task.name) else (observation,)
    settings = {key: value for key, value in run.settings.items() if key not in _SIZELESS}
    # What stands for those: values that every agent takes.
    plain = {key: run.settings[key] for key in _SIZELESS if key in run.settings}
    return {
        "agent": run.agent,
        "settings": settings | plain,
        "observation_shape": list(shape),
        "action_dim": action,
    }


def _key(run: Run) -> str:
    question = _question(run)
    settings = {key: value for key, value in question["settings"].items() if key not in _SIZELESS}
    return json.dumps(question | {"settings": settings}, sort_keys=True, default=list)


def _answers(questions: list[Mapping[str, Any]]) -> list[Footprint | None]:
    command = [sys.executable, "-m", "mfql.training.footprint"]
    try:
        done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, timeout=600)
        answers = json.loads(done.stdout) if done.returncode == 0 else [None] * len(questions)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        answers = [None] * len(questions)
    return [None if one is None else Footprint(**one | {"fields": tuple(one["fields"])}) for one in answers]


def _assumed(question: Mapping[str, Any]) -> Footprint:
    """Without an answer: a shipped agent's at the paper's size; of another, MFQL's, and said to be unknown."""
    name = "pixels" if len(question["observation_shape"]) > 1 else str(question["agent"])
    return Footprint(*_KNOWN.get(name, _KNOWN["mfql"]), known=name in _KNOWN)
