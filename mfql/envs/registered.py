"""Environments that Gymnasium knows by id, as the tasks of extensions name them.

They are refused where the method could not act in them or see them, and else made alike: flat float32 observations, a
time limit, and `info["success"]`. Actions are in the environment's own units: `ActionUnits` says which.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.extensions import TASKS, extensions
from mfql.tasks import Registered, Task

# The keys that lead to each part of a Dict of observations, and its size.
Layout = list[tuple[list[str], int]] | None

# Under which keys environments tell of success.
_SUCCESS = ("success", "is_success")


def make_registered(task: Task, render: bool = False) -> RegisteredEnv:
    """The environment of a task of one's own, with its time limit.

    Args:
        task: a row of an extension's table with an environment.
        render: whether it will be asked for frames.

    Raises:
        UserError: no such environment, one that cannot be made, or one whose spaces do not fit.
    """
    own = task.registered
    if own is None:
        raise ValueError(f"{task.name} names no environment of its own")
    where = f"{task.name}: the environment {own.env_id}"
    env = _make(own, where, render)
    try:
        return RegisteredEnv(_flat(env, where), task.metric, where, layout_of(env.observation_space))
    except UserError:
        env.close()
        raise


class RegisteredEnv(gymnasium.Wrapper):
    """Observations as float32, success in every step's info; actions are the environment's own.

    Args:
        env: with a bounded Box [A] as action space and a Box [D] as observation space.
        metric: what the task is scored by.
        where: the task and its environment, for errors.
        layout: of the environment's observations before they were flattened, as of `layout_of`.

    Attributes:
        units: of the environment's actions, which [-1, 1] stands for.

    Raises:
        UserError: the action space is another, or there is no time limit.
    """

    def __init__(self, env: gymnasium.Env, metric: str, where: str, layout: Layout = None) -> None:
        super().__init__(env)
        self._metric, self._where, self._told, self.layout = metric, where, False, layout
        self._actions = _bounded_actions(env.action_space, where)
        self.units = ActionUnits.of(self._actions, rescaled=True)
        if env.spec is None or env.spec.max_episode_steps is None:
            raise UserError(
                f"{where} has no time limit, so that an episode may never end",
                "Give its row max_episode_steps.",
            )
        self.observation_space = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; with a seed (0 to 2**32 - 1) it is that seed's."""
        if seed is not None:
            self.env.action_space.seed(seed)
        self._told = False
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step with an action in the environment's units.

        Raises:
            UserError: an episode ended and told nothing of the success that the task is scored by.
        """
        own = np.asarray(action, self._actions.dtype)
        observation, reward, terminated, truncated, info = self.env.step(own)
        told = [info[key] for key in _SUCCESS if key in info]
        self._told |= bool(told)
        if (terminated or truncated) and self._metric == "success" and not self._told:
            raise UserError(
                f"{self._where} says nothing of success in an episode's infos ({' or '.join(_SUCCESS)})",
                "Score the task by return or normalized_return, or set info['success'] in the environment.",
            )
        return (
            self._seen(observation),
            reward,
            terminated,
            truncated,
            info | {"success": float(told[0]) if told else 0.0},
        )

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(observation, np.float32)


def layout_of(space: spaces.Space) -> Layout:
    """The keys and the size of each part of a Dict's observations, in the order in which they are flattened.

    Returns:
        None for any other space: its observations are vectors already.
    """
    if not isinstance(space, spaces.Dict):
        return None
    parts: list[tuple[list[str], int]] = []
    for key, part in space.spaces.items():
        inner = layout_of(part)
        parts += [([key, *keys], size) for keys, size in inner] if inner is not None else [([key], _size(part))]
    return parts


def _size(space: spaces.Space) -> int:
    return int(np.prod(space.shape or ()))


def flat_observations(observations: Any, space: spaces.Space) -> np.ndarray:
    """Many observations of a space, as a dataset stacks them, in the order in which the environment flattens them.

    Args:
        observations: [N, ...] of a Box, or a mapping of such by the keys of a Dict.

    Returns:
        [N, D].

    Raises:
        KeyError: a key of the space is absent.
    """
    if isinstance(space, spaces.Dict):
        parts = [flat_observations(observations[key], part) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    return np.asarray(observations).reshape(len(observations), -1)


def _make(own: Registered, where: str, render: bool) -> gymnasium.Env:
    # A module beside the task table may register the environment.
    beside = extensions() if own.folder is None else [own.folder]
    sys.path += [str(folder) for folder in beside if str(folder) not in sys.path]
    _refuse_shadowed(own.env_id, beside, where)
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    try:
        return gymnasium.make(own.env_id, max_episode_steps=own.max_episode_steps, disable_env_checker=True, **options)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{where} cannot be imported: {error}",
            f"Install the package, or put the module into {own.folder}; MODULE:ID names what registers the ID."
            if own.folder
            else "Install the package, or name the extension whose folder has the module: MFQL_EXTENSIONS=DIR in the"
            " environment, or mfql --extension DIR.",
        ) from error
    except gymnasium.error.Error as error:
        raise UserError(
            f"{where} is not known to Gymnasium: {error}",
            "Correct env_id; write it as MODULE:ID where a module must be imported to register it.",
        ) from error
    except Exception as error:  # Whatever the environment's own code raises.
        raise UserError(
            f"{where} cannot be made: {type(error).__name__}: {error}",
            f"Make gymnasium.make({own.env_id!r}) work first.",
        ) from error


def _refuse_shadowed(env_id: str, folders: list[Path], where: str) -> None:
    """Refuse a module beside the task table whose name one of Python's or of a package's has, which is found first."""
    module, colon, _ = env_id.partition(":")
    module = module.partition(".")[0]
    own = [path for folder in folders for path in (folder / f"{module}.py", folder / module / "__init__.py")]
    own = [path for path in own if path.is_file()]
    if not (colon and own):
        return
    loaded = sys.modules.get(module)
    spec = importlib.util.find_spec(module) if loaded is None else loaded.__spec__
    found = Path((spec and spec.origin) or module)
    # One beside another table is the same module in another copy of the folder.
    if not any((folder / TASKS).is_file() for folder in found.parents[:2]):
        raise UserError(
            f"{where}: {own[0]} is shadowed by {found}, which has the same name and is found first",
            f"Rename it, and the {module}: of env_id with it.",
        )


def _flat(env: gymnasium.Env, where: str) -> gymnasium.Env:
    """The environment with observations [D]; a Dict of numbers is flattened."""
    space = env.observation_space
    if isinstance(space, spaces.Dict) and _all_vectors(space):
        return gymnasium.wrappers.FlattenObservation(env)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return env
    kind = "images" if isinstance(space, spaces.Box) and len(space.shape) == 3 else "no flat Box, nor a Dict of such"
    raise UserError(
        f"{where} has observations {space}: {kind}",
        "The networks see vectors of numbers: wrap the environment so that it shows some, and register that one.",
    )


def _all_vectors(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_all_vectors, space.spaces.values()))
    return isinstance(space, spaces.Box) and len(space.shape) <= 1


def _bounded_actions(space: spaces.Space, where: str) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f"{where} has the actions {space}, and the policies here are continuous",
            "Choose an environment with a Box of floats.",
        )
    if len(space.shape) != 1:
        raise UserError(
            f"{where} has actions of the shape {list(space.shape)}", "Wrap it so that they are vectors [A]."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise UserError(
            f"{where} has the actions {space}, and actions must lie between finite bounds",
            "Wrap it with bounds (gymnasium.wrappers.RescaleAction, ClipAction), and register that one.",
        )
    return space
