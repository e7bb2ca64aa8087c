"""The rows that training draws from: one dataset shared by all seeds, and an online tail of each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfql.agents.interface import Agent
from mfql.data.transitions import Dataset, StackedImages, Transitions
from mfql.draws import BLOCK
from mfql.footprint import NUMBER, require_memory, row_bytes
from mfql.training.images import DeviceImages

# The released code takes its statistics over a buffer of this many rows, those beyond the dataset zero.
_PADDED_ROWS = 2_000_000
# The field that is made of a row's neighbour when it is drawn.
NEXT_ROW_ACTIONS = "next_row_actions"
# The field that says of a step that its trajectory ends with it, for a memory of chunks.
ENDS = "ends"


class Memory:
    """Rows on the device at addresses that never change.

    Rows are numbered through the dataset and on through a seed's tail: row n of the tail is the row N + n. With
    `replay_rows` they are drawn as from the released code's replay buffer: of max(replay_rows, N + 1) slots, which
    begins with the dataset, the oldest row is overwritten once all are used. Nothing moves: a slot stands for the last
    row that was written to it, so that an overwritten one is not drawn any more. The buffer's last slot is never
    drawn, as there, where its size is counted by where the next row goes.

    Args:
        rows: the dataset's fields `[N, ...]`; observations normalised, or images by index.
        seeds: S.
        capacity: M, rows of each seed's online tail; 0 without an online part.
        online_share: share of a batch that comes from the tail once it has rows; None draws from all rows alike.
        device: where the rows lie.
        replay_rows: least slots of the buffer; 0 keeps every row. Without `online_share` alone.
        next_row_actions: whether a batch has the action of the row in the following slot, whatever trajectory that is
            of; the last one its own.

    Attributes:
        horizon: h, steps of what is drawn: see `mfql.training.chunks`.
    """

    horizon = 1

    def __init__(
        self,
        rows: Mapping[str, np.ndarray | StackedImages],
        seeds: int,
        capacity: int,
        online_share: float | None,
        device: torch.device,
        *,
        replay_rows: int = 0,
        next_row_actions: bool = False,
    ) -> None:
        images = {name: value for name, value in rows.items() if isinstance(value, StackedImages)}
        self.images = DeviceImages.of(images, device)
        self.rows = {
            name: torch.as_tensor(value, dtype=torch.float32, device=device)
            for name, value in rows.items()
            if name not in images
        }
        self.size = len(self.rows["rewards"])
        self.capacity, self.online_share = capacity, online_share
        self.next_row_actions = next_row_actions
        # Every row has a slot of its own where none is overwritten.
        self.slots = max(replay_rows, self.size + 1) if replay_rows else self.size + capacity + 1
        self.tail = {
            name: torch.zeros((seeds, capacity, *value.shape[1:]), device=device) for name, value in self.rows.items()
        }
        self.filled = torch.zeros((), dtype=torch.int64, device=device)
        self._seeds = torch.arange(seeds, device=device).unsqueeze(1)

    @property
    def drawable(self) -> int:
        """How many of the dataset's rows are drawn."""
        return self.size

    @property
    def added(self) -> Tensor:
        """How many rows of a tail are drawn beside them."""
        return self.filled

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The rows of large random whole numbers `[S, B]`: fields `[S, B, ...]`."""
        rows = self._drawn(indices)
        batch = self._taken(rows)
        if self.next_row_actions:
            following = (rows % self.slots + 1).clamp(max=self._present() - 1)
            batch[NEXT_ROW_ACTIONS] = self._field("actions", self._latest(following))
        return batch

    def dataset_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows of the dataset by their numbers `[S, B]`, all fields but `next_row_actions`."""
        return {name: value[rows] for name, value in (self.rows | self.images).items()}

    def _taken(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows by their numbers `[S, B]`."""
        if self.capacity == 0:
            return self.dataset_rows(rows)
        return {name: self._field(name, rows) for name in self.rows}

    def _field(self, name: str, rows: Tensor) -> Tensor:
        value = self.rows[name]
        if self.capacity == 0:
            return value[rows]
        old, new = rows.clamp(max=self.size - 1), (rows - self.size).clamp(min=0)
        from_tail = (rows >= self.size).view(*rows.shape, *[1] * (value.dim() - 1))
        return torch.where(from_tail, self.tail[name][self._seeds, new], value[old])

    def _drawn(self, indices: Tensor) -> Tensor:
        """Numbers of rows in [0, N + filled)."""
        if self.capacity == 0:
            return indices % self.drawable
        if self.online_share is None:
            return self._latest(indices % self._present())
        online = round(self.online_share * indices.shape[1])
        recent = torch.where(
            self.filled > 0, self.size + indices[:, :online] % self.filled.clamp(min=1), indices[:, :online] % self.size
        )
        return torch.cat([recent, indices[:, online:] % self.size], dim=1)

    def _present(self) -> Tensor:
        """Slots that rows are drawn from."""
        return (self.drawable + self.added).clamp(max=self.slots - 1)

    def _latest(self, slots: Tensor) -> Tensor:
        """The number of the last row that was written to each slot."""
        newest = self.drawable + self.added - 1
        return newest - (newest - slots) % self.slots

    def append(self, row: int, transition: Mapping[str, Tensor]) -> None:
        """Write the row of every seed: fields `[S, ...]`; rows up to it count as present."""
        for name, value in transition.items():
            self.tail[name][:, row] = value
        self.filled.fill_(row + 1)

    def end(self, seed: int, row: int) -> None:
        """A seed's episode has ended with a row of its tail, whatever the row says. Single steps need not know."""

    def tail_rows(self, seed: int, start: int, end: int) -> dict[str, Tensor]:
        """Rows of one seed's tail, on the CPU."""
        return {name: value[seed, start:end].cpu().clone() for name, value in self.tail.items()}

    def restore(self, seed: int, start: int, rows: Mapping[str, Tensor]) -> None:
        """Write rows of one seed's tail back."""
        for name, value in rows.items():
            self.tail[name][seed, start : start + len(value)] = value

    def restored(self, rows: int) -> None:
        """The rows of the tails that were written back count as present, so many of each seed."""
        self.filled.fill_(rows)


def require_memory_for(agent: Agent, dataset: Dataset, seeds: Sequence[int], stage: str) -> None:
    """Refuse a job on the processor that would take more memory than there is, by what of it takes the most.

    Counted is what no job does without: of each seed weights, targets and Adam's moments, the rows of its online tail,
    a block of an update's random arrays and those of an evaluation; and the dataset's rows, which are shared.

    Raises:
        UserError: names the settings.
    """
    settings, images = agent.settings, isinstance(dataset.observations, StackedImages)
    ends = () if agent.horizon == 1 else (ENDS,)
    row = row_bytes(agent.observation_dim, agent.action_dim, ends, images=images)
    weights = sum(group.layout.count * (4 if group.target else 3) for group in agent.groups.values())
    acting = agent.act_draw()
    updates = agent.updates_per_step if stage == "online" else 1
    drawn = settings.batch_size + sum(math.prod(draw.shape) for draw in agent.update_draws().values())
    needed = {
        "the networks, by their sizes": len(seeds) * NUMBER * weights,
        f"online_steps {settings.online_steps:,}": len(seeds) * row * settings.online_steps * (stage == "online"),
        f"batch_size {settings.batch_size:,} and what each of its rows draws": len(seeds)
        * BLOCK
        * updates
        * NUMBER
        * drawn,
        f"eval_episodes {settings.eval_episodes:,}": len(seeds)
        * settings.eval_episodes
        * NUMBER
        * (math.prod(agent.observation_shape) + (BLOCK * math.prod(acting.shape) if acting else 0)),
        f"{len(dataset):,} rows of {dataset.name}": row * len(dataset),
    }
    most = max(needed, key=lambda name: needed[name])
    require_memory(
        f"training seeds {', '.join(map(str, seeds))}, above all for {most},",
        sum(needed.values()),
        "Correct the setting; or train fewer seeds together (seeds_per_job), or on a machine with more memory.",
    )


@dataclass(frozen=True)
class Normaliser:
    """Observations in units of `std` from `mean`, each `[D]` float32; images stay as they are."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, statistics: str) -> Normaliser:
        """The normaliser of a dataset's rows: `valid` ones, these `padded` with zeros as in released code, or `none`.

        A dimension that does not vary over the rows that count is divided by 1. Beside zero rows, one that is always
        the same number other than 0 does vary.
        """
        constant = dataset.observation_std == 0.0
        mean, std = dataset.observation_mean.astype(np.float64), dataset.observation_std.astype(np.float64)
        if statistics == "none":
            mean, std = np.zeros_like(mean), np.ones_like(std)
        if statistics == "padded":
            share = min(1.0, len(dataset) / _PADDED_ROWS)
            constant &= (share == 1.0) | (dataset.observation_mean == 0.0)
            square = share * (std**2 + mean**2)
            mean = share * mean
            std = np.sqrt(np.maximum(square - mean**2, 0.0))  # Rounding may leave less than nothing.
        std = np.where(constant, 1.0, np.maximum(std, 1e-6))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Observations `[..., D]`, float32."""
        return ((observations - self.mean) / self.std).astype(np.float32)


def training_fields(
    rows: Transitions, normaliser: Normaliser, extra_fields: tuple[str, ...], discount: float
) -> dict[str, np.ndarray | StackedImages]:
    """The fields that a method trains on, observations normalised."""
    extra = {
        "next_actions": rows.next_actions,
        "mc_returns": lambda: rows.mc_returns(discount),
        ENDS: lambda: rows.terminals,
    }
    observations, following = (
        value if isinstance(value, StackedImages) else normaliser(value)
        for value in (rows.observations, rows.next_observations)
    )
    return {
        "observations": observations,
        "next_observations": following,
        "actions": rows.actions,
        "rewards": rows.rewards,
        "masks": rows.masks,
        **{name: extra[name]() for name in extra_fields},
    }
