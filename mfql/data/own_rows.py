"""Rows of a dataset of one's own, whatever its layout: what follows a row, and where trajectories end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mfql.data.transitions import Transitions
from mfql.errors import note

LAYOUT = "docs/extend.md describes the layouts."
ANEW = "Write it anew, or bring it back from a copy."
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
