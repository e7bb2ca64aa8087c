"""What a training job holds on its device beside its rows, by building it on torch's meta device.

There tensors have shapes and no memory: a job of any size is built, and its update run, in a second. `mfql plan` asks
in a process of its own, since it needs no torch itself:

    python -m mfql.training.footprint < QUESTIONS

Questions are a JSON list of {"agent", "settings", "observation_shape", "action_dim"}; the answer is a list of what
`footprint` returns, or of None where an agent cannot be built or its update cannot run on tensors without values.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfql.agents.interface import Agent, Draw, count_parameters, load_agent
from mfql.agents.update import TrainState, Updater, initial_state, views_of
from mfql.data.transitions import StackedImages
from mfql.draws import BLOCK
from mfql.footprint import Footprint
from mfql.settings import build_settings
from mfql.training.chunks import memory_for, stored_fields
from mfql.training.images import shift_draws, shifted
from mfql.training.memory import Memory

_META = torch.device("meta")
# A field of so many rows, by its name and shape.
Fill = Callable[[str, tuple[int, ...]], np.ndarray | StackedImages]
# Rows of the memory that a batch is taken from; a batch has the same size whatever they are.
_ROWS = 4
_NUMBER = 4


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of what is allocated in its block and still held, and the most that they were."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.held -= size


def footprint(agent: Agent, device: torch.device = _META) -> Footprint:
    """What one seed of a job takes."""
    # Weights of objectives are solved for on the processor; the gradients that they weigh are there all the same.
    agent.groups = {name: replace(group, weighting=None) for name, group in agent.groups.items()}
    state = initial_state(agent, [torch.Generator().manual_seed(0)], device)
    draws = _drawn({"rows": Draw("integer", (agent.settings.batch_size,)), **agent.update_draws()}, device)
    memory = memory_of(agent, _ROWS, 1, 0, device)
    if _sees_images(agent):
        draws |= _drawn(shift_draws(agent.settings.batch_size), device)
    return Footprint(
        count_parameters(agent),
        sum(tensor.nbytes for tensor in state.tensors()),
        BLOCK * sum(value.nbytes for value in draws.values()),
        _update_peak(agent, state, memory, draws),
        _acting_peak(agent, state, memory, device),
        agent.updates_per_step,
        stored_fields(agent),
    )


def memory_of(
    agent: Agent, rows: int, seeds: int, capacity: int, device: torch.device, filled: Fill | None = None
) -> Memory:
    """The memory of a job of so many rows, as the trainer has it.

    Args:
        filled: gives a field by its name and shape; None makes all of zeros, and numbers of images stand for images.
    """
    numbers = {"actions": (agent.action_dim,), "next_actions": (agent.action_dim,)}
    shapes = {
        "observations": agent.observation_shape,
        "next_observations": agent.observation_shape,
        **{name: numbers.get(name, ()) for name in ("actions", "rewards", "masks", *stored_fields(agent))},
    }
    arrays = {name: (filled or _zeros)(name, (rows, *shape)) for name, shape in shapes.items()}
    return memory_for(agent, arrays, seeds, capacity, device)


def _zeros(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # One number stands for all: no array of this size is made.
    return np.broadcast_to(np.float32(0.0), shape[:1] if len(shape) > 2 else shape)


def _sees_images(agent: Agent) -> bool:
    return len(agent.observation_shape) > 1


def _drawn(draws: Mapping[str, Draw], device: torch.device) -> dict[str, Tensor]:
    kinds = {"integer": torch.int64}
    return {
        name: torch.zeros((1, *draw.shape), dtype=kinds.get(draw.kind, torch.float32), device=device)
        for name, draw in draws.items()
    }


def _batch(agent: Agent, memory: Memory, rows: Tensor) -> dict[str, Tensor]:
    batch = memory.batch(rows)
    if _sees_images(agent):
        for name in ("observations", "next_observations"):
            batch[name] = torch.zeros((*rows.shape, *agent.observation_shape), dtype=torch.uint8, device=rows.device)
    return batch


def _update_peak(agent: Agent, state: TrainState, memory: Memory, draws: Mapping[str, Tensor]) -> int:
    updater = Updater(agent, state, float("inf"))
    with PeakBytes([*state.tensors(), *memory.rows.values(), *draws.values()]) as peak:
        one = dict(draws)
        batch = _batch(agent, memory, one.pop("rows"))
        if _sees_images(agent):
            batch = shifted(batch, one, agent.settings.augment_probability)
        updater(batch, one)
    return peak.peak


@torch.no_grad()
def _acting_peak(agent: Agent, state: TrainState, memory: Memory, device: torch.device) -> int:
    """The most bytes of acting in all episodes of an evaluation, and of the diagnostics on a batch after it."""
    settings, draw = agent.settings, agent.act_draw()
    shape = (1, settings.eval_episodes, *agent.observation_shape)
    seen = torch.zeros(shape, dtype=torch.uint8 if _sees_images(agent) else torch.float32, device=device)
    noise = None if draw is None else torch.zeros((1, settings.eval_episodes, *draw.shape), device=device)
    draws = _drawn(agent.diagnose_draws(), device)
    rows = torch.zeros((1, settings.batch_size), dtype=torch.int64, device=device)
    with PeakBytes([*state.tensors(), *memory.rows.values()]) as acting:
        agent.act(agent.prepared(views_of(agent, state.flat)), seen, noise)
    with PeakBytes([*state.tensors(), *memory.rows.values()]) as diagnosing:
        agent.diagnostics(views_of(agent, state.flat), _batch(agent, memory, rows), draws, state.own)
    return max(acting.peak, diagnosing.peak)


def _answer(question: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        kind = load_agent(question["agent"])
        settings = build_settings(kind.settings_type, dict(question["settings"]), question["agent"])
        return asdict(footprint(kind(settings, tuple(question["observation_shape"]), question["action_dim"])))
    except (
        Exception
    ) as error:  # Whatever an agent of one's own does, the others are told; a plan says that it is unknown.
        print(f"{question['agent']}: {type(error).__name__}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    json.dump([_answer(question) for question in json.load(sys.stdin)], sys.stdout)
