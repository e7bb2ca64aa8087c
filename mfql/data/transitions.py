"""Datasets as arrays: transitions in the order of their trajectories, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfql.data.constant import is_constant

ACTION_LIMIT = 1.0 - 1e-5
_BLOCK = 1 << 18


@dataclass(frozen=True)
class StackedImages:
    """Observations of a pixel task: each is a few images by their numbers, so that no image is held twice.

    Args:
        images: [F, H, W, C] uint8, memory-mapped.
        indices: [N, K] int64; row i is the images `indices[i]`, stacked along the channels.
    """

    images: np.ndarray
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that an array of all rows would have: N, H, W, K * C."""
        rows, stacked = self.indices.shape
        *size, channels = self.images.shape[1:]
        return (rows, *size, stacked * channels)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The rows [..., H, W, K * C]."""
        stacked = np.moveaxis(self.images[self.indices[rows]], -4, -2)
        return stacked.reshape(*stacked.shape[:-2], -1)


def endless(rewards: np.ndarray, discount: float) -> np.ndarray:
    """What a reward is worth that is paid at every step from now on, of the rewards' shape; the discount is below 1."""
    return rewards / (1.0 - discount)


@dataclass(frozen=True)
class Transitions:
    """Transitions in the order of their trajectories; a row's trajectory ends where `terminals` is 1.

    Args:
        observations: [N, D] float32, or `StackedImages` of a pixel task.
        actions: [N, A] float32, clipped to ±(1 - 1e-5).
        rewards: [N] float32.
        masks: [N] float32; 0 where the task's episode would end in success, else 1.
        terminals: [N] float32; 1 at the last row of each trajectory.
        next_observations: like observations.
    """

    observations: np.ndarray | StackedImages
    actions: np.ndarray
    rewards: np.ndarray
    masks: np.ndarray
    terminals: np.ndarray
    next_observations: np.ndarray | StackedImages

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def ends(self) -> np.ndarray:
        """The numbers of the trajectories' last rows, [trajectories]."""
        return np.flatnonzero(self.terminals > 0)

    @property
    def starts(self) -> np.ndarray:
        """The numbers of the trajectories' first rows, [trajectories]."""
        return np.append(0, self.ends[:-1] + 1)

    @property
    def lengths(self) -> np.ndarray:
        """The trajectories' rows, [trajectories]."""
        return np.diff(self.ends, prepend=-1)

    def next_actions(self) -> np.ndarray:
        """The action of the trajectory's following row, [N, A]; its last row has its own."""
        following = np.arange(1, len(self) + 1)
        return self.actions[np.where(self.terminals > 0, following - 1, following)]

    def mc_returns(self, discount: float) -> np.ndarray:
        """The discounted sum of rewards from each row to the first mask 0 of its trajectory, [N] float32.

        A trajectory that ends without one goes on with its last reward for ever: one that fails at -1 a step is worth
        -1 / (1 - discount) throughout, not the few steps that were recorded. Where rewards are dense, or paid late as
        sums, the last one stands for what nobody saw: an estimate, and no bound.

        Args:
            discount: below 1.
        """

        def backward(row: np.ndarray, following: np.ndarray) -> np.ndarray:
            return self.rewards[row] + discount * self.masks[row] * following

        return self._from_the_end(backward, endless(self.rewards, discount)).astype(np.float32)

    def mc_valid(self) -> np.ndarray:
        """Whether each row's trajectory reaches mask 0 from it on, [N] bool: there the Monte-Carlo return is exact."""

        def backward(row: np.ndarray, following: np.ndarray) -> np.ndarray:
            return np.where(self.masks[row] == 0.0, 1.0, following)

        return self._from_the_end(backward, np.zeros(len(self))) > 0.0

    def fragmented(self) -> bool:
        """Whether most rows stand alone: nobody knows what was done and paid after them, though something was.

        So it is of a replay buffer's rows in random order.
        """
        return bool(((self.terminals > 0) & (self.masks > 0)).mean() > 0.5)

    def _from_the_end(self, backward: Callable[[np.ndarray, np.ndarray], np.ndarray], beyond: np.ndarray) -> np.ndarray:
        """x[i] = backward(i, x[i + 1]), all trajectories side by side; for its last row beyond[i] is x[i + 1]."""
        ends, lengths = self.ends, self.lengths
        values = np.zeros(len(self) + 1)
        for distance in range(int(lengths.max())):
            row = ends[lengths > distance] - distance
            following = values[row + 1] if distance else beyond[row]
            values[row] = backward(row, following)
        return values[:-1]


@dataclass(frozen=True)
class Dataset(Transitions):
    """A task's training transitions, and what else is known of them.

    Args:
        val: the validation transitions.
        observation_mean: [D] float32, over the training observations.
        observation_std: [D] float32, likewise; 0 in the dimensions that do not vary.
        sha256: of the training file.
        name: the dataset, such as `cube-single-play-v0`.
        source: `generated`, `downloaded`, `own`, or `unknown` for files without a description.
    """

    val: Transitions
    observation_mean: np.ndarray
    observation_std: np.ndarray
    sha256: str
    name: str
    source: str

    @property
    def constant_dimensions(self) -> list[int]:
        """The dimensions of observations that do not vary over the training rows, counted from 0."""
        return np.flatnonzero(self.observation_std == 0.0).tolist()


def observation_statistics(observations: np.ndarray | StackedImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over rows, in float64, block by block; for pixels 0 and 1: they stay as they are.

    The deviation is 0 where a dimension does not vary, and nowhere else: the mean of equal numbers may be rounded, and
    their deviation then is not 0.
    """
    if isinstance(observations, StackedImages):
        return np.zeros(1, np.float32), np.ones(1, np.float32)
    blocks = range(0, len(observations), _BLOCK)
    mean = sum(observations[i : i + _BLOCK].sum(axis=0, dtype=np.float64) for i in blocks) / len(observations)
    squares = sum(np.square(observations[i : i + _BLOCK] - mean).sum(axis=0) for i in blocks)
    std = np.sqrt(squares / len(observations)).astype(np.float32)
    varying = np.maximum(std, np.finfo(np.float32).tiny)
    return mean.astype(np.float32), np.where(is_constant(observations), np.float32(0.0), varying)
