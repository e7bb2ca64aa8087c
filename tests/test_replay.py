"""Replays of OGBench's layout: near zero where simulator and data agree, and not where they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mfql.cli import main
from mfql.data.generate import collect_episode
from mfql.data.recipes import find_recipe
from mfql.envs import physics
from mfql.envs.isolated import reset_env
from mfql.errors import UserError
from mfql.suites import make_env, suite_of
from mfql.suites.own import Own
from mfql.tasks import Registered, Task, find_task
from tests.support.training_runs import ROOT

ANT = "antmaze-large-navigate-singletask-task1-v0"
POINT = "pointmaze-medium-navigate-singletask-task1-v0"
CUBE, PIXELS = "cube-single-play-singletask-task1-v0", "visual-cube-single-play-singletask-task1-v0"
SCENE = "scene-play-singletask-task1-v0"
# Near zero: recorded positions (m, rad) and velocities are float32.
POSITIONS, VELOCITIES = 1e-6, 1e-5


def write(folder: Path, task: Task, episodes: list[dict[str, np.ndarray]], **changed) -> Path:
    """`{dataset}.npz` of the episodes one after another; an array that is changed to None is left out."""
    arrays = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]} | changed
    path = folder / f"{task.dataset}.npz"
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def generated(task: Task, steps: int, number: int = 0) -> dict[str, np.ndarray]:
    """An episode as `mfql data generate` collects it."""
    return collect_episode(replace(find_recipe(task.dataset), steps=steps), 0, ("train", number))


def walked(task: str, steps: int, seed: int) -> dict[str, np.ndarray]:
    """An episode of random actions in the project's environment, in OGBench's layout."""
    env, draw = make_env(task), np.random.default_rng(seed)
    reset_env(env, seed)
    rows: dict[str, list] = {"actions": [], "qpos": [], "qvel": []}
    for _ in range(steps):
        action = draw.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        rows["actions"].append(action)
        rows["qpos"].append(env.base.data.qpos.astype(np.float32))
        rows["qvel"].append(env.base.data.qvel.astype(np.float32))
        env.step(action)
    return {name: np.array(values) for name, values in rows.items()} | {"terminals": np.arange(steps) == steps - 1}


@pytest.fixture(scope="module")
def cube() -> list[dict[str, np.ndarray]]:
    return [generated(find_task(CUBE), 130, number) for number in range(2)]


@pytest.mark.parametrize("name", [POINT, CUBE, SCENE])
def test_data_that_this_simulator_generated_are_reproduced(tmp_path, name):
    task = find_task(name)
    write(tmp_path, task, [generated(task, 130, number) for number in range(2)])
    found = suite_of(task.name).replay(task, tmp_path, rows=1000)
    assert (found["rows"], found["dataset"]) == (2 * 129, task.dataset)
    positions, velocities = found["discrepancy"]["positions"], found["discrepancy"]["velocities"]
    assert positions["p95"] < POSITIONS < 1e-3 * positions["moved"]
    assert velocities["p95"] < VELOCITIES
    assert ("button_states" in found["discrepancy"]) == (name == SCENE)
    assert found["discrepancy"].get("button_states", {"max": 0.0})["max"] == 0.0


def test_a_first_row_is_not_taken_to_lag_and_others_are(tmp_path, cube):
    """The one start of an episode, and its steps: each as its simulator was."""
    task = find_task(CUBE)
    write(tmp_path, task, [cube[0]])
    whole = suite_of(task.name).replay(task, tmp_path, rows=1000)["discrepancy"]["positions"]
    assert suite_of(task.name).replay(task, tmp_path, rows=1)["discrepancy"]["positions"]["max"] < 1e-5
    later = {name: values[1:] for name, values in cube[0].items()}
    write(tmp_path, task, [later])
    assert suite_of(task.name).replay(task, tmp_path, rows=1)["discrepancy"]["positions"]["max"] > 100 * whole["median"]


def test_what_a_button_locks_is_told_by_the_file(tmp_path):
    task = find_task(SCENE)
    episode = generated(task, 130)
    moving = np.abs(np.diff(episode["qpos"][:, -2:], axis=0)).max() > 1e-4
    write(tmp_path, task, [episode], button_states=1 - episode["button_states"])
    found = suite_of(task.name).replay(task, tmp_path, rows=1000)["discrepancy"]
    assert moving
    assert found["positions"]["max"] > 1e-3


def test_the_ants_own_steps_are_reproduced_and_those_of_other_contacts_are_not(tmp_path, monkeypatch):
    task = find_task(ANT)
    write(tmp_path, task, [walked(ANT, 100, seed) for seed in range(2)])
    here = suite_of(task.name).replay(task, tmp_path, rows=1000)["discrepancy"]
    assert here["positions"]["p95"] < POSITIONS
    assert here["velocities"]["p95"] < VELOCITIES
    with monkeypatch.context() as uncorrected:
        uncorrected.setattr(physics, "margin_rule", lambda: "larger")
        write(tmp_path, task, [walked(ANT, 100, seed) for seed in range(2)])
    elsewhere = suite_of(task.name).replay(task, tmp_path, rows=1000)["discrepancy"]
    for quantity in here:
        assert elsewhere[quantity]["median"] > 1000 * here[quantity]["p95"]
        assert elsewhere[quantity]["median"] > 0.01 * elsewhere[quantity]["moved"]


def test_pixel_data_are_replayed_by_their_joints_alone(tmp_path, cube, monkeypatch):
    monkeypatch.setattr("mfql.envs.ogbench.choose_renderer", lambda: pytest.fail("renders"))
    task = find_task(PIXELS)
    write(tmp_path, task, cube, observations=np.zeros((260, 64, 64, 3), np.uint8))
    found = suite_of(task.name).replay(task, tmp_path, rows=1000)
    assert found["task"] == PIXELS
    assert found["discrepancy"]["positions"]["p95"] < POSITIONS


def test_steps_that_teleported_are_left_out(tmp_path):
    name = "pointmaze-teleport-navigate-singletask-task1-v0"
    task = replace(find_task(POINT), name=name, dataset="pointmaze-teleport-navigate-v0")
    episode = generated(task, 1000, 1)
    jumps = int((np.abs(np.diff(episode["qpos"], axis=0)).max(axis=1) > 2.0).sum())
    assert jumps > 0
    write(tmp_path, task, [episode])
    found = suite_of(task.name).replay(task, tmp_path, rows=10_000)
    assert found["rows"] == 999 - jumps
    assert found["discrepancy"]["positions"]["max"] < 1e-5


def test_files_that_cannot_be_replayed_are_refused(tmp_path, cube):
    task = find_task(CUBE)
    with pytest.raises(UserError, match="does not exist"):
        suite_of(task.name).replay(task, tmp_path, rows=5)
    write(tmp_path, task, cube, qvel=None, qpos=None)
    with pytest.raises(
        UserError, match=r"lacks the arrays qpos, qvel; it has .*\n.*recorded states.*Generate or fetch"
    ):
        suite_of(task.name).replay(task, tmp_path, rows=5)
    write(tmp_path, task, cube, qvel=np.zeros((260, 3)))
    with pytest.raises(UserError, match=r"qvel has the shape \[260, 3\]"):
        suite_of(task.name).replay(task, tmp_path, rows=5)
    write(tmp_path, task, cube, terminals=np.ones(260, bool))
    with pytest.raises(UserError, match="no step"):
        suite_of(task.name).replay(task, tmp_path, rows=5)
    path = write(tmp_path, task, cube)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="no readable"):
        suite_of(task.name).replay(task, tmp_path, rows=5)
    task = replace(task, dataset=task.name)
    own = Own({task.name: replace(task, registered=Registered("Any-v0", str(path), None, None, None, None))})
    with pytest.raises(UserError, match="no states to put its simulator into"):
        own.replay(task, tmp_path, rows=5)


def test_the_command_line_replays_a_generated_file(tmp_path, cube, capsys):
    write(tmp_path, find_task(CUBE), cube)
    arguments = ["data", "replay", CUBE, "--data", str(tmp_path), "--rows", "7", "--config-dir", str(ROOT / "config")]
    assert main([*arguments, "--out", str(tmp_path / "found.json")]) == 0
    assert "positions" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"] == 7
