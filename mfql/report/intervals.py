"""95 % intervals of means, differences and rises over a handful of seeds.

Every number of the report that is a mean or a difference of means is a weighted sum of the means of independent groups
of runs: a task's score (one group), two methods compared (weights 1 and -1), a mean over tasks (weights 1 / tasks). So
one rule serves them all: the wider, at either end, of

- *Student's t* over the runs, with Welch's and Satterthwaite's degrees of freedom where groups are several. A bootstrap
  over 3 to 8 runs is no 95 % interval: it is narrower than t and holds the truth less often (measured:
  `docs/results.md`).
- *a floor from the episodes*: runs may agree by chance (three times 100 % has no spread at all), but a success rate
  measured in N episodes is never known better than Wilson's interval for N. Floors of several groups are combined as
  Newcombe does for a difference (squares of the one-sided reaches add up).

- *a floor from an estimate*: where scores are estimates from a dataset, what each leaves open (`Group.of_estimates`).

A single run has no interval: its ends are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isnan, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfql.evaluation.interval import student_quantile, wilson


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % interval, in the unit of the scores (percent, or normalised return)."""

    value: float
    low: float
    high: float

    def clipped(self, lowest: float, highest: float) -> Interval:
        """The interval cut to the values that the quantity can take; NaN ends stay NaN."""
        low, high = np.clip([self.low, self.high], lowest, highest)
        return Interval(self.value, float(low), float(high))

    def apart(self, other: Interval) -> bool:
        """Whether the two intervals have no point in common; never so where one of them is missing."""
        return self.low > other.high or other.low > self.high

    def widest(self, other: Interval) -> Interval:
        """This estimate with the lower of both low ends and the higher of both high ends; NaN where either is."""
        ends = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Interval(self.value, float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        values: [n] one number a run.
        below: how far the finite number of episodes alone lets the true mean lie below the observed one; 0 if unknown.
        above: the same above it.
    """

    values: NDArray[np.float64]
    below: float = 0.0
    above: float = 0.0

    @property
    def mean(self) -> float:
        """The mean over the runs."""
        return float(self.values.mean())

    @classmethod
    def of_scores(cls, scores: ArrayLike, episodes: ArrayLike | None = None) -> Group:
        """Runs with these scores.

        Args:
            scores: [n] percent of episodes that succeeded, or any other number where `episodes` is None.
            episodes: [n] how many episodes each percentage rests on.
        """
        # Sorted: seeds are exchangeable, and so no later sum or resampling may depend on their order.
        values = np.sort(np.asarray(scores, dtype=np.float64))
        total = 0 if episodes is None else round(float(np.sum(episodes)))
        if total == 0:
            return cls(values)
        rate = values.mean() / 100
        low, high = wilson(rate, total)
        return cls(values, below=100 * max(rate - low, 0.0), above=100 * max(high - rate, 0.0))

    @classmethod
    def of_estimates(cls, scores: ArrayLike, low: ArrayLike, high: ArrayLike) -> Group:
        """Runs whose scores are estimates with intervals of their own; all arrays are [n], NaN ends say nothing.

        They are of the same data, so that what these leave open is no less of several runs than of one: the floor is
        the mean of the reaches of the runs that have some: of those that diverged no estimate is left.
        """
        values, ends = np.asarray(scores, dtype=np.float64), np.array([low, high], dtype=np.float64)
        reaches = np.maximum([values - ends[0], ends[1] - values], 0.0)
        known = ~np.isnan(reaches)
        below, above = np.where(known, reaches, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return cls(np.sort(values), below=float(below), above=float(above))

    @classmethod
    def of_rises(
        cls, before: ArrayLike, after: ArrayLike, episodes_before: ArrayLike | None, episodes_after: ArrayLike | None
    ) -> Group:
        """The rise of each run from `before` to `after`, paired by run; all arrays are [n]."""
        first, last = Group.of_scores(before, episodes_before), Group.of_scores(after, episodes_after)
        rises = np.sort(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64))
        return cls(rises, below=hypot(last.below, first.above), above=hypot(last.above, first.below))


def weighted(groups: Sequence[Group], weights: Sequence[float]) -> Interval:
    """The weighted sum of the groups' means, with its 95 % interval.

    Args:
        groups: independent groups of runs, none of them empty.
        weights: one number a group; `[1]` gives a mean, `[1, -1]` a difference.
    """
    value = float(sum(weight * group.mean for group, weight in zip(groups, weights, strict=True)))
    reach = _reach_of_t(groups, weights)
    if isnan(reach):
        return Interval(value, nan, nan)
    below = hypot(*(w * (g.below if w > 0 else g.above) for g, w in zip(groups, weights, strict=True)))
    above = hypot(*(w * (g.above if w > 0 else g.below) for g, w in zip(groups, weights, strict=True)))
    return Interval(value, value - max(reach, below), value + max(reach, above))


def _reach_of_t(groups: Sequence[Group], weights: Sequence[float]) -> float:
    """Half the width of Student's t interval of the weighted sum; NaN where a group has a single run."""
    sizes = np.array([len(group.values) for group in groups])
    if (sizes < 2).any():
        return nan
    variances = np.array([w**2 * g.values.var(ddof=1) / len(g.values) for g, w in zip(groups, weights, strict=True)])
    return float(reach_of_t(variances, sizes))


def reach_of_t(variances: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Half the width of Student's t interval (Welch 1947, Satterthwaite 1946) of a sum of independent means.

    Args:
        variances: [..., groups] of each mean.
        sizes: [..., groups] runs of each, two or more.

    Returns:
        [...]
    """
    total, largest = variances.sum(axis=-1), variances.max(axis=-1, keepdims=True)
    # Divided by the largest first: the square of a tiny variance would vanish.
    shares = variances / np.where(largest > 0, largest, 1.0)
    spread = (shares**2 / (sizes - 1)).sum(axis=-1)
    freedom = shares.sum(axis=-1) ** 2 / np.where(spread > 0, spread, 1.0)
    return np.where(total > 0, student_quantile(freedom) * np.sqrt(total), 0.0)
