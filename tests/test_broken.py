"""Environments that break: numbers that are not finite, errors, steps that never end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
import torch
from gymnasium.spaces import Box

from mfql.cli import main
from mfql.envs.patience import VARIABLE, Hangs, Limited, Waiting, able_to_hurry, env_timeout
from mfql.envs.registered import RegisteredEnv
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.evaluation.rollout import Episodes, run_episodes
from mfql.evaluation.vector import EnvPool
from mfql.extensions import extend
from mfql.settings import Settings
from mfql.training.memory import Memory, Normaliser
from mfql.training.online import Environments
from mfql.training.rewards import OnlineRewards
from tests.support.inputs.lab import TINY
from tests.support.policies import write
from tests.support.processes import run, started
from tests.support.training_runs import MINIATURE, ROOT

CPU = torch.device("cpu")
HOW = (
    "nothing",
    "observation",
    "large",
    "reward",
    "raises",
    "first",
    "sleeps",
    "busy",
    "locked",
    "starts",
    "memory",
    "files",
)
LIMIT = 8
POINT = "pointmaze-medium-navigate-singletask-task1-v0"
# What a step costs, and when episodes of odd seeds break; of even seeds none does.
BRITTLE = """
import ctypes
import subprocess
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Brittle(gymnasium.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float64), Box(-2.0, 2.0, (1,), np.float64)

    def __init__(self, how):
        self.how, self.dead = how, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.taken = self.np_random.uniform(size=2), 0
        self.breaks = 3 + seed // 2 % 4 if seed % 2 else -1
        return self.place * (np.nan if self.how == "first" and seed % 2 else 1.0), {}

    def step(self, action):
        self.taken += 1
        self.place, reward = self.place + action, -1.0
        seen = self.place.copy()
        if self.dead or self.taken == self.breaks:
            self.dead, seen, reward = getattr(self, self.how, lambda: (self.dead, seen, reward))()
        return seen, reward, False, False, {"success": self.taken == 2}

    def observation(self):
        return False, np.full(2, np.nan), -1.0

    def large(self):
        return False, np.full(2, 1e39), -1.0

    def reward(self):
        return False, self.place, np.inf

    def raises(self):
        self.dead = True
        raise RuntimeError("the simulator is unstable")

    def sleeps(self):
        time.sleep(600)

    def busy(self):
        while True:
            pass

    def locked(self):
        lock = ctypes.create_string_buffer(64)  # Larger than any system's, and zeros are an open one.
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(lock)

    def starts(self):
        subprocess.run(["sleep", "600"])

    def memory(self):
        raise MemoryError

    def files(self):
        raise OSError(24, "Too many open files")
"""


@pytest.fixture
def brittle(tmp_path: Path) -> None:
    """A task an environment that breaks in one of these ways."""
    made = "".join(
        f'gymnasium.register("brittle/{how}-v0", entry_point="brittle:Brittle", max_episode_steps={LIMIT},'
        f' kwargs={{"how": "{how}"}})\n'
        for how in HOW
    )
    (tmp_path / "brittle.py").write_text(BRITTLE + made, encoding="utf-8")
    rows = "".join(f"{how},brittle:brittle/{how}-v0,none.npz,success\n" for how in HOW)
    (tmp_path / "tasks.csv").write_text(f"task,env_id,data,metric\n{rows}", encoding="utf-8")
    extend([MINIATURE, tmp_path])


def played(how: str, workers: int) -> tuple[list[dict[str, np.ndarray]], dict[int, str]]:
    """What a pool of six shows, step by step, of the episodes of the seeds 0 to 5 and of 10 to 15 after them."""
    shown = []
    with EnvPool(how, 6, workers) as pool:
        for first in (0, 10):
            pool.reset({index: first + index for index in range(6)})
            running = np.ones(6, bool)
            while running.any():
                pool.step(np.linspace(-1, 1, 6, dtype=np.float32)[:, None], running)
                running &= ~pool.truncated
                names = ("observations", "rewards", "terminated", "truncated", "success", "broken")
                shown.append({name: getattr(pool, name).copy() for name in names})
        return shown, dict(pool.faults)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["observation", "large", "reward", "raises"])
def test_an_episode_ends_before_the_step_that_breaks_it_and_no_other_changes(how: str, workers: int, brittle) -> None:
    whole, none = played("nothing", 0)
    assert none == {}
    shown, faults = played(how, workers)
    assert sorted(faults) == [1, 3, 5]
    assert "(seed 11, step 4)" in faults[1]
    cause = (
        "RuntimeError: the simulator is unstable (" if how == "raises" else "an observation or a reward is not finite"
    )
    assert all(cause in fault for fault in faults.values())
    for step in range(2 * LIMIT):
        found, healthy = shown[step], whole[step]
        for name, values in found.items():
            np.testing.assert_array_equal(values[::2], healthy[name][::2])
            assert np.isfinite(values).all()
    for index, breaks in ((1, 3), (3, 4), (5, 5)):
        found, before = shown[breaks - 1], whole[breaks - 2]
        np.testing.assert_array_equal(found["observations"][index], before["observations"][index])
        assert (found["rewards"][index], found["success"][index], found["broken"][index]) == (0.0, False, True)
        assert (found["terminated"][index], found["truncated"][index]) == (False, True)
        assert not any(shown[step]["broken"][index] for step in range(breaks - 1))


@pytest.mark.parametrize(("how", "workers"), [("memory", 0), ("memory", 2), ("files", 2)])
def test_what_the_system_refuses_breaks_no_episode(how: str, workers: int, brittle) -> None:
    """It follows from no seed: the same command would count other episodes as failed."""
    with pytest.raises(UserError, match=rf"{how}: environment 1: step 3 of the episode of seed 1 has an error .*\.py:"):
        played(how, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_episode_that_begins_with_no_numbers_is_over(workers: int, brittle) -> None:
    with EnvPool("first", 4, workers) as pool:
        pool.reset({0: 0, 1: 1, 2: 2, 3: 3})
        assert pool.broken.tolist() == pool.truncated.tolist() == [False, True, False, True]
        assert (pool.observations[1] == 0.0).all()
        assert pool.faults[3] == "the first observation is not finite (seed 3, step 0)"
        pool.reset({3: 4})
        assert pool.broken.tolist() == [False, True, False, False]
        assert sorted(pool.faults) == [1]


def test_numbers_of_the_projects_own_suites_are_looked_at_too() -> None:
    with EnvPool(POINT, 1, 0) as pool:
        pool.reset({0: 0})
        seen, env, every = pool.observations.copy(), pool._local.envs[0], np.ones(1, bool)
        step = env.step
        env.step = lambda action: (np.array([np.nan, 0.0]), *step(action)[1:])
        pool.step(np.ones((1, 2), np.float32), every)
        assert (pool.broken[0], pool.truncated[0]) == (True, True)
        np.testing.assert_array_equal(pool.observations, seen)


ANY = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text() | st.binary()
WIDE = st.recursive(ANY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2))


@hypothesis.given(WIDE)
def test_whatever_an_environment_tells_is_a_number_or_named(value: Any) -> None:
    space = Box(-1.0, 1.0, (1,), np.float32)
    env = RegisteredEnv.__new__(RegisteredEnv)
    env.where, env._shape, env._actions, env.told = "mine", (1,), space, False
    env.env = SimpleNamespace(step=lambda _: (value, value, value, value, {"success": value}))
    said = "mine: "
    try:
        observation, reward, *ends, info = env.step(np.zeros(1))
    except UserError as error:
        said = str(error)
    else:
        assert (observation.shape, observation.dtype) == ((1,), np.float32)
        assert [type(one) for one in (reward, *ends, info["success"])] == [float, bool, bool, float]
    assert said.startswith("mine: ")


# --- what they count --------------------------------------------------------------------------------------------------


class Scripted:
    """As of `EnvPool`: environments whose episodes have these rewards; None is the step that breaks one."""

    def __init__(self, rewards: list[list[float | None]], limit: int) -> None:
        self.script, self.limit, self.faults, count = rewards, limit, {0: "it broke"}, len(rewards)
        self.observations, self.rewards = np.zeros((count, 1), np.float32), np.zeros(count, np.float32)
        self.terminated, self.truncated, self.broken = (np.zeros(count, bool) for _ in range(3))
        self.success, self.taken = np.ones(count, bool), 0

    def reset(self, seeds: Any) -> None:
        self.broken[:] = [not episode for episode in self.script]

    def step(self, actions: np.ndarray, mask: np.ndarray) -> None:
        for index in np.flatnonzero(mask):
            episode = self.script[index]
            reward = episode[self.taken]
            self.broken[index] = reward is None
            self.rewards[index] = reward or 0.0
            self.success[index] = reward is not None
            self.truncated[index] = reward is None or self.taken == len(episode) - 1
        self.taken += 1


@pytest.mark.parametrize(
    ("rewards", "returns"),
    [
        # A step costs 1: to break after two of five is no better than to go on to the end.
        ([[-1, -1, None], [-1, -1, -1]], [-5, -3]),
        ([[-1, -1, None], [-1] * 5], [-5, -5]),
        ([[-1, -1, None], [None]], [-5, -5]),
        # Rewards are above 0: what a simulator gave before it broke is worth nothing.
        ([[9000, None], [1, 1, 1, 1, 1]], [0, 5]),
        ([[9000, None], [-7, 1]], [-6, -6]),
        # It broke at once, and nothing is known of rewards.
        ([[], [2, 2]], [0, 4]),
    ],
)
def test_a_broken_episode_counts_as_failed_and_gains_nothing(rewards: list, returns: list[float]) -> None:
    seeds, pool = [0], Scripted(rewards, limit=5)
    found = run_episodes(lambda observations, _: observations, None, pool, seeds, 2, "test", CPU)
    np.testing.assert_allclose(found.returns, [returns])
    broken = [not episode or episode[-1] is None for episode in rewards]
    assert found.broken.tolist() == [broken]
    assert found.success.tolist() == [[float(not one) for one in broken]]
    assert found.lengths.tolist() == [[5.0 if one else float(len(of)) for one, of in zip(broken, rewards, strict=True)]]
    assert found.summary(0)["broken"] == sum(broken)


def test_a_seed_knows_nothing_of_what_another_broke() -> None:
    pool = Scripted([[-1, None], [-1, -1], [-1, -1], [-1, -1]], limit=2)
    found = run_episodes(lambda observations, _: observations, None, pool, [0, 1], 2, "test", CPU)
    assert "broken" not in found.summary(1)
    assert found.summary(0) == {"success": 50.0, "return": -2.0, "length": 2.0, "broken": 1}


def test_it_is_said_once_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    zeros = np.zeros((1, 3))
    Episodes(zeros, zeros, zeros, zeros > 0).say_broken("task", {})
    assert capsys.readouterr().err == ""
    Episodes(zeros, zeros, zeros, np.array([[True, False, True]])).say_broken("task", {2: "later", 0: "why"})
    assert "2 of 3 episodes of task broke, and count as failed; the first: why" in capsys.readouterr().err


def test_an_evaluation_says_which_of_its_episodes_broke(tmp_path: Path, brittle) -> None:
    found = {}
    for how in ("nothing", "observation"):
        policy = write(tmp_path / how, how)
        found[how] = evaluate(policy, 12, tmp_path / f"{how}.json", None, workers=0)
        assert json.loads((tmp_path / f"{how}.json").read_text(encoding="utf-8")) == found[how]
    assert "broken" not in json.dumps(found["nothing"])
    assert found["nothing"]["success"] == 100.0
    each = found["observation"]["each"]
    assert 0 < found["observation"]["broken"] == sum(each["broken"]) < 12
    assert each["broken"] == [seed % 2 == 1 for seed in each["seed"]]
    assert each["success"] == [float(not broken) for broken in each["broken"]]
    assert each["return"] == [-LIMIT] * 12


# --- online -----------------------------------------------------------------------------------------------------------


def environments(pool: EnvPool, steps: int) -> Environments:
    """Two seeds whose action is what they see."""
    fields = {name: np.zeros((1, 2), np.float32) for name in ("observations", "next_observations")}
    fields |= {"actions": np.zeros((1, 1), np.float32)}
    fields |= {name: np.zeros(1, np.float32) for name in ("rewards", "masks", "mc_returns")}
    actor = SimpleNamespace(
        agent=SimpleNamespace(explore_draw=lambda: None), explore=lambda seen, noise: np.tanh(seen[..., :1])
    )
    memory, settings = Memory(fields, 2, steps, None, CPU), Settings(offline_steps=1, online_steps=1, discount=0.9)
    normaliser = Normaliser(np.zeros(2, np.float32), np.ones(2, np.float32))
    return Environments(pool, [0, 1], actor, memory, normaliser, 0.9, OnlineRewards(settings, 2), CPU)


def collected(how: str, steps: int, interrupted: int | None = None) -> tuple[dict[str, np.ndarray], list[int]]:
    """The rows of online steps; an interruption goes on from what was saved, in a pool of its own."""
    with EnvPool(how, 2, 0) as pool:
        first = environments(pool, steps)
        first.start()
        for step in range(steps if interrupted is None else interrupted):
            first.act(step)
            first.finish(step)
        if interrupted is None:
            return {name: values.numpy() for name, values in first.memory.tail.items()}, first.broken
    with EnvPool(how, 2, 0) as pool:
        second = environments(pool, steps)
        for row in range(2):
            second.memory.restore(row, 0, first.memory.tail_rows(row, 0, interrupted))
            second.restore(row, first.saved(row))
        second.start()
        for step in range(interrupted, steps):
            second.act(step)
            second.finish(step)
        return {name: values.numpy() for name, values in second.memory.tail.items()}, second.broken


@pytest.mark.parametrize("how", ["observation", "large", "reward", "raises", "first"])
def test_what_broke_an_online_episode_has_no_row(how: str, brittle, capsys: pytest.CaptureFixture[str]) -> None:
    steps = 120
    rows, broken = collected(how, steps)
    assert min(broken) > 3
    assert "online episodes of seed 0 broke, the last: " in capsys.readouterr().err
    assert all(np.isfinite(values).all() for values in rows.values())
    assert (rows["rewards"] == -1.0).all()
    moved = rows["next_observations"] - rows["observations"]
    np.testing.assert_allclose(moved, np.repeat(2.0 * rows["actions"], 2, axis=-1), atol=1e-4)
    follows = (rows["next_observations"][:, :-1] == rows["observations"][:, 1:]).all(-1)
    begun, whole = 1 + (~follows).sum(axis=1), steps // LIMIT
    assert (begun == whole if how == "first" else begun > whole + 3).all()
    np.testing.assert_allclose(rows["mc_returns"], -10.0, rtol=1e-4)  # a cut episode goes on as it was
    again, counted = collected(how, steps, interrupted=53)
    assert counted == broken
    for name, values in rows.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize("how", ["observation", "raises"])
def test_an_episode_that_breaks_as_it_is_replayed_is_over(how: str, brittle, capsys) -> None:
    """Its environment does not follow from its seeds: what goes on after that step is no part of the episode."""
    with EnvPool(how, 2, 0) as pool:
        found = environments(pool, 20)
        found.episodes[0].actions = [np.zeros(1, np.float32)] * (LIMIT - 1)
        found._seed_of = lambda row: 1 if (row, found.episodes[row].number) == (0, 0) else 2 * row
        found.start()
        assert found.broken == [1, 0]
        assert [(episode.number, episode.first_row) for episode in found.episodes] == [(1, LIMIT - 1), (0, 0)]
    cause = "the simulator is unstable" if how == "raises" else "not finite (seed 1, step 3)"
    assert cause in capsys.readouterr().err


def collected_in_spite_of_a_hang(how: str, steps: int, at: int) -> dict[str, np.ndarray]:
    """The rows of online steps; in one of them what is reset hangs, or else the step itself."""
    with EnvPool(how, 2, 0) as pool:
        first = environments(pool, steps)
        first.start()
        for step in range(at):
            first.act(step)
            first.finish(step)
        first.act(at)
        pool.reset = hang
        try:
            first.finish(at)
            pool.step_wait = hang
            at += 1
            first.act(at)
            first.finish(at)
        except Hangs:
            if first.stepping:
                first.undo()
            else:
                at += 1
    with EnvPool(how, 2, 0) as pool:
        second = environments(pool, steps)
        for row in range(2):
            second.memory.restore(row, 0, first.memory.tail_rows(row, 0, at))
            second.restore(row, first.saved(row))
        second.start()
        assert second.stepping == first.stepping
        for step in range(at, steps):
            if not second.stepping:
                second.act(step)
            second.finish(step)
        return {name: values.numpy() for name, values in second.memory.tail.items()}


def hang(*_: Any) -> None:
    raise Hangs("it hangs")


@pytest.mark.parametrize("how", ["observation", "raises", "first"])
def test_a_checkpoint_holds_a_step_that_hung_begun_and_goes_on_as_if_nothing_had_been(how: str, brittle) -> None:
    steps = 20
    rows, _ = collected(how, steps)
    for at in range(5, 17):
        for name, values in collected_in_spite_of_a_hang(how, steps, at).items():
            np.testing.assert_array_equal(rows[name], values, f"{name}, {at}")


def test_an_environment_that_breaks_whatever_is_done_ends_the_run(monkeypatch: pytest.MonkeyPatch, brittle) -> None:
    with EnvPool("first", 2, 0) as pool:
        found = environments(pool, 4)
        monkeypatch.setattr(found, "_seed_of", lambda row: 7)
        with pytest.raises(UserError, match="100 online episodes of seed 0 in a row broke in their first step"):
            found.start()


# --- steps that never end ---------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two seconds for a step."""
    monkeypatch.setenv(VARIABLE, "2")
    return


@pytest.mark.parametrize(("how", "workers"), [("sleeps", 0), ("busy", 2), ("locked", 2)])
def test_a_step_that_never_ends_is_an_error_with_its_line(how: str, workers: int, brittle, impatient) -> None:
    with EnvPool(how, 4, workers) as pool:
        processes = [psutil.Process(worker.process.pid) for worker in pool._workers]
        pool.reset({0: 0, 1: 2, 2: 4, 3: 1})
        still, every = np.zeros((4, 1), np.float32), np.ones(4, bool)
        for _ in range(2):
            pool.step(still, every)
        with pytest.raises(UserError) as caught:
            pool.step(still, every)
    said = str(caught.value)
    assert f"{how}: environment 3: step 3 of the episode of seed 1" in said
    assert "has not ended after 2 seconds" in said
    assert f"in {how}" in said
    assert VARIABLE in said
    assert not any(process.is_running() for process in processes)


@pytest.mark.parametrize("how", ["busy", "locked"])
def test_a_step_that_never_ends_in_the_process_itself_ends_it_with_the_stack(how: str, brittle, tmp_path: Path) -> None:
    """Busy in Python it is an error like any other; in a library that holds Python's lock the process ends."""
    script = (
        "import sys, numpy as np; from mfql.envs import patience; from mfql.evaluation.vector import EnvPool\n"
        f"patience.GRACE = 0.5; pool = EnvPool({how!r}, 1, 0); pool.reset({{0: 1}})\n"
        "try:\n"
        "    for _ in range(3): pool.step(np.zeros((1, 1), np.float32), np.ones(1, bool))\n"
        "except patience.Hangs as error: sys.exit(str(error))"
    )
    environment = os.environ | {"MFQL_EXTENSIONS": os.pathsep.join(map(str, (MINIATURE, tmp_path))), VARIABLE: "1"}
    done = run([sys.executable, "-c", script], env=environment)
    assert done.returncode == 1
    assert f"in {how}" in done.stderr
    assert f"set the variable {VARIABLE} to more seconds" in done.stderr
    assert ("has not ended after 1 seconds" in done.stderr) == (how == "busy")


def test_an_environment_that_is_never_made_is_an_error_with_its_line(brittle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.3")
    monkeypatch.setattr("mfql.envs.registered.DEFAULT", 0.3)
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: time.sleep(600))
    with pytest.raises(Hangs, match=r"making sleeps: the environment .* has not ended after 0\.3 seconds"):
        EnvPool("sleeps", 1, 0)


def test_who_waits_long_for_several_environments_waits_for_each(brittle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of several may take longer than a step, as long as they move."""
    monkeypatch.setenv(VARIABLE, "0.3")
    done = [0]

    def slowly() -> int:
        done[0] += 1
        return done[0]

    with Limited(lambda: "this", slowly):
        time.sleep(1.0)
    assert done[0] > 3


def test_a_timer_of_somebody_elses_is_left_alone() -> None:
    limited, before = Limited(lambda: "this"), signal.getsignal(signal.SIGALRM)
    with limited:
        assert signal.getsignal(signal.SIGALRM) == limited._part
    assert signal.getsignal(signal.SIGALRM) == before
    try:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 3600.0)
        theirs = signal.getsignal(signal.SIGALRM)
        with limited:
            pass
        assert signal.getsignal(signal.SIGALRM) == theirs
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_what_catches_its_end_is_late_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of which nobody knows what it is worth is none."""
    monkeypatch.setenv(VARIABLE, "0.3")
    late = pytest.raises(UserError, match=r"this has not ended after 0\.3 seconds")
    with late, Limited(lambda: "this"), suppress(BaseException):
        time.sleep(600)
    with Limited(lambda: "this"):
        time.sleep(0.05)


@pytest.mark.parametrize(("how", "workers"), [("sleeps", 0), ("starts", 1)])
def test_who_was_asked_to_end_waits_for_a_while_and_not_longer(
    how: str, workers: int, brittle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfql.envs.patience.GRACE", 0.5)
    still, every = np.zeros((1, 1), np.float32), np.ones(1, bool)
    with able_to_hurry() as hurry, EnvPool(how, 1, workers) as pool:
        pool.reset({0: 1})
        for _ in range(2):
            pool.step(still, every)
        hurry()
        with pytest.raises(Hangs, match=f"{how}: environment 0: step 3 .* has not ended after 1 seconds"):
            pool.step(still, every)
    assert [one.name() for one in psutil.Process().children(recursive=True) if one.name() == "sleep"] == []
    assert not Waiting(20.0).is_over(0)  # Once that is over, nobody is in a hurry.


@pytest.mark.parametrize("how", ["busy", "locked", "starts"])
def test_an_environment_that_hangs_ends_with_its_killed_parent(how: str, brittle, tmp_path: Path) -> None:
    script = (
        "import numpy as np; from mfql.evaluation.vector import EnvPool\n"
        f"pool = EnvPool({how!r}, 1, 1); pool.reset({{0: 1}})\n"
        "for step in range(3):\n"
        "    print(pool._workers[0].process.pid, flush=True); pool.step(np.zeros((1, 1), np.float32), np.ones(1, bool))"
    )
    environment = os.environ | {"MFQL_EXTENSIONS": os.pathsep.join(map(str, (MINIATURE, tmp_path)))}
    with started([sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8", env=environment) as parent:
        said = [parent.stdout.readline() for _ in range(3)]
        worker = psutil.Process(int(said[-1]))
        time.sleep(0.5)
        while how == "starts" and not worker.children():
            time.sleep(0.05)
        ending = [worker, *worker.children()]
        assert worker.is_running()
        parent.kill()
        assert psutil.wait_procs(ending, timeout=30)[1] == []


@pytest.mark.parametrize(("said", "seconds"), [("", 600.0), ("20", 20.0), ("0.5", 0.5), ("inf", 30 * 86400.0)])
def test_how_long_is_waited(said: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert env_timeout() == seconds


@pytest.mark.parametrize("said", ["ten", "0", "-1", "nan"])
def test_no_time_at_all_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(UserError, match=f"{VARIABLE} is '{said}'"):
        env_timeout()


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_from_the_evaluation_in_which_an_environment_hung(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trials have small seeds, evaluations large ones."""
    folder = tmp_path / "mylab"
    shutil.copytree(lab / "mylab", folder)
    (folder / "methods" / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (folder / "stuck.py").write_text(
        "import os, time, gymnasium\nfrom point import Point\n\n\nclass Stuck(Point):\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        if seed > 1000 and 'STUCK' in os.environ:\n            time.sleep(600)\n"
        "        return super().reset(seed=seed)\n\n\n"
        "gymnasium.register('stuck/Stuck-v0', entry_point='stuck:Stuck', max_episode_steps=40)\n",
        encoding="utf-8",
    )
    (folder / "tasks.csv").write_text(
        "task,env_id,data,metric\nstuck,stuck:stuck/Stuck-v0,data/point.npz,success\n"
        "point,point:mylab/Point-v0,data/point.npz,success\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(VARIABLE, "2")

    def train(task: str) -> int:
        where = ("--data", str(tmp_path), "--results", str(tmp_path / "results"), "--workers", "1", "--threads", "1")
        run = ("--method", "tiny", "--task", task, "--stage", "offline", "--seeds", "0", "--device", "cpu")
        return main(["--extension", str(folder), "train", *run, *where])

    monkeypatch.setenv("STUCK", "1")
    assert train("stuck") == 2
    said = capfd.readouterr().err
    assert "stuck: environment 0: reset(seed=" in said
    assert "stuck.py" in said
    run = tmp_path / "results" / "runs" / "tiny" / "stuck" / "seed0" / "offline"
    assert "has not ended after 2 seconds" in json.loads((run / "failure.json").read_text(encoding="utf-8"))["error"]
    assert [path.name for path in (run / "run" / "checkpoint").glob("step-*")] == ["step-000000030.pt"]
    monkeypatch.delenv("STUCK")
    assert train("stuck") == 0
    assert train("point") == 0
    found, undisturbed = (
        json.loads((run.parents[2] / task / "seed0" / "offline" / "evaluation.json").read_text(encoding="utf-8"))
        for task in ("stuck", "point")
    )
    assert found["evaluations"] == undisturbed["evaluations"]
    assert "broken" not in json.dumps(found)
