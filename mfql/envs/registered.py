"""Environments that Gymnasium knows by id, as the tasks of extensions name them.

They are refused where the method could not act in them or see them, and else made alike: flat float32 observations, a
time limit, and `info["success"]`. Actions are in the environment's own units: `ActionUnits` says which. What bends
Gymnasium's contract and can mean one thing alone is taken for that; what cannot is refused by name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from mfql.envs.patience import DEFAULT, Limited
from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.extensions import TASKS, environment_code
from mfql.tasks import Registered, Task

# The keys that lead to each part of a Dict of observations, and its size.
Layout = list[tuple[list[str], int]] | None

# Larger bounds of actions are those of a type of numbers, and say nothing of actions.
_LARGEST_BOUND = 1e9

_LARGEST = float(np.finfo(np.float32).max)

# Under which keys environments tell of success.
_SUCCESS = ("success", "is_success")

# What reset and step return.
_OF_RESET = ["observation", "info"]
_OF_STEP = ["observation", "reward", "terminated", "truncated", "info"]


def make_registered(task: Task, render: bool = False) -> RegisteredEnv:
    """The environment of a task of one's own, with its time limit.

    Args:
        task: a row of an extension's table with an environment.
        render: whether it will be asked for frames.

    Raises:
        UserError: no such environment, one that cannot be made, or one whose spaces do not fit.
    """
    own = task.registered
    if own is None or own.env_id is None:
        raise ValueError(f"{task.name} names no environment of its own")
    where = f"{task.name}: the environment {own.env_id}"
    env = _make(own, own.env_id, where, render)
    try:
        return RegisteredEnv(_flat(env, where), task.metric, where, layout_of(env.observation_space))
    except UserError:
        env.close()
        raise


class RegisteredEnv(gymnasium.Wrapper):
    """Observations as float32, rewards, ends and success as Python's numbers; actions are the environment's own.

    Args:
        env: with a bounded Box [A] as action space and a Box [D] as observation space.
        metric: what the task is scored by.
        where: the task and its environment, for errors.
        layout: of the environment's observations before they were flattened, as of `layout_of`.

    Attributes:
        units: of the environment's actions, which [-1, 1] stands for.
        given: the last observation [D], in the numbers that the environment gave.
        told: whether the episode's infos said anything of success so far.

    Raises:
        UserError: the action space is another, or there is no time limit.
    """

    def __init__(self, env: gymnasium.Env, metric: str, where: str, layout: Layout = None) -> None:
        super().__init__(env)
        self.metric, self.where, self.layout = metric, where, layout
        self.given, self.told = np.empty(0), False
        self._actions = _bounded_actions(env.action_space, where)
        self.units = ActionUnits.of(self._actions, rescaled=True)
        if env.spec is None or env.spec.max_episode_steps is None:
            raise UserError(
                f"{where} has no time limit, so that an episode may never end",
                "Give its row max_episode_steps.",
            )
        self._shape = env.observation_space.shape or ()
        self.observation_space = spaces.Box(-np.inf, np.inf, self._shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; with a seed (0 to 2**32 - 1) it is that seed's.

        Raises:
            UserError: what the environment returned is no observation of its space and an info.
        """
        if seed is not None:
            self.env.action_space.seed(seed)
        self.told = False
        observation, info = self._answer("reset", _OF_RESET, self.env.reset, seed=seed, options=options)
        return self._seen(observation), self._info(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step with an action in the environment's units.

        Raises:
            UserError: what the environment returned does not say observation, reward, end or success.
        """
        own = np.asarray(action, self._actions.dtype)
        observation, reward, terminated, truncated, given = self._answer("step", _OF_STEP, self.env.step, own)
        info = self._info(given)
        key = next((key for key in _SUCCESS if key in info), None)
        self.told |= key is not None
        return (
            self._seen(observation),
            float(self._number("reward", reward)),
            bool(self._number("terminated", terminated)),
            bool(self._number("truncated", truncated)),
            info | {"success": self._success(key, info[key]) if key else 0.0},
        )

    def _answer(self, name: str, parts: list[str], function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a function of the environment returns: a tuple with as many parts as it must have."""
        try:
            answer = function(*given, **named)
        except (TypeError, ValueError) as error:
            if not _unpacking(error):
                raise
            raise self._old_answer(name, parts, str(error)) from error
        if not isinstance(answer, tuple) or len(answer) != len(parts):
            found = f"{len(answer)} values" if isinstance(answer, tuple) else f"one {type(answer).__name__}"
            raise self._old_answer(name, parts, f"{found} instead of {len(parts)}")
        return answer

    def _old_answer(self, name: str, parts: list[str], found: str) -> UserError:
        return UserError(
            f"{self.where}: {name} does not return ({', '.join(parts)}): {found}",
            "It follows an older version of Gym's interface: return what Gymnasium asks for, or wrap it"
            " (gymnasium.Wrapper, shimmy), and register that one.",
        )

    def _seen(self, observation: Any) -> np.ndarray:
        try:
            given = np.asarray(observation)
        except ValueError:  # Parts of different lengths.
            given = np.empty(0, object)
        if given.shape != self._shape and given.shape == (1, *self._shape):
            given = given[0]
        if given.shape != self._shape or given.dtype.kind not in "biuf":
            raise UserError(
                f"{self.where}: an observation is {_shown(observation)}, and its observation_space says numbers"
                f" {list(self._shape)}",
                "Correct observation_space, or what reset and step return, and register that one.",
            )
        self.given = given
        if has_float32(given):
            return given.astype(np.float32)
        with np.errstate(over="ignore"):  # What float32 has no number for is infinite, and not finite to whoever looks.
            return given.astype(np.float32)

    def _info(self, info: Any) -> dict[str, Any]:
        if info is None:
            return {}
        if not isinstance(info, Mapping):
            raise UserError(
                f"{self.where}: the info is {_shown(info)}, and not a dict", "Return a dict, which may be empty."
            )
        return info if isinstance(info, dict) else dict(info)

    def _success(self, key: str, told: Any) -> float:
        success = float(self._number(f"info[{key!r}]", told))
        if success != success:
            raise self._no_number(f"info[{key!r}]", told)
        return success

    def _number(self, name: str, value: Any) -> SupportsFloat:
        """A number that may be an array of one."""
        if isinstance(value, float | int):
            return value
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._no_number(name, value)
        return array.item()

    def _no_number(self, name: str, value: Any) -> UserError:
        remedy = "True or False in every step" if name.startswith("info") else "one number"
        return UserError(f"{self.where}: {name} is {_shown(value)}, and not one number", f"Make it {remedy}.")


def _unpacking(error: Exception) -> bool:
    """Whether one of Gymnasium's own wrappers found that an environment returned fewer or more values."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "") if innermost is not None else ""
    return module.startswith("gymnasium.") and "unpack" in str(error)


def _shown(value: Any) -> str:
    """A value as an error shows it: an array's type and shape, else what it prints as."""
    if isinstance(value, np.ndarray | list | tuple):
        try:
            array = np.asarray(value)
        except ValueError:
            return "a list of parts of different lengths"
        return f"{'an array' if isinstance(value, np.ndarray) else 'a list'} {list(array.shape)} of {array.dtype}"
    return f"{value!r:.60}"


def has_float32(values: np.ndarray) -> bool:
    """Whether float32 has finite numbers for all values [D]."""
    # The square says yes sooner than the numbers do one by one; unlike `dot`, `vdot` warns of none that is too large.
    return bool(np.vdot(values, values) < _LARGEST or (np.abs(values) <= _LARGEST).all())


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


def _make(own: Registered, env_id: str, where: str, render: bool) -> gymnasium.Env:
    # A module beside the task table may register the environment.
    beside = own.folders()
    sys.path += [str(folder) for folder in beside if str(folder) not in sys.path]
    _refuse_shadowed(env_id, beside, where)
    options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    said = [f"{name}={value!r}" for name, value in options.items()]
    try:
        with Limited(lambda: f"making {where}", least=DEFAULT):  # It imports packages, which takes its time.
            return gymnasium.make(env_id, max_episode_steps=own.max_episode_steps, disable_env_checker=True, **options)
    except UserError:
        raise
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
            f"Make gymnasium.make({', '.join([repr(env_id), *said])}) work first.",
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
    # Beside another table may lie the same module in a copy of the folder; a policy's folder may have no table.
    copies = [folder for folder in found.parents[:2] if (folder / TASKS).is_file()]
    if found not in own and not any(_of_one_code(env_id, folder, folders) for folder in copies):
        raise UserError(
            f"{where}: {own[0]} is shadowed by {found}, which has the same name and is found first",
            f"Rename it, and the {module}: of env_id with it.",
        )


def _of_one_code(env_id: str, other: Path, folders: list[Path]) -> bool:
    return environment_code(env_id, [other]) == environment_code(env_id, folders)


def _flat(env: gymnasium.Env, where: str) -> gymnasium.Env:
    """The environment with observations [D]; a Dict of numbers is flattened."""
    space = env.observation_space
    if isinstance(space, spaces.Dict) and _all_vectors(space):
        return gymnasium.wrappers.FlattenObservation(env)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return env
    kind = "images" if isinstance(space, spaces.Box) and len(space.shape) == 3 else "no flat Box, nor a Dict of such"
    raise UserError(f"{where} has observations {space}: {kind}", _as_vector(space))


def _as_vector(space: spaces.Space) -> str:
    """How an environment is wrapped so that it shows vectors of numbers."""
    if not space.is_np_flattenable:
        box = "gymnasium.spaces.Box(-numpy.inf, numpy.inf, (SIZE,))"
        return _wrapped(f"gymnasium.wrappers.TransformObservation(env, VECTOR_OF, {box})")
    return _wrapped("gymnasium.wrappers.FlattenObservation(env)", f"shows vectors of {spaces.flatdim(space):,} numbers")


def _wrapped(line: str, what: str = "") -> str:
    shows = f", which {what}" if what else ""
    return f"Wrap it{shows}, and register what you wrapped, as docs/extend.md does: {line}"


def _all_vectors(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_all_vectors, space.spaces.values()))
    return isinstance(space, spaces.Box) and len(space.shape) <= 1


def _bounded_actions(space: spaces.Space, where: str) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"{where} has the actions {space}, and the policies here are continuous", _as_numbers(space))
    if len(space.shape) != 1:
        flat = "lambda action, shape=env.action_space.shape: action.reshape(shape)"
        raise UserError(
            f"{where} has actions of the shape {list(space.shape)}, and not vectors [A]",
            _wrapped(_transformed(flat, "gymnasium.spaces.flatten_space(env.action_space)")),
        )
    bounded = _transformed("lambda action: action", "gymnasium.spaces.Box(-1.0, 1.0, env.action_space.shape)")
    remedy = f"{_wrapped(bounded)} (with the bounds of its actions in place of -1 and 1)"
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise UserError(f"{where} has the actions {space}, and actions must lie between finite bounds", remedy)
    if max(np.abs(space.low).max(), np.abs(space.high).max()) > _LARGEST_BOUND:
        raise UserError(
            f"{where} has the actions {space}: bounds beyond {_LARGEST_BOUND:g} mean nothing, and [-1, 1] stands for"
            " them",
            remedy,
        )
    return space


def _as_numbers(space: spaces.Space) -> str:
    """How an environment is wrapped so that its actions are vectors of numbers between bounds."""
    box = "gymnasium.spaces.Box(-1.0, 1.0, ({},))"
    if isinstance(space, spaces.Discrete):
        start = f"{space.start} + " if space.start else ""
        line = _transformed(f"lambda action: {start}int(action.argmax())", box.format(space.n))
        return _wrapped(line, "takes the action whose number is the largest")
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        line = _transformed("lambda action: (action > 0).astype('int8')", box.format(*space.shape))
        return _wrapped(line, "takes numbers above 0 as 1")
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1 and not space.start.any():
        chosen = "lambda action, n=env.action_space.nvec: ((action + 1) / 2 * n).astype(int).clip(0, n - 1)"
        return _wrapped(_transformed(chosen, box.format(*space.shape)), "takes equal parts of [-1, 1] as the choices")
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.integer):
        rounded = "lambda action, kind=env.action_space.dtype: action.round().astype(kind)"
        low, high = (f"env.action_space.{name}.astype('float32')" for name in ("low", "high"))
        return _wrapped(_transformed(rounded, f"gymnasium.spaces.Box({low}, {high})"), "rounds them")
    if space.is_np_flattenable and isinstance(flat := spaces.flatten_space(space), spaces.Box) and _is_real(flat):
        parts = "lambda action, space=env.action_space: gymnasium.spaces.unflatten(space, action)"
        return _wrapped(_transformed(parts, "gymnasium.spaces.flatten_space(env.action_space)"))
    return _wrapped(_transformed("ACTION_OF", "gymnasium.spaces.Box(-1.0, 1.0, (SIZE,))"))


def _is_real(space: spaces.Box) -> bool:
    return bool(np.issubdtype(space.dtype, np.floating))


def _transformed(function: str, space: str) -> str:
    return f"gymnasium.wrappers.TransformAction(env, {function}, {space})"
