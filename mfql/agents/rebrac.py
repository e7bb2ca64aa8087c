"""ReBRAC: TD3 with behaviour cloning in the actor's and in the critic's objective (arXiv 2305.09836).

As released with FQL (arXiv 2502.02538): a deterministic tanh policy, learnt and with all targets moved at every second
update; one Adam over everything, which takes a zero gradient of the policy at the others and moves it on by its
momentum; Q in the policy's objective in units of mean |Q|; squared distances are summed over action dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Batch, Draw, Draws, Losses, Parameters
from mfql.agents.mlp import ACTOR_OUTPUT_SCALE, MLP, ActorCritic, ActorCriticSettings, q_loss, required, td_loss
from mfql.agents.parameters import Views
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class ReBRACSettings(ActorCriticSettings):
    """Settings of ReBRAC.

    Args:
        alpha_actor: weight of the distance from the data's action in the policy's objective.
        alpha_critic: weight of the distance from the data's next action in the target.
        actor_noise: deviation of the noise on the target policy's actions, and of exploration online.
        actor_noise_clip: largest such noise.
        actor_interval: updates between two gradients of the policy, and between two steps of the targets.
        next_action: what the data's next action is in a trajectory's last row: `trajectory`, that row's own; or `row`,
            the following row's, the first action of another trajectory, as in the code released with FQL.
    """

    alpha_actor: float
    alpha_critic: float
    actor_noise: float = 0.2
    actor_noise_clip: float = 0.5
    actor_interval: int = 2
    next_action: Literal["trajectory", "row"] = "trajectory"
    q_agg: Literal["mean", "min"] = "min"

    @override
    def check(self) -> None:
        super().check()
        for key in ("alpha_actor", "alpha_critic", "actor_noise", "actor_noise_clip"):
            require(key, getattr(self, key), getattr(self, key) >= 0, "zero or more")
        require("actor_interval", self.actor_interval, self.actor_interval >= 1, "one or more")


class ReBRAC(ActorCritic):
    """Revisited behaviour-regularised actor-critic."""

    settings_type = ReBRACSettings
    settings: ReBRACSettings
    training_version = 2

    def __init__(self, settings: ReBRACSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self._next_actions = "next_row_actions" if settings.next_action == "row" else "next_actions"
        self.extra_fields = (self._next_actions,)
        self.policy = MLP(self.observation_dim, settings.actor_hidden, action_dim, ACTOR_OUTPUT_SCALE)
        interval = settings.actor_interval
        self.groups = {
            "policy": replace(
                self.followed_group(self.policy.layout), interval=interval, coasts=True, target_interval=interval
            ),
            "critic": replace(self.critic_group(), target_interval=interval),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        return {"noise_next": Draw("normal", (self.settings.batch_size, self.action_dim))}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        targets = self._targets(parameters, batch, draws["noise_next"])
        critic_loss, critic_info = td_loss(self.critic(parameters["critic"], seen, batch["actions"]), targets)
        policy_loss, policy_info = self.policy_loss(parameters, batch, seen)
        return critic_loss + policy_loss, {**critic_info, **policy_info}

    def _targets(self, parameters: Parameters, batch: Batch, noise: Tensor) -> Tensor:
        """r + discount mask (Q_target(s', a') - alpha_critic |a' - data's a'|^2), a' the noisy target policy's."""
        with torch.no_grad():
            actions = self._noisy(self._actions(parameters["target_policy"], batch["next_observations"]), noise)
        distance = (actions - batch[self._next_actions]).square().sum(-1)
        values = self.next_values(parameters, batch, actions) - self.settings.alpha_critic * distance
        return self.td_targets(batch, values)

    def policy_loss(self, parameters: Parameters, batch: Batch, seen: Tensor) -> Losses:
        """alpha_actor |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|; `seen` is what the critic sees of the observations."""
        actions = self._actions(parameters["policy"], batch["observations"])
        values = self.aggregate(self.frozen_values(parameters, seen, actions))
        value_loss = q_loss(values, normalize=True)
        distance = (actions - batch["actions"]).square().sum(-1).mean(1)
        bc_loss = self.settings.alpha_actor * distance
        info = {"q_loss": value_loss, "bc_loss": bc_loss, "distance": distance, "policy_loss": value_loss + bc_loss}
        return value_loss + bc_loss, info

    def _actions(self, policy: Views, observations: Tensor) -> Tensor:
        return self.policy(policy, self.encode(policy, observations)).tanh()

    def _noisy(self, actions: Tensor, noise: Tensor) -> Tensor:
        limit = self.settings.actor_noise_clip
        return (actions + (self.settings.actor_noise * noise).clamp(-limit, limit)).clamp(-1.0, 1.0)

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """The policy's action; online training adds its noise."""
        return self._actions(parameters["policy"], observations)

    @override
    def explore_draw(self) -> Draw:
        return Draw("normal", (self.action_dim,))

    @override
    def explore(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self._noisy(self._actions(parameters["policy"], observations), required(noise))

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy",)

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            actions = self._actions(parameters["policy"], batch["observations"])
        return {
            # Of a tanh policy, the actions that have reached a bound.
            "saturated": (actions.abs() > 0.99).float().mean((1, 2)),
            "action_error": (actions - batch["actions"]).square().mean((1, 2)),
        }
