"""Evaluation episodes of several seeds side by side, one acting batch a step; the number of workers changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mfql.agents.interface import Draw
from mfql.draws import DrawStream, derived_seed
from mfql.envs.scores import ScoreRange


class Pool(Protocol):
    """What evaluation needs of a pool of environments; see `mfql.evaluation.vector.EnvPool`."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray

    def reset(self, seeds: Mapping[int, int]) -> None:
        """Start the episode of a seed in each environment named."""

    def step(self, actions: np.ndarray, mask: np.ndarray) -> None:
        """One step of the environments that the mask names."""


# The purpose of the episodes of `mfql evaluate`, and how many there are unless it is said.
SCORING, SCORING_EPISODES = "scoring", 50

# Raw observations [S, E, D] and noise [S, E, *act_draw] to actions [S, E, A].
Act = Callable[[np.ndarray, Tensor | None], np.ndarray]


@dataclass(frozen=True)
class Episodes:
    """What episodes gave: success (0 or 1), sum of rewards, steps, each `[S, E]`."""

    success: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    def summary(self, row: int, scores: ScoreRange | None = None) -> dict[str, float]:
        """Means over one seed's episodes, success in percent; with a task's score range `normalized_return` too."""
        found = {
            "success": 100.0 * float(self.success[row].mean()),
            "return": float(self.returns[row].mean()),
            "length": float(self.lengths[row].mean()),
        }
        if scores is not None:
            found["normalized_return"] = scores.percent(self.returns[row], self.lengths[row])
        return found


def episode_key(seed: int, episode: int) -> str:
    """What an episode's start and noise are drawn by, beside the purpose."""
    return f"{seed}/{episode}"


def start_seed(key: str, purpose: str) -> int:
    """The seed with which the environment of an episode is reset."""
    return derived_seed(key, purpose, "start")


def run_episodes(
    act: Act, act_draw: Draw | None, pool: Pool, seeds: list[int], episodes: int, purpose: str, device: torch.device
) -> Episodes:
    """One episode in each environment of the pool, seed by seed.

    The start of an episode and its noise are functions of (seed, purpose, episode, step). The acting batch keeps its
    shape `[S, E]` to the end: finished episodes are masked, not dropped.

    Args:
        pool: `S * E` environments; episode e of the i-th seed in environment `i * E + e`.
        purpose: names the evaluation, such as `offline/evaluate/100000`.
    """
    shape = (len(seeds), episodes)
    keys = [episode_key(seed, episode) for seed in seeds for episode in range(episodes)]
    noise = DrawStream({"noise": act_draw} if act_draw else {}, keys, purpose, device)
    pool.reset({index: start_seed(key, purpose) for index, key in enumerate(keys)})
    running = np.ones(len(keys), dtype=bool)
    success, returns, lengths = (np.zeros(len(keys)) for _ in range(3))
    step = 0
    while running.any():
        drawn = noise.at(step).get("noise")
        actions = act(
            pool.observations.reshape(*shape, *pool.observations.shape[1:]),
            None if drawn is None else drawn.unflatten(0, shape),
        )
        pool.step(actions.reshape(len(keys), -1), running)
        returns[running] += pool.rewards[running]
        lengths[running] += 1
        success[running] = np.maximum(success[running], pool.success[running])
        running &= ~(pool.terminated | pool.truncated)
        step += 1
    return Episodes(success.reshape(shape), returns.reshape(shape), lengths.reshape(shape))
