"""Parameters of all seeds in one flat tensor, seen through named views.

A group of parameters (a policy, an ensemble of critics) is one tensor `[S, P]`. The optimiser, the gradient's norm,
the target update and the mask of active seeds are then one operation each, whatever the network's depth, and a seed's
state is a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.init import trunc_normal_

# Where a normal distribution is cut, in its standard deviations, and the standard deviation that it is left with.
_CUT = 2.0
_CUT_STD = math.sqrt(
    1.0 - _CUT * math.sqrt(2.0 / math.pi) * math.exp(-(_CUT**2) / 2.0) / math.erf(_CUT / math.sqrt(2.0))
)
# Views start at multiples of 64 bytes, so that vector loads and tensor cores see aligned matrices.
_ALIGNMENT = 16

Views = Mapping[str, Tensor]
Initialiser = Callable[[Tensor, torch.Generator], None]


@dataclass(frozen=True)
class Parameter:
    """The shape of one array, without the seed axis, and how it is filled at the start."""

    shape: tuple[int, ...]
    initialise: Initialiser

    @property
    def size(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)


class Layout:
    """Where each named parameter lies in a group's flat tensor.

    Args:
        parameters: names to shapes and initialisers; the order is the order in memory.
    """

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        self.parameters = parameters

    @cached_property
    def _sections(self) -> list[int]:
        sections: list[int] = []
        for parameter in self.parameters.values():
            sections += [parameter.size, -parameter.size % _ALIGNMENT]
        return sections

    @cached_property
    def width(self) -> int:
        """P, the flat tensor's second size, padding included."""
        return sum(self._sections)

    @cached_property
    def count(self) -> int:
        """Number of parameters of one seed, padding not counted."""
        return sum(parameter.size for parameter in self.parameters.values())

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views `[S, *shape]` of a flat tensor `[S, P]`. Gradients flow back through one concatenation."""
        pieces = flat.split(self._sections, dim=1)[::2]
        return {
            name: piece.unflatten(1, parameter.shape) if parameter.shape else piece[:, 0]
            for (name, parameter), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def initial(self, generators: list[torch.Generator]) -> Tensor:
        """Initial values `[S, P]` on the CPU, each seed from its own generator, so that packing changes nothing."""
        flat = torch.zeros(len(generators), self.width)
        views = self.views(flat)
        for row, generator in enumerate(generators):
            for name, parameter in self.parameters.items():
                parameter.initialise(views[name][row], generator)
        return flat


def constant(value: float) -> Initialiser:
    """Fill with one value."""
    return partial(_fill, value)


def _fill(value: float, array: Tensor, generator: torch.Generator) -> None:
    array.fill_(value)


def normal(std: float) -> Initialiser:
    """Normal with mean 0."""
    return partial(_normal, std)


def _normal(std: float, array: Tensor, generator: torch.Generator) -> None:
    array.normal_(0.0, std, generator=generator)


def variance_scaling(
    mode: str, scale: float = 1.0, distribution: Literal["uniform", "truncated_normal"] = "uniform"
) -> Initialiser:
    """Random with mean 0 and variance `scale / fan`, for kernels `[..., in, out]`.

    Args:
        mode: `fan_in` or `fan_avg`; with scale 1, uniform, `fan_avg` is Glorot's, with scale 2, `fan_in` is Kaiming's
            (He et al. 2015).
        distribution: a normal one is cut at two of its standard deviations, and has that variance when cut.
    """
    return partial(_scaled, mode, scale, distribution)


def _scaled(mode: str, scale: float, distribution: str, array: Tensor, generator: torch.Generator) -> None:
    fan_in, fan_out = array.shape[-2:]
    variance = scale / (fan_in if mode == "fan_in" else (fan_in + fan_out) / 2)
    if distribution == "uniform":
        bound = math.sqrt(3.0 * variance)
        array.uniform_(-bound, bound, generator=generator)
    else:
        std = math.sqrt(variance) / _CUT_STD
        trunc_normal_(array, 0.0, std, -_CUT * std, _CUT * std, generator=generator)
