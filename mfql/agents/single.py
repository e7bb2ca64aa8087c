"""Networks of one seed with weights that stay, on the few rows of one observation.

They give what the networks of `mfql.agents.networks` give, within rounding. One observation with K candidates is K
rows: a product of those takes as long as reading its weights, and what stands between products counts as much. So
products have two axes, whose weights a BLAS reads as they lie, without packing them, and which an exported file's
runtime packs once, as it does not those of three axes; and what depends on weights and times alone is computed once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mfql.agents.networks import BLOCK_SCALE, Critic, ResidualPolicy
from mfql.agents.parameters import Views


class _Modulated(NamedTuple):
    """A norm, what modulates it and the layer behind it.

    Args:
        gain: of the normed features `[H]`; bias: of the layer, with what the shift adds to it; kernel: its own.
    """

    gain: Tensor
    bias: Tensor
    kernel: Tensor


class _Block(NamedTuple):
    """A block of the policy at one time."""

    attention: _Modulated
    attention_gate: Tensor
    mlp_in: _Modulated
    mlp_out_bias: Tensor
    mlp_out: Tensor
    mlp_gate: Tensor


class SinglePolicy:
    """A one-step policy of one seed.

    Args:
        policy: the network.
        views: its prepared parameters, each `[1, ...]`.
    """

    def __init__(self, policy: ResidualPolicy, views: Views) -> None:
        self._features = policy.hidden
        weights = {name: view[0] for name, view in views.items()}
        embed = weights["embed.kernel"]
        self._of_observations, self._of_actions = embed[: policy.observation_dim], embed[policy.observation_dim :]
        self._bias = weights["embed.bias"] + weights["position"]
        self._epsilon = torch.tensor(policy.norm_epsilon * policy.hidden).to(embed)
        # An entry a step of generation: their times differ, their weights do not.
        self._blocks: list[list[_Block]] = []
        self._outputs: list[_Modulated] = []
        for modulations in weights["generation"]:
            parts = modulations.split(policy.hidden)
            self._blocks.append(
                [self._block(weights, f"block{block}", *parts[6 * block :][:6]) for block in range(policy.blocks)]
            )
            self._outputs.append(self._modulated(weights, "final_norm", "output", *parts[-2:]))

    def _modulated(self, weights: Views, norm: str, layer: str, shift: Tensor, scale: Tensor) -> _Modulated:
        kernel = weights[f"{layer}.kernel"]
        bias = torch.addmv(weights[f"{layer}.bias"], kernel.t(), shift)
        # The norm's root of H, and another since `_layer` divides by the root of a sum, not of a mean.
        return _Modulated(self._features * weights[norm] * (1.0 + scale), bias, kernel)

    def _block(
        self,
        weights: Views,
        name: str,
        attention_shift: Tensor,
        attention_scale: Tensor,
        attention_gate: Tensor,
        mlp_shift: Tensor,
        mlp_scale: Tensor,
        mlp_gate: Tensor,
    ) -> _Block:
        return _Block(
            self._modulated(weights, f"{name}.attention_norm", f"{name}.attention", attention_shift, attention_scale),
            attention_gate,
            self._modulated(weights, f"{name}.mlp_norm", f"{name}.mlp_in", mlp_shift, mlp_scale),
            weights[f"{name}.mlp_out.bias"],
            weights[f"{name}.mlp_out.kernel"],
            mlp_gate,
        )

    def seen(self, observations: Tensor) -> Tensor:
        """What the first layer makes of observations `[N, D] -> [N, H]`, the same at every step."""
        return torch.addmm(self._bias, observations, self._of_observations)

    def __call__(self, step: int, seen: Tensor, actions: Tensor) -> Tensor:
        """The network's output `[N, A]` at a step of generation, for the actions a_t `[N, A]`."""
        x = torch.addmm(seen, actions, self._of_actions)
        for block in self._blocks[step]:
            y = torch.addcmul(x, self._layer(x, block.attention), block.attention_gate)
            wide = _gelu(self._layer(y, block.mlp_in))
            y = torch.addcmul(y, torch.addmm(block.mlp_out_bias, wide, block.mlp_out), block.mlp_gate)
            x = torch.lerp(x, y, BLOCK_SCALE)
        return self._layer(x, self._outputs[step])

    def _layer(self, x: Tensor, modulated: _Modulated) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        x = x * torch.rsqrt(torch.addcmul(self._epsilon, norm, norm)) * modulated.gain
        return torch.addmm(modulated.bias, x, modulated.kernel)


class SingleCritic:
    """An ensemble of critics of one seed.

    Args:
        critic: the networks.
        views: their parameters, each `[1, E, ...]`.
    """

    def __init__(self, critic: Critic, views: Views) -> None:
        names = ("bias", "kernel", "norm_gain", "norm_bias")
        self._members = [
            [
                [views[f"layer{layer}.{name}"][0, member] for name in names if f"layer{layer}.{name}" in views]
                for layer in range(critic.depth + 1)
            ]
            for member in range(critic.ensemble)
        ]

    def __call__(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Values: observations `[N, D]`, actions `[N, A]` -> `[E, N]`."""
        x = torch.cat([observations, actions], dim=-1)
        return torch.stack([self._values(layers, x) for layers in self._members])

    def _values(self, layers: list[list[Tensor]], x: Tensor) -> Tensor:
        """Values of one member `[N]`."""
        for bias, kernel, gain, shift in layers[:-1]:
            x = functional.layer_norm(_gelu(torch.addmm(bias, x, kernel)), gain.shape, gain, shift, eps=1e-6)
        bias, kernel = layers[-1]
        return torch.addmm(bias, x, kernel).squeeze(-1)


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def repeated(rows: Tensor, candidates: int) -> Tensor:
    """Each row `[B, F]` K times in a row, `[B K, F]`."""
    return rows.unsqueeze(1).expand(-1, candidates, -1).flatten(0, 1)


def best_of(actions: Tensor, values: Tensor) -> Tensor:
    """Of candidates `[..., K, A]` those of the highest values `[..., K]`: `[..., A]`."""
    index = values.argmax(-1)[..., None, None]
    # Not `take_along_dim`, which asks for sizes that a traced graph leaves open.
    return actions.gather(-2, index.expand(*index.shape[:-1], actions.shape[-1])).squeeze(-2)
