"""The image encoder of pixel tasks: the small form of IMPALA's convolutional network (Espeholt et al. 2018).

Images of S seeds go through one grouped convolution: seeds are groups of channels, one seed is the case 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mfql.agents.networks import Dual, linear
from mfql.agents.parameters import Parameter, Views, constant, variance_scaling

_PIXEL_RANGE = 255.0


class ImpalaEncoder:
    """Stacked frames to features.

    Each stage is a convolution 3x3, max pooling 3x3 with stride 2 that halves height and width, and one residual block
    of two convolutions, each after a ReLU; then a ReLU and one dense layer with tanh-GELU. Edges are padded as flax's
    `SAME` pads them: pooling an even size adds a row and a column at the far end alone.

    Args:
        image_shape: height, width, channels (of all stacked frames together).
        channels: of each stage.
        features: of the dense layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], channels: tuple[int, ...], features: int) -> None:
        height, width, inputs = image_shape
        shrink = 2 ** len(channels)
        if height % shrink or width % shrink:
            raise ValueError(f"images of {height} x {width}; {len(channels)} stages need multiples of {shrink}")
        self.stages, self.features = len(channels), features
        self.parameters: dict[str, Parameter] = {}
        for stage, outputs in enumerate(channels):
            self.parameters |= _convolution(f"encoder.stage{stage}.conv", inputs, outputs)
            self.parameters |= _convolution(f"encoder.stage{stage}.residual0", outputs, outputs)
            self.parameters |= _convolution(f"encoder.stage{stage}.residual1", outputs, outputs)
            inputs = outputs
        flat = height * width // shrink**2 * inputs
        self.parameters |= {
            "encoder.dense.kernel": Parameter((flat, features), variance_scaling("fan_avg")),
            "encoder.dense.bias": Parameter((features,), constant(0.0)),
        }

    def __call__(self, parameters: Views, images: Tensor) -> Tensor:
        """Images `[S, B, H, W, C]`, 0 to 255, to features `[S, B, features]`."""
        seeds, batch, height, width, channels = images.shape
        x = images.permute(1, 0, 4, 2, 3).reshape(batch, seeds * channels, height, width)
        x = x.to(parameters["encoder.dense.kernel"].dtype) / _PIXEL_RANGE
        for stage in range(self.stages):
            x = functional.max_pool2d(_convolve(parameters, f"encoder.stage{stage}.conv", x), 3, 2, ceil_mode=True)
            change = _convolve(parameters, f"encoder.stage{stage}.residual0", functional.relu(x))
            x = x + _convolve(parameters, f"encoder.stage{stage}.residual1", functional.relu(change))
        x = functional.relu(x).unflatten(1, (seeds, -1))
        # Rows, columns, channels: the order in which the published layout flattens.
        flat = x.permute(1, 0, 3, 4, 2).flatten(2)
        features = linear(parameters, "encoder.dense", Dual(flat)).value
        # Single precision at least, whatever the kernels' type.
        return functional.gelu(features.to(torch.promote_types(features.dtype, torch.float32)), approximate="tanh")


def _convolution(name: str, inputs: int, outputs: int) -> dict[str, Parameter]:
    return {
        f"{name}.kernel": Parameter((outputs, inputs, 3, 3), _glorot_uniform),
        f"{name}.bias": Parameter((outputs,), constant(0.0)),
    }


def _glorot_uniform(array: Tensor, generator: torch.Generator) -> None:
    """Glorot's uniform initialisation of a convolution's kernel `[out, in, 3, 3]`."""
    outputs, inputs, height, width = array.shape
    bound = math.sqrt(6.0 / ((inputs + outputs) * height * width))
    array.uniform_(-bound, bound, generator=generator)


def _convolve(parameters: Views, name: str, x: Tensor) -> Tensor:
    """3x3 convolution of `[B, S * in, H, W]`, each seed with its own kernel, to `[B, S * out, H, W]`."""
    kernel, bias = parameters[f"{name}.kernel"], parameters[f"{name}.bias"]
    return functional.conv2d(x, kernel.flatten(0, 1), bias.flatten(), padding=1, groups=len(kernel))
