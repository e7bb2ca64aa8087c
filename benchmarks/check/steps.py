"""Every method's step in the form that the trainer gives it on the device, against the same step run eagerly there.

All forms start from the same weights and take the same draws, which the processor makes: a GPU's generator gives other
numbers. Rounding differs, and every update carries it on; what is told is how far apart the weights end, as a share of
the way that they went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.acting import agent_of
from benchmarks.check.part import Check, Outcome
from benchmarks.job import Job, random_rows
from benchmarks.results import Measurement
from mfql.agents.interface import Agent
from mfql.agents.update import TrainState
from mfql.draws import DrawStream

SEEDS, _ROWS = 2, 1_000
# A form that reads another row, another draw or an earlier state ends as far away as it went (a share of about 1).
# Rounding alone came to 0.01 at most over 200 updates, on a processor.
_BOUND = 0.1
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Form:
    """How a step runs.

    Args:
        compiled: the update is compiled, by this backend of torch; empty runs it as it is.
        captured: a CUDA graph a step.
        exact: the same kernels in the same order, so that nothing may differ.
        part: of the updates that it is compared over, one in so many.
    """

    name: str
    device: torch.device
    compiled: str = ""
    captured: bool = False
    exact: bool = False
    part: int = 1


def forms(device: torch.device) -> list[Form]:
    """The forms that are compared with the eager step on a device."""
    if device.type == "cuda":
        return [
            # That of the trainer; the graph alone, which says whether it or the compiler is to blame; the processor.
            Form("compiled and captured", device, "inductor", captured=True),
            Form("captured", device, captured=True),
            # A processor needs minutes for what a GPU does in seconds.
            Form("eager on the processor", _CPU, part=10),
        ]
    # Traced as for compiling, but run with the same kernels: what a compiler takes half a minute a method for.
    return [Form("traced", device, "aot_eager", exact=True)]


def agent_names(config_dir: Path, ending: str) -> list[str]:
    """The methods that are an agent's own, in the size of an ending; MFQL's first."""
    names = [path.stem for path in (config_dir / "methods").glob("*.yaml") if "-" not in path.stem]
    return [f"{name}{ending}" for name in sorted(names, key=lambda name: (name != "mfql", name))]


class ProcessorDraws(DrawStream):
    """The draws of a stream as the processor makes them, whatever device uses them."""

    def __init__(self, stream: DrawStream) -> None:
        super().__init__(stream.draws, stream.keys, stream.purpose, stream.device)
        self._made = DrawStream(stream.draws, stream.keys, stream.purpose, _CPU)

    def block(self, block: int) -> dict[str, Tensor]:
        """As of `DrawStream`."""
        return {name: value.to(self.device) for name, value in self._made.block(block).items()}


def steps_of(method: str, check: Check) -> Outcome:
    """Compare the forms of a method's step in each of its stages."""
    agent = agent_of(method, check.context.config_dir)
    stages = [stage for stage in ("offline", "online") if stage in agent.stages]
    outcome = Outcome()
    eager: dict[int, dict[str, End]] = {}
    for form in forms(check.device):
        updates = max(1, check.size.updates // form.part)
        if updates not in eager:
            eager[updates] = dict(_ends(agent, Form("eager", check.device), stages, updates))
        for stage, end in _ends(agent, form, stages, updates):
            said, beside = f"{method} {stage}, {form.name}", eager[updates][stage]
            outcome.failures += _compare(said, beside, end, exact=form.exact)
            case = {"method": method.partition("-")[0], "stage": stage, "form": form.name, "updates": updates}
            outcome.found.append(Measurement.of("steps", "apart, share of the way", "", beside.apart(end), **case))
    return outcome


@dataclass(frozen=True)
class End:
    """Where training came to.

    Args:
        start: the flat parameters before; arrays: the whole state after, both on the processor.
    """

    start: dict[str, Tensor]
    arrays: dict[str, Tensor]

    def apart(self, other: End) -> float:
        """How far another end is from this one, as a share of the way to it; the largest of all groups and targets."""
        return max(
            float((other.arrays[f"flat {name}"] - self.arrays[f"flat {name}"]).norm())
            / max(float((self.arrays[f"flat {name}"] - start).norm()), 1e-12)
            for name, start in self.start.items()
        )


def _compare(said: str, eager: End, end: End, *, exact: bool) -> list[str]:
    """What is wrong with an end beside the eager one."""
    if not all(bool(value.isfinite().all()) for value in end.arrays.values()):
        return [f"{said}: the state is not finite"]
    counted = ("step", "count", "active", "diverged_at")
    differ = [
        name
        for name, value in eager.arrays.items()
        if (exact or name.split()[0] in counted) and not torch.equal(value, end.arrays[name])
    ]
    if differ:
        return [f"{said}: not equal in {', '.join(differ)}"]
    apart = eager.apart(end)
    return [] if apart <= _BOUND else [f"{said}: ends {apart:.2g} of the way apart, bound {_BOUND:g}"]


def _ends(agent: Agent, form: Form, stages: Sequence[str], updates: int) -> Iterator[tuple[str, End]]:
    """Train in each stage from the same start; one compilation serves them all."""
    compiled, backend = bool(form.compiled), form.compiled or "inductor"
    job = Job(agent, SEEDS, _ROWS, form.device, compiled=compiled, backend=backend)
    job.captured = form.captured
    before = [tensor.clone() for tensor in job.state.tensors()]
    flat = {name: array.cpu().clone() for name, array in job.state.flat.items()}
    for stage in stages:
        for total in job.state.logged.values():
            total.zero_()  # The first update makes them.
        for tensor, value in zip(_kept(job.state), before, strict=True):
            tensor.copy_(value)
        count = updates if stage == "offline" else max(1, updates // agent.updates_per_step)
        job.begin(_ROWS, 0 if stage == "offline" else count)
        job.step.stream = ProcessorDraws(job.step.stream)
        _train(job, count, online=stage == "online")
        yield stage, End(flat, _arrays(job.state))


def _train(job: Job, count: int, *, online: bool) -> None:
    if not online:
        job.case(count)
        return
    rows = random_rows(job.agent, count)
    for number in range(count):
        job.case(1)
        job.memory.append(number, {name: _row(value, number, job.device) for name, value in rows.items()})


def _row(values: np.ndarray, number: int, device: torch.device) -> Tensor:
    """A row of the tails, another of each seed: `[S, ...]`."""
    picked = np.stack([values[(number + seed) % len(values)] for seed in range(SEEDS)])
    return torch.as_tensor(picked, device=device)


def _kept(state: TrainState) -> Iterator[Tensor]:
    """Every tensor that a state has before its first update."""
    logged = {id(total) for total in state.logged.values()}
    return (tensor for tensor in state.tensors() if id(tensor) not in logged)


def _arrays(state: TrainState) -> dict[str, Tensor]:
    """Every array of a state, named, on the processor."""
    found = {"step": state.step}
    for name in ("flat", "first", "second", "count", "own", "logged"):
        found |= {f"{name} {group}": value for group, value in getattr(state, name).items()}
    found |= {"active": state.active, "diverged_at": state.diverged_at}
    return {name: value.cpu().clone() for name, value in found.items()}


def part_of(method: str) -> partial[Outcome]:
    """The part of a method."""
    return partial(steps_of, method)
