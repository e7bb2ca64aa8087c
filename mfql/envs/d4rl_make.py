"""D4RL's environments on a current MuJoCo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit, TransformReward

from mfql.envs import d4rl_adroit, d4rl_antmaze
from mfql.envs.d4rl import find_d4rl_task


def make_simulations(name: str, count: int) -> list[gymnasium.Env]:
    """`count` environments of a D4RL task with its time limit and the protocol's reward shift, for one thread.

    They share one compiled model: of an Adroit hand it takes seconds to build.

    Raises:
        UserError: no such task, or `d4rl` is not installed.
    """
    task = find_d4rl_task(name)
    makers: dict[str, Callable[[Any], gymnasium.Env]] = {**d4rl_adroit.SCENES, **d4rl_antmaze.SCENES}
    compiled = (d4rl_adroit if task.scene in d4rl_adroit.SCENES else d4rl_antmaze).compile_model(task.scene)

    def make() -> gymnasium.Env:
        env = makers[task.scene](compiled)
        if task.reward_shift:
            env = TransformReward(env, lambda reward: float(reward) + task.reward_shift)
        return TimeLimit(env, task.limit)

    return [make() for _ in range(count)]
