"""A policy out of the project's hands: in its environment's units, to the episode, from its folder alone."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from safetensors.torch import load_file, save_file

import mfql
from mfql.agents.interface import load_agent
from mfql.agents.update import initial_state
from mfql.cli import main
from mfql.draws import generator
from mfql.envs.make import make_env, reset_env
from mfql.envs.usage import usage_of
from mfql.envs.vector import EnvPool
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.evaluation.policy import Actor, Policy, load_policy, save_policy
from mfql.extensions import VARIABLE, extend
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.tasks import SCORED_EVALUATIONS
from mfql.training.loop import Execution
from mfql.training.train import Job, train
from tests.support.plain_loop import played
from tests.support.training_runs import ROOT
from tests.test_extend import BOUNDED, FILES, VECTOR, Odd, arrays, registered

CONFIG, CPU = ROOT / "config", torch.device("cpu")
POINTMAZE, ANTMAZE, PEN = "pointmaze-medium-navigate-singletask-task1-v0", "antmaze-umaze-v2", "pen-human-v1"
CUBE = "cube-single-play-singletask-task1-v0"


@pytest.fixture(autouse=True)
def no_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test extends ends with it."""
    monkeypatch.setenv(VARIABLE, "")


def write(folder: Path, task: str, method: str = "mfql-miniature", seed: int = 3, **more: Any) -> Path:
    """A policy whose weights are drawn, and so far from nothing that observation and noise decide on its actions."""
    raw = raw_settings(method, POINTMAZE, "online", CONFIG)
    name = raw.pop("agent")
    usage, kind = usage_of(task), load_agent(name)
    settings = build_settings(kind.settings_type, raw, "this test")
    env = make_env(task)
    (size,), (actions,) = env.observation_space.shape, env.action_space.shape
    env.close()
    agent = kind(settings, (size,), actions)
    flat = initial_state(agent, [generator(CPU, seed, "initial")], CPU).flat
    drawn = {
        group: value + 0.2 * torch.randn(value.shape, generator=generator(CPU, group)) for group, value in flat.items()
    }
    actor = Actor(agent, drawn, np.full(size, 0.1, np.float32), np.full(size, 1.5, np.float32), CPU)
    described = {"method": method, "agent": name, "task": task, "seed": seed, "stage": "offline", "identity": "none"}
    save_policy(folder, actor, 0, described | {"settings": settings.as_dict()} | usage | more)
    return folder


# --- to the episode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "method", "episodes"),
    [
        (POINTMAZE, "mfql-miniature", 3),
        (CUBE, "ifql-miniature", 2),
        (ANTMAZE, "mfql-miniature", 2),
        (PEN, "iql-miniature", 4),
        (PEN, "mfql-miniature", 4),
    ],
)
def test_a_plain_loop_gives_the_episodes_of_mfql_evaluate(
    tmp_path: Path, task: str, method: str, episodes: int
) -> None:
    write(tmp_path / "run" / "policy", task, method)
    arguments = ["--episodes", str(episodes), "--out", str(tmp_path / "found.json"), "--workers", "0"]
    assert main(["evaluate", str(tmp_path), *arguments]) == 0
    shutil.move(tmp_path / "run" / "policy", tmp_path / "elsewhere")
    found = json.loads((tmp_path / "found.json").read_text())["each"]
    policy = load_policy(tmp_path / "elsewhere")
    assert played(policy, policy.make_env(), episodes) == found


def test_ogbenchs_own_environment_gives_the_same_where_all_that_it_draws_from_is_seeded(tmp_path: Path) -> None:
    import ogbench

    evaluate(write(tmp_path, POINTMAZE), 2, tmp_path / "found.json", None, workers=0)
    env = ogbench.make_env_and_datasets(POINTMAZE, env_only=True)

    def reset(seed: int) -> Any:
        np.random.seed(seed)  # noqa: NPY002 (mazes draw from the global generator)
        env.action_space.seed(seed)
        return env.reset(seed=seed)

    found = json.loads((tmp_path / "found.json").read_text())["each"]
    assert played(load_policy(tmp_path), env, 2, reset) == found


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of docs/extend.md, whose actions are within 0.2, as an extension."""
    for name in ("point.py", "tasks.csv", "methods/mfql-point.yaml"):
        (tmp_path / "mylab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mylab" / name).write_text(FILES[f"mylab/{name}"])
    monkeypatch.syspath_prepend(str(tmp_path / "mylab"))
    monkeypatch.delitem(sys.modules, "point", raising=False)
    extend([tmp_path / "mylab"])
    return tmp_path


def test_the_example_of_the_page_is_acted_in_in_its_own_units(point: Path) -> None:
    """With weights of nothing, noise alone decides: in the environment's units it fills a fifth of [-1, 1]."""
    policy = load_policy(write(point / "policy", "point"))
    actions = policy(np.random.default_rng(0).uniform(-1.0, 1.0, (500, 4)))
    assert actions.dtype == np.float32
    assert 0.15 < np.abs(actions).max() <= np.float32(0.2)
    evaluate(point / "policy", 5, point / "found.json", None, workers=0)
    found = json.loads((point / "found.json").read_text())["each"]
    assert played(policy, gymnasium.make("point:mylab/Point-v0"), 5) == found


def test_a_folder_copied_from_an_extension_needs_it_no_more(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(write(point / "policy", "point"), 3, point / "found.json", None, workers=0)
    monkeypatch.setenv(VARIABLE, "")
    policy = load_policy(point / "policy")
    found = json.loads((point / "found.json").read_text())["each"]
    assert played(policy, policy.make_env(), 3) == found
    noted = policy.description["environment"]
    assert noted["env_id"] == "point:mylab/Point-v0"
    assert (noted["registered_by"], noted["folder"]) == ("point", "mylab")
    assert str(point) not in (point / "policy" / "policy.json").read_text()
    for workers in (0, 2):
        evaluate(point / "policy", 3, point / "alone.json", None, workers=workers)
        assert (point / "alone.json").read_text() == (point / "found.json").read_text()


def test_a_module_of_no_importable_package_is_found_in_an_extension_alone(
    point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever path a description has: code of a folder that nobody named is not imported."""
    policy = write(point / "policy", "point")
    environment = json.loads((policy / "policy.json").read_text())["environment"]
    edited(policy, environment=environment | {"folder": str(point / "mylab")})
    # Other tests of this process import a module of that name from folders of theirs.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "point.py").exists()])
    monkeypatch.delitem(sys.modules, "point")
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match="cannot be imported: No module named 'point'") as caught:
        load_policy(policy).make_env()
    assert "mfql --extension DIR" in str(caught.value)
    (point / "other").mkdir()
    shutil.copy(point / "mylab" / "point.py", point / "other")
    monkeypatch.setenv(VARIABLE, str(point / "other"))
    assert load_policy(policy).make_env().observation_space.shape == (4,)


def test_a_policy_without_its_extension_is_scored_by_the_row_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "mine,Odd-v0,a.npz,normalized_return,10,0,20\n"
    registered(tmp_path, row, observations=VECTOR, actions=BOUNDED)
    expected = evaluate(write(tmp_path / "policy", "mine"), 2, tmp_path / "found.json", None, workers=0)
    monkeypatch.setenv(VARIABLE, "")
    found = evaluate(tmp_path / "policy", 2, tmp_path / "found.json", None, workers=0)
    assert found == expected
    assert found["normalized_return"] == pytest.approx(5 * found["return"])


def test_an_episode_takes_one_observation_at_a_time_and_none_beyond_the_last(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, POINTMAZE))
    policy.begin(0)
    with pytest.raises(ValueError, match="one observation at a time"):
        policy(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="episode 50 of 50"):
        policy.begin(50)


def test_without_an_episode_calls_use_one_draw_after_the_other(tmp_path: Path) -> None:
    write(tmp_path, POINTMAZE)
    first, second, other = load_policy(tmp_path), load_policy(tmp_path), load_policy(tmp_path, seed=1)
    actions = [first([0.0, 0.0]) for _ in range(3)]
    assert all(np.array_equal(action, second([0.0, 0.0])) for action in actions)
    assert not np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], other([0.0, 0.0]))


# --- units ------------------------------------------------------------------------------------------------------------


def test_actions_of_a_policy_fill_the_bounds_of_its_environment_and_pools_act_alike(tmp_path: Path) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    policy = load_policy(write(tmp_path / "policy", "mine"))
    observations = np.random.default_rng(0).normal(size=(400, 3))
    actions = policy(observations)
    assert actions.dtype == np.float64
    assert ((actions >= BOUNDED.low) & (actions <= BOUNDED.high)).all()
    assert (actions.min(axis=0) < [0.1, -1.4]).all()
    assert (actions.max(axis=0) > [0.9, 3.4]).all()
    evaluate(tmp_path / "policy", 1, tmp_path / "found.json", None, workers=0)
    env = policy.make_env()
    observation, _ = env.reset(seed=policy.begin(0, 1))
    for _ in range(3):
        observation, *_ = env.step(policy(observation))
    with EnvPool("mine", 1, 0) as pool:
        pool.reset({0: policy.begin(0, 1)})
        for _ in range(3):
            pool.step(policy.units.from_env(policy(pool.observations[0]))[None].astype(np.float32), np.ones(1, bool))
        np.testing.assert_allclose(pool._local.envs[0].base.acted, env.base.acted, rtol=1e-5)


@pytest.mark.parametrize("task", [POINTMAZE, PEN, ANTMAZE, CUBE])
def test_the_bounds_of_the_projects_tasks_are_those_of_their_environments(task: str) -> None:
    env = make_env(task)
    assert not env.units.rescaled
    assert env.action_space == Box(-1.0, 1.0, env.action_space.shape, np.float32)
    env.close()


def test_a_dict_is_taken_as_the_environment_shows_it(tmp_path: Path) -> None:
    space = Dict(goal=Box(-1.0, 1.0, (2,)), body=Dict(speed=Box(-1.0, 1.0, ()), arm=Box(-1.0, 1.0, (3,))))
    registered(tmp_path, observations=space, actions=BOUNDED)
    write(tmp_path / "policy", "mine")
    first, second = load_policy(tmp_path / "policy"), load_policy(tmp_path / "policy")
    shown, _ = Odd(space, BOUNDED).reset(seed=3)
    flat, _ = reset_env(make_env("mine"), 3)
    assert np.array_equal(first(shown), second(flat))
    with pytest.raises(ValueError, match="without body/arm"):
        first({"goal": shown["goal"], "body": {"speed": shown["body"]["speed"]}})
    with pytest.raises(ValueError, match="3 numbers as goal; it has 2"):
        first(shown | {"goal": [0.0, 0.0, 0.0]})
    with pytest.raises(ValueError, match="takes vectors"):
        load_policy(write(tmp_path / "other", POINTMAZE))({"observation": [0.0, 0.0]})


# --- observations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return load_policy(write(tmp_path, POINTMAZE))


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ([0.0, np.nan], "not finite in dimensions 1 (nan)"),
        ([-np.inf, np.nan], "not finite in dimensions 0 (-inf), 1 (nan)"),
        ([[0.0, 0.0], [np.inf, 0.0]], "not finite in dimensions 0 (inf)"),
        ([1e300, 0.0], "not finite in dimensions 0 (1e+300)"),
        (["a", "b"], "this policy takes numbers"),
        ([1j, 0.0], "this policy takes numbers"),
        ([None, {}], "no numbers"),
        ([0.0, 0.0, 0.0], "this policy takes [2] or [B, 2]"),
        (0.0, "this policy takes [2] or [B, 2]"),
        (np.zeros((1, 1, 2)), "this policy takes [2] or [B, 2]"),
    ],
)
def test_what_is_no_observation_raises(policy: Policy, observation: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        policy(observation)


@pytest.mark.parametrize("observation", [[3, 4], (3.0, 4.0), np.array([3, 4], np.uint8), np.array([3, 4], object)])
def test_numbers_of_any_kind_are_taken(tmp_path: Path, observation: Any) -> None:
    write(tmp_path, POINTMAZE)
    assert np.array_equal(load_policy(tmp_path)(observation), load_policy(tmp_path)(np.array([3.0, 4.0])))


def test_whole_numbers_beyond_64_bits_are_numbers(policy: Policy) -> None:
    assert policy([10**25, 0]).shape == (2,)


@pytest.fixture
def sees() -> Policy:
    """A policy of small images, with initial weights."""
    raw = raw_settings("mfql-miniature", POINTMAZE, "offline", CONFIG) | {
        "encoder_channels": [2],
        "encoder_features": 4,
    }
    kind = load_agent(raw.pop("agent"))
    agent = kind(build_settings(kind.settings_type, raw, "this test"), (16, 16, 9), 2)
    flat = initial_state(agent, [generator(CPU, 0, "initial")], CPU).flat
    return Policy(Actor(agent, flat, np.zeros(1, np.float32), np.ones(1, np.float32), CPU), {})


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.full((16, 16, 9), 0.5), "images of float64 from 0.5 to 0.5"),
        (np.full((2, 16, 16, 9), 255.0, np.float32), "images of float32 from 255.0 to 255.0"),
        (np.full((16, 16, 9), 256), "images of int64 from 256 to 256"),
        (np.full((16, 16, 9), -1, np.int8), "images of int8 from -1 to -1"),
        (np.zeros((16, 16, 9), bool), "images of bool;"),
    ],
)
def test_what_are_no_images_of_bytes_raises_and_is_told_what_is(sees: Policy, images: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        sees(images)
    assert "whole numbers from 0 to 255 (uint8), [16, 16, 9]: 3 frames stacked along the channels" in str(caught.value)


def test_images_of_whole_numbers_are_taken_and_of_another_shape_are_not(sees: Policy) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 9))
    assert sees(images).shape == sees(images.astype(np.uint8).tolist()).shape == (2,)
    with pytest.raises(ValueError, match=r"this policy takes \[16, 16, 9\] or \[B, 16, 16, 9\]"):
        sees(images[..., :3])


# --- the folder -------------------------------------------------------------------------------------------------------


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "policy.json"
    description = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in description.items() if value is not ...}))


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Other weights beside a description that does not know their hash, as those of earlier versions."""
    arrays = load_file(folder / "policy.safetensors")
    change(arrays)
    save_file(arrays, folder / "policy.safetensors")
    edited(folder, weights_sha256=...)


def first(arrays: dict[str, torch.Tensor]) -> str:
    return min(name for name, array in arrays.items() if array.dim() == 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop(first(arrays)), "is absent"),
        (lambda arrays: arrays.update(more=torch.zeros(1)), "there are 1 more, such as more"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)].to(torch.int32)}), "is torch.int32"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)].double()}), "is torch.float64"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)][:1]}), "not torch.float32 ["),
        (lambda arrays: arrays.update({first(arrays): torch.zeros(())}), "is torch.float32 [], not"),
        (lambda arrays: arrays[first(arrays)].fill_(float("nan")), "has numbers that are not finite"),
    ],
    ids=["absent", "more", "whole", "double", "broadcasts", "one", "broken"],
)  # fmt: skip
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    rewritten(write(tmp_path, POINTMAZE), change)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_policy(tmp_path)
    assert "policy.safetensors does not hold the weights of policy.json beside it" in str(caught.value)
    assert "Copy both files again" in str(caught.value)


def test_weights_of_another_policy_are_refused_in_a_folder_copied_alone(tmp_path: Path) -> None:
    write(tmp_path / "one", POINTMAZE, seed=1)
    write(tmp_path / "other", POINTMAZE, seed=2)
    shutil.copy(tmp_path / "one" / "policy.safetensors", tmp_path / "other")
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{16}"):
        load_policy(tmp_path / "other")
    (tmp_path / "other" / "policy.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold the weights"):
        load_policy(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation_mean": [0.0]}, "observation_mean is not one finite number for each of 2"),
        ({"observation_mean": [0.0, float("nan")]}, "observation_mean is not one finite number for each of 2"),
        ({"observation_mean": [0.0, 10**400]}, "observation_mean[1]: 1000"),
        ({"observation_std": [1.0, None]}, "observation_std[1]: None is not of type 'number'"),
        ({"observation_std": [1.0, "a"]}, "observation_std[1]: 'a' is not of type 'number'"),
        ({"observation_std": [1.0, 0.0]}, "observation_std is not above 0 everywhere"),
        ({"observation_shape": [3]}, "not torch.float32"),
        ({"observation_shape": [2, 2]}, "observation_shape: [2, 2] is neither [D] nor [H, W, C]"),
        ({"observation_shape": [2.0]}, "observation_shape[0]: 2.0 is not of type 'integer'"),
        ({"observation_shape": [3, 3, 3]}, "[3, 3, 3], action_dim 2 and the settings: images of 3 x"),
        ({"observation_shape": [10**12]}, "not torch.float32 [1000000000"),
        ({"action_dim": 3}, "not torch.float32"),
        ({"action_dim": 10**9}, "not torch.float32 ["),
        ({"action_dim": True}, "action_dim: True is not of type 'integer'"),
        ({"action_dim": 0}, "action_dim: 0 is less than the minimum of 1"),
        ({"action_dim": ...}, "'action_dim' is a required property"),
        ({"agent": ...}, "'agent' is a required property"),
        ({"seed": ...}, "'seed' is a required property"),
        ({"seed": "3"}, "seed: '3' is not of type 'integer'"),
        ({"task": ...}, "'task' is a required property"),
        ({"task": 5}, "task: 5 is not of type 'string'"),
        ({"identity": ...}, "'identity' is a required property"),
        ({"settings": []}, "settings: [] is not of type 'object'"),
        ({"environment": [1]}, "environment: [1] is not of type 'object'"),
        ({"environment": {"env_id": "X"}}, "environment: 'metric' is a dependency of 'env_id'"),
        ({"environment": {"suite": "gymnasium"}}, "environment: 'env_id' is a required property"),
        ({"observation_layout": [[1]]}, "observation_layout[0]: [1] is too short"),
        ({"observation_layout": [["a", 2]]}, "observation_layout[0][0]: 'a' is not of type 'array'"),
        ({"observation_layout": [[["a"], 3]]}, "observation_layout: its parts do not add up to observations of [2]"),
        ({"weights_sha256": 5}, "weights_sha256: 5 is not of type 'string'"),
        ({"action_low": [-1.0]}, "are no bounds of 2 actions"),
        ({"action_low": [2.0, 2.0]}, "are no bounds of 2 actions"),
        ({"action_low": ["a", 1.0]}, "action_low[0]: 'a' is not of type 'number'"),
        ({"action_high": ...}, "'action_high' is a dependency of 'action_low'"),
        ({"actions_rescaled": ...}, "'actions_rescaled' is a dependency of 'action_low'"),
        ({"actions_rescaled": "no"}, "actions_rescaled: 'no' is not of type 'boolean'"),
        ({"action_dtype": "U3"}, "action_dtype: 'U3' does not match"),
        ({"action_dtype": "float33"}, "action_dtype: 'float33' does not match"),
        ({"agent": "no_such", "agent_file": "no_such.py"}, "unknown agent 'no_such'; it was trained with no_such.py"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    edited(write(tmp_path, POINTMAZE), **changes)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_policy(tmp_path)
    assert "\n  " in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path, POINTMAZE) / "policy.json").write_text(text)
    with pytest.raises(UserError):
        load_policy(tmp_path)


# --- folders of earlier versions --------------------------------------------------------------------------------------


def as_before(folder: Path) -> Path:
    """The entries that a policy had before its units and its use were noted."""
    names = ("method", "agent", "task", "seed", "stage", "identity", "settings", "observation_shape", "action_dim")
    names += ("observation_mean", "observation_std")
    description = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({name: description[name] for name in names}))
    return folder


def test_a_policy_of_an_earlier_version_acts_as_it_did_where_bounds_are_known(tmp_path: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(20, 45))
    now = load_policy(write(tmp_path, PEN))(observations)
    before = load_policy(as_before(tmp_path))
    assert np.array_equal(before(observations), now)
    env = before.make_env()
    assert env.action_space.shape == (24,)


def test_a_policy_of_an_earlier_version_gets_the_bounds_of_its_extension_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    observations = np.random.default_rng(0).normal(size=(20, 3))
    now = load_policy(write(tmp_path / "policy", "mine"))(observations)
    assert np.array_equal(load_policy(as_before(tmp_path / "policy"))(observations), now)
    registered(tmp_path, observations=VECTOR, actions=Box(-1.0, 1.0, (3,)))
    with pytest.raises(UserError, match="action_dim: 2, and the environment of the task mine here has 3 actions"):
        load_policy(tmp_path / "policy")
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match="the task mine is none of OGBench, D4RL or an extension here") as caught:
        load_policy(tmp_path / "policy")
    assert "Name the extension" in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "shipped" / "runs").glob("**/policy")), ids=str)
def test_shipped_policies_are_loaded(path: Path) -> None:
    policy = load_policy(path)
    (size,) = policy.actor.agent.observation_shape
    assert policy(np.zeros(size)).shape == (policy.actor.agent.action_dim,)


# --- what training writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["success", "return"])
def test_training_notes_what_a_policy_is_used_with(tmp_path: Path, metric: str) -> None:
    info = {"success": True} if metric == "success" else None
    row = f"mine,Odd-v0,a.npz,{metric},10,,\n"
    registered(tmp_path, row, observations=VECTOR, actions=BOUNDED, info=info)
    given = arrays(40)
    given["observations"][:, 1] = 0.5
    np.savez(tmp_path / "a.npz", **given)
    method = "bc-miniature+observation_statistics=valid+offline_steps=4+eval_interval=1+eval_episodes=5+log_interval=2"
    job = Job(method, "mine", "offline", (0,), tmp_path / "data", tmp_path / "results", CONFIG)
    train(job, Execution(CPU, workers=0, progress=False))
    run = job.run(0)
    noted, manifest = json.loads((run.own / "policy" / "policy.json").read_text()), run.manifest()
    for entry in ("method", "agent", "task", "seed", "stage", "identity", "settings", "code", "packages", "physics"):
        assert noted[entry] == manifest[entry]
    assert noted["dataset"] == {key: manifest["dataset"][key] for key in ("name", "source", "sha256")}
    assert (noted["action_low"], noted["action_high"]) == ([0.0, -2.0], [1.0, 4.0])
    assert noted["constant_dimensions"] == [1]
    assert (noted["environment"]["env_id"], noted["environment"]["time_limit"]) == ("Odd-v0", 10)
    result = json.loads((run.own / "evaluation.json").read_text())
    score = noted["score"]
    assert (score["value"], score["metric"], score["steps"]) == (result["score"], metric, [2, 3, 4])
    assert score["episodes"] == SCORED_EVALUATIONS["last_three"] * 5
    if metric == "success":
        assert (score["value"], score["high"]) == (100.0, 100.0)
        # Wilson: n / (n + z^2).
        assert score["low"] == pytest.approx(100 * 15 / (15 + 1.959964**2), rel=1e-6)
    else:
        assert (score["low"], score["high"], score["interval"]) == (None, None, None)


def test_the_public_names_are_there() -> None:
    assert mfql.make_env(POINTMAZE).action_space.shape == (2,)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mfql.nothing
