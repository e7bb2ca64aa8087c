"""Flow baselines: losses worked by hand in float64, the sampler, acting, packing, pixels.

FQL's and IFQL's losses are held against released code's in tests/test_parity.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mfql.agents.fawac import FAWAC, FAWACSettings
from mfql.agents.fbrac import FBRAC, FBRACSettings
from mfql.agents.fql import FQL, FQLSettings
from mfql.agents.ifql import IFQL, IFQLSettings
from mfql.agents.interface import Agent, Parameters
from mfql.agents.mlp import FlowActor, FlowActorSettings
from mfql.agents.update import TrainState, Updater, initial_state, views_of
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from tests.support.updates import batch_of, draws_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    torch.manual_seed(0)


SIZES: dict[str, Any] = {
    "offline_steps": 100, "online_steps": 10, "discount": 0.9, "batch_size": 12, "actor_hidden": (8, 8),
    "critic_hidden": (10, 10), "flow_steps": 3, "encoder_channels": (2, 2), "encoder_features": 6,
}  # fmt: skip
SMALL: dict[type[Agent], FlowActorSettings] = {
    FQL: FQLSettings(**SIZES, alpha=2.0),
    IFQL: IFQLSettings(**SIZES, num_samples=5),
    FBRAC: FBRACSettings(**SIZES, alpha=2.0),
    FAWAC: FAWACSettings(**SIZES, alpha=3.0),
}
AGENTS = pytest.mark.parametrize("kind", list(SMALL), ids=lambda kind: kind.__name__)

Views = dict[str, Tensor]


def make(kind: type[Agent], seeds: list[int], options: FlowActorSettings | None = None) -> tuple[Agent, TrainState]:
    agent = kind(options or SMALL[kind], (4,), 2)
    return agent, initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)


# --- the update worked by hand, one seed, float64 ---------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer(weights: Views, number: int, x: Tensor, member: int | None) -> Tensor:
    kernel, bias = (
        weights[f"layer{number}.{leaf}"] if member is None else weights[f"layer{number}.{leaf}"][member]
        for leaf in ("kernel", "bias")
    )
    return x @ kernel + bias


def field(weights: Views, s: Tensor, a: Tensor, t: Tensor) -> Tensor:
    x = torch.cat([s, a, t], 1)
    for number in (0, 1):
        x = gelu(layer(weights, number, x, None))
    return layer(weights, 2, x, None)


def euler(weights: Views, s: Tensor, noise: Tensor, steps: int) -> Tensor:
    a = noise
    for step in range(steps):
        a = a + field(weights, s, a, torch.full((len(s), 1), step / steps, dtype=torch.float64)) / steps
    return a.clamp(-1, 1)


def ensemble(weights: Views, x: Tensor) -> Tensor:
    """Values `[E, B]`."""
    members = []
    for member in range(len(weights["layer0.kernel"])):
        y = x
        for number in (0, 1):
            y = gelu(layer(weights, number, y, member))
            y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
            y = y * weights[f"layer{number}.norm_gain"][member] + weights[f"layer{number}.norm_bias"][member]
        members.append(layer(weights, 2, y, member).squeeze(1))
    return torch.stack(members)


def flow_squares(weights: Views, batch: Views, draws: Views) -> Tensor:
    """Squared errors of flow matching `[B]`."""
    x0, x1, t = draws["noise_bc"], batch["actions"], draws["time"]
    return (field(weights, batch["observations"], (1 - t) * x0 + t * x1, t) - (x1 - x0)).square().mean(1)


def td_loss_by_hand(options: FlowActorSettings, weights: dict[str, Views], batch: Views, draws: Views) -> Tensor:
    following = batch["next_observations"]
    actions = euler(weights["policy"], following, draws["noise_next"], options.flow_steps)
    values = ensemble(weights["target_critic"], torch.cat([following, actions], 1))
    value = values.min(0).values if options.q_agg == "min" else values.mean(0)
    target = (batch["rewards"] + options.discount * batch["masks"] * value).detach()
    known = ensemble(weights["critic"], torch.cat([batch["observations"], batch["actions"]], 1))
    return ((known - target) ** 2).mean()


def fbrac_by_hand(options: FBRACSettings, weights: dict[str, Views], batch: Views, draws: Views) -> Tensor:
    s = batch["observations"]
    frozen = {name: value.detach() for name, value in weights["critic"].items()}
    a = euler(weights["policy"], s, draws["noise_pi"], options.flow_steps)
    q = ensemble(frozen, torch.cat([s, a], 1)).mean(0)
    q_term = -q.mean() / (q.detach().abs().mean() if options.normalize_q else 1.0)
    flow = flow_squares(weights["policy"], batch, draws).mean()
    return td_loss_by_hand(options, weights, batch, draws) + options.alpha * flow + q_term


def fawac_by_hand(options: FAWACSettings, weights: dict[str, Views], batch: Views, draws: Views) -> Tensor:
    s, known = batch["observations"], torch.cat([batch["observations"], batch["actions"]], 1)

    def joined(values: Tensor) -> Tensor:
        return values.min(0).values if options.q_agg == "min" else values.mean(0)

    v = ensemble(weights["value"], s)[0]
    value_loss = ((v - joined(ensemble(weights["target_critic"], known)).detach()) ** 2).mean()
    advantage = (joined(ensemble(weights["critic"], known)) - v).detach()
    weight = torch.minimum(torch.exp(options.alpha * advantage), torch.tensor(100.0, dtype=torch.float64))
    policy_loss = (weight * flow_squares(weights["policy"], batch, draws)).mean()
    return td_loss_by_hand(options, weights, batch, draws) + value_loss + policy_loss


def first_seed(arrays: Mapping[str, Tensor]) -> Views:
    return {name: array[0] for name, array in arrays.items()}


def moved(flat: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return flat.double() + 0.1 * torch.randn(flat.shape, generator=random, dtype=torch.float64)


BY_HAND = [
    (FBRAC, fbrac_by_hand, {}),
    (FBRAC, fbrac_by_hand, {"q_agg": "min", "normalize_q": True}),
    (FAWAC, fawac_by_hand, {}),
    (FAWAC, fawac_by_hand, {"q_agg": "min", "alpha": 40.0}),  # Some weights reach 100.
]


@pytest.mark.parametrize(("kind", "by_hand", "changed"), BY_HAND)
def test_losses_and_gradients_are_those_worked_by_hand_in_float64(kind, by_hand, changed):
    agent, state = make(kind, [4], replace(SMALL[kind], **changed))
    # Targets that differ from what they follow, biases and gains that are no zeros and ones.
    leaves = {name: moved(flat).requires_grad_(name in agent.groups) for name, flat in state.flat.items()}
    batch, draws = (
        {name: value.double() for name, value in arrays.items()}
        for arrays in (batch_of(agent, [4]), draws_of(agent, [4]))
    )
    loss, info = agent.losses(views_of(agent, leaves), batch, draws, state.own)
    weights = {name: first_seed(views) for name, views in views_of(agent, leaves).groups.items()}
    expected = by_hand(agent.settings, weights, first_seed(batch), first_seed(draws))
    torch.testing.assert_close(loss[0], expected, rtol=1e-10, atol=1e-10)
    trained = [leaves[name] for name in agent.groups]
    for found, wanted in zip(
        torch.autograd.grad(loss.sum(), trained), torch.autograd.grad(expected, trained), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    if changed.get("alpha"):
        assert info["weight"] > 1.0


# --- the sampler and acting -------------------------------------------------------------------------------------------


def test_the_sampler_takes_euler_steps_of_the_field_for_each_candidate():
    flow = FlowActor(4, 2, (8, 8), steps=3)
    flat = flow.layout.initial([generator(CPU, seed) for seed in (1, 2)]).double()
    parameters = flow.layout.views(flat + 0.1 * torch.randn_like(flat))
    observations, noise = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 6, 2, dtype=torch.float64)
    found = flow.candidates(parameters, observations, noise)
    for seed in range(2):
        weights = {name: view[seed] for name, view in parameters.items()}
        for candidate in range(6):
            expected = euler(weights, observations[seed], noise[seed, :, candidate], steps=3)
            torch.testing.assert_close(found[seed, :, candidate], expected, rtol=1e-12, atol=1e-12)


@AGENTS
def test_actions_are_within_bounds_and_need_noise_of_the_declared_shape(kind):
    agent, state = make(kind, [0, 1])
    parameters = views_of(agent, {name: 3 * flat for name, flat in state.flat.items() if name in agent.act_groups()})
    noise = 3 * torch.randn(2, 7, *agent.act_draw().shape)
    actions = agent.act(parameters, torch.randn(2, 7, 4), noise)
    assert actions.shape == (2, 7, 2)
    assert actions.abs().max() == 1.0
    with pytest.raises(ValueError, match="acts on noise"):
        agent.act(parameters, torch.randn(2, 7, 4), None)


def test_ifql_takes_the_sample_that_the_lower_critic_values_most():
    agent, state = make(IFQL, [0, 1])
    parameters, observations, noise = views_of(agent, state.flat), torch.randn(2, 7, 4), torch.randn(2, 7, 5, 2)
    chosen = agent.act(parameters, observations, noise)

    def lower(actions: Tensor) -> Tensor:
        return agent.critic(parameters["critic"], observations, actions).min(1).values

    best = lower(chosen)
    samples = [agent.act(parameters, observations, noise[:, :, [one]]) for one in range(5)]
    torch.testing.assert_close(best, torch.stack([lower(sample) for sample in samples]).max(0).values)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (FQL, "alpha", -1.0),
        (FQL, "flow_steps", 0),
        (IFQL, "expectile", 1.0),
        (IFQL, "num_samples", 0),
        (FBRAC, "tau", 0.0),
        (FAWAC, "critic_hidden", (0,)),
        (FAWAC, "learning_rate", 0.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(kind, key, value):
    with pytest.raises(UserError, match=f"setting {key} is"):
        replace(SMALL[kind], **{key: value}).check()


# --- training ---------------------------------------------------------------------------------------------------------


def trained(kind: type[Agent], seeds: list[int], steps: int, **changed: Any) -> tuple[Agent, TrainState]:
    agent, state = make(kind, seeds, replace(SMALL[kind], learning_rate=3e-3, **changed))
    updater, stream = Updater(agent, state, 1e9), DrawStream(agent.update_draws(), seeds, "update", CPU)
    batches = [batch_of(agent, seeds, index) for index in range(4)]
    for step in range(steps):
        updater(batches[step % 4], stream.at(step))
    return agent, state


@pytest.mark.slow
@AGENTS
def test_a_seed_trains_alike_alone_and_among_others(kind):
    _, alone = trained(kind, [3], 50)
    _, together = trained(kind, [0, 3, 7], 50)
    assert together.active.all()
    for name, value in alone.flat.items():
        scale = value.abs().max()
        assert (value[0] - together.flat[name][1]).abs().max() <= 1e-4 * scale
        assert (value[0] - together.flat[name][0]).abs().max() > 1e-2 * scale
    for name, value in alone.logged.items():
        torch.testing.assert_close(value[0], together.logged[name][1], rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "changed"),
    [(FQL, {"alpha": 0.1}), (IFQL, {"num_samples": 16}), (FBRAC, {"alpha": 0.1}), (FAWAC, {"alpha": 10.0})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bandits_policy_acts_better_than_its_data(kind, changed):
    """Actions are uniform; the reward is their squared distance from one of them, -1.17 on average."""
    best = torch.tensor([0.5, -0.5])
    options = replace(SMALL[kind], batch_size=64, actor_hidden=(32, 32), critic_hidden=(32, 32), learning_rate=3e-3)
    agent, state = make(kind, [0], replace(options, **changed))
    updater, stream = Updater(agent, state, 1e9), DrawStream(agent.update_draws(), [0], "update", CPU)
    nothing = {"observations": torch.zeros(1, 64, 4), "next_observations": torch.zeros(1, 64, 4)}
    for step in range(150):
        actions = 2 * torch.rand(1, 64, 2) - 1
        rewards = -(actions - best).square().sum(-1)
        updater({**nothing, "actions": actions, "rewards": rewards, "masks": torch.zeros(1, 64)}, stream.at(step))
    parameters = views_of(agent, state.flat)
    acted = agent.act(parameters, torch.zeros(1, 256, 4), torch.randn(1, 256, *agent.act_draw().shape))
    assert -(acted - best).square().sum(-1).mean() > -0.4


@AGENTS
def test_every_group_learns_and_targets_follow_the_critics(kind):
    _, start = make(kind, [3])
    agent, end = trained(kind, [3], 20, tau=0.5)
    for name in agent.groups:
        assert (end.flat[name] - start.flat[name]).abs().max() > 1e-2
    distance = (end.flat["target_critic"] - end.flat["critic"]).norm()
    assert distance < 0.1 * (end.flat["critic"] - start.flat["critic"]).norm()


@AGENTS
def test_products_in_bf16_train_as_float32_ones_do(kind):
    _, start = make(kind, [0])
    moved = {}
    for precision in ("float32", "bf16"):
        _, state = trained(kind, [0], 20, precision=precision)
        assert {array.dtype for array in state.tensors() if array.is_floating_point()} == {torch.float32}
        moved[precision] = state.flat["policy"] - start.flat["policy"]
    difference = (moved["bf16"] - moved["float32"]).norm()
    assert 0 < difference < 0.2 * moved["float32"].norm()


@AGENTS
def test_diagnostics_and_values_of_the_data_are_one_finite_number_a_seed_and_a_row(kind):
    agent, state = make(kind, [0, 1])
    parameters, batch = views_of(agent, state.flat), batch_of(agent, [0, 1])
    found = agent.diagnostics(parameters, batch, draws_of(agent, [0, 1]), state.own)
    assert "flow_loss" in found
    assert all(value.shape == (2,) and torch.isfinite(value).all() for value in found.values())
    expected = agent.critic(parameters["critic"], batch["observations"], batch["actions"])
    expected = expected.min(1).values if agent.settings.q_agg == "min" else expected.mean(1)
    torch.testing.assert_close(agent.data_values(parameters, batch), expected)


@AGENTS
def test_every_network_of_a_pixel_task_trains_an_encoder_of_its_own(kind):
    agent = kind(replace(SMALL[kind], batch_size=4), (8, 8, 9), 2)
    state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 1, 4, 8, 8, 9), generator=random, dtype=torch.uint8)
    batch = {
        "observations": images[0], "next_observations": images[1], "rewards": torch.zeros(1, 4),
        "actions": torch.rand(1, 4, 2, generator=random), "masks": torch.ones(1, 4),
    }  # fmt: skip
    leaves = {name: flat.requires_grad_(name in agent.groups) for name, flat in state.flat.items()}
    parameters = views_of(agent, leaves)
    loss, _ = agent.losses(parameters, batch, draws_of(agent, [0]), state.own)
    found = torch.autograd.grad(loss.sum(), [leaves[name] for name in agent.groups])
    for name, gradient in zip(agent.groups, found, strict=True):
        assert agent.groups[name].layout.views(gradient)["encoder.stage0.conv.kernel"].abs().sum() > 0
    actions = agent.act(
        Parameters({name: parameters[name] for name in agent.act_groups()}),
        images[0],
        torch.randn(1, 4, *agent.act_draw().shape, generator=random),
    )
    assert actions.shape == (1, 4, 2)
