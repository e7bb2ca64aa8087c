"""Steps a second with real environments: online training, evaluation, and collecting datasets."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.acting import all_methods
from benchmarks.job import Context, Job
from benchmarks.results import Found, LeftOut, Measurement
from benchmarks.stepping import BareSteps
from benchmarks.timing import Budget, Case, Values, synchronise, take_turns
from mfql.agents.interface import Agent
from mfql.agents.mfql import MFQL
from mfql.agents.update import initial_state
from mfql.cores import usable_cores
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from mfql.evaluation.policy import Actor
from mfql.training.device import set_precision

ONLINE = {
    "antmaze": "antmaze-large-navigate-singletask-task1-v0",
    "cube": "cube-double-play-singletask-task2-v0",
    "pointmaze": "pointmaze-medium-navigate-singletask-task2-v0",
}
EVALUATED = {
    "OGBench antmaze": ONLINE["antmaze"],
    "OGBench humanoidmaze": "humanoidmaze-medium-navigate-singletask-task1-v0",
    "OGBench antsoccer": "antsoccer-arena-navigate-singletask-task4-v0",
    "OGBench cube": ONLINE["cube"],
    "OGBench scene": "scene-play-singletask-task2-v0",
    "OGBench puzzle": "puzzle-4x4-play-singletask-task4-v0",
    "OGBench pointmaze": ONLINE["pointmaze"],
    "OGBench pixels": "visual-cube-single-play-singletask-task1-v0",
    "D4RL adroit": "pen-human-v1",
}
# From here on an evaluation is of a packed job; fewer cores would take too long for it.
MANY_CORES = 16
# Of a pixel task: a processor renders a few frames a second.
PIXEL_EPISODES, PIXEL_STEPS = 2, 10
_GENERATED = ("pointmaze-medium-navigate-v0", "cube-single-play-v0")


class RandomMoves(Actor):
    """Acts with the network and then moves at random: an untrained network stands still, which costs less."""

    _rng = np.random.default_rng(0)

    def __call__(self, observations: np.ndarray, noise: torch.Tensor | None) -> np.ndarray:
        """Actions `[S, B, A]`, of the network's shape."""
        return self._rng.uniform(-1.0, 1.0, super().__call__(observations, noise).shape).astype(np.float32)


def _actor(agent: Agent, flat: Mapping[str, torch.Tensor], device: torch.device) -> RandomMoves:
    size = agent.observation_shape[0] if len(agent.observation_shape) == 1 else 0
    return RandomMoves(agent, flat, np.zeros(size, np.float32), np.ones(size, np.float32), device)


class OnlineRun:
    """Online training of a job: every step acts, updates and appends a row, as the trainer's does.

    Args:
        job: of the environment's sizes; its rows are replaced, its updates kept.
    """

    def __init__(self, job: Job, task: str, rows: int, capacity: int) -> None:
        from mfql.evaluation.vector import EnvPool
        from mfql.training.memory import Normaliser
        from mfql.training.online import Environments
        from mfql.training.rewards import OnlineRewards

        job.begin(rows, capacity)
        self.job, self.capacity = job, capacity
        seeds, size = len(job.seeds), job.agent.observation_dim
        self.pool = EnvPool(task, seeds, min(seeds, usable_cores()))
        actor = _actor(job.agent, job.state.flat, job.device)
        normaliser = Normaliser(np.zeros(size, np.float32), np.ones(size, np.float32))
        self.environments = Environments(
            self.pool,
            job.seeds,
            actor,
            job.memory,
            normaliser,
            job.agent.settings.discount,
            OnlineRewards(job.agent.settings, seeds),
            job.device,
        )
        self.environments.start()

    def case(self, calls: int) -> float:
        """So many steps of the job; the seconds that they took. Rows beyond the capacity overwrite the first ones."""
        job = self.job
        set_precision(job.agent.settings.precision, job.device)
        synchronise(job.device)
        began = time.perf_counter()
        for _ in range(calls):
            row = job.count % self.capacity
            self.environments.act(row)
            job.once()
            self.environments.finish(row)
        synchronise(job.device)
        return time.perf_counter() - began


def sizes_of(task: str) -> tuple[tuple[int, ...], int]:
    """The shape of a task's observations and its action dimensions.

    Raises:
        UserError: the task's files or renderer are absent.
    """
    from mfql.suites import make_env

    env = make_env(task)
    try:
        shapes = env.observation_space.shape, env.action_space.shape
    finally:
        env.close()
    assert shapes[0] is not None  # Arrays, not dicts.
    assert shapes[1] is not None
    return shapes[0], int(np.prod(shapes[1]))


def online(context: Context) -> Found:
    """Steps a second of online training at the paper's size, one seed and several."""
    found: Found = []
    on_gpu = context.device.type == "cuda"
    mode = "captured" if on_gpu else "eager"
    for name, task in ONLINE.items():
        shape, actions = sizes_of(task)
        agent = MFQL(context.agent(precision="tf32").settings, shape, actions)
        runs = [_online_run(context, agent, task, seeds) for seeds in sorted({1, context.effort.packed})]
        try:
            budget = Budget(context.effort.long_budget.rounds, context.effort.long_budget.seconds * 3)
            times = take_turns({str(len(run.job.seeds)): run.case for run in runs}, budget)
        finally:
            for run in runs:
                run.pool.close()
        for run in runs:
            seeds = len(run.job.seeds)
            rates = times[str(seeds)].rate()
            case = {"environment": name, "seeds": seeds, "mode": mode, "precision": "tf32" if on_gpu else "float32"}
            found += [
                Measurement.of("online", "steps", "1/s", rates, **case),
                Measurement.of("online", "seed-steps", "1/s", rates.times(seeds), **case),
            ]
    return found


def _online_run(context: Context, agent: Agent, task: str, seeds: int) -> OnlineRun:
    rows = context.effort.rows
    job = Job(agent, seeds, rows, context.device, compiled=context.device.type == "cuda", capacity=rows)
    return OnlineRun(job, task, rows, rows)


class _Cut:
    """A pool whose episodes all end after so many steps, however they go; it notes when the first step began.

    Resets are left out: in whole episodes they weigh less than in these.
    """

    def __init__(self, pool: Any, steps: int) -> None:
        self._pool, self._steps, self._taken = pool, steps, 0
        self.observations, self.rewards, self.success = pool.observations, pool.rewards, pool.success
        self.broken, self.faults, self.limit = pool.broken, pool.faults, pool.limit
        self.terminated = np.zeros(pool.num_envs, bool)
        self.truncated = np.zeros(pool.num_envs, bool)

    def reset(self, seeds: Mapping[int, int]) -> None:
        self._pool.reset(seeds)
        self.truncated[:] = False
        self._taken = 0
        self.began = time.perf_counter()

    def step(self, actions: np.ndarray, mask: np.ndarray) -> None:
        self._pool.step(actions, mask)
        self._taken += 1
        self.truncated[:] = self._taken >= self._steps


def evaluation(context: Context) -> Found:
    """Environment steps a second of an evaluation: all episodes of a job side by side, and one after the other."""
    found: Found = []
    suites = EVALUATED if context.effort.suites is None else context.effort.suites
    for suite in suites:
        task = EVALUATED[suite]
        try:
            shape, actions = sizes_of(task)
        except UserError as error:
            found.append(LeftOut(f"evaluation of {suite}", str(error).splitlines()[0]))
            continue
        agent = MFQL(context.agent().settings, shape, actions)
        pixels = len(shape) == 3
        seeds = context.effort.packed if not pixels and usable_cores() >= MANY_CORES else 1
        episodes = min(context.effort.episodes, PIXEL_EPISODES) if pixels else context.effort.episodes
        steps = min(context.effort.env_steps, PIXEL_STEPS) if pixels else context.effort.env_steps
        rates = _evaluated(context, agent, task, seeds, episodes, steps)
        case = {"suite": suite, "task": task, "seeds": seeds, "episodes": episodes, "cores": usable_cores()}
        found += [
            Measurement.of("evaluation", "environment steps", "1/s", rates["together"], **case),
            Measurement.of("evaluation", "environment steps one at a time", "1/s", rates["alone"], **case),
            Measurement.of("evaluation", "times one at a time", "x", rates["together"].over(rates["alone"]), **case),
            Measurement.of("evaluation", "of acting and stepping alone", "%", rates["share"], **case),
        ]
    return found


def _evaluated(context: Context, agent: Agent, task: str, seeds: int, count: int, length: int) -> dict[str, Values]:
    """How fast an evaluation is.

    Returns:
        environment steps a second, `together` (`count` episodes of each seed, of this length) and `alone` (one), and as
        `share` how many percent of the first ones' time acting and stepping take that do nothing else: the acting batch
        again and again, and environments without a pool in as many processes as there are cores.
    """
    from mfql.evaluation.rollout import run_episodes
    from mfql.evaluation.vector import EnvPool

    effort, device = context.effort, context.device
    source = [generator(torch.device("cpu"), seed, "initial") for seed in range(seeds)]
    flat = initial_state(agent, source, device).flat
    one = {name: value[:1] for name, value in flat.items()}

    def episodes(pool: Any, flat: Mapping[str, torch.Tensor], seeds: int, each: int) -> Case:
        actor, cut = _actor(agent, flat, device), _Cut(pool, length)

        def run(calls: int) -> float:
            seconds = 0.0
            for _ in range(calls):
                run_episodes(actor, agent.act_draw(), cut, list(range(seeds)), each, "benchmark", device)
                seconds += time.perf_counter() - cut.began
            return seconds

        return run

    with (
        EnvPool(task, seeds * count, usable_cores()) as many,
        EnvPool(task, 1, 0) as single,
        BareSteps(task, usable_cores()) as bare,
    ):
        cases = {
            "together": episodes(many, flat, seeds, count),
            "alone": episodes(single, one, 1, 1),
            "acting": _acting_alone(_actor(agent, flat, device), agent, many, seeds, length),
            "stepping": lambda calls: sum(bare.seconds(many.num_envs, length) for _ in range(calls)),
        }
        steps = {"together": length * many.num_envs, "alone": length}
        times = take_turns(cases, effort.long_budget)
    least = times["acting"].plus(times["stepping"]).over(times["together"])
    return {name: times[name].rate(count) for name, count in steps.items()} | {"share": least.times(100.0)}


def _acting_alone(actor: RandomMoves, agent: Agent, pool: Any, seeds: int, steps: int) -> Case:
    """A case of so many looks at what a pool last showed, noise included."""
    shape = (seeds, pool.num_envs // seeds)
    draw = agent.act_draw()
    noise = DrawStream({"noise": draw} if draw else {}, [*range(pool.num_envs)], "benchmark", actor.device)

    def run(calls: int) -> float:
        seen = pool.observations.reshape(*shape, *pool.observations.shape[1:])
        began = time.perf_counter()
        for step in range(calls * steps):
            drawn = noise.at(step).get("noise")
            actor(seen, None if drawn is None else drawn.unflatten(0, shape))
        return time.perf_counter() - began

    return run


def collecting(context: Context) -> Found:
    """Rows a second of generating a dataset with all cores, start of the processes included."""
    from mfql.data.generate import generate
    from mfql.data.recipes import recipes

    found: Found = []
    for dataset in _GENERATED:
        episodes = context.effort.generated
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            generate(dataset, folder, episodes=episodes, workers=usable_cores(), progress=False)
            seconds = time.perf_counter() - began
        rows = (episodes + max(1, episodes // 10)) * recipes()[dataset].steps
        found.append(Measurement.of("data", "rows", "1/s", rows / seconds, dataset=dataset, cores=usable_cores()))
    return found


def small_online(context: Context, method: str) -> tuple[Agent, str]:
    """The agent of a reduced method at the sizes of the pointmaze, and that task."""
    task = ONLINE["pointmaze"]
    kind = all_methods(context.config_dir)[method]
    return type(kind)(kind.settings, *sizes_of(task)), task
