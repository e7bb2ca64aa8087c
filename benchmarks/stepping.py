"""Environments stepped for nothing else, a process a core: an evaluation cannot be faster than that and acting."""

from __future__ import annotations

import time
from multiprocessing import get_context
from threading import BrokenBarrierError
from types import TracebackType
from typing import Any

import numpy as np

# What a process steps in, and where the processes meet before they begin.
_own: dict[str, Any] = {}
_SECONDS_TO_MEET = 120.0


class BareSteps:
    """Processes that step a task's environment, one each, all at once, by random actions.

    Args:
        task: the name of a task.
        processes: how many.

    No pool, no shared memory and no policy: episodes of so many steps, one after the other, of which only the steps are
    timed.
    """

    def __init__(self, task: str, processes: int) -> None:
        context = get_context("spawn")
        self._count = processes
        self._processes = context.Pool(processes, _make, (task, context.Barrier(processes)))

    def seconds(self, episodes: int, steps: int) -> float:
        """The seconds of so many episodes of so many steps, shared out among the processes."""
        share = [(episodes / self._count, steps)] * self._count
        return max(self._processes.starmap(_step, share, chunksize=1))

    def __enter__(self) -> BareSteps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._processes.terminate()
        self._processes.join()


def _make(task: str, meeting: Any) -> None:
    from mfql.suites import make_env

    _own.update(env=make_env(task), meeting=meeting)


def _step(episodes: float, steps: int) -> float:
    """Seconds of `episodes`, a fraction of one with as many steps less."""
    env, rng = _own["env"], np.random.default_rng(0)
    space = env.action_space
    actions = rng.uniform(space.low, space.high, (steps, *space.shape)).astype(space.dtype)
    try:
        _own["meeting"].wait(_SECONDS_TO_MEET)
    except BrokenBarrierError as error:
        raise RuntimeError(f"a process that steps did not come within {_SECONDS_TO_MEET:.0f} s") from error
    seconds, left = 0.0, round(episodes * steps)
    while left > 0:
        env.reset(seed=0)
        began = time.perf_counter()
        for action in actions[:left]:
            env.step(action)
        seconds += time.perf_counter() - began
        left -= steps
    return seconds
