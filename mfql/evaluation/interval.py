"""What 95 % intervals are made of: Wilson's of a rate in a finite number of episodes, Student's quantile of a mean."""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95


def student_quantile(freedom: NDArray[np.floating[Any]] | int) -> NDArray[np.float64]:
    """How many standard errors a mean's 95 % interval reaches to either side, by its degrees of freedom [...]."""
    # As scipy.stats has it, without the tests of arguments that it makes in each call.
    quantile: NDArray[np.float64] = stdtrit(freedom, (1 + CONFIDENCE) / 2)
    return quantile


def wilson(rate: float, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate in [0, 1] that was found in one or more episodes."""
    return _wilson(round(rate * episodes), episodes)


@cache  # A study's thousands of rates are few different ones.
def _wilson(successes: int, episodes: int) -> tuple[float, float]:
    """To the last digit that of scipy.stats, which takes a second to load."""
    reach = float(ndtri(0.5 + 0.5 * CONFIDENCE))
    rate = successes / episodes
    whole = 2 * (episodes + reach**2)
    middle = (2 * episodes * rate + reach**2) / whole
    half = reach / whole * sqrt(4 * episodes * rate * (1 - rate) + reach**2)
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == episodes else middle + half
