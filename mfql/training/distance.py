"""How far a policy's actions lie from the data: what a flow loss, or any behaviour-cloning term, is to keep small."""

from __future__ import annotations

import torch
from torch import Tensor

from mfql.training.memory import Memory

# Rows of a batch that are measured, rows of the dataset that they are held against, and those of similar states.
ROWS = 128
_REFERENCE, _NEIGHBOURS = 50_000, 16


class DataDistance:
    """Distances of actions from those of the dataset.

    Args:
        memory: has the dataset, `[N, ...]`. Up to 50,000 of its rows, evenly spaced, are the reference.
    """

    def __init__(self, memory: Memory) -> None:
        chosen = torch.linspace(0, memory.size - 1, min(memory.size, _REFERENCE), device=memory.filled.device).long()
        self._actions = memory.rows["actions"][chosen]
        observations = memory.rows.get("observations")
        self._observations = None if observations is None else observations[chosen]

    def __call__(self, batch: dict[str, Tensor], actions: Tensor) -> dict[str, Tensor]:
        """Euclidean distances, means over the rows of each seed `[S]`.

        Args:
            batch: normalised observations `[S, B, D]` and the data's actions `[S, B, A]`.
            actions: the policy's in the same states, `[S, B, A]`.

        Returns:
            row_distance, to the action of the row itself; and, of state tasks, neighbour_distance, to the nearest of
            the actions that the data has in the 16 nearest states, by normalised observations.
        """
        found = {"row_distance": torch.linalg.vector_norm(actions - batch["actions"], dim=-1).mean(1)}
        if self._observations is not None:
            by_seed = zip(batch["observations"], actions, strict=True)
            found["neighbour_distance"] = torch.stack([self._to_nearest(*one).mean() for one in by_seed])
        return found

    def _to_nearest(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Distances `[B]` of one seed's actions `[B, A]` in states `[B, D]`."""
        assert self._observations is not None  # Of a pixel task nobody asks.
        distances = torch.cdist(observations, self._observations)
        similar = distances.topk(min(_NEIGHBOURS, len(self._actions)), largest=False).indices
        return torch.linalg.vector_norm(actions.unsqueeze(1) - self._actions[similar], dim=-1).amin(1)
