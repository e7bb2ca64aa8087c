"""Behaviour cloning with a Gaussian policy: the mean of the data's actions at a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from mfql.agents.gaussian import unit_log_likelihood
from mfql.agents.interface import Agent, Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import ACTOR_OUTPUT_SCALE, MLP, ActorSettings


@dataclass(frozen=True, kw_only=True)
class BCSettings(ActorSettings):
    """Settings of Gaussian behaviour cloning: those of the actor."""


class BC(Agent):
    """Gaussian behaviour cloning with unit deviation: maximum likelihood is least squares. It acts with the mean."""

    settings_type = BCSettings
    settings: BCSettings

    def __init__(self, settings: BCSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = MLP(self.observation_dim, settings.actor_hidden, action_dim, ACTOR_OUTPUT_SCALE)
        self.groups = {"policy": Group(self.with_encoder(self.policy.layout))}

    @override
    def update_draws(self) -> dict[str, Draw]:
        return {}

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        return {"policy": self.settings.learning_rate}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        means = self._means(parameters, batch["observations"])
        likelihood = unit_log_likelihood(means, batch["actions"]).mean(1)
        error = (means - batch["actions"]).square().mean((1, 2))
        return -likelihood, {"policy_loss": -likelihood, "action_error": error}

    def _means(self, parameters: Parameters, observations: Tensor) -> Tensor:
        policy = parameters["policy"]
        return self.policy(policy, self.encode(policy, observations))

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self._means(parameters, observations).clamp(-1.0, 1.0)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        means = self._means(parameters, batch["observations"])
        return {
            "out_of_bounds": (means.abs() > 1.0).float().mean((1, 2)),
            "action_error": (means - batch["actions"]).square().mean((1, 2)),
        }
