"""Tasks of one's own: a table, an environment of any spaces, a dataset for it."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from mfql.extensions import extend
from tests.support.training_runs import MINIATURE

HEADER = "task,env_id,data,metric,max_episode_steps,score_low,score_high\n"


def table(folder: Path, rows: str, header: str = HEADER) -> None:
    """Make the folder an extension, with this task table."""
    (folder / "tasks.csv").write_text(header + rows, encoding="utf-8")
    extend([MINIATURE, folder])


class Odd(gymnasium.Env):
    """An environment of any spaces that ends after three steps."""

    def __init__(self, observations: gymnasium.Space, actions: gymnasium.Space, info: dict | None = None) -> None:
        self.observation_space, self.action_space, self.info = observations, actions, info or {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        self.acted: list[np.ndarray] = []
        return self._seen(), {}

    def step(self, action):
        self.acted.append(action)
        self.left -= 1
        return self._seen(), 1.0, self.left == 0, False, dict(self.info)

    def _seen(self):
        seen = gymnasium.spaces.flatten_space(self.observation_space)
        return gymnasium.spaces.unflatten(self.observation_space, self.np_random.uniform(size=seen.shape))


VECTOR, BOUNDED = (
    Box(-np.inf, np.inf, (3,), np.float64),
    Box(np.array([0.0, -2.0]), np.array([1.0, 4.0]), dtype=np.float64),
)


def registered(folder: Path, row: str = "mine,Odd-v0,a.npz,return,10,,\n", **spaces: object) -> None:
    """Register `Odd-v0` with these spaces, and make it the environment of the task `mine`."""
    gymnasium.envs.registration.registry.pop("Odd-v0", None)
    gymnasium.register("Odd-v0", entry_point=lambda **_: Odd(**spaces))
    table(folder, row)


def arrays(rows: int = 6) -> dict[str, np.ndarray]:
    """Two trajectories for the spaces `VECTOR` and `BOUNDED`."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform([0.0, -2.0], [1.0, 4.0], size=(rows, 2)),
        "rewards": rng.normal(size=rows),
        "masks": np.ones(rows),
        "terminals": np.isin(np.arange(rows), [2, rows - 1]),
    }
