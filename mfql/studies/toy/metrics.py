"""What tells how near samples are to the grid of Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mfql.errors import UserError
from mfql.studies.toy.mixture import CENTRES, SPREAD

# A sample is of a mode if it lies within this many spreads of its centre: 86.5 % of the data do. The centres are five
# spreads apart, so that discs of three would overlap.
_NEAR = 2.0
# A mode is covered if it has this share of the samples that the data have there.
_COVERED = 0.5
_MOST_ITERATIONS = 1_000_000


def distance(samples: Tensor, data: Tensor) -> float:
    """The root of the exact optimal transport cost between two sets of points `[N, 2]`, the cost being Euclidean.

    Raises:
        UserError: the samples are not finite.
    """
    import ot  # a second to load

    if not torch.isfinite(samples).all():
        raise UserError("the samples are not finite", "Training diverged: lower policy_learning_rate.")
    costs = torch.cdist(samples.double(), data.double()).cpu().numpy()
    cost = ot.emd2(np.empty(0), np.empty(0), costs, numItermax=_MOST_ITERATIONS)  # empty: equal weights
    return float(np.sqrt(cost))


def near_modes(samples: Tensor) -> float:
    """The share of samples `[N, 2]` within two spreads of a centre: 0.86 of the data, 0.50 of a uniform blur."""
    return float(shares_of_modes(samples).sum())  # The discs do not overlap.


def shares_of_modes(samples: Tensor) -> Tensor:
    """The share of samples `[N, 2]` that are of each of the 16 modes."""
    near = torch.cdist(samples.double(), CENTRES.to(samples.device)) <= _NEAR * SPREAD
    return near.double().mean(0)


def modes_covered(samples: Tensor) -> int:
    """How many of the 16 modes have at least half of the samples that the data have within two spreads of it."""
    due = (1.0 - np.exp(-(_NEAR**2) / 2.0)) / len(CENTRES)
    return int((shares_of_modes(samples) >= _COVERED * due).sum())


def root_mean_square(differences: Tensor) -> float:
    """The root mean square of the lengths of vectors `[N, 2]`."""
    return float(differences.double().square().sum(-1).mean().sqrt())
