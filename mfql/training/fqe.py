"""Fitted Q evaluation: what a policy's discounted return is estimated to be from a dataset alone.

A critic is fitted to `r + discount mask Q(s', a')` with a' the policy's own actions (Le, Voloshin and Yue 2019, arXiv
1903.08738; as an estimate for deep policies Fu et al. 2021, arXiv 2103.16596), and is asked for its value
where held-out episodes begin. The mask is 0 where the task ends and 1 at a time-out, which the critic looks beyond: the
estimate is of episodes without a time limit.

Several critics are fitted side by side, each from an initialisation of its own to training episodes drawn with
replacement. A value is the mean over members and starts, its 95 % interval Student's (`mean_and_interval`). It covers
that the data have so many episodes and no more, and what fitting leaves to chance. It does not cover what the data
cannot show: values of actions that nobody took, which all members extrapolate alike, and that the policy was chosen by
the very transitions that now judge it.

The protocol is one for all methods, so that their estimates compare; `mfql.tasks.ESTIMATOR_VERSION` counts its changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import Agent, Batch, Draw, Draws, Group, Losses, Parameters
from mfql.agents.mlp import td_loss
from mfql.agents.networks import Critic
from mfql.agents.update import Updater, initial_state, views_of
from mfql.data.transitions import Dataset, StackedImages, Transitions, endless
from mfql.draws import DrawStream, derived_seed, generator
from mfql.errors import UserError, note
from mfql.evaluation.interval import student_quantile
from mfql.evaluation.policy import Actor
from mfql.settings import Settings, require
from mfql.training.memory import Memory, Normaliser, training_fields
from mfql.training.step import Step

# Actions of a policy that draws noise: in the state after each row, and where an episode begins.
_ACTIONS_OF_ROW, _ACTIONS_OF_START = 4, 32
# Rows that the policy acts in at once, and that are valued at once.
_AT_ONCE = 1024
_POLICY_ACTIONS = "policy_actions"


@dataclass(frozen=True, kw_only=True)
class FQESettings(Settings):
    """The protocol.

    Args:
        hidden: features of each hidden layer of a critic.
        learning_rate: of Adam; it falls to 0 along half a cosine.
        tau: rate of the target, whose values count in the end.
        members: critics, each with an initialisation and episodes of its own; one alone would have no interval.
    """

    online_steps: int = 0
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    tau: float = 0.05
    members: int = 5

    @override
    def check(self) -> None:
        super().check()
        require("members", self.members, self.members >= 2, "two or more")


@dataclass(frozen=True)
class Estimate:
    """What a policy's discounted return is estimated to be where episodes begin, in the rewards' own units.

    Args:
        fqe_return: the mean over members and starts.
        fqe_low, fqe_high: the ends of its interval.
        data_return: the mean Monte-Carlo return of the held-out episodes as they were recorded; one that does not end
            by itself goes on with its last reward, see `Transitions.mc_returns`.
        bellman_error: the root mean square of Q(s, a) - r - discount mask Q(s', a') over held-out rows.
        episodes: held-out episodes, whose starts are valued.
    """

    fqe_return: float
    fqe_low: float
    fqe_high: float
    data_return: float
    bellman_error: float
    episodes: int

    def as_dict(self) -> dict[str, Any]:
        """The entries by name."""
        return asdict(self)


class FittedQ(Agent):
    """The critics of fitted Q evaluation; what is a seed elsewhere is a member here.

    Networks give values in units of `scale` from `centre`.

    Args:
        settings: the protocol.
        observation_shape, action_dim: `(D,)` and A.
        centre, scale: of values, in the rewards' units.
        lowest, highest: what a value can be by the rewards of the data; targets, and what an estimate is made of, are
            cut to it.
    """

    settings_type = FQESettings

    def __init__(
        self,
        settings: FQESettings,
        observation_shape: tuple[int, ...],
        action_dim: int,
        centre: float,
        scale: float,
        lowest: float,
        highest: float,
    ) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.tau = settings.tau
        self.centre, self.scale, self.lowest, self.highest = centre, scale, lowest, highest
        self.critic = Critic(self.observation_dim, action_dim, settings.hidden, ensemble=1, initialisation="fan_avg")
        self.groups = {"critic": Group(self.critic.layout, target=True)}

    @override
    def update_draws(self) -> dict[str, Draw]:
        return {"chosen": Draw("integer", (self.settings.batch_size,))}

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        share = (step / self.settings.offline_steps).clamp(max=1.0)
        return {"critic": self.settings.learning_rate * 0.5 * (1.0 + torch.cos(torch.pi * share))}

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        actions = batch[_POLICY_ACTIONS]
        chosen = (draws["chosen"] % actions.shape[2])[..., None, None].expand(-1, -1, 1, actions.shape[3])
        with torch.no_grad():
            targets = self.targets(parameters, batch, actions.gather(2, chosen).squeeze(2))
        values = self.critic(parameters["critic"], batch["observations"], batch["actions"])
        loss, info = td_loss(values, (targets - self.centre) / self.scale)
        return loss, {"critic_loss": info["critic_loss"]}

    def targets(self, parameters: Parameters, batch: Batch, next_actions: Tensor) -> Tensor:
        """r + discount mask Q_target(s', a') `[S, B]` in the rewards' units, cut to what a value can be."""
        following = self.values(parameters, batch["next_observations"], next_actions)
        return (batch["rewards"] + self.discount * batch["masks"] * following).clamp(self.lowest, self.highest)

    def values(self, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_target(s, a) `[S, B]` in the rewards' units."""
        return self.centre + self.scale * self.critic(parameters["target_critic"], observations, actions)[:, 0]

    @override
    def act_draw(self) -> None:
        return None

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """A critic has no actions of its own."""
        raise NotImplementedError


class _Resampled(Memory):
    """Rows of which each member draws those of its own episodes, drawn with replacement.

    Args:
        rows: fields `[N, ...]`.
        drawable: by member, the numbers of the rows that it draws.
        device: where they lie.
    """

    def __init__(self, rows: Mapping[str, Any], drawable: list[np.ndarray], device: torch.device) -> None:
        super().__init__(rows, len(drawable), 0, None, device)
        counts = [len(numbers) for numbers in drawable]
        padded = [np.pad(numbers, (0, max(counts) - len(numbers))) for numbers in drawable]
        self._numbers = torch.as_tensor(np.stack(padded), device=device)
        self._counts = torch.tensor(counts, device=device).unsqueeze(1)

    @override
    def _drawn(self, indices: Tensor) -> Tensor:
        return self._numbers.gather(1, indices % self._counts)


def fitted_q(actor: Actor, dataset: Dataset, seed: int, settings: FQESettings) -> Estimate:
    """Estimate a policy's discounted return from a dataset.

    The result is a function of the arguments alone, to rounding: nothing of it is saved on the way.

    Args:
        actor: the policy of one seed.
        dataset: what it is fitted to; held out are the validation transitions.
        seed: of all that is drawn.
        settings: the protocol, with the task's discount and how many updates of each critic (`offline_steps`).

    Raises:
        UserError: the policy gives chunks of actions, the task shows images, or a setting is out of range.
    """
    settings.check()
    require_estimable(actor.agent, dataset)
    critics = _fit(actor, dataset, seed, settings)
    val = dataset.val
    starts = val.starts
    act = partial(_acted, actor, seed=seed)
    seen = np.asarray(val.observations)[starts]
    values = critics.mean_values(seen, act(seen, _ACTIONS_OF_START, purpose="fqe/starts"))
    following = act(np.asarray(val.next_observations), 1, purpose="fqe/validation")[:, 0]
    value, low, high = mean_and_interval(values, critics.agent.lowest, critics.agent.highest)
    if len(starts) == 1:
        note(f"{dataset.name} has one held-out episode: the estimate's interval leaves out how starts differ")
    return Estimate(
        fqe_return=value,
        fqe_low=low,
        fqe_high=high,
        data_return=float(val.mc_returns(settings.discount)[starts].mean()),
        bellman_error=critics.bellman_error(val, following),
        episodes=len(starts),
    )


def require_estimable(agent: Agent, dataset: Dataset) -> None:
    """Refuse what fitted Q evaluation is not defined for here.

    Raises:
        UserError: the policy gives chunks of actions, or the task shows images.
    """
    if agent.horizon > 1:
        raise UserError(
            f"off-policy evaluation is of single actions, and this policy gives {agent.horizon} at once (horizon)",
            "Train it with horizon 1.",
        )
    if isinstance(dataset.observations, StackedImages):
        raise UserError(
            f"off-policy evaluation sees vectors of numbers, and the observations of {dataset.name} are images",
            "Evaluate it in its environment.",
        )


def mean_and_interval(values: np.ndarray, lowest: float, highest: float) -> tuple[float, float, float]:
    """The mean over members and starts, and the low and high end of its 95 % interval.

    Each member's refit varies as another dataset of as many episodes would let it, and the true value is one more such
    difference away from the mean of M refits: hence the interval is the mean +- t sqrt(s^2 (1 + 1 / M) + e^2), with s
    the standard deviation of the members' means, e the standard error over the starts and t Student's quantile of
    M - 1 degrees of freedom. A single start does not tell how starts differ: e is 0 then.

    Args:
        values: `[members, starts]`, of two members or more.
        lowest, highest: what a value can be, to which all three are cut.
    """
    values = values.astype(np.float64)
    members, starts = values.shape
    of_members = values.mean(axis=1).var(ddof=1) * (1.0 + 1.0 / members)
    of_starts = values.mean(axis=0).var(ddof=1) / starts if starts > 1 else 0.0
    mean, reach = values.mean(), student_quantile(members - 1) * np.sqrt(of_members + of_starts)
    value, low, high = np.clip([mean, mean - reach, mean + reach], lowest, highest)
    return float(value), float(low), float(high)


@dataclass(frozen=True)
class _Critics:
    """Fitted critics; observations are taken as the dataset has them."""

    agent: FittedQ
    parameters: Parameters
    normaliser: Normaliser
    device: torch.device

    def mean_values(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Values `[members, B]` of observations `[B, D]`, cut to what they can be; means over actions `[B, K, A]`."""

        def means(seen: Tensor, acted: Tensor) -> Tensor:
            each = [self.agent.values(self.parameters, seen, acted[:, :, k]) for k in range(acted.shape[2])]
            return torch.stack(each).clamp(self.agent.lowest, self.agent.highest).mean(0)

        return self._values(means, self.normaliser(observations), actions)

    def bellman_error(self, rows: Transitions, next_actions: np.ndarray) -> float:
        """The root mean square over rows and members of what the critics' equation leaves."""

        def errors(seen: Tensor, acted: Tensor, rewards: Tensor, masks: Tensor, after: Tensor, then: Tensor) -> Tensor:
            batch = {"rewards": rewards, "masks": masks, "next_observations": after}
            return self.agent.values(self.parameters, seen, acted) - self.agent.targets(self.parameters, batch, then)

        seen, after = (self.normaliser(np.asarray(part)) for part in (rows.observations, rows.next_observations))
        found = self._values(errors, seen, rows.actions, rows.rewards, rows.masks, after, next_actions)
        return float(np.sqrt(np.square(found, dtype=np.float64).mean()))

    @torch.no_grad()
    def _values(self, function: Callable[..., Tensor], *arrays: np.ndarray) -> np.ndarray:
        """What a function makes of arrays `[B, ...]`, each member's `[members, B]`, so many rows at once."""
        members = self.agent.settings.members
        parts = []
        for start in range(0, len(arrays[0]), _AT_ONCE):
            taken = (torch.as_tensor(array[start : start + _AT_ONCE], device=self.device) for array in arrays)
            parts.append(function(*(one.expand(members, *one.shape) for one in taken)).cpu().numpy())
        return np.concatenate(parts, axis=1)


def _fit(actor: Actor, dataset: Dataset, seed: int, settings: FQESettings) -> _Critics:
    device, normaliser = actor.device, Normaliser.of(dataset, "valid")
    fields = training_fields(dataset, normaliser, (), settings.discount)
    fields[_POLICY_ACTIONS] = _acted(
        actor, np.asarray(dataset.next_observations), _ACTIONS_OF_ROW, seed=seed, purpose="fqe/rows"
    )
    agent = FittedQ(
        settings, dataset.observations.shape[1:], dataset.actions.shape[1], **_scale(dataset, settings.discount)
    )
    keys = [f"{seed}/{member}" for member in range(settings.members)]
    memory = _Resampled(fields, [_resampled(dataset, key) for key in keys], device)
    state = initial_state(agent, [generator(torch.device("cpu"), key, "fqe/initial") for key in keys], device)
    drawn = {"rows": Draw("integer", (settings.batch_size,)), **agent.update_draws()}
    repeated = {name: Draw(draw.kind, (1, *draw.shape)) for name, draw in drawn.items()}
    step = Step(Updater(agent, state, float("inf")), memory, DrawStream(repeated, keys, "fqe/update", device), 1, 0.0)
    for number in range(settings.offline_steps):
        step(number)
    return _Critics(agent, views_of(agent, state.flat), normaliser, device)


def _scale(dataset: Dataset, discount: float) -> dict[str, float]:
    """In what units and bounds values lie, by the data's returns and rewards."""
    returns = dataset.mc_returns(discount)
    # Where the task ends nothing more is paid: a value is 0 there.
    lowest, highest = (float(endless(end, discount)) for end in (dataset.rewards.min(), dataset.rewards.max()))
    spread = float(returns.std())
    return {
        "centre": float(returns.mean()),
        "scale": spread if spread > 0.0 else max(float(np.abs(returns).max()), 1.0),
        "lowest": min(lowest, 0.0),
        "highest": max(highest, 0.0),
    }


def _resampled(dataset: Transitions, key: str) -> np.ndarray:
    """The numbers of the rows of as many episodes as there are, drawn with replacement."""
    starts, ends = dataset.starts, dataset.ends
    rng = np.random.default_rng(derived_seed(key, "fqe/episodes"))
    chosen = rng.integers(len(ends), size=len(ends))
    return np.concatenate([np.arange(starts[episode], ends[episode] + 1) for episode in chosen])


def _acted(actor: Actor, observations: np.ndarray, count: int, *, seed: int, purpose: str) -> np.ndarray:
    """The policy's actions `[B, K, A]` in raw observations `[B, D]`: `count` of one that draws noise, else one."""
    draw = actor.agent.act_draw()
    repeats = count if draw is not None else 1
    repeated = np.repeat(observations, repeats, axis=0)
    drawn = {"noise": Draw(draw.kind, (_AT_ONCE, *draw.shape))} if draw is not None else {}
    stream = DrawStream(drawn, [seed], purpose, actor.device)
    parts = []
    for number, start in enumerate(range(0, len(repeated), _AT_ONCE)):
        batch = repeated[start : start + _AT_ONCE]
        noise = stream.at(number).get("noise")
        parts.append(actor(batch[None], None if noise is None else noise[:, : len(batch)])[0])
    return np.concatenate(parts).reshape(len(observations), repeats, -1)
