"""Where trained policies go: positions over a maze, of the first episodes of `mfql evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from mfql.envs.isolated import reset_env
from mfql.errors import UserError
from mfql.evaluation.evaluate import scored_episodes
from mfql.evaluation.policy import Policy, load_policy
from mfql.evaluation.usage import suite_used
from mfql.evaluation.vector import EnvPool


@dataclass(frozen=True)
class Maze:
    """A maze seen from above, in the simulator's lengths.

    Args:
        walls: centres [W, 2] of its blocks.
        unit: the side of a block.
        goal: [2], of the task: the middle of the block about which it lies.
    """

    walls: np.ndarray
    unit: float
    goal: np.ndarray


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Args:
        episode: which of `mfql evaluate`'s.
        steps: [T], the environment's, at each look of the policy, from 0 to that which ended it.
        positions: [T, 2], at these steps.
        success: whether the goal was reached.
    """

    episode: int
    steps: np.ndarray
    positions: np.ndarray
    success: bool


def trajectories(run: Path, episodes: int) -> tuple[Maze, list[Trajectory]]:
    """Let a run's policy act in its maze.

    The episodes are those of `mfql evaluate --episodes EPISODES`.

    Args:
        run: the folder of a finished run of a task in one of OGBench's mazes.
        episodes: how many.

    Raises:
        UserError: the folder has no policy, its environment cannot be made, or is no task in one of OGBench's mazes.
    """
    policy = load_policy(run)
    task = policy.description["task"]
    if not suite_used(policy.description).in_maze(task):
        raise UserError(f"{task} is in none of the mazes that are drawn", "They are OGBench's, with states.")
    positions = list[np.ndarray]()
    with EnvPool(policy.description, episodes, workers=0) as pool:
        found = scored_episodes(policy, pool, episodes, lambda seen: positions.append(seen[:, :2].copy()))
        positions.append(pool.observations[:, :2].copy())
    return _maze(policy), [
        Trajectory(episode, *_until(end, positions, episode, policy.horizon), success > 0)
        for episode, (end, success) in enumerate(zip(found.lengths[0], found.success[0], strict=True))
    ]


def _until(length: float, positions: list[np.ndarray], episode: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """When and where an episode was, from its start until it ended: then its environment stands still."""
    looks = min(ceil(length / horizon) + 1, len(positions))
    found = np.stack([at[episode] for at in positions[:looks]]).astype(np.float64)
    # A chunk's last actions may be left, where the episode ends before them.
    steps = np.minimum(np.arange(looks) * horizon, int(length))
    there = np.isfinite(found).all(axis=1)  # One that broke has none from then on.
    return steps[there], found[there]


def _maze(policy: Policy) -> Maze:
    env = policy.make_env()
    try:
        reset_env(env, 0)  # Then it has its task.
        base = env.base
        walls = np.array([base.ij_to_xy(tuple(cell)) for cell in np.argwhere(base.maze_map == 1).tolist()])
        return Maze(walls, float(base._maze_unit), np.array(base.ij_to_xy(base.cur_task_info["goal_ij"]), np.float64))
    finally:
        env.close()
