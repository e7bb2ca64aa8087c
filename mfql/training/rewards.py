"""Rewards as a method is given them: the task's, or sparser ones, of dataset rows and of online steps alike.

- `goal`: 1 at the step that ends the task's episode in success (mask 0), 0 elsewhere.
- `delayed`: the task's rewards are withheld and paid as their sum at every n-th step of an episode and at its end, or
  at its end alone. An episode ends at mask 0 and where its trajectory ends.

Environments, evaluations and scores know nothing of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from mfql.data.transitions import Transitions
from mfql.settings import Settings

T = TypeVar("T", bound=Transitions)


def with_rewards(rows: T, settings: Settings) -> T:
    """The transitions with the rewards of a method's settings."""
    if settings.reward == "goal":
        return replace(rows, rewards=(rows.masks == 0.0).astype(np.float32))
    if settings.reward == "delayed":
        return replace(rows, rewards=_delayed(rows, settings.reward_delay))
    return rows


def _delayed(rows: Transitions, delay: int) -> np.ndarray:
    """Rewards `[N]` paid every `delay` steps of an episode and at its end; 0 for its end alone."""
    ends = (rows.terminals > 0) | (rows.masks == 0.0)
    ends[-1] = True
    indices = np.arange(len(rows))
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    steps = indices - starts[np.searchsorted(starts, indices, side="right") - 1] + 1
    paid = ends | (steps % delay == 0 if delay else False)
    sums = np.add.reduceat(rows.rewards, np.concatenate([[0], np.flatnonzero(paid)[:-1] + 1]), dtype=np.float64)
    rewards = np.zeros(len(rows), np.float32)
    rewards[paid] = sums
    return rewards


class OnlineRewards:
    """The rewards of a method's settings in environments that step side by side.

    Args:
        settings: the method's.
        environments: how many.
    """

    def __init__(self, settings: Settings, environments: int) -> None:
        self._kind, self._delay = settings.reward, settings.reward_delay
        self._withheld, self._steps = np.zeros(environments), np.zeros(environments, dtype=np.int64)

    def __call__(
        self, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, stepped: np.ndarray | None = None
    ) -> np.ndarray:
        """What the step of each environment is worth to the method, [S] float32.

        Args:
            rewards: the task's, [S].
            terminated, truncated: whether the episode ended in success, or otherwise, [S] bool.
            stepped: the environments that made a step, [S] bool; all if not given.
        """
        if self._kind == "goal":
            return terminated.astype(np.float32)
        if self._kind == "dataset":
            return rewards.astype(np.float32)
        stepped = np.ones(len(rewards), dtype=bool) if stepped is None else stepped
        self._withheld[stepped] += rewards[stepped]
        self._steps[stepped] += 1
        ended = stepped & (terminated | truncated)
        paid = ended | (stepped & (self._steps % self._delay == 0) if self._delay else False)
        given = np.where(paid, self._withheld, 0.0).astype(np.float32)
        self._withheld[paid] = 0.0
        self._steps[ended] = 0
        return given
