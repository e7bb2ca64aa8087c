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
from mfql.errors import warn


class Pool(Protocol):
    """What evaluation needs of a pool of environments; see `mfql.evaluation.vector.EnvPool`."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray
    broken: np.ndarray
    limit: int

    @property
    def faults(self) -> Mapping[int, str]:
        """Why the present episode of an environment broke, by its number."""

    def reset(self, seeds: Mapping[int, int]) -> None:
        """Start the episode of a seed in each environment named."""

    def step(self, actions: np.ndarray, mask: np.ndarray) -> None:
        """One step of the environments that the mask names."""


# The purpose of the episodes of `mfql evaluate`, and how many there are unless it is said.
SCORING, SCORING_EPISODES = "scoring", 50

# Raw observations [S, E, D] and noise [S, E, *act_draw] to actions [S, E, A], or chunks of them [S, E, h A].
Act = Callable[[np.ndarray, Tensor | None], np.ndarray]


@dataclass(frozen=True)
class Episodes:
    """What episodes gave: success (0 or 1), sum of rewards, steps, whether they broke, each `[S, E]`.

    An episode breaks where its environment no longer has finite numbers, or raises an error, and counts as failed. It
    has no success, whatever was before, its length is the time limit, and its return the worst of the seed's episodes,
    where one that broke would have gone on to the time limit as until then; or 0, if that is less: whoever breaks an
    environment gains nothing by it.
    """

    success: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    broken: np.ndarray

    def summary(self, row: int, scores: ScoreRange | None = None) -> dict[str, float]:
        """Means over one seed's episodes, success in percent; with a task's score range `normalized_return` too.

        Where episodes broke, `broken` says how many.
        """
        found = {
            "success": 100.0 * float(self.success[row].mean()),
            "return": float(self.returns[row].mean()),
            "length": float(self.lengths[row].mean()),
        }
        if scores is not None:
            found["normalized_return"] = scores.percent(self.returns[row], self.lengths[row])
        if self.broken[row].any():
            found["broken"] = int(self.broken[row].sum())
        return found

    def say_broken(self, what: str, faults: Mapping[int, str]) -> None:
        """Say on stderr how many of these episodes broke, if any did, and why the first of them.

        Args:
            what: the episodes: of which task, and when.
            faults: why each broke, as a pool has it.
        """
        if self.broken.any():
            count, first = int(self.broken.sum()), faults[min(faults)]
            warn(
                f"{count} of {self.broken.size} episodes of {what} broke, and count as failed; the first: {first}",
                "The environment gave numbers that are not finite, or raised an error: docs/extend.md.",
            )


def episode_key(seed: int, episode: int) -> str:
    """What an episode's start and noise are drawn by, beside the purpose."""
    return f"{seed}/{episode}"


def start_seed(key: str, purpose: str) -> int:
    """The seed with which the environment of an episode is reset."""
    return derived_seed(key, purpose, "start")


def run_episodes(
    act: Act,
    act_draw: Draw | None,
    pool: Pool,
    seeds: list[int],
    episodes: int,
    purpose: str,
    device: torch.device,
    horizon: int = 1,
) -> Episodes:
    """One episode in each environment of the pool, seed by seed.

    The start of an episode and its noise are functions of (seed, purpose, episode, step). The acting batch keeps its
    shape `[S, E]` to the end: finished episodes are masked, not dropped. All episodes begin together, so that their
    chunks do too: the policy acts at every h-th step, and what it gives is done without looking again.

    Args:
        pool: `S * E` environments; episode e of the i-th seed in environment `i * E + e`.
        purpose: names the evaluation, such as `offline/evaluate/100000`.
        horizon: h, actions that `act` gives at once.
    """
    shape = (len(seeds), episodes)
    keys = [episode_key(seed, episode) for seed in seeds for episode in range(episodes)]
    noise = DrawStream({"noise": act_draw} if act_draw else {}, keys, purpose, device)
    pool.reset({index: start_seed(key, purpose) for index, key in enumerate(keys)})
    broken = pool.broken.copy()
    running = ~broken
    success, returns, lengths = (np.zeros(len(keys)) for _ in range(3))
    step = 0
    while running.any():
        chunk, of_chunk = divmod(step, horizon)
        if of_chunk == 0:
            drawn = noise.at(chunk).get("noise")
            actions = act(
                pool.observations.reshape(*shape, *pool.observations.shape[1:]),
                None if drawn is None else drawn.unflatten(0, shape),
            ).reshape(len(keys), horizon, -1)
        pool.step(actions[:, of_chunk], running)
        returns[running] += pool.rewards[running]
        lengths[running] += 1
        success[running] = np.maximum(success[running], pool.success[running])
        broken |= running & pool.broken
        running &= ~(pool.terminated | pool.truncated)
        step += 1
    found = Episodes(*(values.reshape(shape) for values in (success, returns, lengths, broken)))
    for row in np.flatnonzero(found.broken.any(axis=1)).tolist():
        _count_as_failed(found, row, pool.limit)
    return found


def _count_as_failed(found: Episodes, row: int, limit: int) -> None:
    """Give a seed's broken episodes what they count as, in place."""
    broken, returns, lengths = found.broken[row], found.returns[row], found.lengths[row]
    # The step that broke an episode gave it no reward.
    returns[broken] *= limit / np.maximum(lengths[broken] - 1.0, 1.0)
    returns[broken] = min(0.0, returns.min())
    lengths[broken] = limit
    found.success[row, broken] = 0.0
