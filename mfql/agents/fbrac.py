"""FBRAC: a flow policy that maximises Q through all its sampling steps, beside flow matching (arXiv 2502.02538).

The flow counterpart of Diffusion-QL (arXiv 2208.06193), a behaviour-regularised actor-critic. Its authors released no
code of it; that of Value Flows (github.com/chongyi-zheng/value-flows, agents/fbrac.py) has the objective that is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import ActorCritic, FlowActor, FlowActorSettings, flow_errors, matching_draws, q_loss, required
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class FBRACSettings(FlowActorSettings):
    """Settings of FBRAC.

    Args:
        alpha: weight of flow matching.
        normalize_q: divide the policy's Q term by mean |Q|.
    """

    alpha: float
    normalize_q: bool = False

    @override
    def check(self) -> None:
        super().check()
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")


class FBRAC(ActorCritic):
    """Flow behaviour-regularised actor-critic."""

    settings_type = FBRACSettings
    settings: FBRACSettings

    def __init__(self, settings: FBRACSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = FlowActor(self.observation_dim, action_dim, settings.actor_hidden, settings.flow_steps)
        self.groups = {
            "policy": Group(self.with_encoder(self.policy.layout)),
            "critic": self.critic_group(),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        noise = Draw("normal", (self.settings.batch_size, self.action_dim))
        return {**matching_draws(self.settings.batch_size, self.action_dim), "noise_pi": noise, "noise_next": noise}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        with torch.no_grad():
            next_actions = self.act(parameters, batch["next_observations"], draws["noise_next"])
        critic_loss, critic_info = self.evaluation_loss(parameters, batch, seen, next_actions)
        policy_loss, policy_info = self.policy_loss(parameters, batch, seen, draws)
        return critic_loss + policy_loss, {**critic_info, **policy_info}

    def policy_loss(self, parameters: Parameters, batch: Batch, seen: Tensor, draws: Draws) -> Losses:
        """alpha flow matching - mean Q(s, flow(s, e)), with the gradient of every Euler step.

        Q is the mean of the critics, whatever `q_agg`.
        """
        policy = parameters["policy"]
        observations = self.encode(policy, batch["observations"])
        flow_loss = flow_errors(self.policy, policy, observations, batch["actions"], draws).mean(1)
        actions = self.policy.sample(policy, observations, draws["noise_pi"])
        values = self.frozen_values(parameters, seen, actions).mean(1)
        value_loss = q_loss(values, normalize=self.settings.normalize_q)
        loss = self.settings.alpha * flow_loss + value_loss
        info = {
            "policy_loss": loss,
            "flow_loss": flow_loss,
            "q_loss": value_loss,
            "q_policy": values.mean(1),
            "action_error": (actions - batch["actions"]).square().mean((1, 2)),
        }
        return loss, info

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
        seen = self.encode(parameters["critic"], batch["observations"])
        _, info = self.policy_loss(parameters, batch, seen, draws)
        return {name: info[name] for name in ("flow_loss", "q_policy", "action_error")}
