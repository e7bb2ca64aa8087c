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
from scipy import stats

from mfql.evaluation.interval import CONFIDENCE

Array = NDArray[np.float64]
# Of packs [..., n, tasks], where n differs between packs, as [..., k].
Statistic = Callable[..., Array]

REPETITIONS = 2000
# Numbers that are resampled at once: 32 MB.
_AT_ONCE = 4_000_000


def bootstrap(packs: Sequence[Array], statistic: Statistic, extent: int = 1) -> Array:
    """The value of a statistic with the ends of its 95 % interval.

    Args:
        packs: [n, tasks] each, tasks with the same number of runs side by side.
        statistic: gives k numbers.
        extent: numbers that the statistic makes of each score on its way.

    Returns:
        [3, k]: value, low and high. The ends are NaN where a task has a single run, which resampling would show without
        spread.
    """
    value = statistic(*packs)
    if min(len(pack) for pack in packs) < 2:
        return np.vstack([value, np.full((2, *value.shape), np.nan)])
    rows = _rows(tuple(pack.shape for pack in packs), REPETITIONS)
    at_once = max(1, _AT_ONCE // (extent * sum(pack.size for pack in packs)))
    resampled = [
        statistic(
            *(
                pack[chosen[begin : begin + at_once], np.arange(pack.shape[1])]
                for pack, chosen in zip(packs, rows, strict=True)
            )
        )
        for begin in range(0, REPETITIONS, at_once)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.vstack([value[None], np.percentile(np.concatenate(resampled), [tail, 100 - tail], axis=0)])


@lru_cache(maxsize=2)  # Methods that are compared have the same tasks and seeds, as a rule: a study's draws are few.
def _rows(shapes: tuple[tuple[int, int], ...], repetitions: int) -> list[NDArray[np.int64]]:
    """[repetitions, n, tasks] of each pack of the shape [n, tasks]: which run stands where in each resample."""
    random = np.random.RandomState(0)
    # In turns, as the library draws them.
    drawn = [[random.randint(0, shape[0], shape) for shape in shapes] for _ in range(repetitions)]
    return [np.stack(of_pack) for of_pack in zip(*drawn, strict=True)]


def mean_and_iqm(*packs: Array) -> Array:
    """[..., 2]: mean and interquartile mean; the latter leaves out floor(n / 4) of all n runs at each end."""
    # Each task's runs are repeated to a common number, so that tasks weigh the same.
    height = np.lcm.reduce([pack.shape[-2] for pack in packs])
    rectangle = np.concatenate([np.repeat(pack, height // pack.shape[-2], axis=-2) for pack in packs], axis=-1)
    scores = rectangle.reshape(*rectangle.shape[:-2], -1)
    return np.stack([rectangle.mean(axis=-2).mean(axis=-1), stats.trim_mean(scores, 0.25, axis=-1)], axis=-1)


def probability_of_improvement(*packs: Array) -> Array:
    """[..., 1]: the probability that a run of one method scores above one of another on a task drawn at random.

    Ties count half.

    Args:
        packs: those of the first method at even places, each followed by that of the other with the same tasks.
    """
    wins = []
    for x, y in zip(packs[::2], packs[1::2], strict=True):
        halves = np.zeros((*x.shape[:-2], x.shape[-1]), dtype=np.int64)
        for run in range(y.shape[-2]):
            other = y[..., run : run + 1, :]
            halves += (x > other).sum(axis=-2, dtype=np.int32) + (x >= other).sum(axis=-2, dtype=np.int32)
        wins.append(halves / 2 / (x.shape[-2] * y.shape[-2]))
    return np.concatenate(wins, axis=-1).mean(axis=-1, keepdims=True)


def shares_above(thresholds: Array) -> Statistic:
    """The statistic [..., thresholds]: the share of runs that score above each of them; tasks weigh the same."""

    def shares(*packs: Array) -> Array:
        of_tasks = [(pack[..., None] > thresholds).mean(axis=-3) for pack in packs]
        return np.concatenate(of_tasks, axis=-2).mean(axis=-2)

    return shares
