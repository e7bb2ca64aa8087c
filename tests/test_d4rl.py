"""D4RL's tasks: sizes, rewards, observations and ends are D4RL's, by D4RL's own code on the same simulator state."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from mfql.envs.d4rl import TASKS, find_d4rl_task
from mfql.envs.d4rl_adroit import _quaternion
from mfql.envs.d4rl_package import dataset_url, score_range
from mfql.envs.isolated import reset_env
from mfql.errors import UserError
from mfql.evaluation.vector import EnvPool
from mfql.suites import make_env, suite_of
from tests.support.d4rl_original import original_adroit, original_antmaze
from tests.support.training_runs import ROOT

ADROIT = {"pen": (45, 24, 100), "hammer": (46, 26, 200), "door": (39, 28, 200), "relocate": (39, 30, 200)}
MAZE_LIMITS = {"umaze": 700, "medium": 1000, "large": 1000}
ONE_OF_EACH = ["pen-human-v1", "hammer-cloned-v1", "door-expert-v1", "relocate-cloned-v1"]
ONE_OF_EACH += ["antmaze-umaze-v2", "antmaze-medium-play-v2", "antmaze-large-diverse-v2"]


def scene_of(task: str) -> str:
    return TASKS[task].scene


def random_actions(task: str, steps: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1.5, 1.5, (steps, TASKS[task].action_dim)).astype(np.float32)


def steps_of(task: str, env, steps: int):
    """Observation, reward, terminated, truncated and info of each of a number of random steps, over episodes."""
    seed = 0
    reset_env(env, seed)
    for action in random_actions(task, steps):
        found = env.step(action)
        yield found
        if found[2] or found[3]:
            seed += 1
            reset_env(env, seed)


def check_rollout(task: str, steps: int) -> None:
    scene = scene_of(task)
    observation_dim, action_dim, limit = ADROIT.get(scene) or (29, 8, MAZE_LIMITS[scene])
    env = make_env(task)
    assert env.action_space.shape == (action_dim,)
    assert env.observation_space.shape == (observation_dim,)
    assert env.env._max_episode_steps == limit
    returns, lengths, total, length = [], [], 0.0, 0
    for observation, reward, terminated, truncated, info in steps_of(task, env, steps):
        assert observation.shape == (observation_dim,)
        assert np.isfinite(observation).all()
        assert info["success"] in (0.0, 1.0)
        total, length = total + reward, length + 1
        assert truncated == (length == limit)
        if terminated or truncated:
            returns, lengths, total, length = [*returns, total], [*lengths, length], 0.0, 0
    returns, lengths = [*returns, total], [*lengths, length]
    assert np.isfinite(score_range(task).percent(np.array(returns), np.array(lengths)))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_steps_with_the_sizes_of_d4rl(task):
    check_rollout(task, 120)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_steps_a_thousand_random_actions(task):
    check_rollout(task, 1000)


def test_the_tasks_are_the_eighteen_of_the_paper():
    assert len(TASKS) == 18
    assert all(dataset_url(task).endswith(".hdf5") for task in TASKS)
    with pytest.raises(UserError, match="antmaze-umaze-v2"):
        find_d4rl_task("antmaze-umaze-v1")


@pytest.mark.parametrize("task", ONE_OF_EACH[:4])
def test_adroit_observes_rewards_and_ends_as_d4rl_does_on_the_same_state(task):
    env = make_env(task)
    original = original_adroit(env.unwrapped, scene_of(task))
    observation, _ = reset_env(env, 0)
    np.testing.assert_allclose(observation, original.get_obs(), atol=1e-12)
    for observation, reward, terminated, _, info in steps_of(task, env, 150):
        expected, expected_reward, done, expected_info = original.step(np.zeros(1))
        np.testing.assert_allclose(observation, expected, atol=1e-12)
        assert reward == pytest.approx(expected_reward, abs=1e-12)
        assert (terminated, info["success"]) == (done, expected_info["goal_achieved"])


def goal_states(scene: str, env) -> list:
    """States (qpos, qvel, placement) at which bonuses start and goals are reached, on either side of each."""
    base = env.unwrapped
    reset_env(env, 1)
    start = base.data.qpos.copy()
    states = []
    for amount in np.linspace(-1.0, 1.0, 81):
        qpos, placement = start.copy(), [values.copy() for values in base.placement]
        if scene == "pen":  # The pen turns past the target, and falls.
            placement = [np.array([1.0, 0.0, 0.0, 0.0])]
            qpos[-2] = 1.6 * amount
            qpos[-6] = 0.3 * max(amount, 0.0)
        elif scene == "hammer":  # The nail goes in, the hammer rises.
            qpos[base.model.joint("nail_dir").qposadr[0]] = 0.04 + 0.06 * amount
            qpos[-4] += 0.1 * amount
        elif scene == "door":
            qpos[base.model.joint("door_hinge").qposadr[0]] = 0.8 + 0.8 * amount
        else:  # The ball goes through the target.
            placement[0], qpos[-6:-3] = np.zeros(3), placement[1] + (0.0, 0.0, 0.2 * amount)
        states.append((qpos, 0.1 * np.ones(base.model.nv), placement))
    return states


@pytest.mark.parametrize("task", ONE_OF_EACH[:4])
def test_adroit_bonuses_and_goals_start_where_d4rl_starts_them(task):
    env = make_env(task)
    base, scene = env.unwrapped, scene_of(task)
    original = original_adroit(base, scene)
    achieved, rewards, ended = set(), set(), set()
    for state in goal_states(scene, env):
        np.testing.assert_allclose(base.set_state(*state), original.get_obs(), atol=1e-12)
        reward, success, terminated = base.judge()
        _, expected_reward, done, info = original.step(np.zeros(1))
        assert reward == pytest.approx(expected_reward, abs=1e-12)
        assert (success, terminated) == (info["goal_achieved"], done)
        achieved.add(success)
        ended.add(terminated)
        rewards.add(round(reward / 5))
    assert achieved == {False, True}
    assert ended == ({False, True} if scene == "pen" else {False})
    assert len(rewards) >= 3


@pytest.mark.parametrize("task", ONE_OF_EACH[4:])
def test_antmaze_observes_rewards_and_ends_as_d4rl_does_on_the_same_state(task):
    env = make_env(task)
    base = env.unwrapped
    original = original_antmaze(base, scene_of(task))
    observation, _ = reset_env(env, 0)
    ends = set()
    for offset in np.linspace(-0.6, 0.6, 25):
        qpos = base.data.qpos.copy()
        qpos[:2] = base.goal + np.array([offset, 0.01])
        base.set_state(qpos, base.data.qvel.copy(), [])
        original.set_target(base.goal)
        observation, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        expected, expected_reward, done, _ = original.step(np.zeros(8))
        np.testing.assert_array_equal(observation, expected)
        assert reward == expected_reward - 1.0  # The protocol's shift.
        assert (terminated, info["success"]) == (done, expected_reward)
        ends.add(terminated)
    assert ends == {False, True}


@pytest.mark.parametrize("task", ONE_OF_EACH[4:])
def test_antmaze_has_the_walls_of_d4rl_and_draws_goals_where_d4rl_draws_them(task):
    env = make_env(task)
    base = env.unwrapped
    original = original_antmaze(base, scene_of(task))
    model = base.model
    walls = {tuple(model.geom_pos[i, :2]) for i in range(model.ngeom) if model.geom_size[i].tolist() == [2.0, 2.0, 1.0]}
    rows = original._maze_map
    blocks = [(x, y) for y, row in enumerate(rows) for x, cell in enumerate(row) if cell == 1]
    assert walls == {original._rowcol_to_xy((y, x)) for x, y in blocks}
    goals, starts = [], []
    for seed in range(300):
        reset_env(env, seed)
        goals.append(base.goal)
        starts.append(np.concatenate([base.data.qpos, base.data.qvel]))
    state = np.random.RandomState(0)
    np.random.seed(0)  # noqa: NPY002
    theirs = np.array([original.goal_sampler(state) for _ in range(300)])
    standard_error = np.maximum(theirs.std(axis=0) * np.sqrt(2 / 300), 1e-12)
    assert (np.abs(np.mean(goals, axis=0) - theirs.mean(axis=0)) < 4 * standard_error).all()
    assert np.abs(np.min(goals, axis=0) - theirs.min(axis=0)).max() < 0.2
    assert np.abs(np.max(goals, axis=0) - theirs.max(axis=0)).max() < 0.2
    starts = np.array(starts)
    assert np.abs(starts[:, :2]).max() <= 0.1
    assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.05)
    np.testing.assert_allclose(np.linalg.norm(starts[:, 3:7], axis=1), 1.0)


def test_the_ant_does_not_walk_through_walls():
    env = make_env("antmaze-umaze-v2")
    base = env.unwrapped
    reset_env(env, 0)
    for _ in range(60):
        base.data.qvel[1] = 4.0  # Towards the wall between the two corridors, whose face is at y = 2.
        env.step(np.zeros(8, np.float32))
        assert base.data.qpos[1] < 2.0


RANGES = {
    "pen": [(-1, 1)],
    "hammer": [(0.1, 0.25)],
    "door": [(-0.3, -0.2), (0.25, 0.35), (0.252, 0.35)],
    "relocate": [(-0.15, 0.15), (-0.15, 0.3), (-0.2, 0.2), (-0.2, 0.2), (0.15, 0.35)],
}


@pytest.mark.parametrize("task", ONE_OF_EACH[:4])
def test_adroit_draws_its_starts_from_the_ranges_of_d4rl(task):
    env = make_env(task)
    scene, base = scene_of(task), env.unwrapped
    found = []
    for seed in range(200):
        reset_env(env, seed)
        np.testing.assert_array_equal(base.data.qpos, base.model.qpos0)
        place = np.concatenate(base.placement)
        chosen = {"hammer": [2], "relocate": [0, 1, 3, 4, 5]}.get(scene, slice(None))
        found.append([2 * np.arctan2(place[1], place[0])] if scene == "pen" else place[chosen])
    ranges = np.array(RANGES[scene])
    width = ranges[:, 1] - ranges[:, 0]
    assert (np.min(found, axis=0) >= ranges[:, 0] - 1e-12).all()
    assert (np.max(found, axis=0) <= ranges[:, 1] + 1e-12).all()
    np.testing.assert_allclose(np.std(found, axis=0) / width, 12**-0.5, rtol=0.15)


def test_the_pens_target_turns_as_d4rl_turns_it():
    env = make_env("pen-human-v1")
    reset_env(env, 0)
    original = original_adroit(env.unwrapped, "pen")
    euler2quat = type(original).reset_model.__globals__["euler2quat"]
    for x, y in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        np.testing.assert_allclose(_quaternion(x, y), euler2quat(np.array([x, y, 0.0])), atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "episodes"), list(zip(ONE_OF_EACH[:4], (200, 15, 15, 40), strict=True)))
def test_a_random_policys_score_is_zero_on_todays_simulator(task, episodes):
    """D4RL's reference minimum is a random policy's mean return on the simulator of its time."""
    env = make_env(task)
    draw = np.random.default_rng(0)
    returns = []
    for seed in range(episodes):
        reset_env(env, seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(draw.uniform(-1, 1, TASKS[task].action_dim))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    standard_error = np.std(returns) / np.sqrt(episodes)
    assert abs(np.mean(returns) - score_range(task).minimum) < 4 * standard_error


@pytest.mark.parametrize("task", ONE_OF_EACH)
def test_an_episode_depends_on_nothing_but_its_seed_and_actions(task):
    actions = random_actions(task, 25)

    def rollout(env, between=lambda: None) -> np.ndarray:
        rows = [np.append(reset_env(env, 3)[0], 0.0)]
        for action in actions:
            between()
            observation, reward, *_ = env.step(action)
            rows.append(np.append(observation, reward))
        return np.stack(rows)

    first = make_env(task)
    expected = rollout(first)
    reset_env(first, 4)
    first.step(actions[0])
    np.testing.assert_array_equal(rollout(first), expected)
    one, other = suite_of(task).make_many(task, 2)
    assert one.unwrapped.model is other.unwrapped.model
    reset_env(other, 8)
    np.testing.assert_array_equal(rollout(one, lambda: other.step(-actions[3])), expected)
    reset_env(one, 5)
    assert not np.array_equal(rollout(other)[1:], expected[1:] + 1)
    with EnvPool(task, 3, 0) as pool:
        pool.reset({0: 4, 1: 3, 2: 5})
        for action in actions:
            pool.step(np.tile(action, (3, 1)), np.array([True, True, True]))
        np.testing.assert_array_equal(pool.observations[1], expected[-1, :-1].astype(np.float32))


FRAME = """
import sys
from mfql.suites import make_env
from mfql.envs.isolated import reset_env
for task in sys.argv[1:]:
    env = make_env(task)
    reset_env(env, 0)
    frame = env.render()
    print(frame.shape, frame.std() > 10)
    env.close()
"""


def test_a_frame_shows_something(rendering):
    program = [sys.executable, "-c", FRAME, ONE_OF_EACH[0], ONE_OF_EACH[-1]]
    done = subprocess.run(
        program,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"MUJOCO_GL": "egl", "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == ["(256, 256, 3) True"] * 2, done.stderr


def test_scores_are_d4rls():
    pen = score_range("pen-cloned-v1")
    assert pen.percent(np.array([pen.minimum, pen.maximum]), np.array([100, 100])) == pytest.approx(50.0)
    maze = score_range("antmaze-large-play-v2")
    # One of four reaches the goal: its last step's reward is 0, all others' -1.
    assert maze.percent(np.array([-1000.0, -1000.0, -1000.0, -411.0]), np.array([1000, 1000, 1000, 412])) == 25.0


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps d4rl==1\.1"):
        make_env("door-human-v1")
