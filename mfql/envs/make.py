"""Environments whose episodes are pure functions of (task, seed, actions).

OGBench draws from three places: the environment's own generator, the sampler of its action space (random steps inside
`reset`) and numpy's global generator (mazes: start noise in `reset`, teleports in `step`). `make_env` gives every
environment its own of each, so that neither another environment in the process nor an earlier episode can change a
trajectory, not by one bit.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from threading import Lock
from types import SimpleNamespace
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from mfql.envs import d4rl
from mfql.envs.pixels import NO_RENDERER, StackedFrames, choose_renderer
from mfql.envs.registered import make_registered
from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.tasks import is_visual, registered_tasks

_MAKING = Lock()
# What a manipulation environment changes in its compiled model: colours, targets, the locks of drawer and window.
_CHANGING_FIELDS = ("geom_rgba", "mat_rgba", "site_pos", "dof_damping")


def make_env(task_name: str, render: bool = False) -> Isolated:
    """The environment of a task with its time limit: OGBench's single tasks, D4RL's, or one of an extension.

    Pixel tasks show stacked frames. Actions are in the environment's own units.

    Args:
        task_name: with its dataset type, for example `pointmaze-medium-navigate-singletask-task1-v0` or
            `pen-human-v1`.
        render: whether it will be asked for frames, which those of Gymnasium want to know.

    Raises:
        UserError: there is no such task, its environment cannot be made, or D4RL's files are not installed.
    """
    if (own := registered_tasks().get(task_name)) is not None:
        return Isolated(make_registered(own, render))
    if task_name in d4rl.TASKS:
        return make_envs(task_name, 1)[0]
    if "singletask" not in task_name.split("-"):
        raise UserError(
            f"{task_name!r} is not a single-task OGBench name, nor one of the D4RL tasks, nor one of an extension",
            "Such as cube-single-play-singletask-task1-v0 or pen-human-v1; docs/extend.md adds others.",
        )

    def make() -> gymnasium.Env:
        import ogbench

        return ogbench.make_env_and_datasets(task_name, env_only=True, disable_env_checker=True)

    return isolated(make, task_name, StackedFrames if is_visual(task_name) else None)


def make_envs(task_name: str, count: int) -> list[Isolated]:
    """`count` environments of one task, for one thread.

    Each behaves as one of `make_env`. Those of the manipulation suite share one compiled model: it takes 150 MB and a
    second to build, what an environment has of its own under 1 MB. D4RL's share one too.

    Raises:
        UserError: there is no such task, or D4RL's files are not installed.
    """
    if task_name in d4rl.TASKS:
        return [Isolated(env) for env in d4rl.make_simulations(task_name, count)]
    first = make_env(task_name)
    if not first.compiled:
        return [first, *(make_env(task_name) for _ in range(count - 1))]
    reset_env(first, 0)
    return [first, *(first.twin() for _ in range(count - 1))]


def isolated(
    make: Callable[[], gymnasium.Env], name: str, wrapper: Callable[[gymnasium.Env], gymnasium.Env] | None = None
) -> Isolated:
    """The environment that `make` returns, with random generators and solver state of its own, and the data's physics.

    Args:
        make: creates an OGBench environment (a gymnasium environment with its wrappers).
        name: the task's or environment's name.
        wrapper: wraps it; not in `make`, because a wrapper that asks for its observations has it compile its model,
            which must be corrected before.

    Raises:
        UserError: gymnasium knows no environment of that name, it shows pixels and cannot render them, or its physics
            cannot be corrected.
    """
    from mfql.envs.physics import correct_env

    try:
        if is_visual(name):
            choose_renderer()
        with _tidy_making():
            bare = _made(make, name)
            correct_env(bare.unwrapped)
            env = Isolated(wrapper(bare) if wrapper else bare)
            if is_visual(name):
                env.reset(seed=0)  # Renders; OpenGL's loaders fail in many ways, none of which says what to do.
            return env
    except UserError:
        raise
    except Exception as error:
        if not is_visual(name):
            raise
        raise UserError(
            f"{name} cannot be rendered with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}: {error}", NO_RENDERER
        ) from error


def _made(make: Callable[[], gymnasium.Env], name: str) -> gymnasium.Env:
    """What `make` returns; an error of what is made of it later says nothing of the name."""
    try:
        return make()
    except (gymnasium.error.UnregisteredEnv, ValueError) as error:
        raise UserError(f"OGBench has no environment for {name!r}: {error}", "Check the name's spelling.") from error


def reset_env(env: gymnasium.Env, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Start the episode of that seed: all that its reset and its steps draw follows from `seed`.

    Args:
        env: an environment of `make_env`.
        seed: 0 to 2**32 - 1.

    Returns:
        The first observation [D] and the info.
    """
    return env.reset(seed=seed)


class Isolated(gymnasium.Wrapper):
    """Runs an environment on generators of its own; `reset(seed=...)` seeds all of them.

    An episode equals one of the bare environment after `numpy.random.seed(seed)`, `action_space.seed(seed)` and
    `reset(seed=seed)`. It needs MuJoCo 3.3.6 or later: before, `mj_forward` in a reset left the solver a start that
    hung on the earlier episode.

    Attributes:
        units: of its actions.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.base: Any = env.unwrapped
        _own_action_space(self.base)
        own = env.has_wrapper_attr("units")
        self.units: ActionUnits = (
            env.get_wrapper_attr("units") if own else ActionUnits.of(env.action_space, rescaled=False)
        )
        self._global = np.random.MT19937()
        self._fields: dict[str, np.ndarray] = {}

    @property
    def compiled(self) -> bool:
        """Whether the environment compiles its own model, which it can share with twins."""
        return hasattr(type(self.base), "compile_model_and_data")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; with a seed (0 to 2**32 - 1) it is that seed's."""
        if seed is not None:
            seeded: Any = np.random.RandomState(seed).get_state(legacy=False)  # As numpy.random.seed(seed) would be.
            self._global.state = seeded
            self.action_space.seed(seed)
        with self.in_turn():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step, drawing from this environment's generators."""
        with self.in_turn():
            return self.env.step(action)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within the block, `numpy.random` draws for this environment, and a shared model is in its state."""
        outer = np.random.get_bit_generator()  # type: ignore[attr-defined]
        np.random.set_bit_generator(self._global)  # type: ignore[attr-defined]
        for name, values in self._fields.items():
            getattr(self.base.model, name)[:] = values
        try:
            yield
        finally:
            for name, values in self._fields.items():
                values[:] = getattr(self.base.model, name)
            np.random.set_bit_generator(outer)  # type: ignore[attr-defined]

    def twin(self) -> Isolated:
        """Another environment that shares this one's compiled model. Neither may be used while the other steps.

        Only environments that are `compiled` have twins, and only after their first reset.
        """
        self._fields = self._fields or {name: getattr(self.base.model, name).copy() for name in _CHANGING_FIELDS}
        twin = Isolated(_copy_env(self.env))
        twin._fields = {name: values.copy() for name, values in self._fields.items()}
        return twin


def _copy_env(env: Any) -> Any:
    """A copy with simulation state, arrays and generators of its own; it shares models, elements and constants."""
    twin = copy.copy(env)
    if isinstance(env, gymnasium.Wrapper):
        twin.env = _copy_env(env.env)
        return twin
    import mujoco

    for name, value in vars(env).items():
        if isinstance(value, np.ndarray | np.random.Generator):
            setattr(twin, name, copy.deepcopy(value))
    twin._data = mujoco.MjData(env.model)
    return twin


def _own_action_space(base: Any) -> None:
    """Give a manipulation environment one action space; its own property makes a new, unseeded one at each call."""
    kind = type(base)
    if not isinstance(getattr(kind, "action_space", None), property):
        return
    is_twin = "own_action_space" in vars(base)
    base.own_action_space = copy.deepcopy(base.action_space)
    if not is_twin:
        base.__class__ = type(kind.__name__, (kind,), {"action_space": property(attrgetter("own_action_space"))})


@contextmanager
def _tidy_making() -> Iterator[None]:
    """Within the block, OGBench's environments are made without traces and without noise.

    Each maze leaves an XML file in the temporary folder and an open descriptor of it. Within the block the file lies in
    a private folder, removed at its end. Warnings about a missing display and about float32 bounds are not shown.
    """
    with _MAKING, tempfile.TemporaryDirectory(prefix="mfql-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ogbench.locomaze.maze as maze

        level = gymnasium.logger.min_level
        gymnasium.logger.min_level = gymnasium.logger.ERROR

        def mkstemp(**kwargs: Any) -> tuple[int, str]:
            descriptor, path = tempfile.mkstemp(dir=folder, **kwargs)
            os.close(descriptor)
            return -1, path

        original = maze.tempfile
        maze.tempfile = SimpleNamespace(mkstemp=mkstemp)
        try:
            yield
        finally:
            maze.tempfile = original
            gymnasium.logger.min_level = level
