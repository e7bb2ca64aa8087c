"""RLPD: soft actor-critic online, with half of each batch from the offline data (arXiv 2302.02948).

As released with FQL (arXiv 2502.02538), whose numbers are the published ones here: two critics with layer norm, one
update an environment step, no entropy in the target, half the usual target entropy. RLPD's own paper has 10 critics and
20 updates a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.gaussian import SoftActorCritic, SoftSettings
from mfql.agents.interface import Batch, Draws, Losses, Parameters
from mfql.agents.mlp import td_loss
from mfql.settings import require


@dataclass(frozen=True, kw_only=True)
class RLPDSettings(SoftSettings):
    """Settings of RLPD.

    Args:
        online_share: of a batch from online transitions.
        updates_per_step: updates of an environment step.
    """

    online_share: float = 0.5
    updates_per_step: int = 1

    @override
    def check(self) -> None:
        super().check()
        require("online_share", self.online_share, 0 <= self.online_share <= 1, "in [0, 1]")
        require("updates_per_step", self.updates_per_step, self.updates_per_step >= 1, "one or more")


class RLPD(SoftActorCritic):
    """Reinforcement learning with prior data."""

    settings_type = RLPDSettings
    settings: RLPDSettings
    stages = ("online",)

    def __init__(self, settings: RLPDSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.online_share, self.updates_per_step = settings.online_share, settings.updates_per_step

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        with torch.no_grad():
            following = self.policy_of(parameters, batch["next_observations"])
            next_actions, _ = following.sample(draws["noise_next"])
        targets = self.td_targets(batch, self.next_values(parameters, batch, next_actions))
        critic_loss, critic_info = td_loss(self.critic(parameters["critic"], seen, batch["actions"]), targets)
        policy = self.policy_of(parameters, batch["observations"])
        policy_loss, policy_info = self.policy_loss(parameters, seen, policy, draws["noise_pi"])
        return critic_loss + policy_loss, {**critic_info, **policy_info}
