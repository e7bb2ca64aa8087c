"""Actions of methods lie in [-1, 1]; those of an environment within its own bounds. Between the two, one rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ActionUnits:
    """The units of an environment's actions.

    Args:
        low, high: [A] float64, the bounds.
        dtype: of the environment's actions, such as `float32`.
        rescaled: whether [-1, 1] stands for the bounds. If not, as of OGBench's and D4RL's environments, whose bounds
            are -1 and 1, actions are the environment's own already and pass as they are.
    """

    low: np.ndarray
    high: np.ndarray
    dtype: str
    rescaled: bool

    @classmethod
    def of(cls, space: Any, *, rescaled: bool) -> ActionUnits:
        """The units of an action space, a Box [A]."""
        return cls(space.low.astype(np.float64), space.high.astype(np.float64), str(space.dtype), rescaled)

    @classmethod
    def of_bounds(cls, low: Any, high: Any) -> ActionUnits:
        """The units of float32 actions between bounds [A], which [-1, 1] stands for."""
        return cls(np.asarray(low, np.float64), np.asarray(high, np.float64), "float32", rescaled=True)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., A] in [-1, 1] in the environment's units; what lies outside counts as at a bound."""
        if not self.rescaled:
            return actions
        share = (np.clip(actions, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0
        return (self.low + share * (self.high - self.low)).astype(self.dtype)

    def from_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions [..., A] in the environment's units as float64 in [-1, 1]; those out of bounds lie outside."""
        if not self.rescaled:
            return actions.astype(np.float64)
        return 2.0 * (actions.astype(np.float64) - self.low) / (self.high - self.low) - 1.0
