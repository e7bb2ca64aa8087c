"""MFQL: a one-step MeanFlow policy trained jointly with Q-learning (arXiv 2511.13035).

The critic learns from the best of K candidate actions; the policy maximises Q of its one-step action beside the flow
loss, with an adaptive weight alpha between the two. Other balances of the two, other scales of the Q term and another K
in acting are settings, for ablations; their defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from mfql.agents.balance import weighting_of
from mfql.agents.interface import KEPT, Agent, Batch, Draw, Draws, Group, Losses, Parameters, Single, no_grad_views
from mfql.agents.meanflow import (
    FlowPolicy,
    FlowSettings,
    candidate_actions,
    flow_draws,
    flow_state,
    flow_terms,
    noise_draw,
    policy_rate,
    raw_actions,
    scaled_noise,
    single_candidates,
)
from mfql.agents.mlp import required
from mfql.agents.networks import Critic
from mfql.agents.parameters import Views
from mfql.agents.single import SingleCritic, best_of, repeated
from mfql.settings import ChunkSettings, Conditions, require, require_effect

# Rate at which the running scale of the Q term follows the batches', and the least scale.
_SCALE_RATE, _LEAST_SCALE = 0.005, 1e-6
# The spread of the target over draws of its candidates is measured on this many rows, from this many candidates each.
_POOL_ROWS, _POOL_CANDIDATES = 32, 64
_COUNTS_WHERE: Conditions = {"q_scale": ("normalize_q", (True,))}


@dataclass(frozen=True, kw_only=True)
class MFQLSettings(FlowSettings, ChunkSettings):
    """Settings of MFQL.

    Args:
        alpha: weight of the flow loss at the start.
        num_candidates: K, in the target, in acting and in evaluation.
        acting_candidates: another K for acting and evaluation; 0 is `num_candidates`.
        ranking: the critics that rank candidates in acting and evaluation: `critic`, the present ones, or
            `target_critic`, as in the released code. The target is by `target_critic` in any case.
        tau: rate of the target critic.
        critic_hidden: features of each hidden layer; num_critics: E.
        critic_init: `kaiming` (paper) or `fan_avg` (released code).
        critic_learning_rate: constant.
        q_agg: how the ensemble's values are joined in the target, in ranking and in the policy's loss.
        normalize_q: divide the policy's Q term by a scale, without a gradient.
        q_scale: that scale: `mean`, mean |Q| of the batch; `running`, its moving average; `std`, the standard deviation
            of Q over the batch, which a constant added to all values does not change.
        balance: what decides between the Q term and the flow loss: `alpha` adds alpha times the latter. Of the others
            each weighs the gradients of the two by what they are (`mfql.agents.balance`), the flow loss having been
            multiplied by alpha; `norms` and `imtl_g` make alpha irrelevant.
        bound_loss: whether raw actions outside [-1, 1] are penalised.
        adaptive_alpha: whether alpha adapts; alpha_interval: updates between two looks at the flow loss;
            alpha_window: flow losses remembered; alpha_threshold: factor from their mean at which alpha moves;
                alpha_up, alpha_down: factors that it moves by;
            alpha_range: it stays within this factor of its start; alpha_warmup: share of the offline steps without a
                move.
        alpha_timing: `after` the updates whose number is a multiple of `alpha_interval`, a moved alpha counts from the
            next update on, the first time after an update beyond the warm-up; `within` them, as in the released code,
            it counts in that update already, the first time in the warm-up's last.
    """

    alpha: float
    num_candidates: int = 5
    acting_candidates: int = 0
    ranking: Literal["critic", "target_critic"] = "critic"
    tau: float = 0.005
    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    num_critics: int = 2
    critic_init: Literal["kaiming", "fan_avg"] = "kaiming"
    critic_learning_rate: float = 1e-4
    q_agg: Literal["mean", "min"] = "mean"
    normalize_q: bool = False
    q_scale: Literal["mean", "running", "std"] = "mean"
    balance: Literal["alpha", "norms", "upgrad", "dualproj", "mgda", "pcgrad", "aligned_mtl", "imtl_g"] = "alpha"
    bound_loss: bool = True
    adaptive_alpha: bool = True
    alpha_interval: int = 2_000
    alpha_window: int = 20
    alpha_threshold: float = 5.0
    alpha_up: float = 1.2
    alpha_down: float = 0.8
    alpha_range: float = 10.0
    alpha_warmup: float = 0.1
    alpha_timing: Literal["after", "within"] = "after"

    @override
    def check(self) -> None:
        super().check()
        for key in ("num_candidates", "num_critics", "alpha_interval", "alpha_window"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        require("critic_learning_rate", self.critic_learning_rate, self.critic_learning_rate > 0, "above zero")
        # Otherwise a loss at the mean would count as far from it, or alpha would move the wrong way.
        for key in ("alpha_threshold", "alpha_up"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        require("alpha_down", self.alpha_down, 0 < self.alpha_down <= 1, "in (0, 1]")
        require(
            "critic_hidden", self.critic_hidden, all(size >= 1 for size in self.critic_hidden), "sizes of one or more"
        )
        require("acting_candidates", self.acting_candidates, self.acting_candidates >= 0, "zero or more")
        require("alpha", self.alpha, self.alpha >= 0, "zero or more")
        require("alpha_range", self.alpha_range, self.alpha_range >= 1, "one or more")
        require("alpha_warmup", self.alpha_warmup, 0 <= self.alpha_warmup <= 1, "in [0, 1]")
        require("tau", self.tau, 0 < self.tau <= 1, "in (0, 1]")
        require_effect(self, _COUNTS_WHERE)


class MFQL(Agent):
    """One-step MeanFlow Q-learning."""

    settings_type = MFQLSettings
    settings: MFQLSettings

    def __init__(self, settings: MFQLSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.tau = settings.tau
        self.policy = FlowPolicy(settings, self.observation_dim, self.chunk_dim)
        self.critic = Critic(
            self.observation_dim, self.chunk_dim, settings.critic_hidden, settings.num_critics, settings.critic_init
        )
        self.balanced = settings.balance != "alpha"
        self.groups = {
            "policy": Group(
                self.with_encoder(self.policy.layout),
                settings.max_grad_norm,
                weighting=weighting_of(settings.balance) if self.balanced else None,
            ),
            "critic": Group(self.with_encoder(self.critic.layout), settings.max_grad_norm, target=True),
        }

    @override
    def update_draws(self) -> dict[str, Draw]:
        batch, candidates = self.settings.batch_size, self.settings.num_candidates
        return {
            **flow_draws(self.settings, self.chunk_dim),
            "noise_pi": noise_draw(self.settings, batch, self.chunk_dim),
            "noise_next": noise_draw(self.settings, batch, candidates, self.chunk_dim),
        }

    @override
    def diagnose_draws(self) -> dict[str, Draw]:
        rows = min(_POOL_ROWS, self.settings.batch_size)
        return {**self.update_draws(), "noise_pool": noise_draw(self.settings, rows, _POOL_CANDIDATES, self.chunk_dim)}

    @override
    def act_draw(self) -> Draw:
        candidates = self.settings.acting_candidates or self.settings.num_candidates
        return noise_draw(self.settings, candidates, self.chunk_dim)

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        return {"policy": policy_rate(self.settings, step), "critic": self.settings.critic_learning_rate}

    @override
    def prepared(self, parameters: Parameters) -> Parameters:
        return parameters.replaced("policy", self.policy.prepared(parameters["policy"]))

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        parameters = self.prepared(parameters)
        seen = self.encode(parameters["critic"], batch["observations"])
        critic_loss, critic_info = self.critic_loss(parameters, batch, seen, draws)
        value_loss, flow_loss, policy_info = self.policy_losses(parameters, batch, seen.detach(), draws, state)
        info = {**critic_info, **policy_info}
        if self.balanced:
            return torch.stack([critic_loss + value_loss, flow_loss], 1), info
        return critic_loss + (value_loss + flow_loss), info

    def critic_loss(self, parameters: Parameters, batch: Batch, seen: Tensor, draws: Draws) -> Losses:
        """Mean over critics and rows of (Q - y)^2, y = r + discount mask Q_target(s', a*) (paper, critic update).

        Of chunks r is the discounted sum of their rewards, and s' is h steps on.

        `seen` `[S, B, D]` is what the critic sees of the observations; so it is in `policy_losses`.
        """
        with torch.no_grad():
            _, values = self.best_candidate(
                parameters["policy"], parameters["target_critic"], batch["next_observations"], draws["noise_next"]
            )
            targets = batch["rewards"] + self.discount * batch["masks"] * values
        values = self.critic(parameters["critic"], seen, batch["actions"])
        loss = (values - targets.unsqueeze(1)).square().mean((1, 2))
        return loss, {"critic_loss": loss, "q": values.mean((1, 2)), "q_target": targets.mean(1)}

    def policy_losses(
        self, parameters: Parameters, batch: Batch, seen: Tensor, draws: Draws, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The two objectives of the policy (paper, policy update), `[S]` each; no gradient to the critic.

        Returns:
            -Q(s, clip(g(s, e, 1))) + bound loss; alpha flow loss; and what to log, alpha among it.
        """
        policy, noise = parameters["policy"], scaled_noise(self.settings, draws["noise_pi"])
        observations = self.encode(policy, batch["observations"])
        raw = raw_actions(self.policy, policy, observations, noise)
        values = self.aggregate(self.critic(no_grad_views(parameters["critic"]), seen, raw.clamp(-1.0, 1.0)))
        q_loss = -values.mean(1)
        excess = functional.relu(raw - 1.0) + functional.relu(-1.0 - raw)
        bound_loss = excess.mean((1, 2)) if self.settings.bound_loss else torch.zeros_like(q_loss)
        flow = flow_terms(
            self.policy, policy, observations, batch["actions"], draws, self.settings, state, batch.get(KEPT)
        )
        alpha = state["alpha"]
        if self.settings.adaptive_alpha and self.settings.alpha_timing == "within":
            alpha = self.adapted(state, state["step"], flow.loss.detach())["alpha"]
        info = {
            **flow.state,
            "alpha": alpha,
            "bound_loss": bound_loss,
            "flow_loss": flow.loss,
            "flow_error": flow.error,
            "out_of_bounds": (raw.detach().abs() > 1.0).float().mean((1, 2)),
        }
        if self.settings.normalize_q:
            info["q_scale"] = self.q_scale(values.detach(), state)
            q_loss = q_loss / info["q_scale"]
        return q_loss + bound_loss, alpha * flow.loss, {**info, "q_loss": q_loss}

    def q_scale(self, values: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """What the Q term is divided by, `[S]`, from the batch's values `[S, B]`."""
        if self.settings.q_scale == "std":
            return values.std(1, correction=0).clamp_min(_LEAST_SCALE)
        scale = values.abs().mean(1).clamp_min(_LEAST_SCALE)
        if self.settings.q_scale == "running":
            before = state["q_scale"]
            scale = torch.where(before > 0, torch.lerp(before, scale, _SCALE_RATE), scale)
        return scale

    def aggregate(self, values: Tensor) -> Tensor:
        """Values of an ensemble `[S, E, B] -> [S, B]`."""
        return values.mean(1) if self.settings.q_agg == "mean" else values.amin(1)

    def best_candidate(
        self, policy: Views, critic: Views, observations: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of K candidate actions the one with the highest value, and that value.

        Args:
            observations: `[S, B, *observation_shape]`.
            noise: as drawn, before `FlowSettings.noise` scales it, `[S, B, K, A]`.

        Returns:
            actions `[S, B, A]`, values `[S, B]`.
        """
        actions, values = self._ranked(policy, critic, observations, noise)
        best, index = values.max(-1)
        return torch.take_along_dim(actions, index[..., None, None], 2).squeeze(2), best

    def _ranked(self, policy: Views, critic: Views, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates `[S, B, K, A]` and their values `[S, B, K]`."""
        scaled = scaled_noise(self.settings, noise)
        actions = candidate_actions(self.policy, policy, self.encode(policy, observations), scaled)
        return actions, self.candidate_values(critic, self.encode(critic, observations), actions)

    def candidate_values(self, critic: Views, observations: Tensor, actions: Tensor) -> Tensor:
        """Aggregated values of candidates `[S, B, K, A] -> [S, B, K]` at encoded observations."""
        repeated = observations.unsqueeze(2).expand(-1, -1, actions.shape[2], -1).flatten(1, 2)
        return self.aggregate(self.critic(critic, repeated, actions.flatten(1, 2))).unflatten(1, (-1, actions.shape[2]))

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        return self.best_candidate(
            parameters["policy"], parameters[self.settings.ranking], observations, required(noise)
        )[0]

    @override
    def ranked(self, parameters: Parameters, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self._ranked(parameters["policy"], parameters[self.settings.ranking], observations, noise)

    @override
    def single(self, parameters: Parameters) -> Single:
        policy, critic = parameters["policy"], parameters[self.settings.ranking]
        candidates, ensemble = single_candidates(self.policy, policy), SingleCritic(self.critic, critic)

        def actions(observations: Tensor, noise: Tensor | None) -> Tensor:
            drawn, batch = required(noise), observations.unsqueeze(0)
            found = candidates(self.encode(policy, batch).squeeze(0), scaled_noise(self.settings, drawn))
            if (count := drawn.shape[1]) == 1:
                return found
            values = ensemble(repeated(self.encode(critic, batch).squeeze(0), count), found)
            return best_of(found.unflatten(0, (-1, count)), self.aggregate(values.unsqueeze(0)).view(-1, count))

        return actions

    @override
    def act_groups(self) -> tuple[str, ...]:
        return ("policy", self.settings.ranking)

    @override
    def initial_state(self, seeds: int) -> dict[str, Tensor]:
        state = {
            "alpha": torch.full((seeds,), self.settings.alpha),
            "alpha_window": torch.zeros(seeds, self.settings.alpha_window),
            "alpha_recorded": torch.zeros(seeds),
            "alpha_moves": torch.zeros(seeds),
        }
        running = self.settings.normalize_q and self.settings.q_scale == "running"
        return state | flow_state(self.settings, seeds) | ({"q_scale": torch.zeros(seeds)} if running else {})

    @override
    def next_state(self, state: Mapping[str, Tensor], step: Tensor, info: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the losses followed, and the adaptive alpha: every `alpha_interval` updates a look at the flow loss."""
        following = {name: info[name] if name in ("q_scale", "time_errors") else value for name, value in state.items()}
        return following | (self.adapted(state, step, info["flow_loss"]) if self.settings.adaptive_alpha else {})

    def adapted(self, state: Mapping[str, Tensor], step: Tensor, flow_loss: Tensor) -> dict[str, Tensor]:
        """What the update of a step makes of alpha and its window: a look at the flow loss `[S]` where one is due."""
        settings = self.settings
        number = step + settings.first_update
        due = (number % settings.alpha_interval == 0) & (number > 0)
        warmup = settings.alpha_warmup * settings.offline_steps
        may_move = due & (number >= warmup if settings.alpha_timing == "within" else number > warmup)
        moved = self.adapt_alpha(state, flow_loss, may_move)
        return {name: torch.where(due, value, state[name]) for name, value in moved.items()}

    @override
    def carried_state(self, state: Mapping[str, Tensor], before: Mapping[str, Any]) -> dict[str, Tensor]:
        """How far alpha has adapted is carried over, as a factor of this part's own alpha."""
        start, alpha = before["alpha"], self.settings.alpha
        if start == alpha:
            return dict(state)
        factor = state["alpha"] / start if start > 0 else torch.ones_like(state["alpha"])
        return {**state, "alpha": alpha * factor}

    def adapt_alpha(self, state: Mapping[str, Tensor], flow_loss: Tensor, may_move: Tensor) -> dict[str, Tensor]:
        """One look at the flow loss `[S]`: alpha moves if far from a full window's mean, then joins the window."""
        settings, alpha = self.settings, state["alpha"]
        mean = state["alpha_window"].mean(1)
        may_move = may_move & (state["alpha_recorded"] >= settings.alpha_window)
        factor = torch.ones_like(alpha)
        factor = torch.where(flow_loss > settings.alpha_threshold * mean, settings.alpha_up, factor)
        factor = torch.where(flow_loss < mean / settings.alpha_threshold, settings.alpha_down, factor)
        moved = (alpha * factor).clamp(settings.alpha / settings.alpha_range, settings.alpha * settings.alpha_range)
        moved = torch.where(may_move, moved, alpha)
        return {
            "alpha": moved,
            "alpha_window": torch.cat([state["alpha_window"][:, 1:], flow_loss.detach().unsqueeze(1)], 1),
            "alpha_recorded": state["alpha_recorded"] + 1,
            "alpha_moves": state["alpha_moves"] + (moved != alpha),
        }

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        policy, critic = parameters["policy"], parameters["critic"]
        observations, seen = (self.encode(views, batch["observations"]) for views in (policy, critic))
        noise = scaled_noise(self.settings, draws["noise_next"])
        raw = raw_actions(self.policy, policy, observations, noise[:, :, 0])
        at_raw = self.aggregate(self.critic(critic, seen, raw))
        at_clipped = self.aggregate(self.critic(critic, seen, raw.clamp(-1.0, 1.0)))
        candidates = candidate_actions(self.policy, policy, observations, noise)
        values = self.candidate_values(critic, seen, candidates)
        flow = flow_terms(
            self.policy, policy, observations, batch["actions"], draws, self.settings, state, batch.get(KEPT)
        )
        return {
            "out_of_bounds": (raw.abs() > 1.0).float().mean((1, 2)),
            "q_raw_minus_clipped": (at_raw - at_clipped).mean(1),
            "candidate_spread": candidates.std(2, correction=0).mean((1, 2)),
            "candidate_q_spread": values.std(2, correction=0).mean(1),
            **self.target_spread(parameters, batch, draws["noise_pool"]),
            "flow_loss": flow.loss,
            "flow_error": flow.error,
            **self.target_error(policy, observations, batch, draws, state, flow.target),
            "alpha": state["alpha"],
            "alpha_moves": state["alpha_moves"],
        }

    def target_error(
        self,
        policy: Views,
        observations: Tensor,
        batch: Batch,
        draws: Draws,
        state: Mapping[str, Tensor],
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Where the flow target `[S, B, A]` has no exact derivative: its root mean square error against that, `[S]`."""
        if self.settings.derivative == "exact" and self.settings.derivative_interval == 1:
            return {}
        exact = replace(self.settings, derivative="exact", derivative_interval=1)
        expected = flow_terms(
            self.policy, policy, observations, batch["actions"], draws, exact, state, batch.get(KEPT)
        ).target
        return {"target_error": (target - expected).square().mean((1, 2)).sqrt()}

    def target_spread(self, parameters: Parameters, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """How the target y of a row varies over draws of its K candidates, as the root of the mean variance `[S]`.

        The candidates that a draw could bring are a pool of them, taken with replacement: the largest of K is at most
        the i-th smallest of M with probability (i / M)^K, so that mean and variance are sums, without drawing.

        Args:
            noise: of the pools, as drawn `[S, rows, M, A]`, of the batch's first rows.

        Returns:
            target_std; and target_gain, by how much the mean largest value exceeds the pool's mean value.
        """
        rows, pool = noise.shape[1:3]
        policy, critic = parameters["policy"], parameters["target_critic"]
        seen, of_critic = (self.encode(views, batch["next_observations"][:, :rows]) for views in (policy, critic))
        candidates = candidate_actions(self.policy, policy, seen, scaled_noise(self.settings, noise))
        values = self.candidate_values(critic, of_critic, candidates).sort(-1).values
        below = (torch.arange(pool + 1, device=values.device) / pool) ** self.settings.num_candidates
        chances = below.diff()
        largest = (values * chances).sum(-1, keepdim=True)
        variance = ((values - largest).square() * chances).sum(-1)
        kept = self.discount * batch["masks"][:, :rows]
        gain = largest.squeeze(-1) - values.mean(-1)
        return {
            "target_std": (kept.square() * variance).mean(1).sqrt(),
            "target_gain": (kept * gain).mean(1),
        }

    @override
    def data_values(self, parameters: Parameters, batch: Batch) -> Tensor:
        seen = self.encode(parameters["critic"], batch["observations"])
        return self.aggregate(self.critic(parameters["critic"], seen, batch["actions"]))
