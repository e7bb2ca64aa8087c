"""D4RL's files as datasets: its transition semantics, refusals by name, replays, and training end to end."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from mfql.cli import main
from mfql.data.description import describe
from mfql.data.layouts import D4RL
from mfql.data.paths import description_path
from mfql.data.transitions import ACTION_LIMIT
from mfql.envs.d4rl import TASKS
from mfql.errors import UserError
from mfql.report.scores import is_rate
from mfql.suites import load, split_paths, suite_of
from mfql.tasks import find_task
from tests.support.d4rl_files import write_rollouts
from tests.support.training_runs import ROOT, Workplace

PEN, MAZE = "pen-human-v1", "antmaze-umaze-v2"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d4rl")
    write_rollouts(folder, PEN, episodes=4, steps=30)
    write_rollouts(folder, MAZE, episodes=3, steps=25)
    return folder


def write(folder, task: str, **changed) -> dict[str, np.ndarray]:
    """A file of ten rows, numbered so that a row is known wherever it goes."""
    known = TASKS[task]
    number = np.arange(10.0, dtype=np.float32)
    arrays = {
        "observations": np.repeat(number[:, None], known.observation_dim, axis=1),
        "actions": np.repeat(number[:, None] / 10 + 0.5, known.action_dim, axis=1),
        "rewards": number * 2,
        "terminals": np.zeros(10, bool),
        "timeouts": np.zeros(10, bool),
    } | changed
    with h5py.File(folder / f"{task}.hdf5", "w") as file:
        for name, values in arrays.items():
            if values is not None:
                file[name] = values
    return arrays


def at(*rows: int) -> np.ndarray:
    flags = np.zeros(10, bool)
    flags[list(rows)] = True
    return flags


def test_transitions_are_those_of_d4rls_q_learning(tmp_path):
    write(tmp_path, PEN, terminals=at(2, 6)[:, None], timeouts=at(4, 6))
    found = load(find_task(PEN), tmp_path)
    # Left out: the time-outs 4 and 6, terminal or not, and the last row, whose next observation nobody recorded.
    kept = np.array([0, 1, 2, 3, 5, 7, 8])
    np.testing.assert_array_equal(found.observations[:, 0], kept)
    np.testing.assert_array_equal(found.next_observations[:, 0], kept + 1)
    np.testing.assert_array_equal(found.rewards, kept * 2)
    np.testing.assert_array_equal(found.masks, [1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.terminals, [0, 0, 1, 1, 1, 0, 1])
    assert found.actions.max() == np.float32(1 - 1e-5)
    assert found.observation_mean == pytest.approx(np.full(45, kept.mean()))
    assert found.observation_std == pytest.approx(np.full(45, kept.std()))
    assert {array.dtype for array in vars(found.val).values()} == {np.dtype(np.float32)}


def test_antmaze_rewards_are_shifted_and_a_shift_is_not_in_the_returns_that_are_scored(tmp_path):
    write(tmp_path, MAZE, rewards=at(3).astype(np.float32), terminals=at(3), timeouts=at(8))
    found = load(find_task(MAZE), tmp_path)
    np.testing.assert_array_equal(found.rewards, [-1, -1, -1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(found.masks, [1, 1, 1, 0, 1, 1, 1, 1])
    assert found.mc_returns(0.5)[0] == -1.75


def test_validation_rows_are_the_last_tenth_of_the_trajectories_and_are_trained_on_too(files):
    found = load(find_task(PEN), files)
    lengths = np.diff(np.flatnonzero(found.terminals > 0), prepend=-1)
    assert len(found.val) == lengths[-1]
    np.testing.assert_array_equal(found.val.observations, found.observations[-len(found.val) :])
    assert np.shares_memory(found.val.observations, found.observations)


@pytest.mark.parametrize("task", [PEN, MAZE])
def test_rows_of_a_rollout_are_the_environments(files, task):
    from mfql.envs.isolated import reset_env
    from mfql.suites import make_env

    found = load(find_task(task), files)
    env = make_env(task)
    observation, _ = reset_env(env, 0)
    for row in range(int(np.flatnonzero(found.terminals > 0)[0]) + 1):
        np.testing.assert_array_equal(found.observations[row], observation.astype(np.float32))
        observation, reward, terminated, _, _ = env.step(found.actions[row])
        # Actions were clipped by 1e-5 after they were recorded.
        np.testing.assert_allclose(found.next_observations[row], observation, atol=0.05)
        assert found.rewards[row] == pytest.approx(reward, abs=1e-2)
        assert found.masks[row] == 1 - terminated


def test_wrong_files_are_refused_by_name(tmp_path, files):
    task = find_task(PEN)
    with pytest.raises(UserError, match="does not exist"):
        load(task, tmp_path)
    write(tmp_path, PEN, timeouts=None, rewards=None)
    with pytest.raises(UserError, match=r"lacks the arrays rewards, timeouts; it has actions, .*observations"):
        load(task, tmp_path)
    write(tmp_path, PEN, actions=np.zeros((10, 26), np.float32))
    with pytest.raises(UserError, match=r"actions has the shape \[10, 26\], and .* needs \[10, 24\]"):
        load(task, tmp_path)
    write(tmp_path, PEN, terminals=np.zeros(9, bool))
    with pytest.raises(UserError, match="observations has 10 rows, terminals 9, and a row"):
        load(task, tmp_path)
    write(tmp_path, PEN, rewards=np.array([b"much"] * 10))
    with pytest.raises(UserError, match="rewards has the type"):
        load(task, tmp_path)
    write(tmp_path, PEN, timeouts=np.ones(10, bool))
    with pytest.raises(UserError, match="no step"):
        load(task, tmp_path)
    whole = (files / f"{PEN}.hdf5").read_bytes()
    for size in (100, len(whole) // 2, len(whole) - 200):
        (tmp_path / f"{PEN}.hdf5").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"pen-human-v1\.hdf5"):
            load(task, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rewards", np.nan, "no finite numbers"),
        ("observations", np.inf, "no finite numbers"),
        ("observations", 1e300, "beyond 3.4e[+]38, the largest number of float32"),
        ("actions", np.nan, "no finite numbers"),
        ("actions", -1e6, "beyond 1000 times their bounds of -1 and 1"),
        ("terminals", 0.5, "neither 0 nor 1"),
        ("timeouts", np.nan, "no finite numbers"),
    ],
)
def test_rows_that_mean_nothing_are_refused(tmp_path, name, value, message):
    arrays = write(tmp_path, PEN)
    spoilt = arrays[name].astype(np.float64)
    spoilt[4] = value
    write(tmp_path, PEN, **{name: spoilt})
    with pytest.raises(UserError, match=rf"{name} of 1 of 10 rows are {message}.* first of row 4"):
        load(find_task(PEN), tmp_path)


def test_actions_somewhat_out_of_their_bounds_are_clipped(tmp_path):
    write(tmp_path, PEN, actions=np.full((10, 24), 3.5, np.float32))
    assert load(find_task(PEN), tmp_path).actions.max() == np.float32(ACTION_LIMIT)


def test_a_described_file_is_known_by_its_sha256(tmp_path, files):
    shutil.copy(files / f"{PEN}.hdf5", tmp_path)
    describe(
        tmp_path,
        PEN,
        split_paths(tmp_path, PEN),
        D4RL,
        "downloaded",
        seed=None,
    )
    assert json.loads(description_path(tmp_path, PEN).read_text(encoding="utf-8"))["episodes"] == 4
    assert load(find_task(PEN), tmp_path).source == "downloaded"
    write(tmp_path, PEN)
    with pytest.raises(UserError, match="is not the file that"):
        load(find_task(PEN), tmp_path)


@pytest.mark.parametrize("task", ["pen-cloned-v1", "hammer-human-v1", "door-human-v1", "relocate-human-v1", MAZE])
def test_a_replay_on_the_simulator_of_the_recording_finds_next_to_no_discrepancy(tmp_path, task):
    write_rollouts(tmp_path, task, episodes=2, steps=20)
    found = suite_of(find_task(task).name).replay(find_task(task), tmp_path, rows=15)
    assert found["rows"] == 15
    # What is left: the solver's start, which no file has, float32 observations, and bodies that lag behind joints.
    bounds = {"rewards": (0.0, 1e-3), "recording": (0.2, 1e-6)}
    for name, row in found["discrepancy"].items():
        share, least = bounds.get(name, (5e-3, 1e-6))
        assert row["median"] < share * row["moved"] + least, name
    assert set(found["discrepancy"]) >= {"positions", "velocities"}
    assert ("rewards" in found["discrepancy"]) == (task != MAZE)


def test_a_replay_finds_another_simulator(tmp_path):
    path = write_rollouts(tmp_path, MAZE, episodes=1, steps=20)
    with h5py.File(path, "r+") as file:
        file["actions"][:] = -file["actions"][:]
    found = suite_of(find_task(MAZE).name).replay(find_task(MAZE), tmp_path, rows=100)
    assert found["rows"] == 19
    assert found["discrepancy"]["velocities"]["median"] > 0.1 * found["discrepancy"]["velocities"]["moved"]


def test_the_command_line_replays(tmp_path, files, capsys):
    arguments = ["data", "replay", PEN, "--data", str(files), "--rows", "5", "--config-dir", str(ROOT / "config")]
    assert main([*arguments, "--out", str(tmp_path / "found.json")]) == 0
    assert "velocities" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"] == 5
    assert main([*arguments[:2], "cube-single-play-singletask-task1-v0", *arguments[3:]]) == 2


def test_a_replay_needs_recorded_states(tmp_path):
    write(tmp_path, PEN)
    with pytest.raises(UserError, match="lacks the arrays infos/qpos, infos/qvel, infos/desired_orien"):
        suite_of(find_task(PEN).name).replay(find_task(PEN), tmp_path, rows=5)


@pytest.mark.long
@pytest.mark.xdist_group("training")
@pytest.mark.parametrize("task", [PEN, MAZE])
def test_a_file_in_d4rls_layout_trains_offline_and_online(tmp_path, files, task):
    shutil.copytree(files, tmp_path / "data")
    shutil.copytree(ROOT / "config", tmp_path / "config")
    place = Workplace(tmp_path)
    short = "inherits: mfql-miniature\noffline_steps: 20\nonline_steps: 15\neval_interval: 20\npretrain:\n"
    place.method("short", short + "  offline_steps: 20\n")
    for stage in ("offline", "online"):
        place.train("short", stage, [0], task=task)
        result = json.loads((place.run("short", 0, stage, task=task) / "evaluation.json").read_text(encoding="utf-8"))
        assert (result["metric"], result["score_rule"]) == ("normalized_return", "last")
        last = result["evaluations"][-1]
        assert result["score"] == last["normalized_return"]
        assert np.isfinite(result["score"])
        if stage == "online" and task == PEN:
            anew = tmp_path / "anew.json"
            run = str(place.run("short", 0, stage, task=task))
            done = place.call(["evaluate", run, "--episodes", "1", "--workers", "0", "--out", str(anew)])
            assert done.returncode == 0, done.stderr
            assert np.isfinite(json.loads(anew.read_text(encoding="utf-8"))["normalized_return"])
        if task == MAZE:
            assert last["normalized_return"] == last["success"]
            assert is_rate(result)  # What its interval's floor goes by, of the real environment's evaluations.
            assert last["return"] == pytest.approx(last["success"] / 100 - last["length"])
