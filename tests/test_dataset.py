"""Loaded datasets: OGBench's own relabelling, returns along trajectories, and refusal of wrong files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mfql.data.generate import generate
from mfql.data.transitions import ACTION_LIMIT, Transitions
from mfql.envs.isolated import Isolated, reset_env
from mfql.errors import UserError
from mfql.suites import load, make_env
from mfql.tasks import find_task

CONFIG = Path(__file__).parents[1] / "config"
DATASET = "pointmaze-medium-navigate-v0"
TASK = find_task("pointmaze-medium-navigate-singletask-task3-v0", CONFIG)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    generate(DATASET, folder, episodes=3, progress=False)
    return folder


@pytest.fixture(scope="module")
def loaded(made):
    return load(TASK, made)


def test_a_dataset_is_what_ogbench_loads_with_actions_clipped(made, loaded):
    import ogbench

    _, train, val = ogbench.make_env_and_datasets(TASK.name, dataset_path=str(made / f"{DATASET}.npz"))
    for ours, theirs in ((loaded, train), (loaded.val, val)):
        assert len(ours) == len(theirs["rewards"]) == 1000 * len(np.flatnonzero(theirs["terminals"]))
        for name, array in theirs.items():
            expected = np.clip(array, -ACTION_LIMIT, ACTION_LIMIT) if name == "actions" else array
            np.testing.assert_array_equal(getattr(ours, name), expected)
            assert getattr(ours, name).dtype == np.float32
    assert np.abs(loaded.actions).max() < 1.0


def test_statistics_are_those_of_the_training_rows(loaded):
    exact = loaded.observations.astype(np.float64)
    np.testing.assert_allclose(loaded.observation_mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(loaded.observation_std, exact.std(0), rtol=1e-6)
    assert loaded.observation_mean.dtype == loaded.observation_std.dtype == np.float32


def test_a_dataset_carries_its_origin(made, loaded, tmp_path):
    description = json.loads((made / f"{DATASET}.json").read_text(encoding="utf-8"))
    assert (loaded.name, loaded.source, loaded.sha256) == (DATASET, "generated", description["sha256"]["train"])
    for path in made.glob("*.npz"):
        shutil.copy(path, tmp_path)
    bare = load(TASK, tmp_path)
    assert (bare.source, bare.sha256) == ("unknown", loaded.sha256)


def test_loading_repeats_and_leaves_the_global_generator_alone(made, loaded):
    np.random.seed(1)  # noqa: NPY002 (the global generator is what is tested)
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    again = load(TASK, made)
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002
    np.testing.assert_array_equal(again.rewards, loaded.rewards)


def put_at_goal(env: Isolated) -> None:
    base = env.base
    if hasattr(base, "cur_goal_xy"):
        base.set_xy(np.array(base.cur_goal_xy))
    else:
        base.data.joint("object_joint_0").qpos[:3] = base.data.mocap_pos[0]
        base.post_step()


@pytest.mark.slow
@pytest.mark.parametrize("task", [TASK.name, "cube-single-play-singletask-task2-v0", "cube-double-play-singletask-v0"])
def test_the_environment_rewards_and_ends_as_the_dataset_is_relabelled(task):
    from ogbench.relabel_utils import relabel_dataset

    env, rng = make_env(task), np.random.default_rng(0)
    reset_env(env, 0)
    states, rewards, masks = [], [], []
    for step in range(60):
        if step == 20:
            put_at_goal(env)
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, terminated, _, info = env.step(action)
        states.append(info["prev_qpos"])
        rewards.append(reward)
        masks.append(1.0 - terminated)
        assert bool(info["success"]) == terminated
    dataset = {"qpos": np.stack(states)}
    relabel_dataset(task, env, dataset)
    np.testing.assert_array_equal(dataset["rewards"], rewards)
    np.testing.assert_array_equal(dataset["masks"], masks)
    assert len(set(rewards)) > 1


def transitions(rewards, masks, terminals) -> Transitions:
    rows = np.arange(len(rewards), dtype=np.float32)[:, None]
    arrays = (np.array(values, np.float32) for values in (rewards, masks, terminals))
    return Transitions(rows, rows, *arrays, rows + 1)


def test_next_actions_stay_within_the_trajectory():
    rows = transitions([0] * 5, [1] * 5, [0, 0, 1, 0, 1])
    assert rows.next_actions()[:, 0].tolist() == [1, 2, 2, 4, 4]


def test_returns_stop_at_a_mask_and_go_on_with_the_last_reward_where_there_is_none():
    rows = transitions([-1, -1, 0, -1, -1, -3], [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1])
    assert rows.mc_returns(0.5).tolist() == [-1.5, -1.0, 0.0, -2.0, -4.0, -6.0]
    assert rows.mc_valid().tolist() == [True, True, True, False, False, False]


def test_a_trajectory_of_failure_alone_is_worth_failure_for_ever():
    rows = transitions([-1] * 500, [1] * 500, [0] * 299 + [1] + [0] * 199 + [1])
    np.testing.assert_allclose(rows.mc_returns(0.99), -100.0, rtol=1e-6)


def test_returns_equal_a_plain_loop_over_the_dataset(loaded):
    returns, valid = np.zeros(len(loaded)), np.zeros(len(loaded), bool)
    following, reached = 0.0, False
    for i in reversed(range(len(loaded))):
        if loaded.terminals[i]:
            following, reached = loaded.rewards[i] / 0.01, False
        following = loaded.rewards[i] + 0.99 * loaded.masks[i] * following
        reached = reached or loaded.masks[i] == 0
        returns[i], valid[i] = following, reached
    np.testing.assert_allclose(loaded.mc_returns(0.99), returns, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(loaded.mc_valid(), valid)
    assert 0 < valid.mean() < 1


@pytest.fixture
def copied(made, tmp_path) -> Path:
    for path in made.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def rewrite(folder: Path, change, name: str = f"{DATASET}.npz") -> None:
    """Change the arrays of a file that no description covers any more."""
    (folder / f"{DATASET}.json").unlink()
    with np.load(folder / name) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    np.savez_compressed(folder / name, **arrays)


def test_a_file_that_is_not_the_described_one_is_refused(copied):
    path = copied / f"{DATASET}-val.npz"
    shutil.copy(copied / f"{DATASET}.npz", path)
    with pytest.raises(
        UserError, match=r"(?s)-val\.npz is not the file.*sha256 is [0-9a-f]{64}, described is [0-9a-f]{64}"
    ):
        load(TASK, copied)


def test_absent_files_are_named(copied, tmp_path):
    (copied / f"{DATASET}-val.npz").unlink()
    with pytest.raises(UserError, match=r"-val\.npz does not exist"):
        load(TASK, copied)
    with pytest.raises(UserError, match=r"(?s)navigate-v0\.npz does not exist.*generate"):
        load(TASK, tmp_path / "nowhere")


@pytest.mark.parametrize("name", [f"{DATASET}.npz", f"{DATASET}-val.npz"])
def test_a_truncated_file_is_refused(copied, name):
    (copied / f"{DATASET}.json").unlink()
    path = copied / name
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{name} is no readable"):
        load(TASK, copied)


def test_damaged_content_is_refused(copied):
    (copied / f"{DATASET}.json").unlink()
    path = copied / f"{DATASET}.npz"
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"navigate-v0\.npz .*damaged"):
        load(TASK, copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("qpos"), "lacks the arrays qpos"),
        (lambda arrays: [arrays.pop("qpos"), arrays.pop("actions")], "lacks the arrays actions, qpos"),
        (lambda arrays: arrays.update(observations=np.zeros((3003, 3))), r"observations has the shape \[3003, 3\]"),
        (
            lambda arrays: arrays.update(actions=arrays["actions"][:-1]),
            r"observations has 3003 rows, actions 3002, and a row",
        ),
        (lambda arrays: arrays.update(actions=arrays["actions"].astype(object)), "actions has the type object"),
        (lambda arrays: arrays.update(terminals=np.zeros(3003, bool)), "last row does not end its trajectory"),
    ],
)
def test_arrays_of_another_environment_are_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(UserError, match=message):
        load(TASK, copied)


def put(name: str, row: object, value: float):
    def change(arrays) -> None:
        arrays[name] = arrays[name].astype(np.float64)
        arrays[name][row] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("qpos", 7, np.nan), "qpos of 1 of 3000 transitions are no finite numbers, first of transition 7"),
        (put("qpos", (slice(5), 0), np.inf), "qpos of 5 of 3000 transitions are no finite numbers"),
        (put("observations", (1000, 0), np.nan), "next_observations of 1 of 3000 transitions are no finite numbers"),
        (put("actions", (3, 1), np.nan), "actions of 1 of 3000 transitions are no finite numbers"),
        (put("actions", (3, 1), 1e6), "actions of 1 of 3000 transitions are beyond 1000 times their bounds"),
        (put("terminals", 3, 2.0), "terminals of 1 of 3003 rows are neither 0 nor 1, first of row 3"),
        (put("terminals", 3, -1.0), "terminals of 1 of 3003 rows are neither 0 nor 1, first of row 3"),
        (put("terminals", 3, np.nan), "terminals of 1 of 3003 rows are neither 0 nor 1, first of row 3"),
        (put("terminals", [1000, 2001, 3002], 255.0), "terminals of 3 of 3003 rows are neither 0 nor 1"),
    ],
)
def test_rows_that_mean_nothing_are_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(UserError, match=rf"navigate-v0\.npz.*: {message}"):
        load(TASK, copied)


def test_what_stands_in_rows_that_nobody_reads_is_no_fault(copied, loaded):
    rewrite(copied, put("actions", [1000, 2001, 3002], np.nan))
    np.testing.assert_array_equal(load(TASK, copied).actions, loaded.actions)


def test_puzzles_need_button_states(copied):
    with pytest.raises(UserError, match=r"lacks the arrays button_states"):
        load(replace(find_task("puzzle-3x3-play-singletask-task1-v0", CONFIG), dataset=DATASET), copied)


def test_a_description_without_a_sha256_is_refused(copied):
    (copied / f"{DATASET}.json").write_text('{"source": "generated"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"\.json: it must contain \['sha256'\]"):
        load(TASK, copied)
