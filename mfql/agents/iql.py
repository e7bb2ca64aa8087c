"""IQL: values of the data's actions alone, and advantage-weighted regression (arXiv 2110.06169).

As released with FQL (arXiv 2502.02538): a Gaussian policy of unit deviation, values of two critics by their minimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.gaussian import unit_log_likelihood
from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import (
    ACTOR_OUTPUT_SCALE,
    MLP,
    ActorCriticSettings,
    ActorCriticValue,
    advantage_weights,
    effective_batch,
    required,
)
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class IQLSettings(ActorCriticSettings):
    """Settings of IQL.

    Args:
        alpha: inverse temperature of the advantages' weights exp(alpha (Q - V)).
        expectile: of V among the values of the data's actions.
        explore_std: deviation of the policy in online training.
    """

    alpha: float
    expectile: float = 0.9
    explore_std: float = 1.0
    q_agg: Literal["mean", "min"] = "min"

    @override
    def check(self) -> None:
        super().check()
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")
        require("expectile", self.expectile, 0 < self.expectile < 1, "in (0, 1)")
        require("explore_std", self.explore_std, self.explore_std >= 0, "zero or more")


class IQL(ActorCriticValue):
    """Implicit Q-learning."""

    settings_type = IQLSettings
    settings: IQLSettings

    def __init__(self, settings: IQLSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = MLP(self.observation_dim, settings.actor_hidden, action_dim, ACTOR_OUTPUT_SCALE)
        self.groups = {
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
            "value": self.value_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        return {}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        advantages, (value_losses, info) = self.implicit_losses(parameters, batch, self.settings.expectile)
        means = self._means(parameters, batch["observations"])
        likelihood = unit_log_likelihood(means, batch["actions"])
        policy_loss = -(advantage_weights(advantages, self.settings.alpha) * likelihood).mean(1)
        info |= {
            "policy_loss": policy_loss,
            "advantage": advantages.mean(1),
            "log_likelihood": likelihood.mean(1),
            "action_error": (means - batch["actions"]).square().mean((1, 2)),
        }
        return value_losses + policy_loss, info

    def _means(self, parameters: Parameters, observations: Tensor) -> Tensor:
        policy = parameters["policy"]
        return self.policy(policy, self.encode(policy, observations))

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """The policy's mean; online training explores around it."""
        return self._means(parameters, observations).clamp(-1.0, 1.0)

    @override
    def explore_draw(self) -> Draw:
        return Draw("normal", (self.action_dim,))

    @override
    def explore(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        spread = self.settings.explore_std * required(noise)
        return (self._means(parameters, observations) + spread).clamp(-1.0, 1.0)

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            advantages, (_, info) = self.implicit_losses(parameters, batch, self.settings.expectile)
            means = self._means(parameters, batch["observations"])
            weights = advantage_weights(advantages, self.settings.alpha)
        return {
            "value_loss": info["value_loss"],
            "positive_advantages": (advantages > 0).float().mean(1),
            "effective_batch": effective_batch(weights),
            "action_error": (means - batch["actions"]).square().mean((1, 2)),
        }
