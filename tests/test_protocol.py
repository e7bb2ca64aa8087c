"""What the released code does otherwise than the paper says, rule by rule, against the rule written out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.stats import kstest, truncnorm

from mfql.agents.interface import Agent, Draw, Group, load_agent
from mfql.agents.meanflow import raw_actions
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.parameters import Layout, Parameter, constant
from mfql.agents.rebrac import ReBRAC, ReBRACSettings
from mfql.agents.update import Updater, initial_state, views_of
from mfql.declared import agent_stages
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from mfql.evaluation.policy import Actor, load_policy, save_policy
from mfql.experiment.configuration import Run
from mfql.methods import declared_settings, raw_settings
from mfql.parity.comparison import read_arrays
from mfql.parity.reference import Fixture
from mfql.plan.cost import evaluations_in
from mfql.plan.launch import TrainingJob
from mfql.settings import LATER, STAGES, Settings
from mfql.tables import as_value
from mfql.tasks import Task, find_task, known_tasks, load_tasks, scored
from mfql.training.stopping import no_longer_improves
from tests.support.training_runs import METHOD_FILES

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
CPU = torch.device("cpu")
PLAIN = Settings(offline_steps=100, online_steps=40, discount=0.9)

# --- early stopping ---------------------------------------------------------------------------------------------------

SUCCESS = replace(PLAIN, early_stopping=6, early_stopping_rule="success")


def stops_at(scores: list[float], metric: str, rule: Settings) -> int | None:
    """The evaluation, from 0 on, after which a run stops; None if it goes on to the end."""
    ends = (end for end in range(len(scores)) if no_longer_improves(scores[: end + 1], metric, rule))
    return next(ends, None)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # The evaluation at step 0 counts: six without a new best one after it.
        ([10, 8, 8, 8, 8, 8, 8], 6),
        # Without any success it is no best one: at 500,000 the sixth has none.
        ([0, 0, 0, 0, 0, 0, 0], 5),
        ([0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0], 11),
        ([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20], None),
        # An equal score is no better.
        ([50] * 11, 6),
        ([0, 50, 20, 20, 20, 20, 20, 52, 20, 20, 20], None),
    ],
)
def test_by_the_released_rule_a_run_stops_after_six_evaluations_without_a_new_best_success(scores, expected):
    assert stops_at(scores, "success", SUCCESS) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 10))
def test_by_the_released_rule_a_task_without_success_never_stops(scores, patience):
    rule = replace(SUCCESS, early_stopping=patience)
    assert stops_at(scores, "normalized_return", rule) is None
    assert stops_at(scores, "return", rule) is None


@given(st.lists(st.integers(0, 50).map(lambda count: 2.0 * count), min_size=1, max_size=30), st.integers(1, 10))
def test_the_released_rule_is_a_counter_that_a_new_best_success_sets_back(scores, patience):
    counter, best, expected = 0, -1.0, None
    for number, score in enumerate(scores):
        better = score > max(best, 0.0)
        counter, best = (0, score) if better else (counter + 1, best)
        if counter >= patience:
            expected = number
            break
    assert stops_at(scores, "success", replace(SUCCESS, early_stopping=patience)) == expected


def test_by_the_scores_rule_the_first_evaluation_is_the_best_one_whatever_it_is():
    rule = replace(PLAIN, early_stopping=6)
    assert stops_at([0.0] * 8, "success", rule) == 6
    assert stops_at([-5.0] * 8, "normalized_return", rule) == 6
    assert stops_at([0.0] * 8, "success", PLAIN) is None


def test_a_rule_that_has_no_effect_is_refused():
    with pytest.raises(UserError, match="early_stopping_rule is success"):
        replace(SUCCESS, early_stopping=0).check()


# --- the online part's buffer -----------------------------------------------------------------------------------------

# --- updates by number, and alpha -------------------------------------------------------------------------------------

HUMANOID = "humanoidmaze-medium-navigate-singletask-task1-v0"


def agent_of(method: str, stage: str = "offline", **changed) -> MFQL:
    _, declared = declared_settings(method, HUMANOID, stage, CONFIG)
    return MFQL(MFQLSettings(**{**declared.as_dict(), "policy_hidden": 8, "critic_hidden": (8, 8), **changed}), (3,), 2)


def state_with_window(agent: MFQL, loss: float) -> dict[str, torch.Tensor]:
    state = agent.initial_state(1)
    return state | {
        "alpha_window": torch.full_like(state["alpha_window"], loss),
        "alpha_recorded": torch.tensor([50.0]),
    }


@pytest.mark.parametrize(("method", "first"), [("mfql", 101_999), ("mfql-released", 100_000)])
def test_alpha_first_moves_at_102000_on_paper_and_at_100000_as_released(method, first):
    """Updates before it: the paper's are numbered from 1, the released code's from 0."""
    agent = agent_of(method)
    state = state_with_window(agent, 1.0)
    moved = [
        step
        for step in range(0, 110_000)
        if (step + 1) % 1000 < 3
        and agent.adapted(state, torch.tensor(step), torch.tensor([10.0]))["alpha"] != state["alpha"]
    ]
    assert moved[0] == first
    assert {after - before for before, after in pairwise(moved)} == {2000}


def test_alpha_is_looked_at_at_every_2000th_update_by_its_number_and_not_at_number_0():
    for method, steps in (("mfql", [1999, 3999]), ("mfql-released", [2000, 4000])):
        agent = agent_of(method)
        state = agent.initial_state(1)
        looks = []
        for step in range(4002):
            following = agent.adapted(state, torch.tensor(step), torch.tensor([1.0]))
            if following["alpha_recorded"] > state["alpha_recorded"]:
                looks.append(step)
            state |= following
        assert looks == steps


def batch_and_draws(agent: MFQL) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    size = agent.settings.batch_size
    fields = {
        "observations": Draw("normal", (size, agent.observation_dim)),
        "next_observations": Draw("normal", (size, agent.observation_dim)),
        "actions": Draw("uniform", (size, agent.action_dim)),
        "rewards": Draw("normal", (size,)),
        "masks": Draw("uniform", (size,)),
    }
    return DrawStream(fields, [0], "batch", CPU).at(0), DrawStream(agent.update_draws(), [0], "draws", CPU).at(0)


@pytest.mark.parametrize(("timing", "factor"), [("after", 1.0), ("within", 1.2)])
def test_a_moved_alpha_counts_in_the_update_of_the_look_as_released(timing, factor):
    """The flow loss's part of the policy's gradient has the factor, and the next update's alpha has it either way."""
    agent = agent_of("mfql", batch_size=16, alpha=7.0, alpha_timing=timing, zero_init=False)
    state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
    state.step.fill_(199_999)
    state.own |= state_with_window(agent, 1e-9)
    batch, draws = batch_and_draws(agent)
    own = {**state.own, "step": state.step}
    with torch.no_grad():
        _, flow_loss, info = agent.policy_losses(views_of(agent, state.flat), batch, batch["observations"], draws, own)
    assert flow_loss.item() == pytest.approx(7.0 * factor * info["flow_loss"].item(), rel=1e-6)
    Updater(agent, state, 1e9)(batch, draws)
    assert state.own["alpha"].item() == pytest.approx(7.0 * 1.2, rel=1e-6)
    assert state.own["alpha_moves"].item() == 1.0


def trains(task: str, stage: str) -> bool:
    """Whether a task has a stage: pixel tasks have no online one."""
    return stage != "online" or not find_task(task).pixels


@pytest.mark.parametrize("stage", ["offline", "pretrain", "online"])
def test_no_released_task_takes_the_minimum_whose_ranking_and_loss_would_be_other_than_released(stage):
    found = {
        declared_settings("mfql-released", task, stage, CONFIG)[1].as_dict()["q_agg"]
        for task in known_tasks(CONFIG)
        if trains(task, stage)
    }
    assert found == {"mean"}


def test_a_launch_counts_the_first_update_and_its_evaluation():
    task = find_task(HUMANOID, CONFIG)
    lengths, evaluations = {}, {}
    for method in ("mfql", "mfql-released"):
        run = Run(method, task, "offline", (0,), CONFIG)
        lengths[method] = run.steps
        evaluations[method] = evaluations_in(TrainingJob(run, (), needed=True), run.steps)
    assert lengths == {"mfql": 1_000_000, "mfql-released": 1_000_001}
    assert evaluations == {"mfql": 10, "mfql-released": 11}
    assert Run("mfql-released", task, "online", (0,), CONFIG).steps == 1_000_000


# --- targets ----------------------------------------------------------------------------------------------------------


class Constant(Agent):
    """One number `x` with the loss x: Adam moves it by the learning rate at every update."""

    settings_type = Settings
    tau = 0.25

    def __init__(self, *, lags: bool, interval: int = 1) -> None:
        super().__init__(replace(PLAIN, batch_size=1), (1,), 1)
        layout = Layout({"x": Parameter((1,), constant(1.0))})
        self.groups = {"value": Group(layout, target=True, target_lags=lags, target_interval=interval)}

    def update_draws(self):
        return {}

    def act_draw(self):
        return None

    def act(self, parameters, observations, noise):
        raise NotImplementedError

    def learning_rates(self, step):
        return {"value": 0.1}

    def losses(self, parameters, batch, draws, state):
        loss = parameters["value"]["x"].sum(1)
        return loss, {"loss": loss}


@pytest.mark.parametrize("lags", [False, True])
@pytest.mark.parametrize("interval", [1, 2])
def test_a_lagging_target_moves_towards_the_group_as_it_was_before_the_update(lags, interval):
    agent = Constant(lags=lags, interval=interval)
    state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
    updater = Updater(agent, state, 1e9)
    value, target = 1.0, 1.0
    for number in range(1, 8):
        updater({}, {})
        before, value = value, value - 0.1
        if number % interval == 0:
            target += 0.25 * ((before if lags else value) - target)
        assert state.flat["value"][0, 0].item() == pytest.approx(value, abs=1e-5)
        assert state.flat["target_value"][0, 0].item() == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize("method", ["fql", "ifql", "fawac", "fbrac", "iql", "rebrac", "rlpd", "calql", "mfql-released"])
def test_every_target_of_flow_q_learnings_methods_lags_and_no_others(method):
    agent, declared = declared_settings(method, HUMANOID, "online", CONFIG)
    kind = load_agent(agent)
    sizes = {"critic_hidden": (8,)} | (
        {"policy_hidden": 8} if "policy_hidden" in declared.as_dict() else {"actor_hidden": (8,)}
    )
    groups = kind(kind.settings_type(**declared.as_dict() | sizes), (3,), 2).groups.values()
    lagging = {group.target_lags for group in groups if group.target}
    assert lagging == {method not in ("calql", "mfql-released")}


# --- the policy -------------------------------------------------------------------------------------------------------


def weights_of(method: str) -> dict[str, torch.Tensor]:
    agent = agent_of(method, policy_hidden=64)
    return dict(views_of(agent, initial_state(agent, [generator(CPU, 0, "initial")], CPU).flat)["policy"].items())


def test_the_released_policy_starts_from_a_truncated_normal_distribution_of_a_hundredth_of_the_fan_in():
    found = weights_of("mfql-released")
    kernels = {name: value[0] for name, value in found.items() if name.endswith("kernel")}
    zero = {name for name, value in kernels.items() if not value.any()}
    assert zero == {"modulation.kernel", "output.kernel"}
    for name in kernels.keys() - zero:
        array = kernels[name]
        std = math.sqrt(0.01 / array.shape[0]) / truncnorm(-2, 2).std()
        assert array.abs().max() <= 2 * std
        assert array.abs().max() > 1.9 * std
        # Kolmogorov and Smirnov: of a right distribution one array in ten thousand is refused.
        assert kstest(array.flatten().numpy() / std, truncnorm(-2, 2).cdf).pvalue > 1e-4, name
    assert kstest(found["position"][0].numpy() / 0.005, "norm").pvalue > 1e-4
    assert not any(value.any() for name, value in found.items() if name.endswith("bias"))


def test_the_papers_policy_starts_as_before():
    found = weights_of("mfql")
    kernel = found["block0.mlp_in.kernel"][0]
    assert kernel.abs().max() <= math.sqrt(6 / sum(kernel.shape))
    assert kstest(found["time_in.kernel"][0].flatten().numpy() / 0.02, "norm").pvalue > 1e-4
    assert kstest(found["position"][0].numpy() / 0.02, "norm").pvalue > 1e-4


def test_the_released_codes_outputs_have_its_epsilon():
    """With 1e-6 in the norms the fixture is met to rounding; without it the error is several times that."""
    fixture = Fixture(read_arrays(ROOT / "tests" / "data" / "reference.npz"))
    batch, expected = fixture.batch("in"), fixture.section("out")["g_at_t1"]
    errors = []
    for epsilon in (1e-6, 1e-16):
        options = replace(fixture.agent.settings, norm_epsilon=epsilon)
        agent = MFQL(options, fixture.agent.observation_shape, fixture.agent.action_dim)
        views = views_of(agent, fixture.state.flat)["policy"]
        found = raw_actions(agent.policy, views, batch["observations"], batch["noise_pi"])[0]
        errors.append((found - torch.as_tensor(expected)).abs().max().item())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(("method", "ranking"), [("mfql", "critic"), ("mfql-released", "target_critic")])
def test_candidates_are_ranked_by_the_protocols_critics_and_an_exported_policy_has_them(method, ranking, tmp_path):
    agent = agent_of(method, zero_init=False)
    flat = initial_state(agent, [generator(CPU, 0, "initial")], CPU).flat
    flat["target_critic"] = initial_state(agent, [generator(CPU, 1, "initial")], CPU).flat["critic"]
    parameters = views_of(agent, flat)
    observations, noise = torch.randn(1, 64, 3), torch.randn(1, 64, agent.settings.num_candidates, 2)
    by = {
        name: agent.best_candidate(parameters["policy"], parameters[name], observations, noise)[0]
        for name in ("critic", "target_critic")
    }
    assert not torch.equal(by["critic"], by["target_critic"])
    assert torch.equal(agent.act(parameters, observations, noise), by[ranking])
    statistics = np.zeros(3, np.float32), np.ones(3, np.float32)
    units = {"action_low": [-1, -1], "action_high": [1, 1], "action_dtype": "float32", "actions_rescaled": False}
    run = {"method": method, "agent": "mfql", "task": HUMANOID, "seed": 0, "stage": "offline", "identity": "0" * 16}
    description = {**run, "settings": agent.settings.as_dict(), **units}
    save_policy(tmp_path, Actor(agent, flat, *statistics, CPU), 0, description)
    assert {name.partition(".")[0] for name in load_file(tmp_path / "policy.safetensors")} == {"policy", ranking}
    policy = load_policy(tmp_path)
    drawn = policy._noise(64)
    policy._calls = 0
    expected = agent.best_candidate(parameters["policy"], parameters[ranking], observations, drawn)[0][0]
    np.testing.assert_allclose(policy(observations[0].numpy()), expected.numpy(), atol=1e-6)


# --- ReBRAC -----------------------------------------------------------------------------------------------------------


def test_rebracs_target_has_the_next_action_of_its_setting():
    for method, field in (("rebrac", "next_row_actions"), ("rebrac-quickstart", "next_actions")):
        _, declared = declared_settings(method, HUMANOID, "offline", CONFIG)
        agent = ReBRAC(ReBRACSettings(**declared.as_dict() | {"batch_size": 4, "alpha_critic": 1.0}), (3,), 2)
        assert agent.extra_fields == (field,)
        state = initial_state(agent, [generator(CPU, 0, "initial")], CPU)
        parameters, noise = views_of(agent, state.flat), torch.zeros(1, 4, 2)
        batch = {
            "next_observations": torch.randn(1, 4, 3),
            "rewards": torch.zeros(1, 4),
            "masks": torch.tensor([[1.0, 1.0, 1.0, 0.0]]),
            field: torch.zeros(1, 4, 2),
        }
        moved = batch | {field: torch.full((1, 4, 2), 0.5)}
        actions = agent._actions(parameters["target_policy"], batch["next_observations"])
        distances = (actions - moved[field]).square().sum(-1) - actions.square().sum(-1)
        change = agent._targets(parameters, moved, noise) - agent._targets(parameters, batch, noise)
        torch.testing.assert_close(change, -declared.discount * batch["masks"] * distances, rtol=1e-4, atol=1e-5)


# --- the table --------------------------------------------------------------------------------------------------------


def tables_in(page: Path) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The tables of a Markdown page by their columns, cells without code marks."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    columns: tuple[str, ...] = ()
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = ()
            continue
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if not columns:
            columns = tuple(cells)
        elif set(cells) != {"---"}:
            found.setdefault(columns, []).append(dict(zip(columns, cells, strict=True)))
    return found


PAGE = tables_in(ROOT / "docs" / "reproduction.md")
PROTOCOL = PAGE["what", "where", "setting", "mfql (paper)", "mfql-released (released code)"]
FAMILY = PAGE["what", "where", "setting", "methods", "before", "value"]


def applies(where: str, task: Task, stage: str) -> bool:
    """Whether a row of a table is about a task and stage: about all where it names none, otherwise about both."""
    words = [word.strip() for word in where.split(",") if word.strip()]
    return all(word == stage if word in STAGES else names(word, task) for word in words)


def names(words: str, task: Task) -> bool:
    """Whether `D4RL`, or an environment and a task's number, are a task."""
    if words == "D4RL":
        return task.suite.startswith("d4rl-")
    environment, number = words.split()
    return task.environment == environment and f"-singletask-{number}-" in task.name


def values_of(method: str, task: str, stage: str) -> dict[str, Any]:
    return declared_settings(method, task, stage, CONFIG)[1].as_dict()


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (value, other[key]) for key, value in one.items() if value != other[key]}


@pytest.mark.parametrize("stage", STAGES)
def test_the_two_protocols_differ_in_what_the_table_says_and_in_nothing_else(stage):
    used = set()
    for name, task in load_tasks(CONFIG / "tasks.csv").items():
        if not trains(name, stage):
            continue
        expected = {}
        for number, row in enumerate(PROTOCOL):  # A later row is of fewer tasks.
            if applies(row["where"], task, stage):
                used.add(number)
                values = row["mfql (paper)"], row["mfql-released (released code)"]
                expected[row["setting"]] = tuple(map(as_value, values))
        paper, released = (
            declared_settings(method, name, stage, CONFIG)[1].as_dict() for method in ("mfql", "mfql-released")
        )
        assert differing(paper, released) == expected, name
    assert used == {
        number for number, row in enumerate(PROTOCOL) if not (set(row["where"].split(", ")) & set(STAGES)) - {stage}
    }


def test_the_methods_of_flow_q_learning_have_what_the_table_says():
    rows = {(method, row["setting"]): row for row in FAMILY for method in row["methods"].split()}
    for method in {method for method, _ in rows} | {"bc", "calql"}:
        agent = raw_settings(method, HUMANOID, "online", CONFIG)["agent"]
        for stage in agent_stages(agent):
            values = values_of(method, HUMANOID, stage)
            for setting in {row["setting"] for row in FAMILY} & values.keys():
                row = rows.get((method, setting))
                counts = row is not None and row["where"] in ("", stage)
                assert values[setting] == (as_value(row["value"]) if row and counts else LATER[setting]), (
                    method,
                    setting,
                )
    assert all(as_value(row["before"]) == LATER[row["setting"]] for row in FAMILY)


@pytest.mark.parametrize("path", [path for path in METHOD_FILES if "-" in path.stem], ids=lambda path: path.stem)
def test_methods_of_reduced_size_have_what_their_runs_had(path):
    if path.stem == "mfql-released":
        return
    for stage in agent_stages(raw_settings(path.stem, HUMANOID, "online", CONFIG)["agent"]):
        values = declared_settings(path.stem, HUMANOID, stage, CONFIG)[1].as_dict()
        assert {key: values[key] for key in LATER if key in values} == {
            key: LATER[key] for key in LATER if key in values
        }


# --- the score --------------------------------------------------------------------------------------------------------


def test_a_score_has_no_part_of_the_evaluation_at_step_0_unless_it_is_the_only_one():
    evaluations = [{"step": step} for step in (0, 10, 20)]
    assert [one["step"] for one in scored(evaluations, "last_three")] == [10, 20]
    assert [one["step"] for one in scored(evaluations, "last")] == [20]
    assert scored(evaluations[:1], "last_three") == evaluations[:1]
    assert scored([], "last") == []
    with pytest.raises(UserError, match="score rule"):
        scored(evaluations, "best")
