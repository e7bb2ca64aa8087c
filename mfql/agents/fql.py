"""FQL: a one-step policy that maximises Q and is distilled from a flow of the data's actions (arXiv 2502.02538)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import KEPT, Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import (
    MLP,
    ActorCritic,
    FlowActor,
    FlowActorSettings,
    flow_errors,
    matching_draws,
    q_loss,
    required,
)
from mfql.agents.parameters import Views
from mfql.settings import ChunkSettings, require


@dataclass(frozen=True, kw_only=True)
class FQLSettings(FlowActorSettings, ChunkSettings):
    """Settings of FQL.

    Args:
        alpha: weight of the distillation from the flow.
        normalize_q: divide the policy's Q term by mean |Q|.
    """

    alpha: float
    normalize_q: bool = False

    @override
    def check(self) -> None:
        super().check()
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")


class FQL(ActorCritic):
    """Flow Q-learning."""

    settings_type = FQLSettings
    settings: FQLSettings

    def __init__(self, settings: FQLSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.flow = FlowActor(self.observation_dim, self.chunk_dim, settings.actor_hidden, settings.flow_steps)
        self.policy = MLP(self.observation_dim + self.chunk_dim, settings.actor_hidden, self.chunk_dim)
        self.groups = {
            "flow": Group(self.with_encoder(self.flow.layout)),
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        noise = Draw("normal", (self.settings.batch_size, self.chunk_dim))
        return {**matching_draws(self.settings.batch_size, self.chunk_dim), "noise_pi": noise, "noise_next": noise}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        with torch.no_grad():
            next_actions = self.act(parameters, batch["next_observations"], draws["noise_next"])
        critic_loss, critic_info = self.evaluation_loss(parameters, batch, seen, next_actions)
        policy_loss, policy_info = self.policy_loss(parameters, batch, seen, draws)
        return critic_loss + policy_loss, {**critic_info, **policy_info}

    def policy_loss(self, parameters: Parameters, batch: Batch, seen: Tensor, draws: Draws) -> Losses:
        """Flow matching + alpha |policy(s, e) - flow(s, e)|^2 - mean Q(s, clip(policy(s, e))) (paper, algorithm 1).

        The distillation and Q train the one-step policy alone. Q is the mean of the critics, whatever `q_agg`.
        """
        settings, noise = self.settings, draws["noise_pi"]
        flow_loss, guide = self._flow_terms(parameters["flow"], batch, draws)
        raw = self.raw_actions(parameters["policy"], batch["observations"], noise)
        actions = raw.clamp(-1.0, 1.0)
        distill_loss = (raw - guide).square().mean((1, 2))
        values = self.frozen_values(parameters, seen, actions).mean(1)
        value_loss = q_loss(values, normalize=settings.normalize_q)
        loss = flow_loss + settings.alpha * distill_loss + value_loss
        info = {
            "policy_loss": loss,
            "flow_loss": flow_loss,
            "distill_loss": distill_loss,
            "q_loss": value_loss,
            "q_policy": values.mean(1),
            "action_error": (actions - batch["actions"]).square().mean((1, 2)),
        }
        return loss, info

    def _flow_terms(self, flow: Views, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """The loss of flow matching `[S]`, and the flow's actions `[S, B, A]` from the policy's noise."""
        seen = self.encode(flow, batch["observations"])
        loss = flow_errors(self.flow, flow, seen, batch["actions"], draws, batch.get(KEPT)).mean(1)
        with torch.no_grad():
            return loss, self.flow.sample(flow, seen, draws["noise_pi"])

    def raw_actions(self, policy: Views, observations: Tensor, noise: Tensor) -> Tensor:
        """The one-step policy's actions, not clipped: `[S, B, *observation_shape]`, e `[S, B, A]` -> `[S, B, A]`."""
        return self.policy(policy, torch.cat([self.encode(policy, observations), noise], dim=-1))

    @override
    def act_draw(self) -> Draw:
        return Draw("normal", (self.chunk_dim,))

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self.raw_actions(parameters["policy"], observations, required(noise)).clamp(-1.0, 1.0)

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        flow_loss, guide = self._flow_terms(parameters["flow"], batch, draws)
        raw = self.raw_actions(parameters["policy"], batch["observations"], draws["noise_pi"])
        return {
            "out_of_bounds": (raw.abs() > 1.0).float().mean((1, 2)),
            "flow_loss": flow_loss,
            "distill_loss": (raw - guide).square().mean((1, 2)),
        }
