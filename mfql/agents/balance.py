"""How the objectives of one group share its update, where no fixed weight decides it.

Each objective j of a seed has a gradient g_j; they are the rows of the seed's Jacobian. A weighting takes the Gramian
of its rows, G_ij = g_i . g_j, and gives each objective a weight w_j; the group then moves along sum_j w_j g_j. Only the
Gramians, J x J numbers a seed, leave the device.

`norms` scales every gradient to the length of the first (GradNorm's aim, Chen et al. 2018, without its learned
weights). The others are torchjd's, under their names there: `upgrad` (Jacobian descent, Quinton and Rey 2024),
`dualproj` (GEM), `mgda`, `pcgrad`, `aligned_mtl` and `imtl_g`. Those that take a preference have 1 for each objective,
so that `upgrad` and `dualproj` are the plain sum wherever no two gradients conflict.

Of two objectives UPGrad is PCGrad by its definition: where they conflict each gradient g_i loses its part along the
other, which gives g_j the weight 1 - G_ij / G_jj. `pcgrad` is exactly that. `upgrad` and `dualproj` solve quadratic
programs, for whose sake torchjd adds 1e-4 of the Gramian's trace to its diagonal (`reg_eps`), so that `upgrad` has
1 - G_ij / (G_jj + 1e-4 (G_ii + G_jj)). If g_i is r times as long as g_j, what this adds to g_j's weight of 1 is too
little by the factor 1 / (1 + 1e-4 (1 + r^2)): a thousandth at r = 3, half at 100. The update then goes against the
shorter gradient, which UPGrad never does: beyond r = 25 where the two are 120 degrees apart. `dualproj` goes against it
beyond r = 2 there, at first by little. Where the trace is below 1e-4 both are the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Weighting = Callable[[Tensor], Tensor]

_TINY = 1e-12


def weighting_of(name: str) -> Weighting:
    """The weighting of a name: a function of Gramians `[S, J, J]` that gives weights `[S, J]`.

    Args:
        name: `norms`, or one of torchjd's that this module's first lines name.
    """
    return equal_norms if name == "norms" else lambda gramians: _by_torchjd(name, gramians)


def combined(jacobian: Tensor, weighting: Weighting) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient that a group moves along.

    Args:
        jacobian: gradients of the objectives `[S, J, P]`.
        weighting: gives their weights.

    Returns:
        the weighted sum `[S, P]`, and to be logged `[S]`: `conflict`, 1 where any two gradients point apart (their
        product is negative), and `weight_share`, the last objective's share of the weights.
    """
    jacobian = jacobian.float()
    gramians = torch.bmm(jacobian, jacobian.transpose(1, 2))
    weights = weighting(gramians)
    gradient = torch.bmm(weights.unsqueeze(1), jacobian).squeeze(1)
    return gradient, {
        "conflict": (gramians < 0).flatten(1).any(1).float(),
        "weight_share": weights[:, -1] / weights.abs().sum(1).clamp_min(_TINY),
    }


def equal_norms(gramians: Tensor) -> Tensor:
    """Weights `[S, J]` that scale each gradient to the length of the first."""
    lengths = gramians.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    return lengths[:, :1] / lengths.clamp_min(_TINY)


def _by_torchjd(name: str, gramians: Tensor) -> Tensor:
    """torchjd's weights, seed by seed on the processor: its solvers take one Gramian."""
    solve = _solver(name, gramians.shape[1])
    on_host = gramians.detach().double().cpu()
    # A seed whose numbers are broken ends at this update anyway; a solver would refuse them, for all seeds.
    rows = [solve(one) if torch.isfinite(one).all() else torch.ones(len(one)).double() for one in on_host]
    return torch.stack(rows).to(gramians)


@cache
def _solver(name: str, objectives: int) -> Any:
    from torchjd import aggregation

    preference = torch.ones(objectives, dtype=torch.float64)
    return {
        "upgrad": lambda: aggregation.UPGradWeighting(preference),
        "dualproj": lambda: aggregation.DualProjWeighting(preference),
        "aligned_mtl": lambda: aggregation.AlignedMTLWeighting(preference),
        "mgda": aggregation.MGDAWeighting,
        "pcgrad": aggregation.PCGradWeighting,
        "imtl_g": aggregation.IMTLGWeighting,
    }[name]()
