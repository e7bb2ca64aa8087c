"""D4RL's Adroit and AntMaze tasks on a current MuJoCo.

The `d4rl` package supplies model files, reference scores and the addresses of datasets. It is installed without its
dependencies and only read: importing it would need mujoco-py and an old gym. What a task is (observation, reward, end)
is written here after D4RL 1.1's definitions; see `d4rl_adroit` and `d4rl_antmaze`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mfql.errors import UserError, unknown

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class D4RLTask:
    """What is fixed about a D4RL task.

    Args:
        name: such as `pen-human-v1`; its dataset has the same name.
        scene: the environment that it shares with tasks on other data: `pen`, `hammer`, `door`, `relocate`, `umaze`,
            `medium` or `large`.
        observation_dim, action_dim: D and A.
        limit: steps after which an episode is truncated.
        reward_shift: what this project's protocol adds to every reward, in the dataset and in the environment alike:
            -1 in AntMaze, so that a step costs 1 until the goal.
    """

    name: str
    scene: str
    observation_dim: int
    action_dim: int
    limit: int
    reward_shift: float


def _adroit(scene: str, observation_dim: int, action_dim: int, limit: int) -> list[D4RLTask]:
    names = [f"{scene}-{data}-v1" for data in ("human", "cloned", "expert")]
    return [D4RLTask(name, scene, observation_dim, action_dim, limit, 0.0) for name in names]


def _antmaze(scene: str, datasets: tuple[str, ...], limit: int) -> list[D4RLTask]:
    return [D4RLTask(f"antmaze-{dataset}-v2", scene, 29, 8, limit, -1.0) for dataset in datasets]


TASKS: dict[str, D4RLTask] = {
    task.name: task
    for task in (
        *_antmaze("umaze", ("umaze", "umaze-diverse"), 700),
        *_antmaze("medium", ("medium-play", "medium-diverse"), 1000),
        *_antmaze("large", ("large-play", "large-diverse"), 1000),
        *_adroit("pen", 45, 24, 100),
        *_adroit("hammer", 46, 26, 200),
        *_adroit("door", 39, 28, 200),
        *_adroit("relocate", 39, 30, 200),
    )
}


@dataclass(frozen=True)
class ScoreRange:
    """D4RL's normalisation of a task's returns: 0 is a random policy's mean return, 100 an expert's.

    Args:
        minimum, maximum: the returns that stand for 0 and 100, in the environment's own rewards.
        reward_shift: that an environment of `make_envs` adds to each reward.
    """

    minimum: float
    maximum: float
    reward_shift: float

    def percent(self, returns: np.ndarray, lengths: np.ndarray) -> float:
        """The normalised score of the mean return, in percent; of AntMaze, the share of episodes that reach the goal.

        Args:
            returns: [n], sums of the shifted rewards.
            lengths: [n], steps.
        """
        own = float(np.mean(returns - self.reward_shift * lengths))
        return 100.0 * (own - self.minimum) / (self.maximum - self.minimum)


def find_d4rl_task(name: str) -> D4RLTask:
    """The D4RL task of that name.

    Raises:
        UserError: D4RL's part in this project has no such task.
    """
    if name not in TASKS:
        raise unknown("D4RL task", name, list(TASKS))
    return TASKS[name]


def score_range(name: str) -> ScoreRange | None:
    """The score range of a D4RL task, from the `d4rl` package; None for a task of another benchmark.

    Raises:
        UserError: `d4rl` is not installed.
    """
    if name not in TASKS:
        return None
    infos = _infos()
    return ScoreRange(
        float(infos.REF_MIN_SCORE[name]), float(infos.REF_MAX_SCORE[name]), reward_shift=TASKS[name].reward_shift
    )


def dataset_url(name: str) -> str:
    """Where D4RL publishes the dataset of that name, from the `d4rl` package.

    Raises:
        UserError: no such dataset, or `d4rl` is not installed.
    """
    return str(_infos().DATASET_URLS[find_d4rl_task(name).name])


def package_folder() -> Path:
    """The folder of the installed `d4rl` package, found without importing it.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("d4rl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "D4RL's model files and reference scores are in the package d4rl, which is not installed",
            "pip install --no-deps d4rl==1.1 (without its dependencies, which need MuJoCo 2.1 and an old gym).",
        )
    return Path(spec.submodule_search_locations[0])


@cache
def _infos() -> ModuleType:
    """The one module of `d4rl` that holds its tables. It imports nothing and is run by itself."""
    path = package_folder() / "infos.py"
    spec = importlib.util.spec_from_file_location("mfql_d4rl_infos", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be read", "Install d4rl==1.1 anew, without its dependencies.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_simulations(name: str, count: int) -> list[gymnasium.Env]:
    """`count` environments of a D4RL task with its time limit and the protocol's reward shift, for one thread.

    They share one compiled model: of an Adroit hand it takes seconds to build.

    Raises:
        UserError: no such task, or `d4rl` is not installed.
    """
    from gymnasium.wrappers import TimeLimit, TransformReward

    from mfql.envs import d4rl_adroit, d4rl_antmaze

    task = find_d4rl_task(name)
    makers: dict[str, Callable[[Any], gymnasium.Env]] = {**d4rl_adroit.SCENES, **d4rl_antmaze.SCENES}
    compiled = (d4rl_adroit if task.scene in d4rl_adroit.SCENES else d4rl_antmaze).compile_model(task.scene)

    def make() -> gymnasium.Env:
        env = makers[task.scene](compiled)
        if task.reward_shift:
            env = TransformReward(env, lambda reward: float(reward) + task.reward_shift)
        return TimeLimit(env, task.limit)

    return [make() for _ in range(count)]
