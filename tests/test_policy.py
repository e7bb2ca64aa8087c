"""A policy out of the project's hands: in its environment's units, to the episode, from its folder alone."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

import mfql
from mfql.agents.interface import load_agent
from mfql.agents.update import initial_state
from mfql.cli import main
from mfql.draws import generator
from mfql.envs.isolated import reset_env
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.evaluation.policy import Actor, Policy, load_policy
from mfql.evaluation.vector import EnvPool
from mfql.extensions import VARIABLE, extend
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.suites import make_env
from mfql.tasks import SCORED_EVALUATIONS
from mfql.training.loop import Execution
from mfql.training.train import Job, train
from tests.support.own_tasks import BOUNDED, VECTOR, Odd, arrays, registered
from tests.support.page import FILES
from tests.support.plain_loop import played
from tests.support.policies import ANTMAZE, CUBE, PEN, POINTMAZE, edited, write
from tests.support.training_runs import MINIATURE, ROOT

CONFIG, CPU = ROOT / "config", torch.device("cpu")


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
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["each"]
    policy = load_policy(tmp_path / "elsewhere")
    assert played(policy, policy.make_env(), episodes) == found


def test_runs_scored_together_have_the_files_of_runs_scored_alone(tmp_path: Path) -> None:
    """Policies of one task take turns in the same environments, of which none must know what the one before it did."""
    tasks = [POINTMAZE, POINTMAZE, CUBE]
    runs = [write(tmp_path / str(seed), task, seed=seed) for seed, task in enumerate(tasks)]
    alone, together = ([tmp_path / f"{how}{run.name}.json" for run in runs] for how in ("alone", "together"))
    for run, out in zip(runs, alone, strict=True):
        evaluate(run, 2, out, None, workers=0)
    outs = [word for out in together for word in ("--out", str(out))]
    assert main(["evaluate", *map(str, runs), "--episodes", "2", "--workers", "1", *outs]) == 0
    assert [out.read_bytes() for out in together] == [out.read_bytes() for out in alone]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "a.json"], "2 runs and 1 files"),
        (
            ["--out", "a.json", "--out", "b.json", "--strip", "a.png"],
            "--off-policy, --video and --strip",
        ),
        (["--out", "a.json", "--out", "."], ". is a folder"),
        (["--out", "a.json", "--out", "./a.json"], "two runs would be written into one file"),
    ],
)
def test_several_runs_have_a_file_each_and_no_film(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(write(tmp_path / name, POINTMAZE)) for name in ("a", "b")]
    assert main(["evaluate", *runs, "--episodes", "1", "--workers", "0", *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_ogbenchs_own_environment_gives_the_same_where_all_that_it_draws_from_is_seeded(tmp_path: Path) -> None:
    import ogbench

    evaluate(write(tmp_path, POINTMAZE), 2, tmp_path / "found.json", None, workers=0)
    env = ogbench.make_env_and_datasets(POINTMAZE, env_only=True)

    def reset(seed: int) -> Any:
        np.random.seed(seed)  # noqa: NPY002 (mazes draw from the global generator)
        env.action_space.seed(seed)
        return env.reset(seed=seed)

    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["each"]
    assert played(load_policy(tmp_path), env, 2, reset) == found


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of docs/extend.md, whose actions are within 0.2, as an extension."""
    for name in ("point.py", "tasks.csv", "methods/mfql-point.yaml"):
        (tmp_path / "mylab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mylab" / name).write_text(FILES[f"mylab/{name}"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "mylab"))
    monkeypatch.delitem(sys.modules, "point", raising=False)
    extend([MINIATURE, tmp_path / "mylab"])
    return tmp_path


def test_the_example_of_the_page_is_acted_in_in_its_own_units(point: Path) -> None:
    """With weights of nothing, noise alone decides: in the environment's units it fills a fifth of [-1, 1]."""
    policy = load_policy(write(point / "policy", "point"))
    actions = policy(np.random.default_rng(0).uniform(-1.0, 1.0, (500, 4)))
    assert actions.dtype == np.float32
    assert 0.15 < np.abs(actions).max() <= np.float32(0.2)
    evaluate(point / "policy", 5, point / "found.json", None, workers=0)
    found = json.loads((point / "found.json").read_text(encoding="utf-8"))["each"]
    assert played(policy, gymnasium.make("point:mylab/Point-v0"), 5) == found


def test_a_folder_copied_from_an_extension_needs_it_no_more(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(write(point / "policy", "point"), 3, point / "found.json", None, workers=0)
    monkeypatch.setenv(VARIABLE, "")
    policy = load_policy(point / "policy")
    found = json.loads((point / "found.json").read_text(encoding="utf-8"))["each"]
    assert played(policy, policy.make_env(), 3) == found
    noted = policy.description["environment"]
    assert noted["env_id"] == "point:mylab/Point-v0"
    assert (noted["registered_by"], noted["folder"]) == ("point", "mylab")
    assert str(point) not in (point / "policy" / "policy.json").read_text(encoding="utf-8")
    for workers in (0, 2):
        evaluate(point / "policy", 3, point / "alone.json", None, workers=workers)
        assert (point / "alone.json").read_text(encoding="utf-8") == (point / "found.json").read_text(encoding="utf-8")


def test_a_module_of_no_importable_package_is_found_in_an_extension_alone(
    point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever path a description has: code of a folder that nobody named is not imported."""
    policy = write(point / "policy", "point")
    environment = json.loads((policy / "policy.json").read_text(encoding="utf-8"))["environment"]
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


@pytest.mark.parametrize("method", ["mfql-miniature", "bc-miniature", "mfql-miniature+horizon=2"])
def test_a_policy_is_sent_to_another_process_as_it_is(tmp_path: Path, method: str) -> None:
    folder = write(tmp_path / "policy", POINTMAZE, method)
    policy = load_policy(folder, seed=4)
    sent = pickle.loads(pickle.dumps(policy))  # noqa: S301 - of this test
    observation = np.linspace(-1, 1, 4, dtype=np.float32)[:2]
    for _ in range(3):
        assert np.array_equal(policy(observation), sent(observation))


def test_what_a_loop_has_at_hand_is_taken_or_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "policy", POINTMAZE)
    policy, again = load_policy(folder), load_policy(folder)
    of_torch = torch.zeros(3, 2, requires_grad=True)
    assert np.array_equal(policy(of_torch), again(np.zeros((3, 2))))
    assert policy(np.zeros((0, 2))).shape == (0, 2)
    assert policy.chunk(np.zeros((0, 2))).shape == (0, 1, 2)
    with pytest.raises(ValueError, match="an observation and infos, as reset gives them"):
        policy((np.zeros(2), {}))
    for seed in (1.5, "a", None):
        with pytest.raises(TypeError, match="integer"):
            load_policy(folder, seed=seed)  # type: ignore[arg-type]


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
    noted, manifest = json.loads((run.trained / "policy" / "policy.json").read_text(encoding="utf-8")), run.manifest()
    for entry in ("method", "agent", "task", "seed", "stage", "identity", "settings", "code", "packages", "physics"):
        assert noted[entry] == manifest[entry]
    assert noted["dataset"] == {key: manifest["dataset"][key] for key in ("name", "source", "sha256")}
    assert (noted["action_low"], noted["action_high"]) == ([0.0, -2.0], [1.0, 4.0])
    assert noted["constant_dimensions"] == [1]
    assert (noted["environment"]["env_id"], noted["environment"]["time_limit"]) == ("Odd-v0", 10)
    result = json.loads((run.trained / "evaluation.json").read_text(encoding="utf-8"))
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
