"""A policy held to a network of the data's behaviour, in place of the data themselves (as in arXiv 1911.11361)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import MLP, ActorCritic, ActorCriticSettings, q_loss
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class BRACSettings(ActorCriticSettings):
    """Settings of the behaviour-regularised actor and critic.

    Args:
        alpha: weight of the distance to the behaviour network's action.
    """

    alpha: float

    @override
    def check(self) -> None:
        super().check()
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")


class BRAC(ActorCritic):
    """Three networks: a policy, critics, and the behaviour that the policy stays close to."""

    settings_type = BRACSettings
    settings: BRACSettings

    def __init__(self, settings: BRACSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.network = MLP(self.observation_dim, settings.actor_hidden, action_dim)
        self.groups = {
            "policy": Group(self.with_encoder(self.network.layout)),
            "behaviour": Group(self.with_encoder(self.network.layout)),
            "critic": self.critic_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        return {}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        with torch.no_grad():
            next_actions = self.act(parameters, batch["next_observations"], None)
        critic_loss, info = self.evaluation_loss(parameters, batch, seen, next_actions)
        actions = self.act(parameters, batch["observations"], None)
        behaviour = self._actions(parameters, "behaviour", batch["observations"])
        behaviour_loss = (behaviour - batch["actions"]).square().mean((1, 2))
        distance = (actions - behaviour.detach()).square().mean((1, 2))
        value_loss = q_loss(self.frozen_values(parameters, seen, actions).mean(1), normalize=True)
        loss = critic_loss + behaviour_loss + self.settings.alpha * distance + value_loss
        return loss, {**info, "behaviour_loss": behaviour_loss, "distance": distance, "q_loss": value_loss}

    def _actions(self, parameters: Parameters, group: str, observations: Tensor) -> Tensor:
        return torch.tanh(self.network(parameters[group], self.encode(parameters[group], observations)))

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self._actions(parameters, "policy", observations)

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)
