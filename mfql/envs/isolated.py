"""Environments whose episodes are pure functions of (task, seed, actions).

OGBench draws from three places: the environment's own generator, the sampler of its action space (random steps inside
`reset`) and numpy's global generator (mazes: start noise in `reset`, teleports in `step`). `Isolated` gives every
environment its own of each, so that neither another environment in the process nor an earlier episode can change a
trajectory, not by one bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from mfql.envs.units import ActionUnits

# What a manipulation environment changes in its compiled model: colours, targets, the locks of drawer and window.
_CHANGING_FIELDS = ("geom_rgba", "mat_rgba", "site_pos", "dof_damping")


def reset_env(env: gymnasium.Env, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Start the episode of that seed: all that its reset and its steps draw follows from `seed`.

    Args:
        env: one that is isolated.
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
        turns: resets and steps that have begun so far.
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
        self.turns = 0

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
        self.turns += 1
        with self.in_turn():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step, drawing from this environment's generators."""
        self.turns += 1
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
