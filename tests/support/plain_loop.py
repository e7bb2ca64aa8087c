"""The episodes of `mfql evaluate` in a loop of Gymnasium's own, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from mfql.evaluation.policy import Policy


def played(
    policy: Policy, env: gymnasium.Env, episodes: int, reset: Callable[[int], Any] | None = None
) -> dict[str, list[float]]:
    """What `each` of the evaluation's JSON says, of an environment in its own units.

    Args:
        reset: starts the episode of a seed, where `env.reset(seed=...)` does not seed all that it draws from.
    """
    each: dict[str, list[float]] = {"seed": [], "success": [], "return": [], "length": []}
    for episode in range(episodes):
        seed = policy.begin(episode, episodes)
        observation, _ = reset(seed) if reset else env.reset(seed=seed)
        success, total, length, ended = 0.0, 0.0, 0.0, False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(policy(observation))
            success, length = max(success, float(info["success"])), length + 1
            total += float(np.float32(reward))  # as pools hold rewards
            ended = terminated or truncated
        for name, value in zip(each, (seed, success, total, length), strict=True):
            each[name].append(value)
    return each
