"""Rows of a dataset of one's own, whatever its layout: what follows a row, and where trajectories end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mfql.data.transitions import Transitions
from mfql.data.values import real_numbers
from mfql.errors import UserError, note

LAYOUT = "docs/extend.md describes the layouts."
ANEW = "Write it anew, or bring it back from a copy."
AS_MANY = f"Write as many rows of each, also for an episode's last observation, where it has a row. {LAYOUT}"
ROWS = ("observations", "actions", "rewards", "masks", "terminals")
MASKS = (
    "masks [N] says where the future counts: 0 in the step with which the task itself ends (solved, or failed), else 1;"
    " where episodes end by their time limit alone, ones."
)
# Next observations that are the next rows are equal to them but for the rounding of float32.
_ROUNDING = 1e-5


def following(rows: Mapping[str, np.ndarray], terminals: np.ndarray, next_observations: np.ndarray) -> Transitions:
    """Transitions of arrays by name, and of where trajectories end and what follows."""
    return Transitions(**dict(rows), terminals=terminals, next_observations=next_observations)


def goes_on(observations: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """Whether each row's next observation is the next row's observation, [N - 1] bool."""
    given, found = next_observations[:-1].astype(np.float64), observations[1:].astype(np.float64)
    slack = _ROUNDING * np.maximum(np.abs(given), np.abs(found)) + 1e-8
    return ((np.abs(given - found) <= slack) | (given == found)).all(axis=1)


def with_next_observations(rows: Transitions, where: str) -> Transitions:
    """Rows that have next observations of their own; their trajectories end where the next row is another's, too."""
    observations, after = np.asarray(rows.observations), np.asarray(rows.next_observations)
    if observations.shape != after.shape:
        return rows  # Refused for its shape, with all others.
    broken = np.append(~goes_on(observations, after), False)
    ends = (rows.terminals > 0) | broken
    ends[-1:] = True
    found = replace(rows, terminals=ends)
    if found.fragmented():
        note(
            f"{where}: the rows are in no order of time, so that methods that need returns"
            " or the actions that follow cannot be trained on it"
        )
    return found


def episode_rows(
    where: str,
    observations: np.ndarray,
    after: np.ndarray | None,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminals: np.ndarray,
) -> Transitions:
    """An episode of as many observations as steps; a last step without next one counts if it ends the task.

    Args:
        where: the file and the episode.
        observations: [n, ...].
        after: the next observations, [n, ...]; None where they are those of the steps that follow.
        actions: [n, ...].
        rewards: [n] or [n, 1].
        terminals: [n] bool, the steps with which the task ends.

    Raises:
        UserError: there are more or fewer of one than of another, or values that are no numbers.
    """
    arrays = {"observations": observations, "actions": actions, "rewards": rewards.reshape(-1)}
    for name, values in arrays.items():
        real_numbers(values, f"{where}: {name}", "Write numbers.")
        if len(values) != len(terminals):
            raise UserError(
                f"{where} has {len(values)} {name} and {len(terminals)} steps", f"Write as many of each. {LAYOUT}"
            )
    observations = observations.reshape(len(observations), -1)
    kept = np.ones(len(terminals), bool)
    if after is None:
        kept[-1:] = terminals[-1:]
        after = np.concatenate([observations[1:], observations[-1:]])
    last = np.zeros(int(kept.sum()), bool)
    last[-1:] = True
    return Transitions(
        observations=observations[kept],
        actions=actions.reshape(len(actions), -1)[kept],
        rewards=arrays["rewards"][kept],
        masks=1.0 - terminals[kept].astype(np.float32),
        terminals=last,
        next_observations=after[kept],
    )


def joined(parts: list[Transitions], where: str) -> Transitions:
    """Episodes one after the other.

    Raises:
        UserError: they have no step, or differ in their sizes.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        raise UserError(f"{where} has no transition", LAYOUT)
    for name in ("observations", "actions", "next_observations"):
        sizes = sorted({getattr(part, name).shape[1:] for part in parts})
        if len(sizes) > 1:
            raise UserError(
                f"{where}: {name} are vectors of {' and of '.join(str(list(size)) for size in sizes)}", LAYOUT
            )
    return Transitions(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in (*ROWS, "next_observations")}
    )
