"""Whether a score reproduces a published one: the rule, on means and standard deviations over seeds.

The interval of the difference is that of `mfql.report.intervals`, the same rule as for the difference of two methods of
our own: of the published runs it needs only mean, standard deviation and number of seeds. `docs/reproduction.md` says
what the verdicts mean and why.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from mfql.report.intervals import Group, Interval, reach_of_t, weighted
from mfql.report.tasks import bounded

LEAST_MARGIN = 5.0  # points
MOST_SEEDS = 1000  # beyond so many more, the report says that seeds do not settle it


class Verdict(StrEnum):
    """What a comparison with a published number ends in."""

    REPRODUCED = "reproduced"
    HIGHER = "higher"
    LOWER = "lower"
    INCONCLUSIVE = "inconclusive"
    REDUCED = "reduced size"
    NEVER = "never published"
    NOT_AT_HAND = "published but not at hand"
    SCOPE_UNKNOWN = "scope not known"
    UNTUNED = "settings not at hand"
    NOTHING = "nothing to compare"  # of an aggregate, none of whose tasks can be compared


DECIDED = (Verdict.REPRODUCED, Verdict.HIGHER, Verdict.LOWER)

RULE = {
    "Difference": (
        "Our mean over seeds minus the published one. Its 95 % interval is Welch’s, from both standard deviations and"
        " both numbers of seeds, and never narrower than the episodes allow (Wilson’s intervals, combined as Newcombe"
        " does). A published number without a standard deviation is taken to spread as ours does."
    ),
    "Margin": "5 points, or the published standard deviation where that is more.",
    "reproduced": "The whole interval lies within ± the margin.",
    "higher, lower": "The whole interval lies beyond the margin, on that side.",
    "inconclusive": (
        "Neither. The number of further seeds that would decide is the least k for which t(ν) · √(s² / (n + k) + s′² "
        "/ n′) is at most the distance from the difference to the margin, with n seeds of standard deviation s here "
        "and n′ of s′ there (the episodes’ floor in its place where that is wider). It assumes that the difference "
        "and s stay as observed. Where the published seeds alone leave too much open, no number of ours decides."
    ),
    "published but not at hand": (
        "the paper has the number and published/ lacks it. A row of your own there gives the verdict without "
        "training again."
    ),
    "scope not known": (
        "published for the environment’s tasks or for one of them: not known which. The number is shown, and compared "
        "with nothing."
    ),
    "never published": "no source gives a number for this method, task and stage.",
    "settings not at hand": (
        "the task’s settings are our default, not the paper’s nor tuned, so that the difference says nothing about "
        "the method."
    ),
    "reduced size": "a run was trained for fewer steps than the paper’s: its score is not to be compared.",
    "Over tasks": (
        "the mean of the differences over the tasks that can be judged alone, with the same rule; "
        "the margin is 5 points, or the published standard deviation of that mean where that is more."
    ),
}


@dataclass(frozen=True)
class Sample:
    """Runs as a paper reports them.

    Attributes:
        mean: over the seeds, in percent or normalised return.
        std: over the seeds (n - 1), in the same unit; NaN where it is not known.
        seeds: how many, at least 1.
        episodes: how many episodes the percentage of each seed rests on; 0 where the score is no percentage.
    """

    mean: float
    std: float
    seeds: int
    episodes: int = 0

    def group(self) -> Group:
        """Runs with this mean and standard deviation; Welch's interval knows no more of a group."""
        steps = np.arange(self.seeds, dtype=np.float64) - (self.seeds - 1) / 2
        values = self.mean + steps * (self.std / steps.std(ddof=1) if self.seeds > 1 else 0.0)
        return Group.of_scores(values, np.full(self.seeds, self.episodes))


@dataclass(frozen=True)
class Comparison:
    """Our scores and the published ones, on one task or on several.

    Attributes:
        ours: one sample a task.
        published: those of the same tasks.
        unit: `success` or `normalized_return`, for all of them.
    """

    ours: Sequence[Sample]
    published: Sequence[Sample]
    unit: str

    def difference(self, more_seeds: int = 0) -> Interval:
        """Our mean over tasks minus the published one, as it would be with more seeds of ours on each task.

        The ends are NaN where either side has a single seed on some task.
        """
        pairs = self._pairs()
        if any(isnan(own.std) for own, _ in pairs):  # neither side of a task says how much seeds differ
            return Interval(float(np.mean([own.mean - other.mean for own, other in pairs])), nan, nan)
        groups = [replace(own, seeds=own.seeds + more_seeds).group() for own, _ in pairs]
        groups += [other.group() for _, other in pairs]
        share = 1 / len(pairs)
        weights = [share] * len(pairs) + [-share] * len(pairs)
        return bounded(weighted(groups, weights), self.unit, "difference")

    def _pairs(self) -> list[tuple[Sample, Sample]]:
        return [_spread_known(*pair) for pair in zip(self.ours, self.published, strict=True)]

    @property
    def published_mean(self) -> float:
        """The published mean over tasks."""
        return float(np.mean([sample.mean for sample in self.published]))

    @property
    def published_std(self) -> float:
        """Standard deviation of the published mean over tasks, seeds being independent; NaN where one is unknown."""
        return sqrt(sum(sample.std**2 for sample in self.published)) / len(self.published)

    @property
    def margin(self) -> float:
        """How far apart two scores may be and count as the same, in points."""
        return LEAST_MARGIN if isnan(self.published_std) else max(LEAST_MARGIN, self.published_std)

    def verdict(self, more_seeds: int = 0) -> Verdict:
        """The verdict, as it would be with more seeds of ours on each task."""
        return judge(self.difference(more_seeds), self.margin)

    def seeds_to_settle(self) -> int | None:
        """The smallest number of further seeds on each task that would decide; None if `MOST_SEEDS` would not.

        Mean and standard deviation are assumed to stay as observed; those of a single seed of ours, to be as published.
        """
        # Not each seed shrinks an interval: beside few published ones the degrees of freedom fall with many of ours.
        # Where t alone would decide, the episodes' floor is left, and that does shrink.
        left = np.flatnonzero(self._t_decides()).tolist()
        first = bisect_left(left, True, key=lambda more: self.verdict(more) in DECIDED)
        return left[first] if first < len(left) else None

    def _t_decides(self) -> NDArray[np.bool_]:
        """[MOST_SEEDS + 1] whether Student's interval alone would decide with so many more seeds of ours."""
        ours, published = zip(*self._pairs(), strict=True)
        spreads = np.array([sample.std for sample in ours + published]) / len(ours)
        grows = np.repeat([1, 0], len(ours))
        sizes = np.array([sample.seeds for sample in ours + published]) + np.arange(MOST_SEEDS + 1)[:, None] * grows
        reach = reach_of_t(spreads**2 / sizes, np.maximum(sizes, 2))
        away = abs(self.margin - abs(self.difference().value))
        # What lies on the edge is left to the rule itself.
        return (sizes >= 2).all(axis=1) & (reach <= away + 1e-9)


def judge(difference: Interval, margin: float) -> Verdict:
    """The verdict on a difference; an interval with NaN ends is inconclusive."""
    if difference.low >= -margin and difference.high <= margin:
        return Verdict.REPRODUCED
    if difference.low > margin:
        return Verdict.HIGHER
    if difference.high < -margin:
        return Verdict.LOWER
    return Verdict.INCONCLUSIVE


def _spread_known(ours: Sample, published: Sample) -> tuple[Sample, Sample]:
    """The two samples, each with the other's standard deviation where its own is not known."""
    return (
        replace(ours, std=published.std if isnan(ours.std) else ours.std),
        replace(published, std=ours.std if isnan(published.std) else published.std),
    )


def sample_of(values: Sequence[float], episodes: Sequence[float]) -> Sample:
    """The sample that our runs make up.

    Args:
        values: one score a seed.
        episodes: how many episodes each score rests on; NaN where it is no percentage.
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else nan
    each = np.nan_to_num(np.mean(episodes))
    return Sample(float(np.mean(values)), std, len(values), round(float(each)))
