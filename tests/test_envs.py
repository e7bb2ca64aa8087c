"""Environments: an episode is a pure function of (task, seed, actions), alone, among others, and in a pool."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import mujoco
import numpy as np
import psutil
import pytest

from mfql.envs.isolated import Isolated, reset_env
from mfql.errors import UserError
from mfql.evaluation.vector import EnvPool, WorkerError
from mfql.extensions import module_command, safe_processes
from mfql.suites import make_env, suite_of

POINT = "pointmaze-medium-navigate-singletask-task1-v0"
TELEPORT = "pointmaze-teleport-navigate-singletask-task1-v0"
SCENE = "scene-play-singletask-task2-v0"


def actions_of(env: Isolated, seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def physics(env: Isolated) -> np.ndarray:
    """All that the next step is computed from: the state, the controls and the solver's start."""
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.base.model, kind))
    mujoco.mj_getState(env.base.model, env.base.data, state, kind)
    return state


def rollout(env: Isolated, seed: int, steps: int, between=lambda: None) -> np.ndarray:
    """Observations and rewards of an episode under the actions of `seed`."""
    observation, _ = reset_env(env, seed)
    rows = [np.append(observation, 0.0)]
    for action in actions_of(env, seed, steps):
        between()
        observation, reward, *_ = env.step(action)
        rows.append(np.append(observation, reward))
    return np.stack(rows)


@pytest.fixture(scope="module")
def teleport() -> Isolated:
    env = make_env(TELEPORT)
    reset_env(env, 0)
    return env


@pytest.mark.parametrize(
    "task", [POINT, TELEPORT, "antmaze-medium-navigate-singletask-v0", "cube-single-play-singletask-v0", SCENE]
)
def test_an_episode_depends_on_nothing_but_its_seed_and_actions(task, teleport):
    steps = 40
    env = make_env(task)
    _, info = reset_env(env, 3)
    start = physics(env)
    first = rollout(env, 3, steps)
    rollout(env, 4, 17)
    _, other = reset_env(env, 3)
    np.testing.assert_array_equal(physics(env), start)
    np.testing.assert_array_equal(other["goal"], info["goal"])
    again = rollout(env, 3, steps)

    def disturb():
        np.random.random(3)  # noqa: NPY002 (the global generator is what is disturbed)
        teleport.step(teleport.action_space.sample())

    among_others = rollout(make_env(task), 3, steps, disturb)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, among_others)
    assert not np.array_equal(first, rollout(env, 5, steps))


def test_scene_forgets_the_locks_of_the_episode_before():
    env = make_env(SCENE)
    reset_env(env, 3)
    start = physics(env)
    env.base._cur_button_states = 1 - env.base._cur_button_states
    env.base._apply_button_states()
    reset_env(env, 3)
    np.testing.assert_array_equal(physics(env), start)


def test_a_teleport_is_drawn_from_the_episodes_own_seed():
    env = make_env(TELEPORT)
    entrance = np.array(env.base._teleport_info["teleport_in_xys"][0])
    exits = set()
    for seed in range(12):
        reset_env(env, seed)
        env.base.set_xy(entrance)
        env.step(np.zeros(2, np.float32))
        exits.add(tuple(env.base.get_xy()))
    assert len(exits) == 3


def test_an_episode_equals_the_bare_environments():
    env = make_env(POINT)
    ours = rollout(env, 8, 10)
    bare = env.env
    np.random.seed(8)  # noqa: NPY002 (OGBench draws from it)
    bare.action_space.seed(8)
    observation, _ = bare.reset(seed=8)
    theirs = [np.append(observation, 0.0)]
    for action in actions_of(env, 8, 10):
        observation, reward, *_ = bare.step(action)
        theirs.append(np.append(observation, reward))
    np.testing.assert_array_equal(ours, np.stack(theirs))


def test_the_global_generator_is_left_as_it_was():
    np.random.seed(1)  # noqa: NPY002 (the global generator is what is tested)
    expected = np.random.random(4)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    env = make_env(TELEPORT)
    rollout(env, 0, 3)
    np.testing.assert_array_equal(np.random.random(4), expected)  # noqa: NPY002


def test_making_leaves_no_file_and_no_descriptor(tmp_path, monkeypatch):
    make_env(POINT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = psutil.Process().num_fds()
    envs = [make_env(POINT) for _ in range(3)]
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().num_fds() == before
    assert tempfile.mkstemp is sys.modules["ogbench.locomaze.maze"].tempfile.mkstemp
    del envs


@pytest.mark.parametrize(
    "name", ["pointmaze-medium-navigate-v0", "pointmaze-huge-navigate-singletask-task1-v0", "hopper"]
)
def test_an_unknown_task_is_named(name):
    with pytest.raises(UserError, match=name):
        make_env(name)


def test_twins_of_one_compiled_model_equal_environments_of_their_own():
    """Each with other locks of drawer and window, which are in the shared model, both moving, stepped in turn."""
    steps, locks = 30, [np.array([i, 1 - i]) for i in (0, 1, 1)]
    twins = suite_of(SCENE).make_many(SCENE, 3)
    assert twins[1].base.model is twins[0].base.model

    def set_locks(env, states):
        with env.in_turn():
            env.base._cur_button_states = states.copy()
            env.base._apply_button_states()
        env.base.data.qvel[-2:] = -1.0, 1.0

    for i, twin in enumerate(twins):
        reset_env(twin, i)
        set_locks(twin, locks[i])
    together = [[] for _ in twins]
    for step in range(steps):
        for i, twin in enumerate(twins):
            together[i].append(twin.step(actions_of(twin, i, steps)[step])[0])
    alone = make_env(SCENE)
    for i in range(3):
        reset_env(alone, i)
        set_locks(alone, locks[i])
        np.testing.assert_array_equal(together[i], [alone.step(action)[0] for action in actions_of(alone, i, steps)])


@pytest.mark.parametrize("task", [SCENE, "cube-double-play-singletask-v0", "puzzle-3x3-play-singletask-v0"])
def test_an_environment_changes_only_the_model_fields_that_twins_keep_apart(task):
    from mfql.envs.isolated import _CHANGING_FIELDS

    env = make_env(task)
    reset_env(env, 0)
    model = env.base.model
    names = [name for name in dir(model) if isinstance(getattr(model, name, None), np.ndarray)]
    before = {name: getattr(model, name).copy() for name in names}
    rollout(env, 1, 60)
    if hasattr(env.base, "_apply_button_states"):
        env.base._cur_button_states = 1 - env.base._cur_button_states
        env.base._apply_button_states()
    changed = {name for name in names if not np.array_equal(before[name], getattr(model, name), equal_nan=True)}
    assert changed <= set(_CHANGING_FIELDS)


def play(pool: EnvPool, steps: int) -> np.ndarray:
    """All that a pool shows under masked steps and lone resets."""
    rng, shown = np.random.default_rng(0), []
    pool.reset({i: i for i in range(pool.num_envs)})
    for step in range(steps):
        actions = rng.uniform(-1, 1, (pool.num_envs, pool.action_dim)).astype(np.float32)
        pool.step(actions, rng.random(pool.num_envs) < 0.7)
        if step % 5 == 0:
            pool.reset({step % pool.num_envs: 100 + step})
        flags = np.stack([pool.rewards, pool.terminated, pool.truncated, pool.success], axis=1)
        shown.append(np.concatenate([pool.observations, flags], axis=1))
    return np.stack(shown)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers():
    shown = []
    for workers in (0, 1, 2, 9):
        with EnvPool(TELEPORT, 5, workers) as pool:
            shown.append(play(pool, 25))
    for other in shown[1:]:
        np.testing.assert_array_equal(shown[0], other)


def test_a_pool_shows_what_a_lone_environment_gives():
    env = make_env(POINT)
    with EnvPool(POINT, 3, 2) as pool:
        assert pool.observations.dtype == np.float32
        pool.reset({0: 10, 1: 11, 2: 12})
        observation, _ = reset_env(env, 11)
        np.testing.assert_array_equal(pool.observations[1], observation.astype(np.float32))
        for action in actions_of(env, 11, 8):
            pool.step(np.tile(action, (3, 1)), np.ones(3, bool))
            observation, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_array_equal(pool.observations[1], observation.astype(np.float32))
            assert pool.rewards[1] == reward
            assert (pool.terminated[1], pool.truncated[1]) == (terminated, truncated)
            assert pool.success[1] == info["success"]


def test_a_pool_reports_success_and_the_time_limit():
    with EnvPool(POINT, 2, 0) as pool:
        pool.reset({0: 0, 1: 1})
        env = pool._local.envs[0]
        env.base.set_xy(np.array(env.base.cur_goal_xy))
        still, both = np.zeros((2, 2), np.float32), np.ones(2, bool)
        pool.step(still, both)
        assert (pool.success[0], pool.terminated[0], pool.rewards[0]) == (True, True, 0.0)
        assert (pool.success[1], pool.terminated[1], pool.rewards[1]) == (False, False, -1.0)
        for _ in range(999):
            pool.step(still, np.array([False, True]))
        assert pool.truncated.tolist() == [False, True]
        pool.reset({1: 2})
        assert pool.truncated.tolist() == [False, False]
        assert pool.success.tolist() == [True, False]


def test_environments_out_of_the_mask_and_out_of_a_reset_stay_as_they_are():
    with EnvPool(POINT, 4, 2) as pool:
        pool.reset({i: i for i in range(4)})
        before = pool.observations.copy()
        pool.step(np.ones((4, 2), np.float32), np.array([True, False, True, False]))
        np.testing.assert_array_equal(pool.observations[[1, 3]], before[[1, 3]])
        assert not np.array_equal(pool.observations[0], before[0])
        after = pool.observations.copy()
        pool.reset({2: 2})
        np.testing.assert_array_equal(pool.observations[2], before[2])
        np.testing.assert_array_equal(pool.observations[[0, 1, 3]], after[[0, 1, 3]])


def test_async_steps_must_alternate_with_waits():
    with EnvPool(POINT, 2, 1) as pool:
        pool.reset({0: 0, 1: 1})
        every = np.ones(2, bool)
        with pytest.raises(RuntimeError, match="step_wait without"):
            pool.step_wait()
        pool.step_async(np.zeros((2, 2), np.float32), every)
        with pytest.raises(RuntimeError, match="without step_wait"):
            pool.step_async(np.zeros((2, 2), np.float32), every)
        pool.step_wait()
    with pytest.raises(RuntimeError, match="closed"):
        pool.step(np.zeros((2, 2), np.float32), every)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_raises_is_named_with_its_traceback(workers):
    with EnvPool(POINT, 3, workers) as pool:
        pool.reset({0: 0, 1: 1})
        with pytest.raises(WorkerError, match=r"(?s)environment 2 of pointmaze.*ResetNeeded"):
            pool.step(np.zeros((3, 2), np.float32), np.ones(3, bool))


def test_a_killed_worker_is_an_error_and_no_hang():
    with EnvPool(POINT, 4, 2) as pool:
        pool.reset({i: i for i in range(4)})
        victim, survivor = (worker.process for worker in pool._workers)
        victim.kill()
        with pytest.raises(WorkerError, match=r"environments 0 to 1 of pointmaze.*SIGKILL"):
            pool.step(np.zeros((4, 2), np.float32), np.ones(4, bool))
        assert survivor.poll() is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_of_an_unknown_task_is_a_users_error(workers):
    with pytest.raises(UserError, match="no environment"):
        EnvPool("pointmaze-huge-navigate-singletask-task1-v0", 2, workers)


@pytest.mark.slow
def test_workers_import_no_torch_and_exit_when_the_parent_is_killed():
    script = (
        "import time, torch; from mfql.evaluation.vector import EnvPool\n"
        f"pool = EnvPool({POINT!r}, 2, 2)\n"
        "print(*(worker.process.pid for worker in pool._workers), flush=True); time.sleep(60)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8", env={**os.environ, "PYTHONPATH": path}
    )
    try:
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert not any("torch" in region.path for worker in workers for region in worker.memory_maps())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


@pytest.mark.slow
def test_closing_a_pool_ends_its_workers_and_frees_its_descriptors():
    EnvPool(POINT, 1, 1).close()
    gc.collect()
    before = psutil.Process().num_fds()
    pool = EnvPool(POINT, 2, 2)
    processes = [worker.process for worker in pool._workers]
    pool.close()
    del pool
    gc.collect()
    assert all(process.poll() is not None for process in processes)
    assert psutil.Process().num_fds() == before


def test_workers_import_nothing_from_the_current_folder(tmp_path, monkeypatch):
    """What is not elsewhere is found there all the same, if this process finds it there."""
    for name in ("numpy.py", "json.py", "pickle.py", "socket.py", "mfql/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('taken from the current folder')", encoding="utf-8")
    (tmp_path / "only_here.py").write_text("print('found', flush=True)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with EnvPool(POINT, 1, 1) as pool:
        pool.reset({0: 0})
    with safe_processes(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert processes.submit(len, "abc").result() == 3
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    command, variables = module_command("only_here")
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "found\n"
    assert Path.cwd() == tmp_path
    assert sys.path[0] == ""
