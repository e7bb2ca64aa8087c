"""How well a rate is known that was measured in a finite number of episodes."""

from __future__ import annotations

from functools import cache

from scipy import stats

CONFIDENCE = 0.95


def wilson(rate: float, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate in [0, 1] that was found in one or more episodes."""
    return _wilson(round(rate * episodes), episodes)


@cache  # A study's thousands of rates are few different ones, and scipy tests each before it gives the interval.
def _wilson(successes: int, episodes: int) -> tuple[float, float]:
    interval = stats.binomtest(successes, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
