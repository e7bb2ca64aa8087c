"""One-step MeanFlow in residual form: the flow loss that MFQL and its behaviour cloning share.

With a_t = (1 - t) a + t e, e ~ N(0, sigma^2 I) and v = e - a, the network g predicts a_t - u, where u is the average
velocity from 0 to t. The MeanFlow identity u = v - t du/dt then reads

    g = a_t + (t - 1) v - t dg/dt,        dg/dt along (v, 1) in (a_t, t)

(paper, the reformulation with b = 0), and g(s, e, 1) is an action in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Draw, Draws
from mfql.agents.networks import Dual, ResidualPolicy
from mfql.agents.parameters import Views
from mfql.settings import Settings, require

# A time is drawn from the grid {1/T, ..., 1} up to this T, and from the whole interval above it (released code's rule).
_LARGEST_GRID = 1000
_TARGET_BOUND = 5.0


@dataclass(frozen=True, kw_only=True)
class FlowSettings(Settings):
    """Settings of the residual policy and its flow loss.

    Args:
        time_steps: T; times are uniform on {1/T, ..., 1}, for T > 1000 on (0, 1).
        policy_hidden: features of the policy network; policy_blocks: its blocks.
        zero_init: start the policy's modulations and output at zero.
        noise_std: sigma of the noise e.
        loss_gamma, loss_constant: weights of the adaptive loss, w = 1 / (d + constant)^(1 - gamma).
        policy_learning_rate: after warm-up; policy_learning_rate_end: at the end of the offline part, and online.
        warmup_share: share of the offline steps in which the policy's rate rises linearly from 0.
        schedule: `cosine` from the peak to the end, or `constant` at the peak, offline and online.
        max_grad_norm: of the policy and of the critic, each alone.
    """

    time_steps: int = 50
    policy_hidden: int = 256
    policy_blocks: int = 3
    zero_init: bool = True
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
        for key in ("time_steps", "policy_hidden", "policy_blocks"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        for key in ("noise_std", "loss_constant", "policy_learning_rate", "policy_learning_rate_end", "max_grad_norm"):
            require(key, getattr(self, key), getattr(self, key) > 0, "above zero")
        for key in ("warmup_share", "loss_gamma"):
            require(key, getattr(self, key), 0 <= getattr(self, key) <= 1, "in [0, 1]")

    def flow_draws(self, action_dim: int) -> dict[str, Draw]:
        """The random arrays of the flow loss: noise before scaling and a uniform number for the time."""
        return {
            "noise_bc": Draw("normal", (self.batch_size, action_dim)),
            "time": Draw("uniform", (self.batch_size, 1)),
        }

    def policy_rate(self, step: Tensor) -> Tensor:
        """The policy's learning rate at a step: linear warm-up, cosine to the end of the offline part, constant."""
        warmup = self.warmup_share * self.offline_steps
        rise = (step / max(warmup, 1.0)).clamp(max=1.0)
        if self.schedule == "constant":
            return self.policy_learning_rate * rise
        progress = ((step - warmup) / max(self.offline_steps - warmup, 1.0)).clamp(0.0, 1.0)
        drop = self.policy_learning_rate - self.policy_learning_rate_end
        cosine = self.policy_learning_rate_end + drop * 0.5 * (1.0 + torch.cos(torch.pi * progress))
        return torch.where(step < warmup, self.policy_learning_rate * rise, cosine)


@dataclass(frozen=True)
class FlowTerms:
    """The flow loss and what it is made of.

    Args:
        loss: weighted loss of each seed `[S]`.
        error: unweighted mean squared error `[S]`.
        prediction, tangent, target: g, dg/dt and the clipped target `[S, B, A]`.
    """

    loss: Tensor
    error: Tensor
    prediction: Tensor
    tangent: Tensor
    target: Tensor


def flow_terms(
    policy: ResidualPolicy,
    parameters: Views,
    observations: Tensor,
    actions: Tensor,
    draws: Draws,
    settings: FlowSettings,
) -> FlowTerms:
    """The residual MeanFlow loss (paper, flow loss; per row w d with d the mean over action dims of (g - target)^2).

    Args:
        observations: `[S, B, D]`, encoded.
        actions: the data's `[S, B, A]`.
        draws: `noise_bc`, standard normal `[S, B, A]`, and `time`, uniform on [0, 1) `[S, B, 1]`.
    """
    noise = settings.noise_std * draws["noise_bc"]
    times, modulations = _times(policy, parameters, draws["time"], settings.time_steps)
    interpolated = torch.lerp(actions, noise, times)
    velocity = noise - actions
    path = policy.along(parameters, observations, Dual(interpolated, velocity), modulations)
    prediction, tangent = path.value, path.tangent
    assert tangent is not None  # The path has one.
    target = interpolated + (times - 1.0) * velocity - times * tangent
    target = target.clamp(-_TARGET_BOUND, _TARGET_BOUND)
    error = (prediction - target).square().mean(-1)
    weight = (error.detach() + settings.loss_constant) ** (settings.loss_gamma - 1.0)
    return FlowTerms((weight * error).mean(-1), error.mean(-1), prediction, tangent, target)


def _times(policy: ResidualPolicy, parameters: Views, uniform: Tensor, time_steps: int) -> tuple[Tensor, Dual]:
    """Times `[S, B, 1]` from uniform numbers, and the policy's modulations at them.

    A grid of at most B times has its modulations computed once for the grid.
    """
    if time_steps > _LARGEST_GRID:
        return uniform, policy.modulations(parameters, Dual(uniform, torch.ones_like(uniform)))
    indices = torch.floor(uniform * time_steps)
    times = (indices + 1.0) / time_steps
    if time_steps > uniform.shape[1]:
        return times, policy.modulations(parameters, Dual(times, torch.ones_like(times)))
    return times, policy.grid_modulations(parameters, indices.squeeze(-1).long(), time_steps, times.dtype)


def one_step_actions(policy: ResidualPolicy, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
    """Raw actions g(s, e, 1), not clipped: observations `[S, B, D]`, noise e `[S, B, A]` -> `[S, B, A]`."""
    return policy.along(parameters, observations, Dual(noise), Dual(policy.one_step_modulations(parameters))).value


def candidate_actions(policy: ResidualPolicy, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
    """K clipped actions for each observation: `[S, B, D]` and noise `[S, B, K, A]` -> `[S, B, K, A]`."""
    candidates = noise.shape[2]
    repeated = observations.unsqueeze(2).expand(-1, -1, candidates, -1).flatten(1, 2)
    return (
        one_step_actions(policy, parameters, repeated, noise.flatten(1, 2))
        .clamp(-1.0, 1.0)
        .unflatten(1, (-1, candidates))
    )
