"""Cal-QL: conservative Q-learning not pushed below the data's returns, for fine-tuning online (arXiv 2303.05479).

Conservative Q-learning (arXiv 2006.04779) lowers the log-sum-exp of Q over actions against Q of the data's action.
Cal-QL takes for the policy's actions max(Q, R), R the return to go of the data, so that values keep the scale of
returns. The details follow the code released with Cal-QL: K actions each of the uniform distribution and of the policy
at s and at s', weighed by their density; the TD target takes the best of K more at s', without entropy; entropy target
-A; the policy maximises the smallest Q. Networks and learning rate of the critics are the other baselines'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.gaussian import SoftActorCritic, SoftSettings, SquashedGaussian, exponential
from mfql.agents.interface import Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import td_loss
from mfql.agents.parameters import Layout, Parameter, constant
from mfql.settings import require

# With a Lagrange multiplier: the gap's weight is _GAP_WEIGHT exp(m), m from _MULTIPLIER_START on and exp(m) at most
# _LARGEST_MULTIPLIER (Cal-QL's released code).
_GAP_WEIGHT, _MULTIPLIER_START, _LARGEST_MULTIPLIER = 5.0, 1.0, 1e6


@dataclass(frozen=True, kw_only=True)
class CalQLSettings(SoftSettings):
    """Settings of Cal-QL; one of `cql_alpha` and `target_gap_beta` is given.

    Args:
        cql_alpha: constant weight of the conservative term.
        target_gap_beta: size of the conservative term that a Lagrange multiplier, its weight, is tuned to.
        cql_actions: K, actions of each kind in the log-sum-exp, and next actions of which the target takes the best.
        policy_learning_rate: of the policy and the temperature; `learning_rate` is the critics'.
        online_share: of a batch from online transitions, in the online stage.
    """

    cql_alpha: float | None = None
    target_gap_beta: float | None = None
    cql_actions: int = 10
    policy_learning_rate: float = 1e-4
    target_entropy: float = -1.0
    online_share: float = 0.5

    @override
    def check(self) -> None:
        super().check()
        weights = (self.cql_alpha, self.target_gap_beta)
        one = weights.count(None) == 1
        require("cql_alpha, target_gap_beta", weights, one, "one value, and null for the other")
        require("cql_alpha", self.cql_alpha, self.cql_alpha is None or self.cql_alpha >= 0, "zero or more")
        require("cql_actions", self.cql_actions, self.cql_actions >= 1, "one or more")
        require("policy_learning_rate", self.policy_learning_rate, self.policy_learning_rate > 0, "above zero")
        require("online_share", self.online_share, 0 <= self.online_share <= 1, "in [0, 1]")


class CalQL(SoftActorCritic):
    """Calibrated conservative Q-learning."""

    settings_type = CalQLSettings
    settings: CalQLSettings
    training_version = 2
    extra_fields = ("mc_returns",)

    def __init__(self, settings: CalQLSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.online_share = settings.online_share
        if settings.target_gap_beta is not None:
            self.groups["multiplier"] = Group(Layout({"log": Parameter((), constant(_MULTIPLIER_START))}))

    @override
    def update_draws(self) -> dict[str, Draw]:
        batch, actions = self.settings.batch_size, self.settings.cql_actions
        several = (batch, actions, self.action_dim)
        return super().update_draws() | {
            "noise_next": Draw("normal", several),
            "uniform": Draw("uniform", several),
            "noise_here": Draw("normal", several),
            "noise_there": Draw("normal", several),
        }

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        slower = dict.fromkeys(("policy", "temperature"), self.settings.policy_learning_rate)
        return super().learning_rates(step) | slower

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        seen = self.encode(parameters["critic"], batch["observations"])
        policy = self.policy_of(parameters, batch["observations"])
        with torch.no_grad():
            following = self.policy_of(parameters, batch["next_observations"])
        targets = self.td_targets(batch, self._best_next_values(parameters, batch, following, draws["noise_next"]))
        values = self.critic(parameters["critic"], seen, batch["actions"])
        critic_loss, critic_info = td_loss(values, targets)
        gap, calibrated = self._gap(parameters, batch, seen, values, policy, following, draws)
        conservative_loss, weight = self._conservative_loss(parameters, gap)
        policy_loss, policy_info = self.policy_loss(parameters, seen, policy, draws["noise_pi"])
        info = {
            "conservative_gap": gap,
            "conservative_weight": weight,
            # How often the data's return, not Q, enters the log-sum-exp.
            "calibrated": calibrated,
        }
        return critic_loss + conservative_loss + policy_loss, {**critic_info, **info, **policy_info}

    def _best_next_values(
        self, parameters: Parameters, batch: Batch, following: SquashedGaussian, noise: Tensor
    ) -> Tensor:
        """The target critics' value of the best of K actions of the policy at s' `[S, B]`, without a gradient.

        Args:
            following: the policy at the next observations.
            noise: of its actions `[S, B, K, A]`.
        """
        target = parameters["target_critic"]
        with torch.no_grad():
            actions, _ = following.sample(noise)
            seen = self.encode(target, batch["next_observations"])
            return self.candidate_values(target, seen, actions).amax(-1)

    def _gap(
        self,
        parameters: Parameters,
        batch: Batch,
        seen: Tensor,
        values: Tensor,
        policy: SquashedGaussian,
        following: SquashedGaussian,
        draws: Draws,
    ) -> tuple[Tensor, Tensor]:
        """The conservative term (Cal-QL, equation 5.1) `[S]`, a mean over critics and rows; and the share calibrated.

        Args:
            seen: what the critic sees of the observations `[S, B, D]`.
            values: Q of the data's actions `[S, E, B]`.
            policy, following: the policy at the observations and at the next ones.
        """
        uniform = 2.0 * draws["uniform"] - 1.0
        with torch.no_grad():
            here, density_here = policy.sample(draws["noise_here"])
            there, density_there = following.sample(draws["noise_there"])
        actions = torch.cat([uniform, here, there], dim=2)
        found = self._candidate_ensemble(parameters, seen, actions)
        returns = batch["mc_returns"].unsqueeze(1).unsqueeze(-1)
        of_policy = found[..., uniform.shape[2] :]
        calibrated = (of_policy < returns).float().mean((1, 2, 3))
        found = torch.cat([found[..., : uniform.shape[2]], torch.maximum(of_policy, returns)], dim=-1)
        flat = density_here.new_full(uniform.shape[:-1], -self.action_dim * math.log(2.0))
        density = torch.cat([flat, density_here, density_there], dim=2)
        soft_maximum = torch.logsumexp(found - density.unsqueeze(1), dim=-1)
        return (soft_maximum - values).mean((1, 2)), calibrated

    def _candidate_ensemble(self, parameters: Parameters, seen: Tensor, actions: Tensor) -> Tensor:
        """Every critic's values of actions `[S, B, K, A] -> [S, E, B, K]`."""
        repeated = seen.unsqueeze(2).expand(-1, -1, actions.shape[2], -1).flatten(1, 2)
        return self.critic(parameters["critic"], repeated, actions.flatten(1, 2)).unflatten(2, actions.shape[1:3])

    def _conservative_loss(self, parameters: Parameters, gap: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted term `[S]`, with the multiplier's own loss where there is one, and the weight."""
        if self.settings.target_gap_beta is None:
            assert self.settings.cql_alpha is not None  # One of the two is given.
            return self.settings.cql_alpha * gap, torch.full_like(gap, self.settings.cql_alpha)
        weight = _GAP_WEIGHT * exponential(parameters["multiplier"]["log"]).clamp(max=_LARGEST_MULTIPLIER)
        excess = gap - self.settings.target_gap_beta
        # The critics descend on the weighted excess, the multiplier ascends on it.
        return weight.detach() * excess - weight * excess.detach(), weight.detach()

    @override
    def policy_values(self, values: Tensor) -> Tensor:
        """Their minimum, whatever `q_agg`."""
        return values.amin(1)
