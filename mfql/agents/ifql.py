"""IFQL: values of IQL, a flow of the data's actions, and acting with the best of N samples (arXiv 2502.02538).

The flow counterpart of IDQL (arXiv 2304.10573).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import KEPT, Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import ActorCriticValue, FlowActor, FlowActorSettings, flow_errors, matching_draws, required
from mfql.agents.single import best_of
from mfql.settings import ChunkSettings, require


@dataclass(frozen=True, kw_only=True)
class IFQLSettings(FlowActorSettings, ChunkSettings):
    """Settings of IFQL.

    Args:
        expectile: of V among the values of the data's actions.
        num_samples: N, actions of which the one with the highest value is taken.
    """

    expectile: float = 0.9
    num_samples: int = 32
    q_agg: Literal["mean", "min"] = "min"

    @override
    def check(self) -> None:
        super().check()
        require("expectile", self.expectile, 0 < self.expectile < 1, "in (0, 1)")
        require("num_samples", self.num_samples, self.num_samples >= 1, "one or more")


class IFQL(ActorCriticValue):
    """Implicit flow Q-learning."""

    settings_type = IFQLSettings
    settings: IFQLSettings

    def __init__(self, settings: IFQLSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = FlowActor(self.observation_dim, self.chunk_dim, settings.actor_hidden, settings.flow_steps)
        self.groups = {
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
            "value": self.value_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        return matching_draws(self.settings.batch_size, self.chunk_dim)

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        _, (value_losses, info) = self.implicit_losses(parameters, batch, self.settings.expectile)
        flow_loss = self._flow_loss(parameters, batch, draws)
        return value_losses + flow_loss, {**info, "flow_loss": flow_loss}

    def _flow_loss(self, parameters: Parameters, batch: Batch, draws: Draws) -> Tensor:
        policy = parameters["policy"]
        seen = self.encode(policy, batch["observations"])
        return flow_errors(self.policy, policy, seen, batch["actions"], draws, batch.get(KEPT)).mean(1)

    @override
    def act_draw(self) -> Draw:
        return Draw("normal", (self.settings.num_samples, self.chunk_dim))

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return best_of(*self.ranked(parameters, observations, required(noise)))

    @override
    def ranked(self, parameters: Parameters, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        policy, critic = parameters["policy"], parameters["critic"]
        actions = self.policy.candidates(policy, self.encode(policy, observations), noise)
        return actions, self.candidate_values(critic, self.encode(critic, observations), actions)

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy", "critic")

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        advantages, (_, info) = self.implicit_losses(parameters, batch, self.settings.expectile)
        return {
            "flow_loss": self._flow_loss(parameters, batch, draws),
            "value_loss": info["value_loss"],
            # A few where V has found its expectile, none where it lies above all of the data's values.
            "positive_advantages": (advantages > 0).float().mean(1),
        }
