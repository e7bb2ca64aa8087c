"""Networks as functions of named parameters, batched over seeds.

Every array has the leading seed axis: parameters `[S, ...]`, inputs `[S, B, features]`. A layer is one batched matrix
product, so that S small networks cost little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mfql.agents.parameters import Initialiser, Layout, Parameter, Views, constant, normal, variance_scaling

_TIME_FREQUENCIES = 128
_TIME_PERIOD = 10_000.0
# Share of a block's change that is kept: x <- x_in + 0.1 (block(x_in) - x_in).
BLOCK_SCALE = 0.1


@dataclass(frozen=True)
class Dual:
    """A value and, where one is asked for, its derivative along a path.

    Layers below carry both in closed form. The derivative never carries a gradient: the flow loss holds its target
    fixed. Against forward-mode differentiation this computes the value once, and the derivative with about as
    many operations as the value.
    """

    value: Tensor
    tangent: Tensor | None = None

    def map(self, value: Callable[[Tensor], Tensor], tangent: Callable[[Tensor, Tensor], Tensor]) -> Dual:
        """Apply `value` to the value, and `tangent(value, tangent)` to the derivative where there is one."""
        if self.tangent is None:
            return Dual(value(self.value))
        with torch.no_grad():
            moved = tangent(self.value, self.tangent)
        return Dual(value(self.value), moved)


def linear(parameters: Views, name: str, inputs: Dual) -> Dual:
    """`[S, B, in] -> [S, B, out]`, each seed with its own kernel.

    The product is in the kernel's type, the result in the inputs'.
    """
    kernel, bias = parameters[f"{name}.kernel"], parameters[f"{name}.bias"].unsqueeze(1)
    return inputs.map(
        lambda x: torch.baddbmm(bias, x.to(kernel.dtype), kernel).to(x.dtype),
        lambda _, dx: torch.bmm(dx.to(kernel.dtype), kernel).to(dx.dtype),
    )


def dense(name: str, inputs: int, outputs: int, initialise: Initialiser | None = None) -> dict[str, Parameter]:
    """The parameters of `linear` under a name; kernels start from Glorot's uniform distribution unless told."""
    return {
        f"{name}.kernel": Parameter((inputs, outputs), initialise or variance_scaling("fan_avg")),
        f"{name}.bias": Parameter((outputs,), constant(0.0)),
    }


def _rms_norm(inputs: Dual, gain: Tensor, epsilon: float) -> Dual:
    """`x / rms(x) * sqrt(features) * gain` (as the released network scales it), inputs `[S, B, H]`, gain `[S, H]`.

    The epsilon is added to the mean square.
    """
    scale = math.sqrt(inputs.value.shape[-1]) * gain.unsqueeze(1)

    def inverse_rms(x: Tensor) -> Tensor:
        return torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)

    def derivative(x: Tensor, dx: Tensor) -> Tensor:
        inverse = inverse_rms(x)
        return (dx - x * ((x * dx).mean(-1, keepdim=True) * inverse.square())) * inverse * scale

    return inputs.map(lambda x: x * inverse_rms(x) * scale, derivative)


def _gelu(inputs: Dual) -> Dual:
    return inputs.map(
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x, dx: torch.ops.aten.gelu_backward(dx, x, approximate="tanh"),
    )


def _silu(inputs: Dual) -> Dual:
    return inputs.map(functional.silu, lambda x, dx: torch.ops.aten.silu_backward(dx, x))


def _modulate(inputs: Dual, shift: Dual, scale: Dual) -> Dual:
    """`x (1 + scale) + shift`."""
    return _fused(torch.addcmul(inputs.value + shift.value, inputs.value, scale.value), inputs, scale, shift)


def _gated(x: Dual, gate: Dual, change: Dual) -> Dual:
    """`x + gate * change`."""
    return _fused(torch.addcmul(x.value, gate.value, change.value), change, gate, x, keep=False)


def _fused(value: Tensor, factor: Dual, other: Dual, addend: Dual, *, keep: bool = True) -> Dual:
    """A result of the form `factor * other + addend` (`keep`: plus `factor`) with its derivative."""
    if factor.tangent is None or other.tangent is None or addend.tangent is None:
        return Dual(value)
    with torch.no_grad():
        tangent = addend.tangent + factor.tangent if keep else addend.tangent
        tangent = torch.addcmul(torch.addcmul(tangent, factor.tangent, other.value), factor.value, other.tangent)
    return Dual(value, tangent)


def _partway(start: Dual, end: Dual, share: float) -> Dual:
    """`start + share (end - start)`."""
    value = torch.lerp(start.value, end.value, share)
    if start.tangent is None or end.tangent is None:
        return Dual(value)
    with torch.no_grad():
        return Dual(value, torch.lerp(start.tangent, end.tangent, share))


def _split(joined: Dual, size: int) -> list[Dual]:
    """Pieces of the last axis."""
    values = joined.value.split(size, dim=-1)
    tangents = [None] * len(values) if joined.tangent is None else joined.tangent.split(size, dim=-1)
    return [Dual(value, tangent) for value, tangent in zip(values, tangents, strict=True)]


def _time_features(times: Dual) -> Dual:
    """Sinusoidal features of times: `[..., n] -> [..., 256 n]`, of each cosines, then sines; periods up to 10,000."""
    exponents = torch.arange(_TIME_FREQUENCIES, device=times.value.device, dtype=times.value.dtype) / _TIME_FREQUENCIES
    frequencies = torch.exp(-math.log(_TIME_PERIOD) * exponents)
    angles = times.value.unsqueeze(-1) * frequencies
    cosine, sine = angles.cos(), angles.sin()
    features = torch.cat([cosine, sine], dim=-1).flatten(-2)
    if times.tangent is None:
        return Dual(features)
    slopes = torch.cat([-sine * frequencies, cosine * frequencies], dim=-1)
    return Dual(features, (times.tangent.unsqueeze(-1) * slopes).flatten(-2))


class ResidualPolicy:
    """The one-step policy g(s, a_t, t): blocks with adaptive layer norm on a single token (paper, policy network).

    With one token, attention's softmax over one key is 1, so that attention is exactly a value and an output
    projection: the query and key projections and their norms of the published layout never change the output and are
    not computed. The modulations of all blocks depend on the time alone and come from one projection; for a constant
    time pass `times` as `[S, 1, 1]` and they are computed once for the whole batch.

    Args:
        observation_dim, action_dim: sizes D and A.
        hidden: features H.
        blocks: number of blocks.
        zero_init: start with zero modulations and zero output (adaLN-zero); otherwise from normal(0, 0.02).
        initialisation: of the other kernels and the position: `glorot`, those of the time normal(0, 0.02) and so the
            position; or `truncated_normal` (released code), of variance 0.01 / fan-in, the position normal(0, 0.005).
        norm_epsilon: of the norms, added to the mean square.
        sees_start: the network takes the times (b, t) instead of t alone: its output is about the average velocity from
            b to t. Times below are then `[..., 2]` instead of `[..., 1]`.
        generation_steps: n; an action is made along the times 1, 1 - 1/n, ..., 0.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden: int,
        blocks: int,
        *,
        zero_init: bool = True,
        initialisation: str = "glorot",
        norm_epsilon: float = 1e-16,
        sees_start: bool = False,
        generation_steps: int = 1,
    ) -> None:
        self.observation_dim = observation_dim
        self.hidden, self.blocks, self.generation_steps = hidden, blocks, generation_steps
        self.norm_epsilon = norm_epsilon
        ends = [1.0 - step / generation_steps for step in range(generation_steps)]
        # The times that the network is given at each step: b, if it takes it, and t.
        self._generation_times = [
            [*([1.0 - (step + 1) / generation_steps] if sees_start else []), end] for step, end in enumerate(ends)
        ]
        time_features = 2 * _TIME_FREQUENCIES * len(self._generation_times[0])
        last = constant(0.0) if zero_init else normal(0.02)
        kernel, of_time, position = variance_scaling("fan_avg"), normal(0.02), normal(0.02)
        if initialisation == "truncated_normal":
            kernel = of_time = variance_scaling("fan_in", 0.01, "truncated_normal")
            position = normal(0.005)
        parameters = {
            **dense("embed", observation_dim + action_dim, hidden, kernel),
            "position": Parameter((hidden,), position),
            **dense("time_in", time_features, hidden, of_time),
            **dense("time_out", hidden, hidden, of_time),
            **dense("modulation", hidden, (6 * blocks + 2) * hidden, last),
        }
        for block in range(blocks):
            parameters |= {
                f"block{block}.attention_norm": Parameter((hidden,), constant(1.0)),
                **dense(f"block{block}.value", hidden, hidden, kernel),
                **dense(f"block{block}.attention_out", hidden, hidden, kernel),
                f"block{block}.mlp_norm": Parameter((hidden,), constant(1.0)),
                **dense(f"block{block}.mlp_in", hidden, 4 * hidden, kernel),
                **dense(f"block{block}.mlp_out", 4 * hidden, hidden, kernel),
            }
        parameters |= {"final_norm": Parameter((hidden,), constant(1.0)), **dense("output", hidden, action_dim, last)}
        self.layout = Layout(parameters)

    def prepared(self, parameters: Views) -> dict[str, Tensor]:
        """The parameters with what all rows share computed once: for an update, or for acting with fixed weights.

        Attention's value and output projection, between which nothing lies, become one; the modulations at the times of
        generation are added as `generation`.
        """
        views = dict(parameters)
        for block in (f"block{number}" for number in range(self.blocks)):
            value, out = views.pop(f"{block}.value.kernel"), views.pop(f"{block}.attention_out.kernel")
            bias = views.pop(f"{block}.value.bias").unsqueeze(1)
            views[f"{block}.attention.kernel"] = torch.bmm(value, out)
            bias = torch.baddbmm(views.pop(f"{block}.attention_out.bias").unsqueeze(1), bias, out)
            views[f"{block}.attention.bias"] = bias.squeeze(1)
        views["generation"] = self.generation_modulations(parameters)
        return views

    def generation_modulations(self, parameters: Views) -> Tensor:
        """Modulations at the n times of generation `[S, n, (6 blocks + 2) H]`; `prepared` parameters have them."""
        if "generation" in parameters:
            return parameters["generation"]
        position = parameters["position"]
        dtype = torch.promote_types(position.dtype, torch.float32)
        rows = [
            torch.stack([position.new_full((len(position),), time, dtype=dtype) for time in step], dim=-1)
            for step in self._generation_times
        ]
        return self.modulations(parameters, Dual(torch.stack(rows, dim=1))).value

    def __call__(self, parameters: Views, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """g(s, a_t, t): observations `[S, B, D]`, actions `[S, B, A]`, times `[S, B or 1, 1 or 2]` -> `[S, B, A]`."""
        modulations = self.modulations(parameters, Dual(times))
        return self.along(parameters, observations, Dual(actions), modulations).value

    def along(self, parameters: Views, observations: Tensor, actions: Dual, modulations: Dual) -> Dual:
        """g(s, a_t, t) and its derivative along a path in (a_t, t) with the observations held fixed.

        Args:
            observations: `[S, B, D]`.
            actions: a_t and its derivative `[S, B, A]`.
            modulations: of the times, see `modulations`.
        """
        inputs = Dual(
            torch.cat([observations, actions.value], dim=-1),
            None if actions.tangent is None else torch.cat([torch.zeros_like(observations), actions.tangent], dim=-1),
        )
        position = parameters["position"].unsqueeze(1)
        x = linear(parameters, "embed", inputs).map(lambda value: value + position, lambda _, tangent: tangent)
        parts = _split(modulations, self.hidden)
        for block in range(self.blocks):
            changed = self._block(parameters, f"block{block}", x, parts[6 * block : 6 * block + 6])
            x = _partway(x, changed, BLOCK_SCALE)
        shift, scale = parts[-2:]
        return linear(parameters, "output", _modulate(self._norm(parameters, "final_norm", x), shift, scale))

    def modulations(self, parameters: Views, times: Dual) -> Dual:
        """Shifts, scales, gates of all blocks and the output: `[S, B, 1 or 2]` to `[S, B, (6 blocks + 2) H]`."""
        embedding = linear(parameters, "time_out", _silu(linear(parameters, "time_in", _time_features(times))))
        return linear(parameters, "modulation", _silu(embedding))

    def grid_modulations(
        self, parameters: Views, indices: Tensor, size: int, dtype: torch.dtype, *, derivative: bool = True
    ) -> Dual:
        """Modulations at the times (i + 1) / size for indices `[S, B]`, of a type; if asked, their derivative in time.

        They are computed for the grid once and taken from it by a one-hot product, whose gradient is deterministic on
        every device.
        """
        grid = torch.arange(1, size + 1, device=indices.device, dtype=dtype).div(size).view(1, size, 1)
        grid = grid.expand(len(indices), size, 1)
        taken = functional.one_hot(indices, size).to(dtype)
        return self.modulations(parameters, Dual(grid, torch.ones_like(grid) if derivative else None)).map(
            lambda value: torch.bmm(taken, value), lambda _, tangent: torch.bmm(taken, tangent)
        )

    def _norm(self, parameters: Views, name: str, x: Dual) -> Dual:
        return _rms_norm(x, parameters[name], self.norm_epsilon)

    def _block(self, parameters: Views, name: str, x: Dual, modulations: list[Dual]) -> Dual:
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulations
        y = _modulate(self._norm(parameters, f"{name}.attention_norm", x), shift_attention, scale_attention)
        if f"{name}.attention.kernel" in parameters:
            y = linear(parameters, f"{name}.attention", y)
        else:
            y = linear(parameters, f"{name}.attention_out", linear(parameters, f"{name}.value", y))
        x = _gated(x, gate_attention, y)
        y = _modulate(self._norm(parameters, f"{name}.mlp_norm", x), shift_mlp, scale_mlp)
        y = linear(parameters, f"{name}.mlp_out", _gelu(linear(parameters, f"{name}.mlp_in", y)))
        return _gated(x, gate_mlp, y)


class Critic:
    """An ensemble of E value networks Q(s, a): per layer Linear, tanh-GELU, LayerNorm (eps 1e-6), then a linear output.

    Args:
        observation_dim, action_dim: sizes D and A; with A = 0 they are V(s).
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

    def __call__(self, parameters: Views, observations: Tensor, actions: Tensor | None = None) -> Tensor:
        """Values: observations `[S, B, D]`, actions `[S, B, A]` (of V none) -> `[S, E, B]`."""
        x = observations if actions is None else torch.cat([observations, actions], dim=-1)
        seeds = len(x)
        # Seeds and members are one batch axis of the products.
        x = x.unsqueeze(1).expand(-1, self.ensemble, -1, -1).flatten(0, 1)
        joined = {name: view.flatten(0, 1) for name, view in parameters.items()}
        for layer in range(self.depth + 1):
            x = linear(joined, f"layer{layer}", Dual(x)).value
            if layer < self.depth:
                x = functional.layer_norm(functional.gelu(x, approximate="tanh"), x.shape[-1:], eps=1e-6)
                gain, bias = joined[f"layer{layer}.norm_gain"], joined[f"layer{layer}.norm_bias"]
                x = torch.addcmul(bias.unsqueeze(1).to(x.dtype), x, gain.unsqueeze(1).to(x.dtype))
        return x.squeeze(-1).unflatten(0, (seeds, self.ensemble))
