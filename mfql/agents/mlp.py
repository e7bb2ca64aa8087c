"""What the baselines share: plain networks, the flow-matching loss and sampler, and actor-critic's common parts.

As published with FQL (arXiv 2502.02538, appendix on implementation): four hidden layers of 512 features with tanh-GELU,
layer norm in value networks alone, variance-scaling initialisation, Adam at 3e-4 without clipping, and targets that
move by 0.005.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from mfql.agents.interface import Agent, Batch, Draw, Group, Losses, Parameters, mean_over_actions, no_grad_views
from mfql.agents.networks import Critic, Dual, dense, linear
from mfql.agents.parameters import Layout, Parameter, Views, variance_scaling
from mfql.settings import Settings, require

# Scale of the last layer's initial variance in actors that are not flows.
ACTOR_OUTPUT_SCALE = 0.01
# Of a row in advantage-weighted regression.
_LARGEST_WEIGHT = 100.0
# They are taken one by one.
_MOST_FLOW_STEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class ActorSettings(Settings):
    """Settings of every baseline.

    Args:
        actor_hidden: features of each hidden layer of the actor, or of a flow's vector field.
        learning_rate: of Adam, constant, for every group.
    """

    actor_hidden: tuple[int, ...] = (512, 512, 512, 512)
    learning_rate: float = 3e-4

    @override
    def check(self) -> None:
        super().check()
        require("actor_hidden", self.actor_hidden, all(size >= 1 for size in self.actor_hidden), "sizes of one or more")
        require("learning_rate", self.learning_rate, self.learning_rate > 0, "above zero")


@dataclass(frozen=True, kw_only=True)
class ActorCriticSettings(ActorSettings):
    """Settings of every baseline with values.

    Args:
        critic_hidden: features of each hidden layer of Q, and of V where there is one; num_critics: E.
        tau: rate of the targets.
        target_follows: what they move towards: the networks as `updated`, or the `previous` ones, before the update,
            as in the code released with FQL.
        q_agg: how the ensemble's values are joined, in targets and, unless the method says otherwise, for the policy:
            that of FQL, FBRAC and RLPD takes the mean and that of Cal-QL the minimum, whatever `q_agg`.
    """

    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    num_critics: int = 2
    tau: float = 0.005
    target_follows: Literal["updated", "previous"] = "updated"
    q_agg: Literal["mean", "min"] = "mean"

    @override
    def check(self) -> None:
        super().check()
        sizes = self.critic_hidden
        require("critic_hidden", sizes, all(size >= 1 for size in sizes), "sizes of one or more")
        require("num_critics", self.num_critics, self.num_critics >= 1, "one or more")
        require("tau", self.tau, 0 < self.tau <= 1, "in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class FlowActorSettings(ActorCriticSettings):
    """Settings of every baseline with a flow policy.

    Args:
        flow_steps: Euler steps from noise to an action.
    """

    flow_steps: int = 10

    @override
    def check(self) -> None:
        super().check()
        require(
            "flow_steps", self.flow_steps, 1 <= self.flow_steps <= _MOST_FLOW_STEPS, f"from 1 to {_MOST_FLOW_STEPS:,}"
        )


class MLP:
    """Linear layers with tanh-GELU between them: `layer0`, `layer1`, ..., the last one linear.

    Args:
        inputs: features in.
        hidden: features of each hidden layer.
        outputs: features out.
        output_scale: of the last layer's initial variance.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, output_scale: float = 1.0) -> None:
        self.depth = len(hidden)
        parameters: dict[str, Parameter] = {}
        for layer, (before, after) in enumerate(zip((inputs, *hidden), (*hidden, outputs), strict=True)):
            scale = output_scale if layer == self.depth else 1.0
            parameters |= dense(f"layer{layer}", before, after, variance_scaling("fan_avg", scale))
        self.layout = Layout(parameters)

    def __call__(self, parameters: Views, inputs: Tensor) -> Tensor:
        """`[S, B, in] -> [S, B, out]`."""
        return self.after_first(parameters, linear(parameters, "layer0", Dual(inputs)).value)

    def after_first(self, parameters: Views, x: Tensor) -> Tensor:
        """The rest of the network, from what the first layer's product gives."""
        for layer in range(1, self.depth + 1):
            x = linear(parameters, f"layer{layer}", Dual(functional.gelu(x, approximate="tanh"))).value
        return x


class FlowActor:
    """A flow's vector field v(s, a_t, t) and its sampler; time runs from noise at 0 to actions at 1.

    Args:
        observation_dim, action_dim: sizes D and A.
        hidden: features of each hidden layer.
        steps: Euler steps from noise to an action.
    """

    def __init__(self, observation_dim: int, action_dim: int, hidden: tuple[int, ...], steps: int) -> None:
        self.observation_dim, self.steps = observation_dim, steps
        self.network = MLP(observation_dim + action_dim + 1, hidden, action_dim)
        self.layout = self.network.layout

    def __call__(self, parameters: Views, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """v(s, a_t, t): observations `[S, B, D]`, actions `[S, B, A]`, times `[S, B, 1]` -> `[S, B, A]`."""
        return self.network(parameters, torch.cat([observations, actions, times], dim=-1))

    def sample(self, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions `[S, K B, A]`, clipped, at the end of the flow from noise of the same shape.

        Each of the observations `[S, B, D]` has K consecutive rows of the noise. The gradient passes through every
        step.
        """
        kernel, bias = parameters["layer0.kernel"], parameters["layer0.bias"].unsqueeze(1)
        at_state, at_step = kernel[:, : self.observation_dim], kernel[:, self.observation_dim :]
        # What the first layer makes of an observation is the same for all its rows and steps.
        seen = torch.baddbmm(bias, observations.to(kernel.dtype), at_state).to(observations.dtype)
        repeats = noise.shape[1] // observations.shape[1]
        seen = seen.unsqueeze(2).expand(-1, -1, repeats, -1).flatten(1, 2)
        actions = noise
        for step in range(self.steps):
            times = torch.full_like(actions[..., :1], step / self.steps)
            moving = torch.bmm(torch.cat([actions, times], dim=-1).to(kernel.dtype), at_step)
            velocity = self.network.after_first(parameters, seen + moving.to(seen.dtype))
            actions = actions + velocity / self.steps
        return actions.clamp(-1.0, 1.0)

    def candidates(self, parameters: Views, observations: Tensor, noise: Tensor) -> Tensor:
        """K clipped actions for each observation: `[S, B, D]` and noise `[S, B, K, A]` -> `[S, B, K, A]`."""
        return self.sample(parameters, observations, noise.flatten(1, 2)).unflatten(1, (-1, noise.shape[2]))


def matching_draws(rows: int, action_dim: int) -> dict[str, Draw]:
    """The random arrays of `flow_errors` over so many rows."""
    return {"noise_bc": Draw("normal", (rows, action_dim)), "time": Draw("uniform", (rows, 1))}


def flow_errors(
    policy: FlowActor,
    parameters: Views,
    observations: Tensor,
    actions: Tensor,
    draws: Mapping[str, Tensor],
    kept: Tensor | None = None,
) -> Tensor:
    """Squared error of v(s, x_t, t) from x_1 - x_0 with x_t = (1 - t) x_0 + t x_1, mean over action dims: `[S, B]`.

    The minimum of its mean over rows is the flow from noise to the data's actions (flow matching, arXiv 2210.02747).

    Args:
        observations: `[S, B, D]`, encoded.
        actions: x_1, the data's `[S, B, A]`.
        kept: of chunks, the actions that count, as in `mean_over_actions`.
        draws: x_0, `noise_bc`, standard normal `[S, B, A]`, and t, `time`, uniform on [0, 1) `[S, B, 1]`.
    """
    noise, times = draws["noise_bc"], draws["time"]
    velocity = policy(parameters, observations, torch.lerp(noise, actions, times), times)
    return mean_over_actions((velocity - (actions - noise)).square(), kept)


def td_loss(values: Tensor, targets: Tensor) -> Losses:
    """Mean over critics and rows of (Q - y)^2: values of the data's actions `[S, E, B]`, targets y `[S, B]`."""
    loss = (values - targets.unsqueeze(1)).square().mean((1, 2))
    return loss, {"critic_loss": loss, "q": values.mean((1, 2)), "q_target": targets.mean(1)}


def q_loss(values: Tensor, *, normalize: bool) -> Tensor:
    """-mean Q of the policy's actions: values `[S, B]` -> `[S]`; where asked, in units of mean |Q|."""
    loss = -values.mean(1)
    return loss / values.detach().abs().mean(1).clamp_min(1e-6) if normalize else loss


def expectile_loss(differences: Tensor, expectile: float) -> Tensor:
    """`|expectile - 1(d < 0)| d^2`, elementwise (IQL, arXiv 2110.06169, equation 5)."""
    return torch.where(differences >= 0, expectile, 1.0 - expectile) * differences.square()


def advantage_weights(advantages: Tensor, alpha: float) -> Tensor:
    """`exp(alpha A)`, at most 100 (as released with IQL), without a gradient."""
    return (alpha * advantages.detach()).exp().clamp(max=_LARGEST_WEIGHT)


def effective_batch(weights: Tensor) -> Tensor:
    """How many rows of equal weight the weights `[S, B]` amount to, as a share of B: `[S]` from 1 / B to 1."""
    return weights.mean(1).square() / weights.square().mean(1).clamp_min(1e-12)


def required(noise: Tensor | None) -> Tensor:
    """The noise that a method acts on."""
    if noise is None:
        raise ValueError("this method acts on noise of the shape [S, B, *act_draw]; None was given")
    return noise


class ActorCritic(Agent):
    """A baseline with an ensemble of critics; subclasses set `groups`, of which `critic` is `critic_group()`."""

    settings: ActorCriticSettings

    def __init__(self, settings: ActorCriticSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.tau = settings.tau
        self.critic = Critic(
            self.observation_dim, self.chunk_dim, settings.critic_hidden, settings.num_critics, initialisation="fan_avg"
        )

    def critic_group(self) -> Group:
        """The critics with their encoder and target."""
        return self.followed_group(self.critic.layout)

    def followed_group(self, layout: Layout) -> Group:
        """A group with its encoder and a target."""
        return Group(self.with_encoder(layout), target=True, target_lags=self.settings.target_follows == "previous")

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        return dict.fromkeys(self.groups, self.settings.learning_rate)

    def aggregate(self, values: Tensor) -> Tensor:
        """Values of an ensemble `[S, E, B] -> [S, B]`."""
        return values.mean(1) if self.settings.q_agg == "mean" else values.amin(1)

    def td_targets(self, batch: Batch, next_values: Tensor) -> Tensor:
        """r + discount mask V(s') `[S, B]`, without a gradient; of chunks h steps on."""
        return batch["rewards"] + self.discount * batch["masks"] * next_values.detach()

    def next_values(self, parameters: Parameters, batch: Batch, next_actions: Tensor) -> Tensor:
        """The target critics' aggregated Q(s', a') `[S, B]`, without a gradient."""
        target = parameters["target_critic"]
        with torch.no_grad():
            return self.aggregate(self.critic(target, self.encode(target, batch["next_observations"]), next_actions))

    def evaluation_loss(self, parameters: Parameters, batch: Batch, seen: Tensor, next_actions: Tensor) -> Losses:
        """`td_loss` with y = r + discount mask Q_target(s', a'); `seen` as in `frozen_values`."""
        targets = self.td_targets(batch, self.next_values(parameters, batch, next_actions))
        return td_loss(self.critic(parameters["critic"], seen, batch["actions"]), targets)

    def frozen_values(self, parameters: Parameters, seen: Tensor, actions: Tensor) -> Tensor:
        """Q of a policy's actions `[S, E, B]`, with a gradient to the actions alone.

        `seen` `[S, B, D]` is what the critic sees of the observations.
        """
        return self.critic(no_grad_views(parameters["critic"]), seen.detach(), actions)

    def candidate_values(self, critic: Views, seen: Tensor, actions: Tensor) -> Tensor:
        """Aggregated values of candidates `[S, B, K, A] -> [S, B, K]` at encoded observations `[S, B, D]`."""
        repeated = seen.unsqueeze(2).expand(-1, -1, actions.shape[2], -1).flatten(1, 2)
        return self.aggregate(self.critic(critic, repeated, actions.flatten(1, 2))).unflatten(1, (-1, actions.shape[2]))

    @override
    def data_values(self, parameters: Parameters, batch: Batch) -> Tensor:
        critic = parameters["critic"]
        return self.aggregate(self.critic(critic, self.encode(critic, batch["observations"]), batch["actions"]))


class ActorCriticValue(ActorCritic):
    """A baseline that learns V too; subclasses have `value_group()` under `value` among their `groups`."""

    def __init__(self, settings: ActorCriticSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.value = Critic(self.observation_dim, 0, settings.critic_hidden, ensemble=1, initialisation="fan_avg")

    def value_group(self) -> Group:
        """V with its encoder."""
        return Group(self.with_encoder(self.value.layout))

    def state_values(self, parameters: Parameters, observations: Tensor) -> Tensor:
        """V(s) `[S, B]` of observations `[S, B, *observation_shape]`."""
        return self.value(parameters["value"], self.encode(parameters["value"], observations)).squeeze(1)

    def implicit_losses(self, parameters: Parameters, batch: Batch, expectile: float) -> tuple[Tensor, Losses]:
        """IQL's values (arXiv 2110.06169, equations 5 and 6): V is an expectile of Q over the data's actions.

        The critics' squared errors are added, not averaged, as in the code released with FQL.

        Returns:
            advantages Q(s, a) - V(s) of the data's actions `[S, B]`, without a gradient; and the loss of V and the
            critics with what to log.
        """
        critic, target = parameters["critic"], parameters["target_critic"]
        values = self.state_values(parameters, batch["observations"])
        with torch.no_grad():
            known = self.aggregate(self.critic(target, self.encode(target, batch["observations"]), batch["actions"]))
            targets = self.td_targets(batch, self.state_values(parameters, batch["next_observations"]))
        value_loss = expectile_loss(known - values, expectile).mean(1)
        found = self.critic(critic, self.encode(critic, batch["observations"]), batch["actions"])
        mean_loss, info = td_loss(found, targets)
        critic_loss = self.settings.num_critics * mean_loss
        info |= {"critic_loss": critic_loss, "value_loss": value_loss, "v": values.mean(1)}
        return (self.aggregate(found) - values).detach(), (value_loss + critic_loss, info)
