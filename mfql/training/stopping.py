"""Early stopping: when a seed no longer improves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mfql.settings import Settings

# By how many percent of success an evaluation must exceed the best one to be the best (released code).
_LEAST_GAIN = 1.0


def no_longer_improves(scores: Sequence[float], metric: str, settings: Settings) -> bool:
    """Whether a seed is to stop, by its settings.

    Args:
        scores: of its evaluations so far, the first one first; at least one.
        metric: that they are of: `success`, in percent, or another.
    """
    if settings.early_stopping == 0:
        return False
    if settings.early_stopping_rule == "score":
        since_best = len(scores) - 1 - int(np.argmax(scores))
    else:
        since_best = _since_best_success(scores) if metric == "success" else 0
    return since_best >= settings.early_stopping


def _since_best_success(scores: Sequence[float]) -> int:
    """Evaluations after the best one. One without any success is never the best, not even the first."""
    best, since = -np.inf, 0
    for score in scores:
        if score > 0 and score > best + _LEAST_GAIN:
            best, since = score, 0
        else:
            since += 1
    return since
