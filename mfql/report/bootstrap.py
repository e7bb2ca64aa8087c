"""The stratified bootstrap over runs, for statistics over tasks.

Within each task as many runs are drawn with replacement as there are (Agarwal et al. 2021, "Deep Reinforcement Learning
at the Edge of the Statistical Precipice"), and the interval reaches from the resamples' 2.5th percentile to the 97.5th.
The draws are those of that paper's library, rliable 1.2, from numpy's legacy generator with seed 0, so that its numbers
come out to the last digit; faster, since there a resample is a call and here an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mfql.evaluation.interval import CONFIDENCE

Array = NDArray[np.float64]
# Of packs [..., n, tasks], where n differs between packs, as [..., k].
Statistic = Callable[..., Array]
Counts = NDArray[np.float32]
# Of the packs' counts, [tasks, n, resamples] each: how often a run was drawn. As [resamples, k].
OfCounts = Callable[..., Array]

REPETITIONS = 2000
# Numbers that are resampled at once: 32 MB.
_AT_ONCE = 4_000_000
_CUT = 0.25  # the share of all runs that the interquartile mean leaves out at each end


def bootstrap(packs: Sequence[Array], statistic: Statistic) -> Array:
    """The value of a statistic with the ends of its 95 % interval.

    Args:
        packs: [n, tasks] each, tasks with the same number of runs side by side.
        statistic: gives k numbers.

    Returns:
        [3, k]: value, low and high. The ends are NaN where a task has a single run, which resampling would show without
        spread.
    """
    value = statistic(*packs)
    if _single(packs):
        return _without_ends(value)
    rows = _rows(tuple(pack.shape for pack in packs), REPETITIONS)
    at_once = max(1, _AT_ONCE // sum(pack.size for pack in packs))
    resampled = [
        statistic(
            *(
                pack[chosen[begin : begin + at_once], np.arange(pack.shape[1])]
                for pack, chosen in zip(packs, rows, strict=True)
            )
        )
        for begin in range(0, REPETITIONS, at_once)
    ]
    return _with_ends(value, np.concatenate(resampled))


def bootstrap_of_counts(packs: Sequence[Array], statistic: OfCounts) -> Array:
    """The same, of a statistic that asks of a resample only how often each run is in it.

    Args:
        packs: [n, tasks] each, those that `statistic` was made of.
        statistic: gives k numbers of the runs in each resample.
    """
    value = statistic(*(np.ones((*pack.T.shape, 1), np.float32) for pack in packs))[0]
    if _single(packs):
        return _without_ends(value)
    return _with_ends(value, statistic(*_counts(tuple(pack.shape for pack in packs), REPETITIONS)))


def _single(packs: Sequence[Array]) -> bool:
    return min(len(pack) for pack in packs) < 2


def _without_ends(value: Array) -> Array:
    return np.vstack([value, np.full((2, *value.shape), np.nan)])


def _with_ends(value: Array, resampled: Array) -> Array:
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.vstack([value[None], np.percentile(resampled, [tail, 100 - tail], axis=0)])


# Methods that are compared have the same tasks and seeds, as a rule: a study's draws are few.
@lru_cache(maxsize=2)
def _rows(shapes: tuple[tuple[int, int], ...], repetitions: int) -> list[NDArray[np.int64]]:
    """[repetitions, n, tasks] of each pack of the shape [n, tasks]: which run stands where in each resample."""
    random = np.random.RandomState(0)
    # In turns, as the library draws them.
    drawn = [[random.randint(0, shape[0], shape) for shape in shapes] for _ in range(repetitions)]
    return [np.stack(of_pack) for of_pack in zip(*drawn, strict=True)]


@lru_cache(maxsize=2)
def _counts(shapes: tuple[tuple[int, int], ...], repetitions: int) -> list[Counts]:
    """[tasks, n, repetitions] of each pack of the shape [n, tasks]: how often each run is in each resample."""
    return [
        np.stack([(rows == run).sum(axis=1, dtype=np.float32).T for run in range(shape[0])], axis=1)
        for rows, shape in zip(_rows(shapes, repetitions), shapes, strict=True)
    ]


def mean_and_iqm(*packs: Array) -> Array:
    """[..., 2]: mean and interquartile mean; the latter leaves out floor(n / 4) of all n runs at each end."""
    # Each task's runs are repeated to a common number, so that tasks weigh the same.
    height = np.lcm.reduce([pack.shape[-2] for pack in packs])
    rectangle = np.concatenate([np.repeat(pack, height // pack.shape[-2], axis=-2) for pack in packs], axis=-1)
    scores = rectangle.reshape(*rectangle.shape[:-2], -1)
    cut = int(_CUT * scores.shape[-1])
    between = np.partition(scores, (cut, scores.shape[-1] - cut - 1), axis=-1)[..., cut : scores.shape[-1] - cut]
    return np.stack([rectangle.mean(axis=-2).mean(axis=-1), between.mean(axis=-1)], axis=-1)


def probability_of_improvement(*packs: Array) -> OfCounts:
    """The statistic [resamples, 1]: the probability that a run of one method scores above one of another.

    On a task drawn at random; ties count half.

    Args:
        packs: those of the first method at even places, each followed by that of the other with the same tasks.
    """
    # [tasks, runs of one, runs of the other]: 2 where the first is above, 1 where they tie.
    halves = [
        (x.T[:, :, None] > y.T[:, None]).astype(np.float32) + (x.T[:, :, None] >= y.T[:, None])
        for x, y in zip(packs[::2], packs[1::2], strict=True)
    ]

    def of_counts(*counts: Counts) -> Array:
        wins = []
        for won, x, y in zip(halves, counts[::2], counts[1::2], strict=True):
            # Whole numbers below 2^24: exact in this type, in whatever order.
            total = np.einsum("tmr,tmr->tr", np.einsum("tnr,tnm->tmr", x, won), y)
            wins.append(total.T.astype(np.float64, order="C") / 2 / (x.shape[1] * y.shape[1]))
        return np.concatenate(wins, axis=-1).mean(axis=-1, keepdims=True)

    return of_counts


def shares_above(thresholds: Array, *packs: Array) -> OfCounts:
    """The statistic [resamples, k]: the share of runs above each of k thresholds; tasks weigh the same."""

    def of_counts(*counts: Counts) -> Array:
        shares = np.zeros((len(thresholds), counts[0].shape[-1]))
        # A task at a time: its table of as many shares as it has runs stays in the processor's cache.
        for pack, drawn in zip(packs, counts, strict=True):
            for scores, often in zip(pack.T, drawn, strict=True):
                order = np.argsort(-scores)
                best = np.zeros((len(scores) + 1, often.shape[-1]))  # of the i highest runs, how many are drawn
                np.cumsum(often[order], axis=0, out=best[1:])
                above = len(scores) - np.searchsorted(scores[order[::-1]], thresholds, side="right")
                shares += (best / len(scores))[above]
        return (shares / sum(pack.shape[1] for pack in packs)).T

    return of_counts
