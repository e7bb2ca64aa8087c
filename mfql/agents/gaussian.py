"""Gaussian policies, and the soft actor-critic that RLPD and Cal-QL build on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import ACTOR_OUTPUT_SCALE, MLP, ActorCritic, ActorCriticSettings, required
from mfql.agents.parameters import Layout, Parameter, Views, constant
from mfql.settings import require

# Bounds of the log deviation before the tanh.
_LOG_STD = (-5.0, 2.0)
_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


def unit_log_likelihood(means: Tensor, actions: Tensor) -> Tensor:
    """log N(a; mean, I): `[S, B, A] -> [S, B]`."""
    return (-0.5 * (actions - means).square() - _LOG_SQRT_2_PI).sum(-1)


def exponential(logarithm: Tensor) -> Tensor:
    """exp, in single precision at least."""
    return logarithm.to(torch.promote_types(logarithm.dtype, torch.float32)).exp()


@dataclass(frozen=True)
class SquashedGaussian:
    """The tanh of a Gaussian.

    Args:
        mean, log_std: before the tanh `[S, B, A]`.
    """

    mean: Tensor
    log_std: Tensor

    def mode(self) -> Tensor:
        """tanh of the mean `[S, B, A]`."""
        return self.mean.tanh()

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log likelihood from standard normal noise.

        Args:
            noise: one action a state `[S, B, A]`, or K `[S, B, K, A]`.

        Returns:
            actions of the noise's shape, log likelihoods of that shape without its last axis.
        """
        several = noise.dim() > self.mean.dim()
        mean, log_std = (value.unsqueeze(2) if several else value for value in (self.mean, self.log_std))
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2), without its rounding to zero.
        slope = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return raw.tanh(), (-0.5 * noise.square() - _LOG_SQRT_2_PI - log_std - slope).sum(-1)


class SquashedGaussianPolicy:
    """A network that gives a state's squashed Gaussian.

    Args:
        observation_dim, action_dim: sizes D and A.
        hidden: features of each hidden layer.
    """

    def __init__(self, observation_dim: int, action_dim: int, hidden: tuple[int, ...]) -> None:
        self.network = MLP(observation_dim, hidden, 2 * action_dim, ACTOR_OUTPUT_SCALE)
        self.layout = self.network.layout

    def __call__(self, parameters: Views, observations: Tensor) -> SquashedGaussian:
        """The distribution of actions for encoded observations `[S, B, D]`."""
        mean, log_std = self.network(parameters, observations).chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*_LOG_STD))


@dataclass(frozen=True, kw_only=True)
class SoftSettings(ActorCriticSettings):
    """Settings of soft actor-critic.

    Args:
        target_entropy: the policy's entropy that the temperature is tuned to, for each action dim; with its sign.
        initial_temperature: weight of the entropy at the start.
    """

    target_entropy: float = -0.5
    initial_temperature: float = 1.0
    q_agg: Literal["mean", "min"] = "min"

    @override
    def check(self) -> None:
        super().check()
        require("initial_temperature", self.initial_temperature, self.initial_temperature > 0, "above zero")


class SoftActorCritic(ActorCritic):
    """Soft actor-critic with a tuned temperature (arXiv 1812.05905): the policy, its temperature and acting."""

    settings: SoftSettings

    def __init__(self, settings: SoftSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = SquashedGaussianPolicy(self.observation_dim, action_dim, settings.actor_hidden)
        start = constant(math.log(settings.initial_temperature))
        self.groups = {
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
            "temperature": Group(Layout({"log": Parameter((), start)})),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        noise = Draw("normal", (self.settings.batch_size, self.action_dim))
        return {"noise_pi": noise, "noise_next": noise}

    def policy_of(self, parameters: Parameters, observations: Tensor) -> SquashedGaussian:
        """The policy at observations `[S, B, *observation_shape]`."""
        policy = parameters["policy"]
        return self.policy(policy, self.encode(policy, observations))

    def policy_loss(self, parameters: Parameters, seen: Tensor, policy: SquashedGaussian, noise: Tensor) -> Losses:
        """temperature log pi(a|s) - Q(s, a), and the temperature times the entropy's excess over its target.

        Args:
            seen: what the critic sees of the observations `[S, B, D]`.
            policy: at these observations.
            noise: of the policy's actions `[S, B, A]`.
        """
        actions, log_likelihood = policy.sample(noise)
        temperature = exponential(parameters["temperature"]["log"])
        values = self.policy_values(self.frozen_values(parameters, seen, actions))
        policy_loss = (temperature.detach().unsqueeze(1) * log_likelihood - values).mean(1)
        entropy = -log_likelihood.detach().mean(1)
        temperature_loss = temperature * (entropy - self.settings.target_entropy * self.action_dim)
        info = {
            "policy_loss": policy_loss,
            "temperature_loss": temperature_loss,
            "temperature": temperature,
            "entropy": entropy,
            "q_policy": values.mean(1),
        }
        return policy_loss + temperature_loss, info

    def policy_values(self, values: Tensor) -> Tensor:
        """The values `[S, B]` that the policy maximises, of the critics' `[S, E, B]`: their mean, whatever `q_agg`."""
        return values.mean(1)

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """The policy's mode; online training explores with samples."""
        return self.policy_of(parameters, observations).mode()

    @override
    def explore_draw(self) -> Draw:
        return Draw("normal", (self.action_dim,))

    @override
    def explore(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self.policy_of(parameters, observations).sample(required(noise))[0]

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            policy = self.policy_of(parameters, batch["observations"])
            _, log_likelihood = policy.sample(draws["noise_pi"])
        return {
            "entropy": -log_likelihood.mean(1),
            "action_error": (policy.mode() - batch["actions"]).square().mean((1, 2)),
        }
