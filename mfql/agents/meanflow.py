"""MeanFlow policies: the flow loss and the actions that MFQL and its behaviour cloning share.

With a_t = (1 - t) a + t e, e ~ N(0, sigma^2 I) and v = e - a, let u be the average velocity from b to t. The MeanFlow
identity is u = v - (t - b) du/dt, with the derivative along (v, 1) in (a_t, t). A network predicts u or, with u, the
end of a path that starts somewhere; with the paper's residual g = a_t - u and b = 0 the identity reads

    g = a_t + (t - 1) v - t dg/dt

and g(s, e, 1) is an action in one step. `FlowSettings.formulation` names the others; docs/method.md derives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Draw, Draws, mean_over_actions
from mfql.agents.networks import Dual, ResidualPolicy
from mfql.agents.parameters import Views
from mfql.agents.single import SinglePolicy, repeated
from mfql.settings import Conditions, Settings, require, require_effect

# A time is drawn from the grid {1/T, ..., 1} up to this T, and from the whole interval above it (released code's rule).
_LARGEST_GRID = 1000
_TARGET_BOUND = 5.0
# More blocks, or steps from noise to an action, than that are built or taken one by one without an end.
_MOST_BLOCKS = _MOST_GENERATION_STEPS = 1000
# The largest number that a uniform draw gives in float32.
_BELOW_ONE = 1.0 - 2.0**-24
_COUNTS_WHERE: Conditions = {
    "logit_mean": ("time_distribution", ("logit_normal",)),
    "logit_std": ("time_distribution", ("logit_normal",)),
    "one_probability": ("time_distribution", ("one_weighted",)),
    "adaptive_rate": ("time_distribution", ("adaptive",)),
    "adaptive_floor": ("time_distribution", ("adaptive",)),
    "difference_step": ("derivative", ("difference",)),
    "derivative_interval": ("derivative", ("exact", "forward", "difference")),
}


@dataclass(frozen=True, kw_only=True)
class FlowSettings(Settings):
    """Settings of the flow policy and its loss. The defaults are the paper's.

    Args:
        formulation: what the network predicts of the average velocity u: `residual` a_t - u (the paper's g); `velocity`
            u itself, an action being e - u (plain MeanFlow); `naive` e - u; `naive_noise` e - u from the input e, which
            does not move with t.
        sample_b: u is the average from a b ~ U(0, t), which the network sees, instead of from 0.
        generation_steps: n; an action is made in n steps of 1/n. More than one needs `sample_b` or, for plain flow
            matching, `derivative: none`.
        time_steps: T, the times of the grid {1/T, ..., 1}.
        time_distribution: of t: `grid`, uniform on the grid, for T > 1000 on (0, 1); `uniform` on (0, 1);
            `logit_normal`, the sigmoid of a normal number; `one_weighted`, t = 1 with probability `one_probability` and
            otherwise as `grid`; `adaptive`, on the grid in proportion to the recent error at each time.
        logit_mean, logit_std: of `logit_normal`, before the sigmoid.
        one_probability: of `one_weighted`.
        adaptive_rate: share by which a batch's mean error at a time moves the remembered one.
        adaptive_floor: share of the draws of `adaptive` that is uniform all the same.
        derivative: how the derivative along the path is found: `exact`, in closed form; `forward`, by forward-mode
            differentiation, the same number; `difference`, by a central finite difference; `none` takes u = v, which is
            flow matching, the velocity at t instead of its average.
        difference_step: of t, on either side.
        derivative_interval: n; one row in n of a batch has the derivative, so that it costs what it would at every
            n-th update. The other rows have b = t, where its factor is zero; with b fixed, u = v as in `none`.
        policy_hidden: features of the policy network; policy_blocks: its blocks.
        zero_init: start the policy's modulations and output at zero.
        policy_init: of its other weights: `glorot`, or `truncated_normal`, as in the released code: of variance
            0.01 / fan-in.
        norm_epsilon: of the policy's norms, added to the mean square; 1e-6 in the released code.
        noise_type: of e: `normal`, or `uniform` of the same standard deviation.
        noise_std: sigma of the noise e.
        loss_gamma, loss_constant: weights of the adaptive loss, w = 1 / (d + constant)^(1 - gamma).
        policy_learning_rate: after warm-up; policy_learning_rate_end: at the end of the offline part, and online.
        warmup_share: share of the offline steps in which the policy's rate rises linearly from 0.
        schedule: `cosine` from the peak to the end, or `constant` at the peak, offline and online.
        max_grad_norm: of the policy and of the critic, each alone.
    """

    formulation: Literal["residual", "velocity", "naive", "naive_noise"] = "residual"
    sample_b: bool = False
    generation_steps: int = 1
    time_steps: int = 50
    time_distribution: Literal["grid", "uniform", "logit_normal", "one_weighted", "adaptive"] = "grid"
    logit_mean: float = -0.4
    logit_std: float = 1.0
    one_probability: float = 0.25
    adaptive_rate: float = 0.05
    adaptive_floor: float = 0.2
    derivative: Literal["exact", "forward", "difference", "none"] = "exact"
    difference_step: float = 0.005
    derivative_interval: int = 1
    policy_hidden: int = 256
    policy_blocks: int = 3
    zero_init: bool = True
    policy_init: Literal["glorot", "truncated_normal"] = "glorot"
    norm_epsilon: float = 1e-16
    noise_type: Literal["normal", "uniform"] = "normal"
    noise_std: float = 1.0
    loss_gamma: float = 0.8
    loss_constant: float = 1e-4
    policy_learning_rate: float = 1e-4
    policy_learning_rate_end: float = 1e-5
    warmup_share: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    max_grad_norm: float = 1.0

    @override
    def check(self) -> None:
        super().check()
        for key, most in (("policy_blocks", _MOST_BLOCKS), ("generation_steps", _MOST_GENERATION_STEPS)):
            require(key, getattr(self, key), getattr(self, key) <= most, f"at most {most:,}")
        for key in ("time_steps", "policy_hidden", "policy_blocks", "generation_steps", "derivative_interval"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        for key in (
            "noise_std", "loss_constant", "policy_learning_rate", "policy_learning_rate_end", "max_grad_norm",
            "logit_std", "difference_step", "adaptive_rate", "adaptive_floor", "norm_epsilon",
        ):  # fmt: skip
            require(key, getattr(self, key), getattr(self, key) > 0, "above zero")
        for key in ("warmup_share", "loss_gamma", "adaptive_rate", "adaptive_floor"):
            require(key, getattr(self, key), 0 <= getattr(self, key) <= 1, "in [0, 1]")
        require("one_probability", self.one_probability, 0 < self.one_probability < 1, "in (0, 1)")
        self._check_together()
        require_effect(self, _COUNTS_WHERE)

    def _check_together(self) -> None:
        plain = self.derivative == "none"
        require(
            "generation_steps",
            self.generation_steps,
            self.generation_steps == 1 or self.sample_b or plain,
            "1 unless sample_b is true or derivative is none: the network knows the average velocity from 0 alone",
        )
        require("sample_b", self.sample_b, not (self.sample_b and plain), "false where derivative is none")
        # A difference of two values that agree in all but their last digits needs those digits.
        require(
            "precision",
            self.precision,
            self.precision == "float32" or self.derivative != "difference",
            "float32 where derivative is difference",
        )
        adaptive = self.time_distribution == "adaptive"
        require(
            "time_steps",
            self.time_steps,
            self.time_steps <= _LARGEST_GRID or not adaptive,
            f"at most {_LARGEST_GRID} where time_distribution is adaptive",
        )


def noise_draw(settings: FlowSettings, *shape: int) -> Draw:
    """The random array that `scaled_noise` makes e of."""
    return Draw(settings.noise_type, shape)


def scaled_noise(settings: FlowSettings, drawn: Tensor) -> Tensor:
    """The noise e, of standard deviation `noise_std`, from what was drawn."""
    if settings.noise_type == "normal":
        return settings.noise_std * drawn
    return (settings.noise_std * math.sqrt(12.0)) * (drawn - 0.5)


def flow_draws(settings: FlowSettings, action_dim: int) -> dict[str, Draw]:
    """The random arrays of the flow loss: noise before scaling, and uniform numbers for t and, if drawn, b."""
    shape = (settings.batch_size, 1)
    start = {"start": Draw("uniform", shape)} if settings.sample_b else {}
    return {"noise_bc": noise_draw(settings, settings.batch_size, action_dim), "time": Draw("uniform", shape), **start}


def flow_state(settings: FlowSettings, seeds: int) -> dict[str, Tensor]:
    """What the flow loss carries from one update to the next: of `adaptive`, the error at each time `[S, T]`."""
    return {"time_errors": torch.ones(seeds, settings.time_steps)} if settings.time_distribution == "adaptive" else {}


def policy_rate(settings: FlowSettings, step: Tensor) -> Tensor:
    """The policy's learning rate at a step: linear warm-up, cosine to the end of the offline part, constant."""
    warmup = settings.warmup_share * settings.offline_steps
    start = 1.0 if warmup == 0 else 0.0  # Without a warm-up the first update has the full rate.
    rise = (step / max(warmup, 1.0)).clamp(start, 1.0)
    if settings.schedule == "constant":
        return settings.policy_learning_rate * rise
    progress = ((step - warmup) / max(settings.offline_steps - warmup, 1.0)).clamp(0.0, 1.0)
    drop = settings.policy_learning_rate - settings.policy_learning_rate_end
    cosine = settings.policy_learning_rate_end + drop * 0.5 * (1.0 + torch.cos(torch.pi * progress))
    return torch.where(step < warmup, settings.policy_learning_rate * rise, cosine)


class FlowPolicy(ResidualPolicy):
    """A policy network, and what its output stands for.

    Args:
        settings: of the flow.
        observation_dim, action_dim: sizes D and A.
    """

    def __init__(self, settings: FlowSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__(
            observation_dim,
            action_dim,
            settings.policy_hidden,
            settings.policy_blocks,
            zero_init=settings.zero_init,
            initialisation=settings.policy_init,
            norm_epsilon=settings.norm_epsilon,
            sees_start=settings.sample_b,
            generation_steps=settings.generation_steps,
        )
        self.formulation = settings.formulation


@dataclass(frozen=True)
class FlowTerms:
    """The flow loss and what it is made of.

    Args:
        loss: weighted loss of each seed `[S]`.
        error: unweighted mean squared error `[S]`.
        prediction, tangent, target: the network's output, its derivative along the path (zero where none is taken) and
            the clipped target `[S, B, A]`.
        state: that of `flow_state` after this update.
    """

    loss: Tensor
    error: Tensor
    prediction: Tensor
    tangent: Tensor
    target: Tensor
    state: dict[str, Tensor]


@dataclass(frozen=True)
class _Points:
    """Where the network is asked, and along which path.

    Args:
        observations: `[S, B, D]`.
        inputs: a_t or, for a network whose input does not move, e `[S, B, A]`; direction: its derivative in t.
        end: t `[S, B, 1]`; start: b, where the network sees it; indices: of t on the grid `[S, B]`, where it is on it.
        spans: t - b `[S, B, 1]`, the derivative's factor in the target.
    """

    observations: Tensor
    inputs: Tensor
    direction: Tensor
    end: Tensor
    start: Tensor | None
    indices: Tensor | None
    spans: Tensor

    def rows(self, first: int, last: int) -> _Points:
        """Some of the rows."""
        some = {name: value[:, first:last] for name, value in vars(self).items() if value is not None}
        return replace(self, **some)

    @property
    def times(self) -> Tensor:
        """What the network is given as time `[S, B, 1 or 2]`."""
        return self.end if self.start is None else torch.cat([self.start, self.end], dim=-1)

    @property
    def time_direction(self) -> Tensor:
        """The derivative of `times` in t: b stays."""
        moving = torch.ones_like(self.end)
        return moving if self.start is None else torch.cat([torch.zeros_like(moving), moving], dim=-1)


def flow_terms(
    policy: FlowPolicy,
    parameters: Views,
    observations: Tensor,
    actions: Tensor,
    draws: Draws,
    settings: FlowSettings,
    state: Mapping[str, Tensor] | None = None,
    kept: Tensor | None = None,
) -> FlowTerms:
    """The MeanFlow loss (paper, flow loss; per row w d with d the mean over action dims of (g - target)^2).

    Args:
        observations: `[S, B, D]`, encoded.
        actions: the data's `[S, B, A]`.
        draws: those of `flow_draws`, each with the leading seed axis.
        state: with the entries of `flow_state`, where it has any.
        kept: of chunks, the actions that count `[S, B, h]`; d is the mean over their dims.
    """
    noise = scaled_noise(settings, draws["noise_bc"])
    times, indices = _times(draws["time"], settings, state)
    interpolated = torch.lerp(actions, noise, times)
    velocity = noise - actions
    points = _Points(observations, interpolated, velocity, times, None, indices, times)
    if settings.formulation == "naive_noise":
        points = replace(points, inputs=noise, direction=torch.zeros_like(velocity))
    if settings.sample_b:
        points = replace(points, start=times * draws["start"], spans=times * (1.0 - draws["start"]))
    prediction, tangent, spans = _prediction(policy, parameters, points, settings)
    # The target is an anchor less v - (t - b) du/dt, where u is the anchor less the network's output.
    if settings.formulation == "residual":
        target = interpolated + (spans - 1.0) * velocity - spans * tangent
    elif settings.formulation == "velocity":
        target = velocity - spans * tangent
    else:
        target = noise - velocity - spans * tangent
    target = target.clamp(-_TARGET_BOUND, _TARGET_BOUND)
    errors = mean_over_actions((prediction - target).square(), kept)
    weight = (errors.detach() + settings.loss_constant) ** (settings.loss_gamma - 1.0)
    following = {}
    if settings.time_distribution == "adaptive":
        assert state is not None  # The times needed it.
        assert indices is not None  # They are the grid's.
        following["time_errors"] = _followed(state["time_errors"], errors.detach(), indices, settings.adaptive_rate)
    return FlowTerms((weight * errors).mean(-1), errors.mean(-1), prediction, tangent, target, following)


def _times(uniform: Tensor, settings: FlowSettings, state: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor | None]:
    """Times t `[S, B, 1]` from uniform numbers, and their indices on the grid `[S, B]`, None off it."""
    distribution, size = settings.time_distribution, settings.time_steps
    if distribution == "logit_normal":
        return torch.sigmoid(settings.logit_mean + settings.logit_std * torch.special.ndtri(uniform)), None
    if distribution == "adaptive":
        if state is None:
            raise ValueError("times that adapt need the errors of `flow_state`; no state was given")
        floor, errors = settings.adaptive_floor, state["time_errors"]
        chances = floor / size + (1.0 - floor) * errors / errors.sum(1, keepdim=True)
        indices = torch.searchsorted(chances.cumsum(1), uniform.squeeze(-1)).clamp(max=size - 1)
        return ((indices + 1) / size).to(uniform.dtype).unsqueeze(-1), indices
    at_one = None
    if distribution == "one_weighted":
        at_one = uniform < settings.one_probability
        uniform = ((uniform - settings.one_probability) / (1.0 - settings.one_probability)).clamp(0.0, _BELOW_ONE)
    if distribution == "uniform" or size > _LARGEST_GRID:
        return (uniform if at_one is None else torch.where(at_one, 1.0, uniform)), None
    steps = torch.floor(uniform * size)
    if at_one is not None:
        steps = torch.where(at_one, size - 1.0, steps)
    return (steps + 1.0) / size, steps.squeeze(-1).long()


def _followed(remembered: Tensor, errors: Tensor, indices: Tensor, rate: float) -> Tensor:
    """Errors at each time `[S, T]`, moved towards a batch's `[S, B]` at its times; a time that it lacks stays."""
    taken = torch.nn.functional.one_hot(indices, remembered.shape[1]).to(errors.dtype)
    counts = taken.sum(1)
    means = torch.bmm(errors.unsqueeze(1), taken).squeeze(1) / counts.clamp_min(1.0)
    return torch.where(counts > 0, torch.lerp(remembered, means, rate), remembered)


def _prediction(
    policy: FlowPolicy, parameters: Views, points: _Points, settings: FlowSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """The network's output, its derivative without a gradient `[S, B, A]`, and the derivative's factor `[S, B, 1]`."""
    size = points.inputs.shape[1]
    derived = 0 if settings.derivative == "none" else math.ceil(size / settings.derivative_interval)
    if derived == size:
        return *_derived(policy, parameters, points, settings), points.spans
    first, rest = points.rows(0, derived), points.rows(derived, size)
    if rest.start is not None:
        rest = replace(rest, start=rest.end)
    modulations = _modulations(policy, parameters, rest, settings, derivative=False)
    values = [policy.along(parameters, rest.observations, Dual(rest.inputs), modulations).value]
    tangents, spans = [torch.zeros_like(rest.inputs)], [torch.zeros_like(rest.spans)]
    if derived:
        value, tangent = _derived(policy, parameters, first, settings)
        values, tangents, spans = [value, *values], [tangent, *tangents], [first.spans, *spans]
    return torch.cat(values, 1), torch.cat(tangents, 1), torch.cat(spans, 1)


def _derived(policy: FlowPolicy, parameters: Views, points: _Points, settings: FlowSettings) -> tuple[Tensor, Tensor]:
    """The network's output and its derivative along the path `[S, B, A]`."""
    if settings.derivative == "exact":
        modulations = _modulations(policy, parameters, points, settings, derivative=True)
        path = policy.along(parameters, points.observations, Dual(points.inputs, points.direction), modulations)
        assert path.tangent is not None  # The path has one.
        return path.value, path.tangent

    def output(inputs: Tensor, times: Tensor) -> Tensor:
        return policy(parameters, points.observations, inputs, times)

    at, along = (points.inputs, points.times), (points.direction, points.time_direction)
    if settings.derivative == "forward":
        found = torch.func.jvp(output, at, along)
        return found[0], found[1].detach()
    step = settings.difference_step
    with torch.no_grad():
        ahead, behind = (
            output(*(start + side * step * moving for start, moving in zip(at, along, strict=True)))
            for side in (1.0, -1.0)
        )
    return output(*at), (ahead - behind) / (2.0 * step)


def _modulations(
    policy: FlowPolicy, parameters: Views, points: _Points, settings: FlowSettings, *, derivative: bool
) -> Dual:
    """The network's modulations at the points' times; a grid of at most B times has its own computed once."""
    times, size = points.times, settings.time_steps
    if points.start is None and points.indices is not None and size <= times.shape[1]:
        return policy.grid_modulations(parameters, points.indices, size, times.dtype, derivative=derivative)
    return policy.modulations(parameters, Dual(times, points.time_direction if derivative else None))


def raw_actions(policy: FlowPolicy, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
    """Actions, not clipped: observations `[S, B, D]`, noise e `[S, B, A]` -> `[S, B, A]`."""
    modulations = policy.generation_modulations(parameters)

    def output(step: int, inputs: Tensor) -> Tensor:
        return policy.along(parameters, observations, Dual(inputs), Dual(modulations[:, step : step + 1])).value

    return _generated(policy, noise, output)


def _generated(policy: FlowPolicy, noise: Tensor, output: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Actions from noise e of the same shape, by the network's output at a step for its inputs.

    In one step g(s, e, 1), or e - u(s, e, 1) where the network predicts u; in n steps a <- a - u(s, a, b, t) / n.
    """
    point, steps = noise, policy.generation_steps
    for step in range(steps):
        found = output(step, noise if policy.formulation == "naive_noise" else point)
        if policy.formulation == "velocity":
            point = point - found / steps
        elif steps == 1:
            point = found  # Every other formulation's anchor is e, where the path begins.
        elif policy.formulation == "residual":
            point = torch.lerp(point, found, 1.0 / steps)
        else:
            point = point - (noise - found) / steps
    return point


def candidate_actions(policy: FlowPolicy, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
    """K clipped actions for each observation: `[S, B, D]` and noise `[S, B, K, A]` -> `[S, B, K, A]`."""
    candidates = noise.shape[2]
    repeated = observations.unsqueeze(2).expand(-1, -1, candidates, -1).flatten(1, 2)
    return (
        raw_actions(policy, parameters, repeated, noise.flatten(1, 2)).clamp(-1.0, 1.0).unflatten(1, (-1, candidates))
    )


def single_candidates(policy: FlowPolicy, views: Views) -> Callable[[Tensor, Tensor], Tensor]:
    """`candidate_actions` of one seed whose weights stay: `[B, D]` and noise `[B, K, A]` -> `[B K, A]`.

    Args:
        views: the policy's prepared parameters, each `[1, ...]`.
    """
    network = SinglePolicy(policy, views)

    def candidates(observations: Tensor, noise: Tensor) -> Tensor:
        seen = repeated(network.seen(observations), noise.shape[1])
        found = _generated(policy, noise.flatten(0, 1), lambda step, inputs: network(step, seen, inputs))
        return found.clamp(-1.0, 1.0)

    return candidates
