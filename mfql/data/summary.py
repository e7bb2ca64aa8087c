"""What `mfql data describe` says of a dataset: how much it holds, and its numbers beside their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mfql.data.constant import constant_dimensions
from mfql.data.transitions import StackedImages, Transitions
from mfql.envs.units import ActionUnits

# Of more dimensions than that the least and the greatest number of all are told together.
_MOST_LINES = 24


@dataclass(frozen=True)
class Bounds:
    """What an environment, or a task's row, says of the numbers of a dataset.

    Args:
        observations: the least and the greatest, [D] each; None where nothing says them.
        units: of actions; None of those of OGBench and D4RL, which lie in [-1, 1] themselves.
    """

    observations: tuple[np.ndarray, np.ndarray] | None = None
    units: ActionUnits | None = None


@dataclass(frozen=True)
class Described:
    """A dataset that was checked.

    Args:
        splits: the transitions of each of its files, as training sees them.
        bounds: of its numbers.
    """

    splits: Mapping[str, Transitions]
    bounds: Bounds = field(default_factory=Bounds)

    def text(self) -> str:
        """What it holds, for people; last, the observation dimensions that do not vary over the training rows.

        Of images, which are not divided by their deviation, there are none.
        """
        lines = [line for split, rows in self.splits.items() for line in _of_split(split, rows)]
        lines += _ranges(self.splits["train"], self.bounds)
        observations = self.splits["train"].observations
        columns = [] if isinstance(observations, StackedImages) else constant_dimensions(observations)
        constant = [f"{column} (always {observations[0, column]:.4g})" for column in columns]
        if constant:
            lines.append(f"observation dimensions that do not vary: {', '.join(constant)}; training divides them by 1")
        return "\n".join(lines)


def _of_split(split: str, rows: Transitions) -> list[str]:
    lengths, returns = rows.lengths, np.add.reduceat(rows.rewards, rows.starts)
    return [
        f"{split}: {len(rows)} transitions, {len(lengths)} trajectories of {lengths.min()} to {lengths.max()} steps",
        f"  observations {list(rows.observations.shape[1:])}, actions [{rows.actions.shape[1]}], of which"
        f" {np.mean(np.abs(rows.actions) > 0.99):.1%} lie at a bound",
        f"  sum of rewards of a trajectory: {returns.min():.4g} to {returns.max():.4g}, mean {returns.mean():.4g}",
        f"  {np.mean(rows.masks[rows.ends] == 0):.1%} of the trajectories end in a step with mask 0",
    ]


def _ranges(rows: Transitions, bounds: Bounds) -> list[str]:
    """The least and the greatest of the training rows' numbers, actions in the environment's units."""
    table = [("", "least", "greatest", "bounds")]
    if not isinstance(rows.observations, StackedImages):
        table += _of_dimensions("observation", rows.observations, bounds.observations)
    units = bounds.units
    actions = rows.actions if units is None else units.to_env(rows.actions)
    ends = np.ones(actions.shape[1])
    table += _of_dimensions("action", actions, (-ends, ends) if units is None else (units.low, units.high))
    table += _of_dimensions("reward", rows.rewards[:, None], None)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        f"  {'  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))}".rstrip() for line in table
    ]


def _of_dimensions(
    name: str, values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None
) -> Iterator[tuple[str, str, str, str]]:
    """Name, least, greatest and bounds of each dimension of numbers [N, D], or of all together."""
    least, greatest = values.min(axis=0), values.max(axis=0)
    low, high = bounds if bounds is not None else (np.full(len(least), -np.inf), np.full(len(least), np.inf))
    if len(least) > _MOST_LINES:
        same = len(np.unique(low)) == 1 and len(np.unique(high)) == 1
        told = _bounds(low[0], high[0]) if same else "differ by dimension"
        yield f"{name}s, all {len(least)}", f"{least.min():.4g}", f"{greatest.max():.4g}", told
        return
    for column in range(len(least)):
        number = f" {column}" if len(least) > 1 else ""
        yield f"{name}{number}", f"{least[column]:.4g}", f"{greatest[column]:.4g}", _bounds(low[column], high[column])


def _bounds(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}" if np.isfinite(low) or np.isfinite(high) else ""
