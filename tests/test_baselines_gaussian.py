"""The Gaussian baselines: their updates against the same worked by hand in float64, row by row without a seed axis."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.nn import functional

from mfql.agents.bc import BC, BCSettings
from mfql.agents.calql import CalQL, CalQLSettings
from mfql.agents.gaussian import SquashedGaussian
from mfql.agents.interface import Agent
from mfql.agents.iql import IQL, IQLSettings
from mfql.agents.rebrac import ReBRAC, ReBRACSettings
from mfql.agents.rlpd import RLPD, RLPDSettings
from mfql.agents.update import Updater, initial_state, views_of
from mfql.draws import Draw, generator
from mfql.errors import UserError
from mfql.settings import build_settings
from tests.support.updates import batch_of, draws_of

CPU = torch.device("cpu")
COMMON = {"offline_steps": 100, "online_steps": 10, "discount": 0.9, "batch_size": 6, "actor_hidden": (7, 5)}
VALUES = COMMON | {"critic_hidden": (6, 5)}
MAKERS = {
    "bc": (BC, BCSettings(**COMMON)),
    "iql": (IQL, IQLSettings(**VALUES, alpha=2.0)),
    "rebrac": (ReBRAC, ReBRACSettings(**VALUES, alpha_actor=0.1, alpha_critic=0.05)),
    "rlpd": (RLPD, RLPDSettings(**VALUES)),
    "calql": (CalQL, CalQLSettings(**VALUES, cql_alpha=0.3, cql_actions=3)),
    "calql-gap": (CalQL, CalQLSettings(**VALUES, target_gap_beta=0.8, cql_actions=3)),
}
D, A = 4, 2


def make(name: str, **changes) -> Agent:
    kind, options = MAKERS[name]
    return kind(replace(options, **changes), (D,), A)


def state_of(agent: Agent, seeds: list[int]):
    """A state whose arrays are all away from zero, so that every term counts."""
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    for row, seed in enumerate(seeds):
        for name, flat in state.flat.items():
            source = generator(CPU, seed, "moved", name)
            flat[row] += 0.3 * torch.randn(flat.shape[1], generator=source)
    return state


# --- by hand ----------------------------------------------------------------------------------------------------------


def perceptron(arrays: dict[str, Tensor], x: Tensor, member: int | None = None) -> Tensor:
    """A network on one row `[in]`; with layer norm where it has one; of an ensemble one member."""
    own = arrays if member is None else {name: array[member] for name, array in arrays.items()}
    layers = sum(name.endswith(".kernel") for name in own)
    for layer in range(layers):
        x = x @ own[f"layer{layer}.kernel"] + own[f"layer{layer}.bias"]
        if layer < layers - 1:
            x = functional.gelu(x, approximate="tanh")
            if f"layer{layer}.norm_gain" in own:
                x = (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt()
                x = x * own[f"layer{layer}.norm_gain"] + own[f"layer{layer}.norm_bias"]
    return x


def q_values(arrays: dict[str, Tensor], observation: Tensor, action: Tensor) -> list[Tensor]:
    return [perceptron(arrays, torch.cat([observation, action]), member).squeeze() for member in range(2)]


def squashed(arrays: dict[str, Tensor], observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """An action and its log likelihood, by the change of variables written out."""
    out = perceptron(arrays, observation)
    mean, log_std = out[:A], out[A:].clamp(-5, 2)
    raw = mean + log_std.exp() * noise
    action = raw.tanh()
    density = -0.5 * ((raw - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return action, (density - torch.log(1 - action**2)).sum()


class ByHand:
    """One seed's leaves in float64, its batch and draws, and the gradients of a loss in them."""

    def __init__(self, name: str, **changes) -> None:
        self.agent = make(name, **changes)
        self.flat = {key: value.double() for key, value in state_of(self.agent, [3]).flat.items()}
        views = views_of(self.agent, self.flat)
        self.leaves = {
            group: {key: view[0].clone().requires_grad_() for key, view in named.items()}
            for group, named in views.groups.items()
        }
        self.batch = {key: value.double() for key, value in batch_of(self.agent, [3]).items()}
        self.draws = {key: value.double() for key, value in draws_of(self.agent, [3]).items()}
        self.rows = [
            {key: value[0, row] for key, value in {**self.batch, **self.draws}.items()}
            for row in range(self.agent.settings.batch_size)
        ]

    def frozen(self, group: str) -> dict[str, Tensor]:
        return {name: leaf.detach() for name, leaf in self.leaves[group].items()}

    def agrees_with(self, loss: Tensor) -> None:
        """Loss and gradients of every group equal the agent's."""
        flat = {name: value.clone().requires_grad_() for name, value in self.flat.items()}
        ours, _ = self.agent.losses(views_of(self.agent, flat), self.batch, self.draws, {})
        torch.testing.assert_close(ours[0], loss, rtol=1e-9, atol=1e-9)
        gradients = torch.autograd.grad(ours.sum(), list(flat.values()), allow_unused=True)
        for (name, value), gradient in zip(flat.items(), gradients, strict=True):
            found = torch.zeros_like(value) if gradient is None else gradient
            layout = self.agent.groups[name.removeprefix("target_")].layout
            leaves = self.leaves[name]
            by_hand = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
            for (array, view), expected in zip(layout.views(found).items(), by_hand, strict=True):
                wanted = torch.zeros_like(view[0]) if expected is None else expected
                torch.testing.assert_close(view[0], wanted, rtol=1e-7, atol=1e-9, msg=lambda m, at=array: f"{at}: {m}")


def mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)


def test_behaviour_cloning_is_least_squares_with_a_unit_gaussians_constant():
    hand = ByHand("bc")
    errors = [
        ((perceptron(hand.leaves["policy"], row["observations"]) - row["actions"]) ** 2).sum() for row in hand.rows
    ]
    hand.agrees_with(mean(errors) / 2 + A / 2 * math.log(2 * math.pi))


def soft_losses(hand: ByHand, target_entropy: float, smallest: bool) -> Tensor:
    """TD error, policy and temperature of soft actor-critic."""
    critic, policy, temperature = hand.leaves["critic"], hand.leaves["policy"], hand.leaves["temperature"]["log"].exp()
    td, actor, likelihoods = [], [], []
    for row in hand.rows:
        # RLPD has one next action, Cal-QL several.
        next_values = []
        for noise in row["noise_next"].view(-1, A):
            following, _ = squashed(hand.frozen("policy"), row["next_observations"], noise)
            next_values.append(min(q_values(hand.frozen("target_critic"), row["next_observations"], following)))
        target = row["rewards"] + 0.9 * row["masks"] * max(next_values)
        td += [(value - target) ** 2 for value in q_values(critic, row["observations"], row["actions"])]
        action, likelihood = squashed(policy, row["observations"], row["noise_pi"])
        values = q_values(hand.frozen("critic"), row["observations"], action)
        actor.append(temperature.detach() * likelihood - (min(values) if smallest else mean(values)))
        likelihoods.append(likelihood.detach())
    entropy = -mean(likelihoods)
    return mean(td) + mean(actor) + temperature * (entropy - target_entropy)


def test_rlpds_update_by_hand():
    hand = ByHand("rlpd")
    hand.agrees_with(soft_losses(hand, -0.5 * A, smallest=False))


@pytest.mark.parametrize("name", ["calql", "calql-gap"])
def test_cal_qls_update_by_hand(name):
    hand = ByHand(name)
    assert hand.draws["noise_next"].shape == (1, 6, 3, A)
    gaps = []
    for row in hand.rows:
        sampled = [(2 * action - 1, -A * math.log(2.0), None) for action in row["uniform"]]
        for state, noises in (("observations", row["noise_here"]), ("next_observations", row["noise_there"])):
            sampled += [(*squashed(hand.frozen("policy"), row[state], noise), row["mc_returns"]) for noise in noises]
        for member in range(2):
            terms = []
            for action, density, bound in sampled:
                value = q_values(hand.leaves["critic"], row["observations"], action)[member]
                terms.append((value if bound is None else torch.maximum(value, bound)) - density)
            data = q_values(hand.leaves["critic"], row["observations"], row["actions"])[member]
            gaps.append(torch.stack(terms).exp().sum().log() - data)
    gap = mean(gaps)
    if name == "calql":
        conservative = 0.3 * gap
    else:
        weight = 5.0 * hand.leaves["multiplier"]["log"].exp()
        conservative = weight.detach() * (gap - 0.8) - weight * (gap.detach() - 0.8)
    hand.agrees_with(conservative + soft_losses(hand, -1.0 * A, smallest=True))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_squashed_gaussians_likelihood_is_torchs():
    source = generator(CPU, 0, "likelihood")
    # Small enough for torch to find its way back through the tanh.
    mean_, log_std, noise = (0.5 * torch.randn(3, 5, 2, dtype=torch.float64, generator=source) for _ in range(3))
    actions, likelihood = SquashedGaussian(mean_, log_std).sample(noise)
    expected = TransformedDistribution(Independent(Normal(mean_, log_std.exp()), 1), TanhTransform())
    torch.testing.assert_close(likelihood, expected.log_prob(actions))
    several, likelihoods = SquashedGaussian(mean_, log_std).sample(noise.unsqueeze(2).expand(-1, -1, 4, -1))
    torch.testing.assert_close(several[:, :, 3], actions)
    torch.testing.assert_close(likelihoods[:, :, 3], likelihood)


def test_the_likelihood_of_a_saturated_action_is_finite():
    _, likelihood = SquashedGaussian(torch.full((1, 1, 2), 60.0), torch.zeros(1, 1, 2)).sample(torch.zeros(1, 1, 2))
    assert torch.isfinite(likelihood).all()


def test_rebracs_policy_learns_at_every_second_update_and_coasts_between():
    agent = make("rebrac")
    state = state_of(agent, [0])
    updater = Updater(agent, state, 1e9)
    moved = []
    for index in range(4):
        before = {name: value.clone() for name, value in state.flat.items()}
        updater(batch_of(agent, [0], index), draws_of(agent, [0], index))
        moved.append({name for name, value in state.flat.items() if not torch.equal(value, before[name])})
    everything = {"critic", "policy", "target_critic", "target_policy"}
    # At the first update the policy's momentum is still zero.
    assert moved == [{"critic"}, everything, {"critic", "policy"}, everything]


def test_rebracs_updates_are_one_adams_over_policy_and_critic():
    """Against Adam by hand in float64, which takes a zero gradient of the policy at every update that is not full."""
    agent = make("rebrac", actor_interval=3)
    state = state_of(agent, [0])
    for arrays in (state.flat, state.first, state.second, state.count):
        arrays.update({name: value.double() for name, value in arrays.items()})
    flat = {name: value.clone() for name, value in state.flat.items()}
    first = {name: torch.zeros_like(flat[name]) for name in agent.groups}
    second = {name: torch.zeros_like(flat[name]) for name in agent.groups}
    updater = Updater(agent, state, 1e9)
    for step in range(1, 8):
        batch = {key: value.double() for key, value in batch_of(agent, [0], step).items()}
        draws = {key: value.double() for key, value in draws_of(agent, [0], step).items()}
        updater(batch, draws)
        leaves = {name: flat[name].clone().requires_grad_() for name in agent.groups}
        loss, _ = agent.losses(views_of(agent, {**flat, **leaves}), batch, draws, {})
        full = step % 3 == 0
        for name, leaf in leaves.items():
            (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            if name == "policy" and not full:
                gradient = torch.zeros_like(gradient)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            corrected = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            flat[name] = flat[name] - 3e-4 * corrected[0] / (corrected[1].sqrt() + 1e-8)
            if full:
                flat[f"target_{name}"] = flat[f"target_{name}"] + 0.005 * (flat[name] - flat[f"target_{name}"])
        for name, value in flat.items():
            torch.testing.assert_close(state.flat[name], value, rtol=0, atol=1e-10, msg=f"{name} at update {step}")


def test_the_temperature_rises_while_the_policy_is_too_certain():
    agent = make("rlpd", target_entropy=5.0, learning_rate=1e-2)
    state = state_of(agent, [0])
    before = views_of(agent, state.flat)["temperature"]["log"].clone()
    Updater(agent, state, 1e9)(batch_of(agent, [0]), draws_of(agent, [0]))
    assert views_of(agent, state.flat)["temperature"]["log"] > before


@pytest.mark.parametrize(("beta", "rises"), [(-100.0, True), (100.0, False)])
def test_cal_qls_multiplier_rises_while_the_gap_is_above_its_target(beta, rises):
    agent = make("calql-gap", target_gap_beta=beta)
    state = state_of(agent, [0])
    before = views_of(agent, state.flat)["multiplier"]["log"].clone()
    Updater(agent, state, 1e9)(batch_of(agent, [0]), draws_of(agent, [0]))
    assert bool(views_of(agent, state.flat)["multiplier"]["log"] > before) == rises


def test_calibration_never_pushes_values_below_the_datas_returns():
    """With returns above every value, the policy's actions leave the conservative term: only the uniform ones stay."""
    agent = make("calql")
    state, batch, draws = state_of(agent, [0]), batch_of(agent, [0]), draws_of(agent, [0])
    batch["mc_returns"] = torch.full_like(batch["mc_returns"], 1e3)
    _, info = agent.losses(views_of(agent, state.flat), batch, draws, {})
    assert info["calibrated"].item() == 1.0
    assert info["conservative_gap"].item() > 900


@pytest.mark.parametrize(("alpha", "beta"), [(None, None), (1.0, 0.5)])
def test_cal_ql_takes_a_weight_or_a_target_gap(alpha, beta):
    values = {**VALUES, "cql_alpha": alpha, "target_gap_beta": beta}
    with pytest.raises(UserError, match="target_gap_beta"):
        build_settings(CalQLSettings, values, "here")


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_trains_alike_alone_and_among_others(name):
    agent = make(name)
    runs = {}
    for seeds in ([3], [0, 3, 7]):
        state = state_of(agent, seeds)
        updater = Updater(agent, state, 1e9)
        for index in range(20):
            updater(batch_of(agent, seeds, index), draws_of(agent, seeds, index))
        assert not (state.diverged_at >= 0).any()
        runs[len(seeds)] = state
    for group, flat in runs[1].flat.items():
        scale = flat.abs().max()
        assert (flat[0] - runs[3].flat[group][1]).abs().max() <= 1e-4 * scale
        assert (flat[0] - runs[3].flat[group][0]).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("name", MAKERS)
def test_evaluation_acts_without_noise_and_exploration_stays_within_the_bounds(name):
    agent = make(name)
    parameters = views_of(agent, state_of(agent, [0, 1]).flat)
    source = generator(CPU, 0, "act")
    observations = 3.0 * torch.randn(2, 9, D, generator=source)
    assert agent.act_draw() is None
    acted = agent.act(parameters, observations, None)
    assert acted.shape == (2, 9, A)
    assert acted.abs().max() <= 1.0
    if name == "bc":
        assert agent.explore_draw() is None
        return
    assert agent.explore_draw() == Draw("normal", (A,))
    explored = [agent.explore(parameters, observations, torch.randn(2, 9, A, generator=source)) for _ in range(2)]
    assert all(actions.abs().max() <= 1.0 for actions in explored)
    assert not torch.equal(*explored)


@pytest.mark.parametrize("name", MAKERS)
def test_products_in_bf16_and_a_pixel_tasks_encoders_give_finite_gradients(name):
    kind, options = MAKERS[name]
    small = replace(options, precision="bf16", encoder_channels=(2, 2), encoder_features=3, batch_size=2)
    agent = kind(small, (8, 8, 3), A)
    state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
    frames = {key: torch.randint(0, 256, (1, 2, 8, 8, 3)) for key in ("observations", "next_observations")}
    before = {group: flat.clone() for group, flat in state.flat.items()}
    updater = Updater(agent, state, 1e9)
    for index in range(2):
        updater(batch_of(agent, [0], index) | frames, draws_of(agent, [0], index))
    assert state.diverged_at.item() == -1
    for group in agent.groups:
        assert torch.isfinite(state.flat[group]).all()
        assert not torch.equal(state.flat[group], before[group])


@pytest.mark.parametrize("name", MAKERS)
def test_diagnostics_are_one_finite_number_a_seed(name):
    agent = make(name)
    seeds = [0, 1]
    found = agent.diagnostics(
        views_of(agent, state_of(agent, seeds).flat), batch_of(agent, seeds), draws_of(agent, seeds), {}
    )
    assert found
    assert all(value.shape == (2,) and torch.isfinite(value).all() for value in found.values())
