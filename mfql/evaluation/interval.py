"""How well a rate is known that was measured in a finite number of episodes."""

from __future__ import annotations

from scipy import stats

CONFIDENCE = 0.95


def wilson(rate: float, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate in [0, 1] that was found in one or more episodes."""
    interval = stats.binomtest(round(rate * episodes), episodes).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
