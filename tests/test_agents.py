"""Networks and losses: closed forms in float64, one seed among others, and what a draw may change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mfql.agents.flow_bc import FlowBC, FlowBCSettings
from mfql.agents.interface import Parameters
from mfql.agents.meanflow import candidate_actions, flow_terms, policy_rate, raw_actions
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.networks import Dual, ResidualPolicy
from mfql.agents.update import Updater, initial_state, views_of
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from tests.support.updates import SMALL, batch_of, draws_of, make

CPU = torch.device("cpu")


def as_double(parameters: Parameters) -> Parameters:
    return Parameters({name: {k: v.double() for k, v in views.items()} for name, views in parameters.groups.items()})


def test_the_closed_form_derivative_equals_forward_mode_in_float64():
    policy = ResidualPolicy(4, 2, 8, 2, zero_init=False)
    flat = policy.layout.initial([generator(CPU, seed) for seed in (1, 2)]).double()
    parameters = policy.layout.views(flat + 0.1 * torch.randn_like(flat))
    observations, actions, direction = (torch.randn(2, 5, size, dtype=torch.float64) for size in (4, 2, 2))
    times = torch.rand(2, 5, 1, dtype=torch.float64)
    ours = policy.along(
        parameters,
        observations,
        Dual(actions, direction),
        policy.modulations(parameters, Dual(times, torch.ones_like(times))),
    )
    value, tangent = torch.func.jvp(
        lambda a, t: policy(parameters, observations, a, t), (actions, times), (direction, torch.ones_like(times))
    )
    assert ours.tangent is not None
    torch.testing.assert_close(ours.value, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.tangent, tangent, rtol=1e-10, atol=1e-10)


def test_modulations_of_the_grid_equal_those_of_each_time():
    agent, state = make([0, 1])
    parameters = views_of(agent, state.flat)["policy"]
    indices = torch.randint(0, 5, (2, 12))
    times = ((indices + 1) / 5).unsqueeze(-1)
    grid = agent.policy.grid_modulations(parameters, indices, 5, times.dtype)
    each = agent.policy.modulations(parameters, Dual(times, torch.ones_like(times)))
    torch.testing.assert_close(grid.value, each.value)
    torch.testing.assert_close(grid.tangent, each.tangent)


def test_prepared_parameters_are_the_same_function_in_float64():
    agent, state = make([0, 1], replace(SMALL, zero_init=False))
    parameters = as_double(views_of(agent, state.flat))["policy"]
    prepared = agent.policy.prepared(parameters)
    observations, noise = (torch.randn(2, 5, size, dtype=torch.float64) for size in (4, 2))
    ones = torch.ones(2, 5, 1, dtype=torch.float64)
    expected = agent.policy(parameters, observations, noise, ones)
    for views in (parameters, prepared):
        found = raw_actions(agent.policy, views, observations, noise)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    times = torch.rand(2, 5, 1, dtype=torch.float64)
    expected = agent.policy(parameters, observations, noise, times)
    torch.testing.assert_close(agent.policy(prepared, observations, noise, times), expected, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_products_in_bf16_move_the_weights_as_float32_ones_do():
    """Within the rounding of bf16, 2^-8 a product; weights, moments and what is logged stay float32."""
    moved = {}
    for precision in ("float32", "bf16"):
        agent, state = make([0], replace(SMALL, precision=precision))
        before = state.flat["policy"].clone()
        updater = Updater(agent, state, 1e9)
        for step in range(20):
            updater(batch_of(agent, [step]), draws_of(agent, [step]))
        assert {array.dtype for array in state.tensors() if array.is_floating_point()} == {torch.float32}
        moved[precision] = state.flat["policy"] - before
    difference = moved["bf16"] - moved["float32"]
    assert 0 < difference.norm() < 0.1 * moved["float32"].norm()


def test_the_flow_loss_is_the_papers_formula_in_float64():
    agent, state = make([3])
    batch, draws = batch_of(agent, [3]), draws_of(agent, [3])
    parameters = as_double(views_of(agent, state.flat))
    batch, draws = ({name: value.double() for name, value in arrays.items()} for arrays in (batch, draws))
    found = flow_terms(
        agent.policy, parameters["policy"], batch["observations"], batch["actions"], draws, agent.settings
    )
    t = (torch.floor(draws["time"] * 5) + 1) / 5
    noise, action = draws["noise_bc"], batch["actions"]
    point, velocity = (1 - t) * action + t * noise, noise - action
    value, tangent = torch.func.jvp(
        lambda a, time: agent.policy(parameters["policy"], batch["observations"], a, time),
        (point, t),
        (velocity, torch.ones_like(t)),
    )
    target = (point + (t - 1) * velocity - t * tangent).clamp(-5, 5)
    distance = (value - target).square().mean(-1)
    weight = 1 / (distance + 1e-4) ** (1 - 0.8)
    torch.testing.assert_close(found.loss, (weight * distance).mean(-1))
    torch.testing.assert_close(found.target, target)


def test_the_exact_field_of_one_action_is_a_fixed_point_of_the_flow_target():
    """For data that is one action c, g(a_t, t) = c ... so that a_t - g = t (e - c)/t ... holds in closed form.

    With a_t = (1 - t) c + t e the average velocity from 0 to t is u = (a_t - c) / t, so g = a_t - t u = c needs u
    scaled by t; the residual form of the paper predicts a_t - u, here a_t - (a_t - c) / t. Its target must equal it.
    """
    c = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def exact(a_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return a_t - (a_t - c) / t

    noise, t = torch.randn(50, 2, dtype=torch.float64), torch.rand(50, 1, dtype=torch.float64) * 0.9 + 0.1
    point, velocity = (1 - t) * c + t * noise, noise - c
    value, tangent = torch.func.jvp(exact, (point, t), (velocity, torch.ones_like(t)))
    torch.testing.assert_close(value, point + (t - 1) * velocity - t * tangent)


@pytest.mark.parametrize("q_agg", ["mean", "min"])
def test_the_target_is_of_the_best_candidate(q_agg):
    agent, state = make([0, 5], replace(SMALL, q_agg=q_agg))
    parameters, batch = views_of(agent, state.flat), batch_of(agent, [0, 5])
    noise = draws_of(agent, [0, 5])["noise_next"]
    chosen, best = agent.best_candidate(
        parameters["policy"], parameters["target_critic"], batch["next_observations"], noise
    )
    for k in range(3):
        one, value = agent.best_candidate(
            parameters["policy"], parameters["target_critic"], batch["next_observations"], noise[:, :, k : k + 1]
        )
        assert (best >= value - 1e-6).all()
        same = (one == chosen).all(-1)
        torch.testing.assert_close(best[same], value[same])
    assert chosen.abs().max() <= 1.0


def test_zero_initialisation_starts_with_zero_actions():
    agent, state = make([0], replace(SMALL, zero_init=True))
    actions = agent.act(views_of(agent, state.flat), torch.randn(1, 6, 4), torch.randn(1, 6, 3, 2))
    assert (actions == 0).all()


def test_the_critics_loss_never_moves_the_policy_nor_the_policys_the_critic():
    agent, state = make([0])
    batch, draws = batch_of(agent, [0]), draws_of(agent, [0])
    leaves = {name: value.clone().requires_grad_() for name, value in state.flat.items()}
    parameters = views_of(agent, leaves)
    critic_loss, _ = agent.critic_loss(parameters, batch, batch["observations"], draws)
    value_loss, flow_loss, _ = agent.policy_losses(parameters, batch, batch["observations"], draws, state.own)
    policy_loss = value_loss + flow_loss
    of_critic = torch.autograd.grad(critic_loss.sum(), list(leaves.values()), allow_unused=True)
    of_policy = torch.autograd.grad(policy_loss.sum(), list(leaves.values()), allow_unused=True)
    moved_by = {
        name: (a is not None and bool(a.any()), b is not None and bool(b.any()))
        for name, a, b in zip(leaves, of_critic, of_policy, strict=True)
    }
    assert moved_by == {"policy": (False, True), "critic": (True, False), "target_critic": (False, False)}


def run_updates(seeds: list[int], steps: int, options: MFQLSettings = SMALL):
    agent, state = make(seeds, options)
    updater = Updater(agent, state, 1e9)
    stream = DrawStream(agent.update_draws(), seeds, "update", CPU)
    fields = [batch_of(agent, seeds, index) for index in range(8)]
    for step in range(steps):
        updater(fields[step % 8], stream.at(step))
    return agent, state


@pytest.mark.slow
def test_a_seed_trains_alike_alone_and_among_others():
    scaled = replace(SMALL, offline_steps=200, critic_learning_rate=3e-3, policy_learning_rate=3e-3)
    _, start = make([3], scaled)
    _, alone = run_updates([3], 200, scaled)
    _, together = run_updates([0, 1, 3, 7], 200, scaled)
    for name in alone.flat:
        scale = alone.flat[name].abs().max()
        assert (alone.flat[name][0] - together.flat[name][2]).abs().max() <= 1e-4 * scale
        assert (alone.flat[name][0] - start.flat[name][0]).abs().max() > 1e-3 * scale
        assert (alone.flat[name][0] - together.flat[name][1]).abs().max() > 1e-2 * scale
    for name, value in alone.logged.items():
        torch.testing.assert_close(value[0], together.logged[name][2], rtol=1e-4, atol=1e-4)


def test_an_inactive_seed_is_left_untouched_while_others_train():
    agent, state = make([0, 1])
    state.active[1] = False
    before = {name: value[1].clone() for name, value in state.flat.items()}
    moving = state.flat["policy"][0].clone()
    updater = Updater(agent, state, 1e9)
    for index in range(3):
        updater(batch_of(agent, [0, 1], index), draws_of(agent, [0, 1], index))
    assert all(torch.equal(state.flat[name][1], value) for name, value in before.items())
    assert not torch.equal(state.flat["policy"][0], moving)


def test_a_seed_with_broken_numbers_ends_alone_and_says_when():
    agent, state = make([0, 1])
    updater = Updater(agent, state, 1e9)
    for index in range(4):
        batch = batch_of(agent, [0, 1], index)
        if index == 2:
            batch["rewards"][1, 0] = math.nan
        updater(batch, draws_of(agent, [0, 1], index))
    assert state.diverged_at.tolist() == [-1, 2]
    assert state.active.tolist() == [True, False]
    assert all(torch.isfinite(value).all() for value in state.flat.values())
    assert all(torch.isfinite(value[0]) for value in state.logged.values())


def test_exploding_values_count_as_diverged():
    agent, state = make([0])
    updater = Updater(agent, state, value_limit=1e-9)
    updater(batch_of(agent, [0]), draws_of(agent, [0]))
    assert state.diverged_at.tolist() == [0]


def test_alpha_waits_for_a_full_window_and_for_the_warm_up():
    agent = MFQL(replace(SMALL, alpha_window=3, alpha_interval=1, alpha_warmup=0.0), (4,), 2)
    state = agent.initial_state(1)
    trace = []
    for loss in (1.0, 1.0, 1.0, 100.0, 0.001, 34.0):
        state = agent.adapt_alpha(state, torch.tensor([loss]), torch.tensor(True))
        trace.append(round(state["alpha"].item(), 5))
    assert trace == [2.0, 2.0, 2.0, 2.4, 1.92, 1.92]
    assert state["alpha_moves"].item() == 2
    held = agent.adapt_alpha(state, torch.tensor([1e9]), torch.tensor(False))
    assert held["alpha"].item() == state["alpha"].item()


def test_alpha_is_looked_at_only_every_interval():
    agent = MFQL(replace(SMALL, alpha_interval=4), (4,), 2)
    state = agent.initial_state(1)
    for step in range(12):
        state = agent.next_state(state, torch.tensor(step), {"flow_loss": torch.tensor([1.0])})
    assert state["alpha_recorded"].item() == 3


def test_online_training_begins_with_its_own_alpha_times_what_it_has_adapted_by():
    before = replace(SMALL, alpha=300.0)
    state = {name: value[0] for name, value in MFQL(before, (4,), 2).initial_state(1).items()}
    state |= {"alpha": torch.tensor(1.1) * 360.0, "alpha_window": torch.tensor([0.5, 0.7])}
    same, other, from_none = (
        MFQL(replace(SMALL, alpha=alpha), (4,), 2).carried_state(state, {**before.as_dict(), "alpha": start})
        for alpha, start in ((300.0, 300.0), (30.0, 300.0), (30.0, 0.0))
    )
    assert torch.equal(same["alpha"], state["alpha"])
    assert other["alpha"].item() == pytest.approx(30.0 * 1.32)
    assert from_none["alpha"].item() == 30.0
    assert all(torch.equal(one["alpha_window"], state["alpha_window"]) for one in (same, other, from_none))


@pytest.mark.parametrize(
    "change",
    [{"alpha_threshold": 0.9}, {"alpha_up": 0.8}, {"alpha_down": 1.2}, {"alpha_down": 0.0}],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
def test_an_alpha_that_would_adapt_the_wrong_way_is_refused_by_name(change):
    with pytest.raises(UserError, match=f"setting {next(iter(change))} is"):
        replace(SMALL, **change).check()


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 1e-5), ("constant", 1e-4)])
def test_without_a_warm_up_the_first_update_has_the_full_learning_rate(schedule, end):
    options = replace(SMALL, offline_steps=1000, warmup_share=0.0, schedule=schedule, policy_learning_rate=1e-4)
    rate = [policy_rate(options, torch.tensor(step)).item() for step in (0, 1000)]
    assert rate == pytest.approx([1e-4, end], rel=1e-5)


def test_the_learning_rate_rises_then_falls_then_stays():
    options = replace(SMALL, offline_steps=1000, policy_learning_rate=1e-4, policy_learning_rate_end=1e-5)
    rate = [policy_rate(options, torch.tensor(step)).item() for step in (0, 25, 50, 525, 1000, 5000)]
    assert rate == pytest.approx([0.0, 5e-5, 1e-4, 5.5e-5, 1e-5, 1e-5], rel=1e-5)


@pytest.mark.long
def test_behaviour_cloning_moves_the_policy_towards_one_action():
    options = FlowBCSettings(
        offline_steps=400, online_steps=0, discount=0.9, batch_size=32, time_steps=5, policy_hidden=16, policy_blocks=1,
        policy_learning_rate=3e-3,
    )  # fmt: skip
    agent = FlowBC(options, (2,), 2)
    state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
    updater = Updater(agent, state, 1e9)
    stream = DrawStream(agent.update_draws(), [0], "update", CPU)
    target = torch.tensor([0.5, -0.5])
    batch = {"observations": torch.zeros(1, 32, 2), "actions": target.expand(1, 32, 2)}
    for step in range(400):
        updater(batch, stream.at(step))
    actions = agent.act(views_of(agent, state.flat), torch.zeros(1, 64, 2), torch.randn(1, 64, 1, 2))
    assert (actions.mean((0, 1)) - target).abs().max() < 0.1


def test_alpha_zero_trains_by_the_values_alone():
    options = replace(SMALL, alpha=0.0, alpha_interval=1, alpha_window=1, alpha_warmup=0.0)
    _, state = run_updates([0], 5, options)
    assert state.own["alpha"].tolist() == [0.0]
    assert state.active.all()
    agent, fresh = make([0], options)
    value_loss, flow_loss, _ = agent.policy_losses(
        views_of(agent, fresh.flat), batch_of(agent, [0]), batch_of(agent, [0])["observations"],
        draws_of(agent, [0]), fresh.own,
    )  # fmt: skip
    assert flow_loss.item() == 0.0
    assert value_loss.item() != 0.0


def test_acting_may_take_other_candidates_than_the_target():
    agent, _ = make([0], replace(SMALL, acting_candidates=7))
    assert agent.act_draw().shape == (7, 2)
    assert agent.update_draws()["noise_next"].shape == (12, 3, 2)
    assert make([0])[0].act_draw().shape == (3, 2)


def test_the_scales_of_the_q_term():
    values = torch.tensor([[-3.0, -1.0], [2.0, 2.0]])
    scales = {}
    for name in ("mean", "std", "running"):
        agent, _ = make([0, 1], replace(SMALL, normalize_q=True, q_scale=name))
        state = agent.initial_state(2)
        scales[name] = agent.q_scale(values, state)
        if name == "std":
            torch.testing.assert_close(agent.q_scale(values + 10.0, state), scales[name])
        if name == "running":
            state = agent.next_state(state, torch.tensor(0), {"q_scale": scales[name], "flow_loss": torch.ones(2)})
            torch.testing.assert_close(agent.q_scale(11.0 * values, state), 1.05 * scales[name])
    assert scales["mean"].tolist() == scales["running"].tolist() == [2.0, 2.0]
    assert scales["std"].tolist() == pytest.approx([1.0, 1e-6])


def test_the_targets_spread_is_that_of_drawing_candidates():
    """Against 20,000 draws of K from each row's pool, with replacement."""
    agent, state = make([0], replace(SMALL, num_candidates=3, batch_size=4))
    parameters, batch = views_of(agent, state.flat), batch_of(agent, [0])
    noise = DrawStream(agent.diagnose_draws(), [0], "diagnose", CPU).at(0)["noise_pool"]
    found = agent.target_spread(parameters, batch, noise)
    following = batch["next_observations"]
    pool = agent.candidate_values(
        parameters["target_critic"], following, candidate_actions(agent.policy, parameters["policy"], following, noise)
    )[0]
    source = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, pool.shape[1], (4, 20_000, 3), generator=source)
    largest = torch.take_along_dim(pool.unsqueeze(1), chosen, 2).amax(2) * 0.9 * batch["masks"][0].unsqueeze(1)
    assert found["target_std"].item() == pytest.approx(largest.var(1).mean().sqrt().item(), rel=0.03)
    gain = (largest.mean(1) - pool.mean(1) * 0.9 * batch["masks"][0]).mean()
    assert found["target_gain"].item() == pytest.approx(gain.item(), rel=0.03)


def test_the_flow_targets_error_is_told_where_the_derivative_is_not_exact():
    found = {}
    for change in ({}, {"derivative": "forward"}, {"derivative": "difference"}, {"derivative_interval": 4}):
        agent, state = make([0], replace(SMALL, **change))
        draws = DrawStream(agent.diagnose_draws(), [0], "diagnose", CPU).at(0)
        told = agent.diagnostics(views_of(agent, state.flat), batch_of(agent, [0]), draws, state.own)
        found[tuple(change.values())] = told.get("target_error")
    assert found[()] is None
    assert found[("forward",)].item() < 1e-5
    assert 0 < found[("difference",)].item() < 1e-2
    assert found[(4,)].item() > found[("difference",)].item()
