"""Chunks of actions: rows that begin at a step and reach over the h steps from it (docs/chunking.md).

A memory of chunks holds single steps, as any other, and puts chunks together as they are drawn. A step begins one where
the h steps from it are of one trajectory, or where the task's episode ends among them (mask 0): then nothing follows.
Steps from which the trajectory stops short of h without that begin none: nobody knows what would have followed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import KEPT, Agent
from mfql.data.transitions import StackedImages
from mfql.errors import UserError
from mfql.training.memory import ENDS, NEXT_ROW_ACTIONS, Memory


def chunk_starts(masks: np.ndarray, ends: np.ndarray, horizon: int) -> np.ndarray:
    """The numbers of the rows that begin a chunk, in order.

    Args:
        masks: 0 where the task's episode ends, [N].
        ends: 1 at the last row of each trajectory, [N]; the last of all may go on.
        horizon: h.
    """
    first = np.arange(len(masks))
    going, ended = np.ones(len(masks), bool), np.zeros(len(masks), bool)
    for step in range(horizon):
        row = np.minimum(first + step, len(masks) - 1)
        going &= first + step < len(masks)
        ended |= going & (masks[row] == 0.0)
        if step < horizon - 1:
            going &= ends[row] == 0.0
    return np.flatnonzero(going | ended)


class ChunkMemory(Memory):
    """Chunks that begin at the dataset's steps and at those of each seed's tail.

    A chunk of the tail is drawn from when it has been stepped through; what `Memory` says of rows that are drawn and
    overwritten is said here of those that begin a chunk, of which seeds have different numbers.

    Args:
        rows: the dataset's fields `[N, ...]`, `ends` among them.
        seeds: S.
        capacity: M, rows of each seed's online tail.
        device: where the rows lie.
        horizon: h.
        discount: of a step.
        replay_rows: least slots of the buffer, in which each chunk that can be drawn has one; 0 keeps every row.
        name: of the data, for errors.

    Raises:
        UserError: no row begins a chunk.
    """

    def __init__(
        self,
        rows: Mapping[str, np.ndarray | StackedImages],
        seeds: int,
        capacity: int,
        device: torch.device,
        *,
        horizon: int,
        discount: float,
        replay_rows: int = 0,
        name: str = "the data",
    ) -> None:
        super().__init__(rows, seeds, capacity, None, device)
        self.horizon = horizon
        starts = chunk_starts(np.asarray(rows["masks"]), np.asarray(rows[ENDS]), horizon)
        if len(starts) == 0:
            raise UserError(
                f"{name}: no trajectory has {horizon} steps, or ends in success within them",
                "Set horizon to fewer actions than the trajectories' steps.",
            )
        self._starts = torch.as_tensor(starts, device=device)
        self.slots = max(replay_rows, len(starts) + 1) if replay_rows else len(starts) + capacity + 1
        # A place more, for what begins none.
        self._tail_starts = torch.zeros((seeds, capacity + 1), dtype=torch.int64, device=device)
        self._begun = torch.zeros((seeds, 1), dtype=torch.int64, device=device)
        self._steps = torch.arange(horizon, device=device)
        self._discounts = torch.as_tensor(discount ** np.arange(horizon), dtype=torch.float32, device=device)

    @property
    @override
    def drawable(self) -> int:
        return len(self._starts)

    @property
    @override
    def added(self) -> Tensor:
        return self._begun

    @override
    def _drawn(self, indices: Tensor) -> Tensor:
        """Numbers of the rows that begin the chunks, in [0, N + M)."""
        drawn = super()._drawn(indices)
        known = self._starts[drawn.clamp(max=self.drawable - 1)]
        if self.capacity == 0:
            return known
        collected = self._tail_starts.gather(1, (drawn - self.drawable).clamp(min=0))
        return torch.where(drawn >= self.drawable, self.size + collected, known)

    @override
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The chunks of large random whole numbers `[S, B]`.

        Returns:
            observations, where the chunk begins, and next_observations, where it ends; actions `[S, B, h A]`; of its
            steps up to one with mask 0 rewards, their discounted sum, and masks, their product `[S, B]`; kept
            `[S, B, h]`, 1 of the trajectory's steps. Beyond its end the last action is repeated, and kept is 0.
        """
        return self._chunks(self._drawn(indices))

    @override
    def dataset_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """The chunks that begin at rows of the dataset `[S, B]`, whose numbers are among `chunk_starts`."""
        return self._chunks(rows)

    def _chunks(self, first: Tensor) -> dict[str, Tensor]:
        rows = (first.unsqueeze(-1) + self._steps).clamp(max=self.size + self.capacity - 1)
        here = _before(1.0 - self._at(ENDS, rows))
        length = here.sum(-1).long()
        rows = torch.minimum(rows, (first + length - 1).unsqueeze(-1))
        masks = self._at("masks", rows)
        counted = here * _before(masks)
        return {
            "observations": self._field("observations", first),
            "next_observations": self._field("next_observations", rows[..., -1]),
            "actions": self._at("actions", rows).flatten(-2),
            "rewards": (counted * self._at("rewards", rows) * self._discounts).sum(-1),
            "masks": masks.prod(-1),
            KEPT: here,
        }

    def _at(self, name: str, rows: Tensor) -> Tensor:
        """A field at rows `[S, B, h]`."""
        return self._field(name, rows.flatten(1)).unflatten(1, rows.shape[1:])

    @override
    def append(self, row: int, transition: Mapping[str, Tensor]) -> None:
        """Write the row of every seed, and draw from then on the chunks that it ends."""
        super().append(row, transition)
        first = max(row - self.horizon + 1, 0)
        numbers = torch.arange(first, row + 1, device=self._begun.device)
        ended = self.tail["masks"][:, row : row + 1] == 0.0
        going = 1.0 - self.tail[ENDS][:, first:row]
        # From a row to this one no episode ends before.
        together = torch.cat([going.flip(1).cumprod(1).flip(1) > 0.0, torch.ones_like(ended)], 1)
        done = together & (ended | (numbers == row - self.horizon + 1))
        places = torch.where(done, self._begun + done.cumsum(1) - 1, self.capacity)
        self._tail_starts.scatter_(1, places, numbers.expand_as(places))
        self._begun += done.sum(1, keepdim=True)

    @override
    def end(self, seed: int, row: int) -> None:
        """A seed's episode has ended with a row of its tail, whatever the row says: no chunk reaches beyond it."""
        self.tail[ENDS][seed, row] = 1.0

    @override
    def restored(self, rows: int) -> None:
        """Draw from the rows of the tails that were written back, so many of each seed."""
        super().restored(rows)
        for seed in range(len(self._begun)):
            masks, ends = (self.tail[name][seed, :rows].cpu().numpy() for name in ("masks", ENDS))
            starts = torch.as_tensor(chunk_starts(masks, ends, self.horizon))
            self._tail_starts[seed, : len(starts)] = starts.to(self._begun.device)
            self._begun[seed] = len(starts)


def _before(factors: Tensor) -> Tensor:
    """The product of the factors `[..., h]` before each, 1 for the first."""
    return torch.cat([torch.ones_like(factors[..., :1]), factors[..., :-1].cumprod(-1)], -1)


def memory_for(
    agent: Agent,
    rows: Mapping[str, np.ndarray | StackedImages],
    seeds: int,
    capacity: int,
    device: torch.device,
    *,
    online_share: float | None = None,
    replay_rows: int = 0,
    name: str = "the data",
) -> Memory:
    """The memory of an agent: of chunks, where it acts in them.

    Args:
        rows: the fields of `stored_fields` and the usual ones; the rest as of `Memory` and `ChunkMemory`.
    """
    if agent.horizon == 1:
        following = NEXT_ROW_ACTIONS in agent.extra_fields
        return Memory(rows, seeds, capacity, online_share, device, replay_rows=replay_rows, next_row_actions=following)
    return ChunkMemory(
        rows,
        seeds,
        capacity,
        device,
        horizon=agent.horizon,
        discount=agent.settings.discount,
        replay_rows=replay_rows,
        name=name,
    )


def stored_fields(agent: Agent) -> tuple[str, ...]:
    """Fields of a transition that a job keeps beside the usual."""
    own = tuple(name for name in agent.extra_fields if name != NEXT_ROW_ACTIONS)
    return own if agent.horizon == 1 else (*own, ENDS)
