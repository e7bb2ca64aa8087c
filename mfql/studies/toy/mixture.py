"""The toy's data, a 4 x 4 grid of Gaussians in [-1, 1]^2, and its exact flow in float64.

Of a mixture of Gaussians the marginal velocity of a_t = (1 - t) a + t e is a sum over the components, and the exact map
from noise to actions follows by integrating it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD = 0.1
# The middles of the 16 cells: the outermost lie two and a half spreads inside [-1, 1].
_MIDDLES = torch.tensor([-0.75, -0.25, 0.25, 0.75], dtype=torch.float64)
CENTRES = torch.cartesian_prod(_MIDDLES, _MIDDLES)
# Variance of either coordinate; the two are uncorrelated and their mean is 0.
VARIANCE = float(CENTRES[:, 0].square().mean()) + SPREAD**2

# Runge and Kutta's steps along a path; twice as many move no end by 1e-4 (tests/test_toy.py).
_STEPS = 200


def points(components: Tensor, scores: Tensor) -> Tensor:
    """Points of the mixture from whole numbers `[...]`, taken modulo 16, and standard normal numbers `[..., 2]`."""
    centres = CENTRES.to(scores.device, scores.dtype)
    return centres[components % len(CENTRES)] + SPREAD * scores


def velocity(at: Tensor, times: Tensor) -> Tensor:
    """E[e - a | a_t] of points `[N, 2]` at times `[N, 1]`, with standard normal e."""
    centres, kept = CENTRES.to(at.device), 1.0 - times
    variance = kept**2 * SPREAD**2 + times**2
    # Of the squared distance from a component's centre (1 - t) c, what differs between components.
    exponents = (kept * (at @ centres.T) - 0.5 * kept**2 * centres.square().sum(1)) / variance
    centre = torch.softmax(exponents, dim=1) @ centres
    # Of each component E[e] = t / var (a_t - (1 - t) c) and E[a] = c + (1 - t) spread^2 / var (a_t - (1 - t) c).
    return (times - kept * SPREAD**2) / variance * (at - kept * centre) - centre


def path_end(at: Tensor, times: Tensor, steps: int = _STEPS) -> Tensor:
    """Where the paths through points `[N, 2]` at times `[N, 1]` end at time 0, in float64; at time 1 the exact map."""
    point, times = at.double(), times.double()
    step = -times / steps
    for index in range(steps):
        now = times + index * step
        first = velocity(point, now)
        second = velocity(point + step / 2 * first, now + step / 2)
        third = velocity(point + step / 2 * second, now + step / 2)
        fourth = velocity(point + step * third, now + step)
        point = point + step / 6 * (first + 2 * second + 2 * third + fourth)
    return point


def average_velocity(at: Tensor, times: Tensor) -> Tensor:
    """The exact average velocity from 0 to t of points `[N, 2]` at times `[N, 1]` above 0, in float64."""
    return (at.double() - path_end(at, times)) / times.double()
