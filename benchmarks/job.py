"""A training job of random rows, run as the trainer runs it: draws, rows, update, and on CUDA the captured graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import ROOT
from benchmarks.timing import Budget, synchronise
from mfql.agents.interface import Agent, Draw
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import Updater, initial_state
from mfql.draws import DrawStream, generator
from mfql.training.compiled import CompiledUpdate, update_of
from mfql.training.device import set_precision
from mfql.training.memory import NEXT_ROW_ACTIONS, Memory
from mfql.training.step import Step

# A maze's ant, which the paper's sizes are counted for.
OBSERVATION_DIM, ACTION_DIM = 29, 8


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Args:
        budget: of quick things; long_budget: of those of which one call takes long.
        rows: of the dataset.
        seeds: of the series of seeds; packed: seeds of a packed job.
        compiled: whether a processor's update is compiled, which takes a minute each.
        calls: of the acting latency.
        env_steps: of an evaluation's episodes; episodes: of one seed's evaluation.
        generated: episodes of a generated dataset.
        scheduled: empty jobs that Snakemake runs.
        changes: of the paper's settings.
        largest: rows of the dataset and of a seed's tail, of the job that needs most memory.
        suites: that are evaluated; None are all.
        studies: seeds of the studies that commands look at, of ten methods, 987 runs a seed.
    """

    budget: Budget
    long_budget: Budget
    rows: int
    seeds: tuple[int, ...]
    packed: int
    compiled: bool
    calls: int
    env_steps: int
    episodes: int
    generated: int
    scheduled: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    largest: tuple[int, int] = (1_000, 1_000)
    suites: tuple[str, ...] | None = None
    studies: tuple[int, ...] = (1,)


FULL = Effort(
    # The last numbers are those of humanoidmaze and of the paper's online part.
    Budget(7, 1.0), Budget(3, 1.0), 100_000, (1, 2, 4, 8, 16), 8, True, 2_000, 50, 50, 10, 100,
    largest=(2_001_000, 1_000_000), studies=(1, 4, 16),
)  # fmt: skip
QUICK = Effort(Budget(3, 0.1), Budget(2, 0.1), 10_000, (1, 2), 2, False, 50, 10, 2, 1, 2)
_TINY = {"policy_hidden": 8, "policy_blocks": 1, "critic_hidden": (16, 16), "batch_size": 16, "time_steps": 10}
# For tests: everything runs, nothing is measured.
MINIATURE = Effort(
    Budget(2, 0.0), Budget(2, 0.0), 100, (1, 2), 2, False, 5, 3, 2, 1, 1, _TINY, suites=("OGBench pointmaze",)
)  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What every part is given.

    Args:
        device: that is measured.
        config_dir: folder with `methods/` and the task table.
    """

    effort: Effort
    device: torch.device
    config_dir: Path = ROOT / "config"

    def agent(self, **changes: Any) -> MFQL:
        """MFQL at the paper's size, with settings changed."""
        settings = {"offline_steps": 1_000_000, "online_steps": 1_000_000, "discount": 0.995, "alpha": 100.0}
        return MFQL(MFQLSettings(**{**settings, **self.effort.changes, **changes}), (OBSERVATION_DIM,), ACTION_DIM)


class Job:
    """The updates of one job.

    Args:
        seeds: trained together.
        rows: of the dataset.
        compiled: compile the update, and on CUDA capture the step.
        capacity: rows of the online tail.
        backend: what compiles it, as of `Updater`; None has what the trainer has.
    """

    def __init__(
        self,
        agent: Agent,
        seeds: int,
        rows: int,
        device: torch.device,
        *,
        compiled: bool = False,
        capacity: int = 0,
        backend: str | None = None,
    ) -> None:
        self.agent, self.device = agent, device
        self.seeds = list(range(seeds))
        self.state = initial_state(
            agent, [generator(torch.device("cpu"), seed, "initial") for seed in self.seeds], device
        )
        if backend is None:
            self.updater: Updater | CompiledUpdate = update_of(agent, self.state, float("inf"), compiled=compiled)
        else:
            self.updater = Updater(agent, self.state, float("inf"), compiled=compiled, backend=backend)
        self.captured = compiled and device.type == "cuda"
        self.begin(rows, capacity)

    def begin(self, rows: int, capacity: int) -> None:
        """Go on from other rows with the same, possibly compiled, updates."""
        share = self.agent.online_share if capacity else None
        self.memory = Memory(
            random_rows(self.agent, rows),
            len(self.seeds),
            capacity,
            share,
            self.device,
            next_row_actions=NEXT_ROW_ACTIONS in self.agent.extra_fields,
        )
        updates = self.agent.updates_per_step if capacity else 1
        draws = {"rows": Draw("integer", (self.agent.settings.batch_size,)), **self.agent.update_draws()}
        repeated = {name: Draw(draw.kind, (updates, *draw.shape)) for name, draw in draws.items()}
        stream = DrawStream(repeated, self.seeds, "benchmark", self.device)
        self.step = Step(self.updater, self.memory, stream, updates, 0.0, captured=self.captured)
        self.count = 0

    def once(self) -> None:
        """One step."""
        self.step(self.count)
        self.count += 1

    def case(self, calls: int) -> float:
        """So many steps; the seconds that they took."""
        set_precision(self.agent.settings.precision, self.device)
        synchronise(self.device)
        began = time.perf_counter()
        for _ in range(calls):
            self.once()
        synchronise(self.device)
        return time.perf_counter() - began


def random_rows(agent: Agent, rows: int) -> dict[str, np.ndarray]:
    """So many rows as the agent's method takes them, standard normal observations and actions."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((rows, *shape), dtype=np.float32)

    actions = normal(agent.action_dim).clip(-1.0, 1.0)
    fields = {
        "observations": normal(*agent.observation_shape),
        "next_observations": normal(*agent.observation_shape),
        "actions": actions,
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
    }
    extra = {"next_actions": actions, "mc_returns": fields["rewards"]}
    return fields | {name: extra[name] for name in agent.extra_fields if name in extra}
