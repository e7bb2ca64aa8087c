"""FAWAC: flow matching weighted by advantages, the flow counterpart of AWAC (arXiv 2502.02538, arXiv 2006.09359).

Its authors published its objective and settings, and no code. What they leave open is as in the published flow AWACs
after them: V is the mean of Q over the data's actions, and weights are at most 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import (
    ActorCriticValue,
    FlowActor,
    FlowActorSettings,
    advantage_weights,
    effective_batch,
    flow_errors,
    matching_draws,
    required,
    td_loss,
)
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class FAWACSettings(FlowActorSettings):
    """Settings of FAWAC.

    Args:
        alpha: inverse temperature; a row of advantage A has the weight exp(alpha A).
    """

    alpha: float

    @override
    def check(self) -> None:
        super().check()
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")


class FAWAC(ActorCriticValue):
    """Flow advantage-weighted actor-critic."""

    settings_type = FAWACSettings
    settings: FAWACSettings

    def __init__(self, settings: FAWACSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = FlowActor(self.observation_dim, action_dim, settings.actor_hidden, settings.flow_steps)
        self.groups = {
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
            "value": self.value_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        noise = Draw("normal", (self.settings.batch_size, self.action_dim))
        return {**matching_draws(self.settings.batch_size, self.action_dim), "noise_next": noise}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        """(Q - y)^2 with a' of the flow in y, (V - Q_target)^2, and exp(alpha (Q - V)) times the flow's errors."""
        target = parameters["target_critic"]
        with torch.no_grad():
            next_actions = self.act(parameters, batch["next_observations"], draws["noise_next"])
            observations = torch.cat([batch["next_observations"], batch["observations"]], dim=1)
            actions = torch.cat([next_actions, batch["actions"]], dim=1)
            both = self.aggregate(self.critic(target, self.encode(target, observations), actions))
        next_q, target_q = both.chunk(2, dim=1)
        critic = parameters["critic"]
        found = self.critic(critic, self.encode(critic, batch["observations"]), batch["actions"])
        critic_loss, info = td_loss(found, self.td_targets(batch, next_q))
        values = self.state_values(parameters, batch["observations"])
        value_loss = (values - target_q).square().mean(1)
        weights = advantage_weights(self.aggregate(found) - values, self.settings.alpha)
        errors = self._flow_errors(parameters, batch, draws)
        policy_loss = (weights * errors).mean(1)
        info |= {
            "value_loss": value_loss,
            "v": values.mean(1),
            "policy_loss": policy_loss,
            "flow_loss": errors.mean(1),
            "weight": weights.mean(1),
        }
        return critic_loss + value_loss + policy_loss, info

    def _flow_errors(self, parameters: Parameters, batch: Batch, draws: Draws) -> Tensor:
        policy = parameters["policy"]
        return flow_errors(self.policy, policy, self.encode(policy, batch["observations"]), batch["actions"], draws)

    @override
    def act_draw(self) -> Draw:
        return Draw("normal", (self.action_dim,))

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        policy = parameters["policy"]
        return self.policy.sample(policy, self.encode(policy, observations), required(noise))

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        advantages = self.data_values(parameters, batch) - self.state_values(parameters, batch["observations"])
        weights = advantage_weights(advantages, self.settings.alpha)
        return {
            "flow_loss": self._flow_errors(parameters, batch, draws).mean(1),
            "weight": weights.mean(1),
            "effective_batch": effective_batch(weights),
        }
