"""Formulations of the flow, its times, noise and derivatives: identities in float64 where the exact flow is known.

For data N(mean, spread^2) in each dimension the marginal flow is linear and known in closed form: a point keeps its
standard score z along its path, a_t = (1 - t) mean + r_t z with r_t^2 = (1 - t)^2 spread^2 + t^2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mfql.agents.flow_bc import FlowBC, FlowBCSettings
from mfql.agents.meanflow import FlowPolicy, FlowSettings, flow_terms, raw_actions, scaled_noise
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.networks import Dual
from mfql.agents.update import Updater, initial_state, views_of
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from mfql.settings import Settings

CPU = torch.device("cpu")
MEAN, SPREAD = 0.4, 0.3
SMALL = FlowBCSettings(
    offline_steps=100, online_steps=0, discount=0.9, batch_size=12, time_steps=5, policy_hidden=8, policy_blocks=2,
    zero_init=False,
)  # fmt: skip


def radius(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 * SPREAD**2 + t**2).sqrt()


def score(point: Tensor, t: Tensor) -> Tensor:
    return (point - (1 - t) * MEAN) / radius(t)


def velocity(z: Tensor, t: Tensor) -> Tensor:
    return -MEAN + (t - (1 - t) * SPREAD**2) / radius(t) * z


def denoised(z: Tensor, t: Tensor) -> Tensor:
    """E[a | a_t]."""
    return MEAN + (1 - t) * SPREAD**2 / radius(t) * z


def average_velocity(point: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return (point - (1 - b) * MEAN - radius(b) * score(point, t)) / (t - b)


def mean_denoised(point: Tensor, t: Tensor) -> Tensor:
    """E[a | a_s] averaged over s from 0 to t along the path through a point, by Gauss and Legendre's rule."""
    nodes, weights = (torch.tensor(values) for values in np.polynomial.legendre.leggauss(40))
    z = score(point, t)
    return sum(weight / 2 * denoised(z, t * (node + 1) / 2) for node, weight in zip(nodes, weights, strict=True))


class KnownFlow(FlowPolicy):
    """A policy whose output is the exact one of its formulation; it keeps the times that it was asked at."""

    def modulations(self, parameters, times):
        self.times = times.value
        return times

    def grid_modulations(self, parameters, indices, size, dtype, *, derivative=True):
        self.indices = indices
        times = ((indices + 1) / size).to(dtype).unsqueeze(-1)
        return self.modulations(parameters, Dual(times, torch.ones_like(times) if derivative else None))

    def along(self, parameters, observations, actions, modulations):
        at = (actions.value, modulations.value)
        if actions.tangent is None:
            return Dual(self.output(*at))
        return Dual(*torch.func.jvp(self.output, at, (actions.tangent, modulations.tangent)))

    def output(self, point, times):
        t = times[..., -1:]
        b = times[..., :1] if times.shape[-1] == 2 else torch.zeros_like(t)
        if self.formulation == "naive":
            return mean_denoised(point, t)
        if self.formulation == "naive_noise":
            return torch.full_like(point, MEAN)
        u = average_velocity(point, b, t)
        return u if self.formulation == "velocity" else point - u


PARAMETERS = {"position": torch.zeros(1, 8, dtype=torch.float64)}
NOTHING = torch.zeros(1, 200, 0, dtype=torch.float64)


def on_the_path(options: FlowSettings, rows: int = 200) -> tuple[Tensor, dict[str, Tensor]]:
    """Actions and draws whose velocity e - a is the marginal one at a_t: what the loss sees of them on average."""
    source = torch.Generator().manual_seed(1)
    z, t, start = (torch.rand((1, rows, size), generator=source, dtype=torch.float64) for size in (2, 1, 1))
    z, t = 2 * z - 1, 0.05 + 0.9 * t
    point, along = (1 - t) * MEAN + radius(t) * z, velocity(z, t)
    draws = {"noise_bc": point + (1 - t) * along, "time": t}
    return point - t * along, {**draws, "start": 0.9 * start} if options.sample_b else draws


@pytest.mark.parametrize("derivative", ["exact", "forward", "difference"])
@pytest.mark.parametrize("sample_b", [False, True])
@pytest.mark.parametrize("formulation", ["residual", "velocity"])
def test_the_exact_average_velocity_is_the_target_of_itself(formulation, sample_b, derivative):
    options = replace(
        SMALL, formulation=formulation, sample_b=sample_b, derivative=derivative, time_distribution="uniform"
    )
    actions, draws = on_the_path(options)
    terms = flow_terms(KnownFlow(options, 0, 2), PARAMETERS, NOTHING, actions, draws, options)
    tolerance = 1e-3 if derivative == "difference" else 1e-10
    torch.testing.assert_close(terms.target, terms.prediction, rtol=0, atol=tolerance)
    assert terms.tangent.abs().max() > 0.1


@pytest.mark.parametrize("formulation", ["residual", "velocity"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_average_velocity_takes_noise_to_the_end_of_its_path_in_any_number_of_steps(formulation, steps):
    options = replace(SMALL, formulation=formulation, sample_b=True, generation_steps=steps)
    noise = torch.randn(1, 50, 2, dtype=torch.float64)
    found = raw_actions(KnownFlow(options, 0, 2), PARAMETERS, NOTHING[:, :50], noise)
    torch.testing.assert_close(found, MEAN + SPREAD * noise, rtol=0, atol=1e-12)


def test_the_naive_residual_learns_the_mean_of_the_denoised_action_along_the_path_and_so_too_narrow_actions():
    options = replace(SMALL, formulation="naive", time_distribution="uniform")
    actions, draws = on_the_path(options)
    policy = KnownFlow(options, 0, 2)
    terms = flow_terms(policy, PARAMETERS, NOTHING, actions, draws, options)
    torch.testing.assert_close(terms.target, terms.prediction, rtol=0, atol=1e-9)
    noise = torch.randn(1, 2000, 2, dtype=torch.float64)
    found = raw_actions(policy, PARAMETERS, noise[..., :0], noise)
    assert found.std() < 0.75 * SPREAD


def test_the_naive_residual_of_the_noise_alone_learns_the_datas_mean():
    options = replace(SMALL, formulation="naive_noise", time_distribution="uniform")
    source = torch.Generator().manual_seed(2)
    noise, away, t = (torch.randn((1, 100, size), generator=source, dtype=torch.float64) for size in (2, 2, 1))
    # The same noise and time with a and with its mirror image about the mean.
    actions = MEAN + torch.cat([away, -away], 1)
    draws = {"noise_bc": torch.cat([noise, noise], 1), "time": torch.cat([t.sigmoid(), t.sigmoid()], 1)}
    terms = flow_terms(KnownFlow(options, 0, 2), PARAMETERS, NOTHING, actions, draws, options)
    mirrored = terms.target.unflatten(1, (2, -1)).mean(1)
    torch.testing.assert_close(mirrored, torch.full_like(mirrored, MEAN))


def made(options: FlowBCSettings, seeds: list[int], *, double: bool = True):
    agent = FlowBC(options, (3,), 2)
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    rows = options.batch_size
    source = torch.Generator().manual_seed(3)
    fields = {
        "observations": torch.randn((1, rows, 3), generator=source).expand(len(seeds), -1, -1),
        "actions": torch.rand((1, rows, 2), generator=source).expand(len(seeds), -1, -1),
    }
    draws = DrawStream(agent.update_draws(), seeds, "update", CPU).at(0)
    if double:
        state.flat["policy"] = state.flat["policy"].double()
        fields, draws = ({name: value.double() for name, value in arrays.items()} for arrays in (fields, draws))
    return agent, state, fields, draws


def terms_of(options: FlowBCSettings, seeds: list[int]):
    agent, state, fields, draws = made(options, seeds)
    leaf = state.flat["policy"].requires_grad_()
    parameters = agent.policy.layout.views(leaf)
    terms = flow_terms(agent.policy, parameters, fields["observations"], fields["actions"], draws, options)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), leaf)
    return terms, gradient


@pytest.mark.parametrize("sample_b", [False, True])
@pytest.mark.parametrize("formulation", ["residual", "velocity", "naive", "naive_noise"])
def test_every_derivative_gives_the_same_loss_and_gradient(formulation, sample_b):
    options = replace(SMALL, formulation=formulation, sample_b=sample_b, difference_step=1e-4)
    expected, gradient = terms_of(options, [0, 1])
    for derivative, tolerance in (("forward", 1e-10), ("difference", 1e-6)):
        found, of_found = terms_of(replace(options, derivative=derivative), [0, 1])
        torch.testing.assert_close(found.tangent, expected.tangent, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=tolerance)
        torch.testing.assert_close(of_found, gradient, rtol=0, atol=100 * tolerance)


def test_without_a_derivative_the_target_is_that_of_flow_matching():
    options = replace(SMALL, derivative="none")
    _, _, fields, draws = made(options, [0])
    t = (torch.floor(draws["time"] * 5) + 1) / 5
    along = draws["noise_bc"] - fields["actions"]
    target = {"velocity": along, "residual": (1 - t) * fields["actions"] + t * draws["noise_bc"] - along}
    for formulation, expected in target.items():
        terms, _ = terms_of(replace(options, formulation=formulation), [0])
        torch.testing.assert_close(terms.target, expected)


@pytest.mark.parametrize("sample_b", [False, True])
def test_rows_between_have_the_target_of_flow_matching_and_every_nth_row_its_own(sample_b):
    options = replace(SMALL, sample_b=sample_b)
    every, _ = terms_of(options, [0])
    some, _ = terms_of(replace(options, derivative_interval=3), [0])
    matching, _ = terms_of(replace(options, sample_b=False, derivative="none"), [0])
    derived = SMALL.batch_size // 3
    torch.testing.assert_close(some.target[:, :derived], every.target[:, :derived])
    torch.testing.assert_close(some.target[:, derived:], matching.target[:, derived:])
    assert (some.tangent[:, derived:] == 0).all()
    # Where the network sees b, it is told that b = t there.
    assert torch.allclose(some.prediction[:, derived:], every.prediction[:, derived:]) is not sample_b


def times_of(options: FlowBCSettings, state: dict[str, Tensor] | None = None, rows: int = 20_000) -> Tensor:
    """The times at which the flow loss asks the network."""
    policy = KnownFlow(options, 0, 1)
    draws = {"noise_bc": torch.randn(1, rows, 1), "time": torch.rand(1, rows, 1)}
    flow_terms(policy, PARAMETERS, torch.zeros(1, rows, 0), torch.zeros(1, rows, 1), draws, options, state)
    return policy.times.flatten()


def shares(times: Tensor, size: int = 5) -> list[float]:
    return [float((times * size).round().eq(index).double().mean()) for index in range(1, size + 1)]


def test_times_follow_their_distribution():
    torch.manual_seed(4)
    assert shares(times_of(SMALL)) == pytest.approx([0.2] * 5, abs=0.02)
    weighted = times_of(replace(SMALL, time_distribution="one_weighted", one_probability=0.5))
    assert shares(weighted) == pytest.approx([0.1] * 4 + [0.6], abs=0.02)
    continuous = times_of(replace(SMALL, time_distribution="one_weighted", one_probability=0.5, time_steps=2000))
    assert float((continuous == 1).double().mean()) == pytest.approx(0.5, abs=0.02)
    uniform = times_of(replace(SMALL, time_distribution="uniform"))
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)
    normal = times_of(replace(SMALL, time_distribution="logit_normal", logit_mean=-1.0, logit_std=0.5)).logit()
    assert float(normal.mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(normal.std()) == pytest.approx(0.5, abs=0.02)


def test_adaptive_times_follow_the_errors_above_a_uniform_floor():
    torch.manual_seed(5)
    options = replace(SMALL, time_distribution="adaptive", adaptive_floor=0.2)
    errors = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]])
    assert shares(times_of(options, {"time_errors": errors})) == pytest.approx([0.04, 0.24, 0.04, 0.64, 0.04], abs=0.02)
    with pytest.raises(ValueError, match="no state was given"):
        times_of(options)


def test_remembered_errors_move_towards_those_of_the_batch_where_it_has_the_time():
    options = replace(SMALL, time_distribution="adaptive", adaptive_rate=0.25, batch_size=2)
    policy = KnownFlow(replace(options, formulation="naive_noise"), 0, 1)
    draws = {"noise_bc": torch.zeros(1, 2, 1), "time": torch.tensor([[[0.1], [0.15]]])}
    terms = flow_terms(
        policy, PARAMETERS, torch.zeros(1, 2, 0), torch.zeros(1, 2, 1), draws,
        replace(options, formulation="naive_noise"), {"time_errors": torch.ones(1, 5)},
    )  # fmt: skip
    expected = torch.ones(1, 5)
    expected[0, 0] += 0.25 * (float(terms.error) - 1.0)
    torch.testing.assert_close(terms.state["time_errors"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow_bc", "mfql"])
def test_adaptive_times_train_alike_alone_and_among_other_seeds(kind):
    remembered = {}
    for seeds in ([3], [0, 3]):
        agent, updater, fields = training(kind, seeds, time_distribution="adaptive")
        stream = DrawStream(agent.update_draws(), seeds, "update", CPU)
        for step in range(20):
            updater(fields, stream.at(step))
        assert "time_errors" not in updater.state.logged
        assert not torch.equal(updater.state.own["time_errors"], torch.ones(len(seeds), 5))
        remembered[len(seeds)] = updater.state.own["time_errors"][-1]
    torch.testing.assert_close(remembered[1], remembered[2], rtol=1e-4, atol=1e-5)


def training(kind: str, seeds: list[int], **options):
    """An agent with these settings, its updater, and a batch."""
    values = {name: getattr(SMALL, name) for name in vars(SMALL)} | options
    if kind == "mfql":
        agent: FlowBC | MFQL = MFQL(MFQLSettings(**values, alpha=1.0, critic_hidden=(8,)), (3,), 2)
    else:
        agent = FlowBC(FlowBCSettings(**values), (3,), 2)
    agent.settings.check()
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    source = torch.Generator().manual_seed(6)
    sizes = {"observations": (12, 3), "next_observations": (12, 3), "actions": (12, 2), "rewards": (12,)}
    sizes["masks"] = sizes["rewards"]
    fields = {name: torch.rand((1, *size), generator=source).expand(len(seeds), *size) for name, size in sizes.items()}
    return agent, Updater(agent, state, 1e9), fields


@pytest.mark.parametrize(
    "options",
    [
        {"formulation": "velocity"},
        {"formulation": "naive"},
        {"formulation": "naive_noise"},
        {"sample_b": True, "generation_steps": 2},
        {"formulation": "velocity", "derivative": "none", "generation_steps": 3},
        {"derivative": "forward"},
        {"derivative": "difference"},
        {"derivative_interval": 4},
        {"time_distribution": "logit_normal"},
        {"time_distribution": "one_weighted"},
        {"noise_type": "uniform"},
    ],
    ids=lambda options: ",".join(f"{key}={value}" for key, value in options.items()),
)
def test_mfql_trains_and_acts_with_every_option(options):
    agent, updater, fields = training("mfql", [0, 1], **options)
    stream = DrawStream(agent.update_draws(), [0, 1], "update", CPU)
    before = updater.state.flat["policy"].clone()
    for step in range(3):
        updater(fields, stream.at(step))
    moved = (updater.state.flat["policy"] - before).abs().amax(1)
    assert (moved > 0).all()
    assert updater.state.active.all()
    draws = DrawStream({"act": agent.act_draw()}, [0], "act", CPU).at(0)["act"]
    parameters = views_of(agent, {name: flat[:1] for name, flat in updater.state.flat.items()})
    actions = agent.act(parameters, torch.zeros(1, 1, 3), draws.unsqueeze(1))
    assert actions.shape == (1, 1, 2)
    assert actions.abs().max() <= 1.0


def test_uniform_noise_has_the_standard_deviation_of_the_normal_one():
    torch.manual_seed(7)
    uniform = replace(SMALL, noise_type="uniform", noise_std=0.7)
    noise = scaled_noise(uniform, torch.rand(100_000))
    assert float(noise.std()) == pytest.approx(0.7, rel=0.01)
    assert float(noise.abs().max()) == pytest.approx(0.7 * 3**0.5, rel=0.01)
    assert {draw.kind for draw in FlowBC(uniform, (3,), 2).update_draws().values()} == {"uniform"}
    assert FlowBC(uniform, (3,), 2).act_draw().kind == "uniform"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"generation_steps": 2}, "generation_steps"),
        ({"sample_b": True, "derivative": "none"}, "sample_b"),
        ({"derivative": "difference", "precision": "bf16"}, "precision"),
        ({"time_distribution": "adaptive", "time_steps": 2000}, "time_steps"),
        ({"one_probability": 1.0}, "one_probability"),
        ({"adaptive_floor": 1.5}, "adaptive_floor"),
        ({"difference_step": 0.0}, "difference_step"),
        ({"derivative_interval": 0}, "derivative_interval"),
        ({"logit_std": -1.0}, "logit_std"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(options, key):
    refused: Settings = replace(SMALL, **options)
    with pytest.raises(UserError, match=f"setting {key} is"):
        refused.check()


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("logit_mean", 0.0, {"time_distribution": "logit_normal"}),
        ("logit_std", 2.0, {"time_distribution": "logit_normal"}),
        ("one_probability", 0.5, {"time_distribution": "one_weighted"}),
        ("adaptive_rate", 0.5, {"time_distribution": "adaptive"}),
        ("adaptive_floor", 0.5, {"time_distribution": "adaptive"}),
        ("difference_step", 0.01, {"derivative": "difference"}),
        ("derivative_interval", 2, {"derivative": "exact"}),
        ("reward_delay", 4, {"reward": "delayed"}),
        ("q_scale", "std", {"normalize_q": True}),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused_with_the_condition_in_which_it_counts(key, value, where):
    plain = MFQLSettings(offline_steps=1, online_steps=0, discount=0.9, alpha=1.0)
    without = replace(plain, derivative="none") if key == "derivative_interval" else plain
    without.check()
    replace(plain, **{key: value}, **where).check()
    with pytest.raises(UserError, match=f"setting {key} is {value}, which has no effect") as error:
        replace(without, **{key: value}).check()
    assert next(iter(where)) in str(error.value)
