"""What a task's episodes are scored by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScoreRange:
    """A normalisation of returns as D4RL's: 0 is a random policy's mean return, 100 an expert's.

    Args:
        minimum, maximum: the returns that stand for 0 and 100, in the environment's own rewards.
        reward_shift: that the environment adds to each reward.
    """

    minimum: float
    maximum: float
    reward_shift: float

    def percent(self, returns: np.ndarray, lengths: np.ndarray) -> float:
        """The normalised score of the mean return, in percent; of AntMaze, the share of episodes that reach the goal.

        Args:
            returns: [n], sums of the shifted rewards.
            lengths: [n], steps.
        """
        own = float(np.mean(returns - self.reward_shift * lengths))
        return 100.0 * (own - self.minimum) / (self.maximum - self.minimum)
