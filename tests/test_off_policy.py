"""Off-policy evaluation: closed forms, its interval, tasks without an environment, and the command on a real run."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from benchmarks.interval_coverage import of_estimate
from mfql.agents.interface import Agent, Draw
from mfql.cli import main
from mfql.data.d4rl import last_trajectories
from mfql.data.opening import open_npz
from mfql.data.own import read_own, recorded_spaces
from mfql.data.transitions import Dataset, StackedImages, Transitions, observation_statistics
from mfql.errors import UserError
from mfql.evaluation.policy import Actor, load_policy
from mfql.evaluation.usage import usage_of
from mfql.extensions import extend
from mfql.methods import declared_settings, settings_hash
from mfql.report.aggregate import over_tasks
from mfql.report.formats import printable
from mfql.report.scores import collect, read_scores, write_scores
from mfql.report.summary import summary
from mfql.report.tasks import by_task
from mfql.settings import Settings
from mfql.suites import load, suite_of
from mfql.tasks import ESTIMATOR_VERSION, FQE_STEPS, find_task
from mfql.training import fqe
from mfql.training.fqe import FQESettings, fitted_q, mean_and_interval
from mfql.training.interruption import Interrupted
from mfql.training.off_policy import _held_apart, standard_error
from tests.support.fake_results import write_run
from tests.support.own_tasks import table
from tests.support.project import clone
from tests.support.training_runs import DATASET, MINIATURE, ROOT, SHORT, TASK, Workplace

DISCOUNT = 0.9
LEROBOT = ROOT / "tests" / "data" / "lerobot"
# The protocol at a size that closed forms need.
SMALL = FQESettings(
    offline_steps=500, discount=DISCOUNT, hidden=(32, 32), batch_size=64, tau=0.1, learning_rate=1e-2, members=2
)
# Rows of a table whose tasks have no environment.
HEADER = "task,env_id,data,discount,fqe_steps,action_low,action_high\n"
ROW = "recorded,none,recorded.npz,0.9,20,,\n"


class Fixed(Agent):
    """A policy without parameters: gain times the first observed number, plus an offset and noise."""

    settings_type = Settings
    groups: dict = {}  # noqa: RUF012 - as an agent's are

    def __init__(self, gain: float, offset: float, noise: float, size: int) -> None:
        super().__init__(Settings(offline_steps=1, online_steps=0, discount=DISCOUNT), (size,), 1)
        self.gain, self.offset, self.noise = gain, offset, noise

    def update_draws(self):
        return {}

    def losses(self, parameters, batch, draws, state):
        raise NotImplementedError

    def learning_rates(self, step):
        return {}

    def act_draw(self):
        return Draw("normal", (1,)) if self.noise else None

    def act(self, parameters, observations, noise):
        chosen = self.gain * observations[..., :1] + self.offset
        return chosen if noise is None else chosen + self.noise * noise


def acting(agent: Agent) -> Actor:
    size = agent.observation_shape[0]
    return Actor(agent, {}, np.zeros(size, np.float32), np.ones(size, np.float32), torch.device("cpu"))


def of_episodes(episodes: list[list[tuple]], held_out: int) -> Dataset:
    """Steps (observation, action, reward, mask, next observation) as a dataset; the last episodes are held out."""

    def rows(part: list[list[tuple]]) -> dict[str, np.ndarray]:
        names = ("observations", "actions", "rewards", "masks", "next_observations")
        steps = [step for episode in part for step in episode]
        ends = [step is episode[-1] for episode in part for step in episode]
        found = {name: np.array([step[i] for step in steps], np.float32) for i, name in enumerate(names)}
        return found | {"terminals": np.array(ends, np.float32)}

    train, val = rows(episodes[:-held_out]), rows(episodes[-held_out:])
    mean, std = observation_statistics(train["observations"])
    about = {"observation_mean": mean, "observation_std": std, "sha256": "", "name": "mine", "source": "own"}
    return Dataset(**train, val=Transitions(**val), **about)


def chain(*, ending: bool) -> Dataset:
    """Episodes of at most 8 steps along states 0 to 3: an action above 0 goes on and pays 1, one below stays for 0.

    Going on from state 3 ends the task where it is `ending`; else it stays there, and episodes end by time alone.
    """
    rng, seen, episodes = np.random.default_rng(0), np.eye(4), []
    for _ in range(120):
        state, episode = 0, []
        while len(episode) < 8 and state < 4:
            action = rng.choice([-0.5, 0.5])
            after = state + (action > 0) if ending else min(state + (action > 0), 3)
            episode.append((seen[state], [action], action > 0, after < 4, seen[min(after, 3)]))
            state = after
        episodes.append(episode)
    return of_episodes(episodes, 20)


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "action", "exact"),
    [
        (True, 0.5, 1 + 0.9 + 0.9**2 + 0.9**3),
        (False, 0.5, 1 / (1 - 0.9)),  # Nobody saw more than 8 steps of it: a time-out is looked beyond.
        (True, -0.5, 0.0),  # The policy is judged, not whoever recorded the data.
    ],
)
def test_a_chains_values_are_found(ending: bool, action: float, exact: float) -> None:
    found = fitted_q(acting(Fixed(0.0, action, 0.0, 4)), chain(ending=ending), 0, SMALL)
    assert found.fqe_return == pytest.approx(exact, rel=0.05, abs=0.15)
    assert found.fqe_low <= found.fqe_return <= found.fqe_high
    assert found.episodes == 20
    assert found.bellman_error < 0.3


def test_the_value_of_a_noisy_policy_in_a_linear_system_is_found() -> None:
    """s' = 0.8 s + 0.5 a + e paid by -s^2, a = -0.6 s + 0.3 z: V(s) = -(p s^2 + c) with p = 1 + 0.9 * 0.25 p."""
    rng, episodes = np.random.default_rng(1), []
    for _ in range(150):
        state, episode = rng.uniform(-1.5, 1.5), []
        for _step in range(10):
            action = rng.uniform(-1.0, 1.0)
            after = 0.8 * state + 0.5 * action + 0.2 * rng.normal()
            episode.append(([state], [action], -(state**2), 1.0, [after]))
            state = after
        episodes.append(episode)
    data = of_episodes(episodes, 30)
    p = 1.0 / (1.0 - DISCOUNT * 0.5**2)
    c = DISCOUNT * p * (0.15**2 + 0.2**2) / (1.0 - DISCOUNT)
    starts = np.asarray(data.val.observations, np.float64)[::10, 0]
    exact = float(-(p * starts**2 + c).mean())
    found = fitted_q(acting(Fixed(-0.6, 0.0, 0.3, 1)), data, 0, SMALL)
    assert found.fqe_return == pytest.approx(exact, rel=0.1)
    assert found.fqe_low <= exact <= found.fqe_high


def test_an_estimate_is_a_function_of_its_arguments() -> None:
    few = replace(SMALL, offline_steps=5)
    actor, data = acting(Fixed(0.0, 0.5, 0.2, 4)), chain(ending=True)
    first, again, other = (fitted_q(actor, data, seed, few) for seed in (0, 0, 1))
    assert first == again
    assert first.fqe_return != other.fqe_return


found = arrays(np.float32, st.tuples(st.integers(2, 8), st.integers(1, 20)), elements=st.floats(-1e6, 1e6, width=32))
bounds = st.tuples(st.floats(-1e6, 0), st.floats(0, 1e6))


@given(found)
def test_an_interval_is_students_over_members_and_starts(values: np.ndarray) -> None:
    exact = values.astype(np.float64)
    members, starts = exact.shape
    mean = exact.mean()
    of_members = sum((one - mean) ** 2 for one in exact.mean(1)) / (members - 1)
    of_starts = sum((one - mean) ** 2 for one in exact.mean(0)) / (starts - 1) / starts if starts > 1 else 0.0
    reach = stats.t.ppf(0.975, members - 1) * np.sqrt(of_members * (1 + 1 / members) + of_starts)
    expected = (mean, mean - reach, mean + reach)
    assert mean_and_interval(values, -np.inf, np.inf) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(found, bounds)
def test_an_interval_has_its_mean_and_what_values_can_be(values: np.ndarray, bounds: tuple[float, float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        mean, low, high = mean_and_interval(values, *bounds)
    assert bounds[0] <= low <= mean <= high <= bounds[1]


def test_an_interval_of_what_does_not_vary() -> None:
    assert mean_and_interval(np.full((3, 7), 2.5), -9.0, 9.0) == (2.5, 2.5, 2.5)
    # Starts that differ alone: t is 2.776 of five members.
    _, low, high = mean_and_interval(np.tile([0.0, 2.0, 4.0], (5, 1)), -9.0, 9.0)
    assert ((high + low) / 2, high - low) == pytest.approx((2.0, 2 * 2.776 * 2 / np.sqrt(3)), abs=0.01)
    # A single start has the members alone: t is 12.71 of two.
    _, low, high = mean_and_interval(np.array([[0.0], [2.0]]), -99.0, 99.0)
    assert ((high + low) / 2, high - low) == pytest.approx((1.0, 2 * 12.71 * np.sqrt(2 * 1.5)), abs=0.02)


def test_an_interval_holds_the_value_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for spread, least, most in ((0.0, 0.93, 0.97), (2.0, 0.95, 1.0)):
        ends = np.array([of_estimate(rng, 50, spread) for _ in range(1000)])
        assert least <= ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean() <= most


@pytest.mark.parametrize(("centre", "allowed"), [(50.0, 3.0), (-50.0, -1.0)])
def test_values_are_cut_to_what_rewards_allow(centre: float, allowed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = {"centre": centre, "scale": 1.0, "lowest": -1.0, "highest": 3.0}
    monkeypatch.setattr(fqe, "_scale", lambda *_: scale)
    few = replace(SMALL, offline_steps=1)  # Critics give what they began with, about the centre.
    found = fitted_q(acting(Fixed(0.0, 0.5, 0.2, 4)), chain(ending=True), 0, few)
    assert (found.fqe_low, found.fqe_return, found.fqe_high) == (allowed, allowed, allowed)


def test_one_critic_alone_is_refused_and_one_start_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    actor, data = acting(Fixed(0.0, 0.5, 0.0, 4)), chain(ending=True)
    with pytest.raises(UserError, match="setting members is 1"):
        fitted_q(actor, data, 0, replace(SMALL, members=1))
    end = int(np.flatnonzero(data.val.terminals > 0)[0]) + 1
    first = Transitions(**{field.name: getattr(data.val, field.name)[:end] for field in fields(Transitions)})
    found = fitted_q(actor, replace(data, val=first), 0, replace(SMALL, offline_steps=5))
    assert (found.episodes, found.fqe_low < found.fqe_return < found.fqe_high) == (1, True)
    assert "mine has one held-out episode" in capsys.readouterr().err


def test_the_standard_error_of_a_true_return_is_over_starts() -> None:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(400, 1)) + 0.1 * rng.normal(size=(400, 5))
    assert standard_error(found) == pytest.approx(1.005 / 20, rel=0.1)
    assert standard_error(found[:1]) == pytest.approx(np.std(found[0], ddof=1) / np.sqrt(5))
    assert standard_error(found[:1, :1]) is None


def test_what_it_is_not_defined_for_is_refused() -> None:
    data, agent = chain(ending=True), Fixed(0.0, 0.5, 0.0, 4)
    images = StackedImages(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((len(data), 1), np.int64))
    with pytest.raises(UserError, match="observations of mine are images"):
        fitted_q(acting(agent), replace(data, observations=images), 0, SMALL)
    agent.horizon = 4
    with pytest.raises(UserError, match=r"gives 4 at once \(horizon\)"):
        fitted_q(acting(agent), data, 0, SMALL)


# --- a task without an environment ------------------------------------------------------------------------------------


def recorded(episodes: int = 20, steps: int = 6) -> dict[str, np.ndarray]:
    """A dataset as it lies in a file: two numbers observed, two acted, in units of their own."""
    rng, rows = np.random.default_rng(0), episodes * steps
    return {
        "observations": rng.normal(size=(rows, 2)).astype(np.float32),
        "actions": rng.uniform([-2.0, 0.0], [3.0, 0.5], size=(rows, 2)).astype(np.float32),
        "rewards": -rng.random(rows).astype(np.float32),
        "masks": np.ones(rows, np.float32),
        "terminals": (np.arange(rows) % steps == steps - 1).astype(np.float32),
    }


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """An extension whose task has a dataset alone."""
    folder = tmp_path / "bare"
    folder.mkdir()
    np.savez(folder / "recorded.npz", **recorded())
    table(folder, ROW, HEADER)
    return folder


def rewritten(folder: Path, rows: str, header: str = HEADER) -> None:
    """Give the extension another task table."""
    table(folder, rows, header)


def test_a_row_says_that_there_is_no_environment(bare: Path) -> None:
    task = find_task("recorded")
    assert (task.has_environment, task.metric, task.score_rule, task.online) == (False, "fqe_return", "last", False)
    assert task.registered is not None
    assert task.registered.fqe_steps == 20
    rewritten(bare, "recorded,none,recorded.npz\n", "task,env_id,data\n")
    assert find_task("recorded").registered.fqe_steps == FQE_STEPS
    rewritten(bare, "plain,Pendulum-v1,recorded.npz,return\n", "task,env_id,data,metric\n")
    assert find_task("plain").has_environment


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("metric", "none,return", "metric is 'return', and recorded has no environment"),
        ("metric,score_rule", "none,fqe_return,last_three", "score_rule is 'last_three'"),
        ("online", "none,yes", "online is 'yes', and recorded has no environment"),
        ("metric", "Pendulum-v1,fqe_return", "metric is 'fqe_return', which is for tasks without an environment"),
        ("metric,fqe_steps", "Pendulum-v1,return,5", "fqe_steps is '5', which is for tasks without"),
        ("fqe_steps", "none,0", "fqe_steps is 0"),
        ("action_low", "none,-1", "one of action_low and action_high is empty"),
        ("action_low,action_high", "none,-1,up", "action_high is 'up', not a number"),
    ],
)
def test_what_such_a_row_cannot_say_is_refused(bare: Path, header: str, row: str, said: str) -> None:
    env_id, cells = row.split(",", 1)
    rewritten(bare, f"recorded,{env_id},recorded.npz,{cells}\n", f"task,env_id,data,{header}\n")
    with pytest.raises(UserError) as caught:
        find_task("recorded")
    assert said in str(caught.value)


def test_a_tenth_of_the_episodes_is_held_out(bare: Path) -> None:
    data = load(find_task("recorded"), bare)
    kept = recorded()
    steps = kept["terminals"] == 0
    assert (len(data), len(data.val)) == (18 * 5, 2 * 5)
    held = np.concatenate([np.asarray(part.observations) for part in (data, data.val)])
    assert np.array_equal(held, kept["observations"][steps])
    # A file of its own is used as it is, and all of the other one is trained on.
    np.savez(bare / "recorded-val.npz", **recorded(episodes=3))
    data = load(find_task("recorded"), bare / "elsewhere")
    assert (len(data), len(data.val)) == (20 * 5, 3 * 5)


def test_a_validation_file_is_held_against_the_one_that_is_trained_on(bare: Path) -> None:
    rows = recorded(episodes=3)
    np.savez(bare / "recorded-val.npz", **rows | {"actions": rows["actions"] * 2})
    with pytest.raises(UserError, match=r"out of the task's bounds (?s:.*) action_low and action_high"):
        read_own(find_task("recorded"))
    np.savez(bare / "recorded-val.npz", **rows | {"observations": rows["observations"][:, :1]})
    with pytest.raises(UserError, match=r"vectors of \[1\], and those trained on are of \[2\]"):
        read_own(find_task("recorded"))


def test_actions_have_the_bounds_of_the_row_or_of_the_data(bare: Path) -> None:
    actions = recorded()["actions"][recorded()["terminals"] == 0]
    units = recorded_spaces(find_task("recorded")).units
    assert np.array_equal(units.low, actions.min(axis=0))
    assert np.array_equal(units.high, actions.max(axis=0))
    rewritten(bare, "recorded,none,recorded.npz,0.9,20,-4,4 0.5\n", HEADER)
    units = recorded_spaces(find_task("recorded")).units
    assert (units.low.tolist(), units.high.tolist()) == ([-4.0, -4.0], [4.0, 0.5])
    used = usage_of("recorded")
    assert (used["action_low"], used["actions_rescaled"], used["environment"]["make"]) == ([-4.0, -4.0], True, None)
    rewritten(bare, "recorded,none,recorded.npz,0.9,20,-1,1\n", HEADER)
    with pytest.raises(UserError, match="out of the task's bounds"):
        read_own(find_task("recorded"))
    rewritten(bare, "recorded,none,recorded.npz,0.9,20,-4 -4 -4,4\n", HEADER)
    with pytest.raises(UserError, match="actions have 2 dimensions, and the task table has bounds of 3"):
        read_own(find_task("recorded"))


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_minaris_bounds_are_taken_from_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng = np.random.default_rng(0)
    episodes = [
        EpisodeBuffer(
            observations=list(rng.normal(size=(6, 2)).astype(np.float32)),
            actions=list(rng.uniform(-1, 1, (5, 1)).astype(np.float32)),
            rewards=[0.0] * 5,
            terminations=[False] * 5,
            truncations=[False] * 4 + [True],
        )
        for _ in range(10)
    ]
    minari.create_dataset_from_buffers(
        "mine/bare-v0",
        episodes,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        action_space=gymnasium.spaces.Box(-3.0, 5.0, (1,), np.float32),
        data_format="hdf5",
    )
    table(tmp_path, "recorded,none,minari:mine/bare-v0,0.9,20,,\n", HEADER)
    units = recorded_spaces(find_task("recorded")).units
    assert (units.low.tolist(), units.high.tolist()) == ([-3.0], [5.0])
    data = load(find_task("recorded"), tmp_path / "data")
    assert (len(data), len(data.val)) == (45, 5)


def test_hdf5_files_say_themselves_what_is_observed(bare: Path) -> None:
    given, rng = recorded(), np.random.default_rng(0)
    ends = given["terminals"] > 0
    with h5py.File(bare / "rows.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards"):
            file[name] = given[name]
        file["terminals"], file["timeouts"] = np.zeros_like(ends), ends
    rewritten(bare, "rows,none,rows.hdf5,0.9,20,,\n")
    rows = read_own(find_task("rows"), fitting=False)["train"]
    assert np.array_equal(rows.observations, given["observations"][~ends])
    assert np.array_equal(rows.actions, given["actions"][~ends])
    joints, gripper, image = (rng.random((5, *shape)).astype(np.float32) for shape in ((3,), (1,), (4, 4, 3)))
    with h5py.File(bare / "demos.hdf5", "w") as file:
        for number in range(2):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"], demo["rewards"] = rng.random((5, 2)), np.zeros(5)
            demo["dones"] = np.arange(5) == 4
            for name, values in (("joints", joints), ("gripper", gripper), ("image", image)):
                demo[f"obs/{name}"] = values
    rewritten(bare, "demos,none,demos.hdf5,0.9,20,,\n")
    rows = read_own(find_task("demos"), fitting=False)["train"]
    assert np.array_equal(rows.observations[:5], np.concatenate([gripper, joints], axis=1))
    assert rows.masks.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions": np.ones((120, 2), np.float32)}, "leaves nothing to choose"),
        ({"terminals": (np.arange(120) == 119).astype(np.float32)}, "has one trajectory, and a task without"),
    ],
)
def test_data_that_nothing_can_be_estimated_from_are_refused(bare: Path, change: dict, said: str) -> None:
    np.savez(bare / "recorded.npz", **recorded() | change)
    with pytest.raises(UserError) as caught:
        read_own(find_task("recorded"))
    assert said in str(caught.value)


def test_options_of_an_estimate_are_refused_where_episodes_are_played(tmp_path: Path, capsys) -> None:
    run = tmp_path / "results" / "runs" / "short" / TASK / "seed0" / "offline"
    run.mkdir(parents=True)
    assert main(["evaluate", str(run), "--out", str(tmp_path / "found.json"), "--fqe-steps", "3"]) == 2
    assert "--fqe-steps is of an estimate" in capsys.readouterr().err


def test_what_needs_an_environment_is_refused_by_name(bare: Path) -> None:
    with pytest.raises(UserError, match="recorded has no environment: there is a dataset of it alone"):
        suite_of("recorded").make("recorded")
    with pytest.raises(UserError, match="recorded is not trained online: it has no environment"):
        declared_settings("mfql-miniature", "recorded", "online")
    with pytest.raises(UserError, match="setting horizon is 2"):
        declared_settings("mfql-miniature+horizon=2", "recorded", "offline")
    with pytest.raises(UserError, match="setting early_stopping is 3"):
        declared_settings("mfql-miniature+early_stopping=3", "recorded", "offline")


@pytest.fixture
def place(tmp_path: Path, bare: Path) -> Workplace:
    """A workplace whose only method trains for ten steps."""
    (tmp_path / "config").symlink_to(Path(__file__).parents[1] / "config")
    methods = bare / "methods"
    methods.mkdir()
    (methods / "short.yaml").write_text(SHORT, encoding="utf-8")
    extend([MINIATURE, bare])
    return Workplace(tmp_path)


def test_a_dataset_alone_is_trained_on_and_scored(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.train_here("short", "offline", (0, 1), task="recorded")
    assert "estimated discounted return (FQE)" in capsys.readouterr().out
    run = place.run("short", 1, "offline", task="recorded")
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["metric"], result["episodes"], len(result["evaluations"])) == ("fqe_return", 2, 1)
    last = result["evaluations"][0]
    assert result["score"] == last["fqe_return"]
    assert last["fqe_low"] <= last["fqe_return"] <= last["fqe_high"]
    # Rewards are between -1 and 0.
    assert -1 / (1 - 0.9) <= last["fqe_return"] <= 0.0
    log = pd.read_csv(run / "metrics.csv")
    assert log[log["metric"].str.startswith("validation_loss/")]["step"].unique().tolist() == [5, 10]
    assert log[log["metric"] == "evaluation/fqe_return"]["step"].tolist() == [10]
    assert json.loads((run / "manifest.json").read_text())["estimator"] == {
        "version": 2,
        "discount": 0.9,
        "updates": 20,
        "action_bounds": {"low": None, "high": None},
    }
    policy = load_policy(run)
    assert policy.description["score"]["low"] == last["fqe_low"]
    low, high = policy.units.low, policy.units.high
    assert ((low <= (action := policy(np.zeros(2)))) & (action <= high)).all()
    with pytest.raises(UserError, match="has no environment"):
        policy.make_env()
    place.train_here("short", "offline", (0, 1), task="recorded")
    assert "finished before, restored: seeds 0, 1" in capsys.readouterr().out


def test_a_policy_of_a_dataset_alone_is_described_shared_and_exported(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.train_here("short", "offline", (0,), task="recorded")
    monkeypatch.chdir(tmp_path)
    run, shelf = str(place.run("short", 0, "offline", task="recorded").parent), tmp_path / "shelf"
    shelf.mkdir()
    assert main(["export", run, "--to", "onnx", "--out", f"{run}/policy.onnx"]) == 0
    assert main(["push", run, "lab/recorded", "--endpoint", str(shelf)]) == 0
    assert (shelf / "lab" / "recorded" / "policy.onnx").is_file()
    card = ModelCard.load(shelf / "lab" / "recorded" / "README.md")
    result = json.loads(Path(run, "evaluation.json").read_text(encoding="utf-8"))
    assert card.data.eval_results[0].metric_type == "fqe_return"
    assert card.data.eval_results[0].metric_value == round(result["score"], 4)
    low, high = (f"{result['evaluations'][0][name]:.4g}" for name in ("fqe_low", "fqe_high"))
    assert f"| 95 % interval of the estimate | {low} to {high} |" in card.text
    assert "make_env" not in card.text
    assert "simulated" not in card.text
    capsys.readouterr()
    assert main(["pull", "lab/recorded", "--endpoint", str(shelf)]) == 0
    assert "mfql evaluate" not in capsys.readouterr().out
    code = card.text.partition("```python\n")[2].partition("```")[0]
    exec(code, used := {})  # noqa: S102 - what readers are told to run
    assert used["action"].shape == (2,)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_what_lerobot_wrote_is_trained_on_without_an_environment(
    place: Workplace, bare: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LEROBOT / version, bare / "robot")
    rewritten(bare, "robot,none,robot,0.9,20,,,40\n", HEADER.replace("\n", ",max_episode_steps\n"))
    extend([MINIATURE, bare])
    with np.load(LEROBOT / "episodes.npz") as file:
        given = dict(file)
    ends = np.cumsum(given["lengths"]) - 1
    task = find_task("robot")
    data = load(task, bare)
    # Of five episodes the last is held out; the third was cut off at 40 steps, and its last frame has no next one.
    cut_off = ends[~given["next.success"][ends, 0]]
    assert (len(cut_off), len(data), len(data.val)) == (1, ends[3], given["lengths"][4])
    kept = np.delete(np.arange(ends[-1] + 1), cut_off)
    seen = np.concatenate([given["observation.state"], given["observation.environment_state"]], axis=1)
    read = np.concatenate([np.asarray(part.observations) for part in (data, data.val)])
    assert np.array_equal(read, seen[kept])
    masks = np.concatenate([data.masks, data.val.masks])
    assert np.array_equal(masks, 1.0 - given["next.success"][kept, 0])
    assert int((masks == 0).sum()) == 4
    units = recorded_spaces(task).units
    assert np.array_equal(units.low, given["action"][kept].min(axis=0))
    assert np.array_equal(units.high, given["action"][kept].max(axis=0))

    assert main(["data", "describe", "robot", "--out", str(place.folder / "data")]) == 0
    said = capsys.readouterr()
    assert "4 trajectories" in said.out
    assert "licence: unknown" in said.out
    assert "the environment" not in said.err
    place.train_here("short", "offline", (0,), task="robot")
    run = place.run("short", 0, "offline", task="robot")
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["metric"], result["episodes"], result["status"]) == ("fqe_return", 1, "finished")
    policy = load_policy(run)
    action = policy(seen[0])
    assert ((units.low <= action) & (action <= units.high)).all()
    out = place.folder / "estimate.json"
    options = ["--data", str(place.folder / "data"), "--config-dir", str(place.folder / "config")]
    assert main(["evaluate", str(run), "--off-policy", "--out", str(out), *options]) == 0
    estimate = json.loads(out.read_text())
    assert estimate["true"] is None
    assert estimate["fqe_return"] == pytest.approx(result["score"])


def test_an_estimate_that_is_broken_off_is_made_again(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.train_here("short", "offline", (0,), task="recorded")
    whole = place.run("short", 0, "offline", task="recorded")

    def asked(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("mfql.training.loop.fitted_q", asked)
        with pytest.raises(Interrupted):
            place.train_here("short", "offline", (0,), "again", task="recorded")
    place.train_here("short", "offline", (0,), "again", task="recorded")
    again = place.run("short", 0, "offline", "again", task="recorded")
    for name in ("evaluation.json", "metrics.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_estimates_is_part_of_a_run(place: Workplace, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "short+discount=0.5"
    before, other = (settings_hash(method, task, "offline") for task in ("recorded", TASK))
    with monkeypatch.context() as patch:
        patch.setattr("mfql.tasks.ESTIMATOR_VERSION", ESTIMATOR_VERSION + 1)
        assert settings_hash(method, "recorded", "offline") != before
        assert settings_hash(method, TASK, "offline") == other
    known = {before}
    for row in (ROW.replace("0.9", "0.8"), ROW.replace(",20,", ",30,"), ROW.replace(",,", ",-4,4")):
        rewritten(bare, row)
        known.add(settings_hash(method, "recorded", "offline"))
    assert len(known) == 4


# --- its marks --------------------------------------------------------------------------------------------------------


def test_estimates_are_marked_and_in_no_mean_with_scores(tmp_path: Path) -> None:
    files = [
        write_run(tmp_path, [value], method, task, seed, metric=metric)
        for method in ("mfql", "bc")
        for task, metric in (("one", "fqe_return"), ("two", "fqe_return"), ("three", "success"), ("four", "return"))
        for seed, value in enumerate((40.0, 41.0, 42.0))
    ]
    write_scores(collect(files), tmp_path / "scores.csv")
    scores = read_scores(tmp_path / "scores.csv")
    tasks = by_task(scores)
    one = tasks[(tasks["task"] == "one") & (tasks["method"] == "bc")].iloc[0]
    assert one["unit"] == "fqe_return"
    # The runs agree better than each of them is known.
    assert (one["low"], one["high"]) == (pytest.approx(41.0 - 5.0), pytest.approx(41.0 + 3.0))
    means = over_tasks(scores)
    assert set(means["unit"]) == {"fqe_return of one", "fqe_return of two", "success", "return of four"}
    assert set(means["tasks"]) == {1}


def test_people_read_that_a_number_is_an_estimate(tmp_path: Path) -> None:
    from mfql.report.aggregate import TABLES

    scores = collect([write_run(tmp_path, [40.0 + seed], "bc", "one", seed, metric="fqe_return") for seed in range(2)])
    tables = {name: make(scores) for name, make in TABLES.items()}
    said = summary(tables, {}, tmp_path / "report.html")
    assert "(estimate)" in said
    assert "estimated return (FQE)" in said
    assert "is expected, from its dataset alone, to reach" in said
    assert printable(tables)["tasks"]["bc"].item().endswith("(estimate)")


def test_a_diverged_run_has_the_worst_of_the_tasks_estimates(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [-40.0 - seed], seed=seed, metric="fqe_return") for seed in range(2)]
    files.append(write_run(tmp_path, [], seed=2, metric="fqe_return", diverged_at=10))
    table = collect(files)
    assert table[(table["metric"] == "score") & (table["seed"] == 2)]["value"].item() == -41.0
    assert set(by_task(table)["unit"]) == {"fqe_return"}


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_has_the_estimate_beside_the_true_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fqe, "_ACTIONS_OF_ROW", 1)
    place = Workplace.make(tmp_path)
    place.method("short", SHORT)
    extend([MINIATURE])
    place.train_here("short", "offline", (0,))
    run = place.run("short", 0, "offline").parent
    options = ["--data", str(tmp_path / "data"), "--config-dir", str(tmp_path / "config")]
    out = tmp_path / "off.json"
    command = ["evaluate", str(run), "--off-policy", "--out", str(out), "--episodes", "1", "--fqe-steps", "40"]
    assert main([*command, *options]) == 0
    assert "true:" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["fqe_steps"], found["episodes"], found["true"]["episodes"]) == (40, 1, 1)
    # One step costs 1 until the goal is reached, of which a policy of ten updates knows nothing.
    endless = -1.0 / (1.0 - found["discount"])
    assert found["true"]["discounted_return"] == pytest.approx(endless, rel=0.01)
    assert found["fqe_return"] == pytest.approx(found["true"]["discounted_return"], rel=0.1)
    assert main([*command, *options, "--video", str(tmp_path / "film.gif")]) == 2


def test_critics_are_not_fitted_to_the_episodes_that_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    whole = chain(ending=True)
    assert _held_apart(whole) is whole
    rows = Transitions(**{field.name: getattr(whole, field.name) for field in fields(Transitions)})
    shared = replace(whole, val=last_trajectories(rows))
    apart = _held_apart(shared)
    assert "held out of the critics" in capsys.readouterr().err
    assert (len(apart) + len(apart.val), apart.terminals[-1]) == (len(whole), 1.0)
    assert (apart.val.terminals > 0).sum() == 10
    assert np.array_equal(np.concatenate([apart.rewards, apart.val.rewards]), whole.rewards)
    with pytest.raises(UserError, match="has one trajectory"):
        _held_apart(replace(whole, val=rows))


def test_an_episode_begins_in_a_recorded_state(tmp_path: Path) -> None:
    place = Workplace.make(tmp_path)
    path = place.folder / "data" / f"{DATASET}-val.npz"
    with open_npz(path) as file:
        observations = file["observations"]
    recording = suite_of(TASK).recording(TASK, path)
    try:
        assert recording.begin is not None
        for row in (0, 57):
            env, seen = recording.begin(row)
            assert np.allclose(seen, observations[row], atol=1e-6)
            # The step that follows is the recorded one, and the task's goal and time limit are there.
            with open_npz(path) as file:
                after, reward, terminated, truncated, _ = env.step(file["actions"][row])
            assert np.allclose(after, observations[row + 1], atol=1e-4)
            assert (reward, terminated, truncated) == (-1.0, False, False)
    finally:
        recording.close()


# --- the workflow -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_dataset_alone_comes_to_a_report_that_marks_estimates(tmp_path: Path, bare: Path) -> None:
    project = clone(tmp_path / "project")
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: bare\n"
        f"extensions: [tests/miniature, {bare}]\n"
        "offline: {methods: [flow_bc-miniature], tasks: [recorded]}\n"
        "online: {methods: [], tasks: []}\n"
        "seeds: [0, 1]\nseeds_per_job: 2\nthreads: 1\nfinal_episodes: 2\n",
        encoding="utf-8",
    )
    printed = project.snakemake("--configfile", str(study))
    assert "(estimate)" in printed
    results = project.folder / "results"
    assert (results / "bare" / "summary.txt").is_file()
    page = (results / "bare" / "report.html").read_text(encoding="utf-8")
    assert page.count("estimate</span>") == 1
    assert "Of recorded there is a dataset and no environment: no episode was played." in page
    # No episode can be played: none is asked for.
    assert not list(results.glob("runs/*/*/*/*/final.json"))
