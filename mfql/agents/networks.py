"""Networks as functions of named parameters, batched over seeds.

Every array has the leading seed axis: parameters `[S, ...]`, inputs `[S, B, features]`. A layer is one batched matrix product, so
that S small networks cost little more than one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mfql.agents.parameters import Layout, Parameter, Views, constant, normal, variance_scaling

_TIME_FREQUENCIES = 128
_TIME_PERIOD = 10_000.0
# Share of a block's change that is kept: x <- x_in + 0.1 (block(x_in) - x_in).
_BLOCK_SCALE = 0.1


def linear(parameters: Views, name: str, inputs: Tensor) -> Tensor:
    """`[S, B, in] -> [S, B, out]`, each seed with its own kernel."""
    return torch.baddbmm(parameters[f"{name}.bias"].unsqueeze(1), inputs, parameters[f"{name}.kernel"])


def _dense(name: str, inputs: int, outputs: int, initialise=None) -> dict[str, Parameter]:
    return {
        f"{name}.kernel": Parameter((inputs, outputs), initialise or variance_scaling("fan_avg")),
        f"{name}.bias": Parameter((outputs,), constant(0.0)),
    }


def _rms_norm(inputs: Tensor, gain: Tensor) -> Tensor:
    """`x / rms(x) * sqrt(features) * gain` (as the released network scales it), inputs `[S, B, H]`, gain `[S, H]`."""
    inverse = torch.rsqrt(inputs.square().mean(-1, keepdim=True) + 1e-16)
    return inputs * inverse * (math.sqrt(inputs.shape[-1]) * gain.unsqueeze(1))


def time_features(times: Tensor) -> Tensor:
    """Sinusoidal features of times: `[..., 1] -> [..., 256]`, cosines then sines, with periods up to 10,000."""
    exponents = torch.arange(_TIME_FREQUENCIES, device=times.device, dtype=times.dtype) / _TIME_FREQUENCIES
    angles = times * torch.exp(-math.log(_TIME_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResidualPolicy:
    """The one-step policy g(s, a_t, t): blocks with adaptive layer norm on a single token (reference: paper, policy network).

    With one token, attention's softmax over one key is 1, so that attention is exactly a value and an output projection: the query
    and key projections and their norms of the published layout never change the output and are not computed. The modulations of all
    blocks depend on the time alone and come from one projection; for a constant time pass `times` as `[S, 1, 1]` and they are
    computed once for the whole batch.

    Args:
        observation_dim, action_dim: sizes D and A.
        hidden: features H.
        blocks: number of blocks.
        zero_init: start with zero modulations and zero output (adaLN-zero); otherwise from normal(0, 0.02).
    """

    def __init__(self, observation_dim: int, action_dim: int, hidden: int, blocks: int, *, zero_init: bool = True) -> None:
        self.hidden, self.blocks = hidden, blocks
        last = constant(0.0) if zero_init else normal(0.02)
        parameters = {
            **_dense("embed", observation_dim + action_dim, hidden),
            "position": Parameter((hidden,), normal(0.02)),
            **_dense("time_in", 2 * _TIME_FREQUENCIES, hidden, normal(0.02)),
            **_dense("time_out", hidden, hidden, normal(0.02)),
            **_dense("modulation", hidden, (6 * blocks + 2) * hidden, last),
        }
        for block in range(blocks):
            parameters |= {
                f"block{block}.attention_norm": Parameter((hidden,), constant(1.0)),
                **_dense(f"block{block}.value", hidden, hidden),
                **_dense(f"block{block}.attention_out", hidden, hidden),
                f"block{block}.mlp_norm": Parameter((hidden,), constant(1.0)),
                **_dense(f"block{block}.mlp_in", hidden, 4 * hidden),
                **_dense(f"block{block}.mlp_out", 4 * hidden, hidden),
            }
        parameters |= {"final_norm": Parameter((hidden,), constant(1.0)), **_dense("output", hidden, action_dim, last)}
        self.layout = Layout(parameters)

    def __call__(self, parameters: Views, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """g(s, a_t, t): observations `[S, B, D]`, actions `[S, B, A]`, times `[S, B or 1, 1]` -> `[S, B, A]`."""
        x = linear(parameters, "embed", torch.cat([observations, actions], dim=-1)) + parameters["position"].unsqueeze(1)
        embedding = linear(parameters, "time_out", functional.silu(linear(parameters, "time_in", time_features(times))))
        modulations = linear(parameters, "modulation", functional.silu(embedding)).split(self.hidden, dim=-1)
        for block in range(self.blocks):
            x = torch.lerp(x, self._block(parameters, f"block{block}", x, modulations[6 * block : 6 * block + 6]), _BLOCK_SCALE)
        shift, scale = modulations[-2:]
        return linear(parameters, "output", _modulate(_rms_norm(x, parameters["final_norm"]), shift, scale))

    @staticmethod
    def _block(parameters: Views, name: str, x: Tensor, modulations: tuple[Tensor, ...]) -> Tensor:
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulations
        y = _modulate(_rms_norm(x, parameters[f"{name}.attention_norm"]), shift_attention, scale_attention)
        x = x + gate_attention * linear(parameters, f"{name}.attention_out", linear(parameters, f"{name}.value", y))
        y = _modulate(_rms_norm(x, parameters[f"{name}.mlp_norm"]), shift_mlp, scale_mlp)
        y = functional.gelu(linear(parameters, f"{name}.mlp_in", y), approximate="tanh")
        return x + gate_mlp * linear(parameters, f"{name}.mlp_out", y)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(x + shift, x, scale)


class Critic:
    """An ensemble of E value networks Q(s, a): per layer Linear, tanh-GELU, LayerNorm (eps 1e-6), then a linear output.

    Args:
        observation_dim, action_dim: sizes D and A.
        hidden: features of each hidden layer.
        ensemble: E.
        initialisation: `kaiming` (paper) or `fan_avg` (released code), both uniform.
    """

    def __init__(
        self, observation_dim: int, action_dim: int, hidden: tuple[int, ...], ensemble: int, initialisation: str
    ) -> None:
        self.ensemble, self.depth = ensemble, len(hidden)
        kernel = variance_scaling("fan_in", 2.0) if initialisation == "kaiming" else variance_scaling("fan_avg")
        parameters: dict[str, Parameter] = {}
        inputs = observation_dim + action_dim
        for layer, outputs in enumerate((*hidden, 1)):
            parameters[f"layer{layer}.kernel"] = Parameter((ensemble, inputs, outputs), kernel)
            parameters[f"layer{layer}.bias"] = Parameter((ensemble, outputs), constant(0.0))
            if layer < self.depth:
                parameters[f"layer{layer}.norm_gain"] = Parameter((ensemble, outputs), constant(1.0))
                parameters[f"layer{layer}.norm_bias"] = Parameter((ensemble, outputs), constant(0.0))
            inputs = outputs
        self.layout = Layout(parameters)

    def __call__(self, parameters: Views, observations: Tensor, actions: Tensor) -> Tensor:
        """Values: observations `[S, B, D]`, actions `[S, B, A]` -> `[S, E, B]`."""
        x = torch.cat([observations, actions], dim=-1)
        seeds, batch, features = x.shape
        x = x.unsqueeze(1).expand(seeds, self.ensemble, batch, features)
        for layer in range(self.depth + 1):
            x = torch.matmul(x, parameters[f"layer{layer}.kernel"]) + parameters[f"layer{layer}.bias"].unsqueeze(2)
            if layer < self.depth:
                x = functional.layer_norm(functional.gelu(x, approximate="tanh"), x.shape[-1:], eps=1e-6)
                x = torch.addcmul(
                    parameters[f"layer{layer}.norm_bias"].unsqueeze(2), x, parameters[f"layer{layer}.norm_gain"].unsqueeze(2)
                )
        return x.squeeze(-1)
