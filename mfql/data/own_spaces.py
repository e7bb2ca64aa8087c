"""What stands for the environment of a task that has none: the spaces of its dataset, and episodes held out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfql.data.d4rl import last_trajectories
from mfql.data.own_minari import recorded_bounds
from mfql.data.transitions import Transitions
from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.tasks import Registered

# Of an episode no limit is known: longer than any.
NO_LIMIT = 2**31


@dataclass(frozen=True)
class Sizes:
    """The shape of a space's elements, as an environment's spaces have it."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class RecordedSpaces:
    """The spaces of a dataset, under the names that they have of an environment.

    Args:
        observation_space, action_space: [D] and [A].
        units: of actions: [-1, 1] stands for their bounds.
    """

    observation_space: Sizes
    action_space: Sizes
    units: ActionUnits

    @classmethod
    def of(cls, rows: Transitions, row: Registered, where: str) -> RecordedSpaces:
        """The spaces of a training file's transitions, in the file's own numbers.

        The bounds of actions are those of the task's row; else those that Minari's dataset says; else the least and the
        greatest number of each dimension in the file.

        Raises:
            UserError: the row has another number of bounds, or a lower bound is not below the upper one.
        """
        actions = np.asarray(rows.actions)
        size = actions.shape[1:]
        if len(size) != 1 or len(rows) == 0:
            return cls(Sizes(rows.observations.shape[1:]), Sizes(size), ActionUnits.of_bounds([-1.0], [1.0]))
        low, high = _bounds(actions, row, where)
        if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise UserError(
                f"{where}: actions lie between {low.tolist()} and {high.tolist()}: a lower bound that is not below the"
                " upper one leaves nothing to choose",
                "Write action_low and action_high in the task table; or leave that dimension out of the data.",
            )
        return cls(Sizes(rows.observations.shape[1:]), Sizes(size), ActionUnits.of_bounds(low, high))


def _bounds(actions: np.ndarray, row: Registered, where: str) -> tuple[np.ndarray, np.ndarray]:
    if row.action_low is not None and row.action_high is not None:
        return _given(row.action_low, actions, where), _given(row.action_high, actions, where)
    recorded = recorded_bounds(row.data) if row.data.startswith("minari:") else None
    if recorded is not None and all(len(ends) == actions.shape[1] for ends in recorded):
        return recorded
    return actions.min(axis=0).astype(np.float64), actions.max(axis=0).astype(np.float64)


def _given(numbers: tuple[float, ...], actions: np.ndarray, where: str) -> np.ndarray:
    """The bounds of a row: of all dimensions one, or one each."""
    if len(numbers) not in (1, actions.shape[1]):
        raise UserError(
            f"{where}: actions have {actions.shape[1]} dimensions, and the task table has bounds of {len(numbers)}",
            "Write one number for all of them, or one each with blanks between.",
        )
    return np.broadcast_to(np.array(numbers, np.float64), actions.shape[1]).copy()


def held_out(rows: Transitions, where: str) -> dict[str, Transitions]:
    """The transitions without the last tenth of their trajectories under `train`, and these, at least one, under `val`.

    Raises:
        UserError: there is one trajectory alone.
    """
    val = last_trajectories(rows)
    kept = len(rows) - len(val)
    if kept == 0:
        raise UserError(
            f"{where} has one trajectory, and a task without an environment is scored on some that are held out",
            "Record two or more; or lay a validation file NAME-val.npz beside NAME.npz.",
        )
    return {"train": Transitions(**{name: values[:kept] for name, values in vars(rows).items()}), "val": val}
