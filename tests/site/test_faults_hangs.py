"""Environments that hang: whoever trains or waits is told, asked to end it ends soon, and nothing is lost of a run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from mfql.cli import EXIT_CONTINUE
from mfql.envs import patience
from mfql.evaluation.vector import EnvPool
from mfql.training.checkpoint import Checkpoints
from mfql.training.online import Environments
from tests.support.equal_runs import assert_equal_runs
from tests.support.faults import Moment, Runs, before, call, half_written
from tests.support.training_runs import METHOD

# Before the 15th step begins, and before the second episode does, which is at the 11th.
STEP: Moment = (EnvPool, "step_async", 15)
RESET: Moment = (Environments, "_begin", 1)


def hang(*numbers: signal.Signals) -> Callable[[], None]:
    """The worker answers no more, stopped as it is, and the trainer gets signals; it waits for a second then."""

    def act() -> None:
        psutil.Process().children()[0].suspend()
        patience.GRACE = 1.0
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


def short_episodes() -> None:
    """Of ten steps."""
    original, steps = EnvPool.step_wait, 0

    def cut(self: Any) -> None:
        nonlocal steps
        is_step = self._turn == b"step"
        original(self)
        steps = steps + 1 if is_step else 0
        self.truncated[:] |= steps == 10

    EnvPool.step_wait = cut


@pytest.mark.parametrize("row_first", [False, True], ids=["row last", "row first"])
def test_asked_to_end_while_an_online_step_or_reset_hangs_a_run_saves_and_continues_bit_equal(
    row_first: bool, runs: Runs
) -> None:
    method = f"hanging-{row_first}"
    runs.place.method(method, f"inherits: {METHOD}\nonline: {{row_before_update: {row_first}}}\nlog_interval: 5\n")
    assert call(runs.place.arguments(method, "pretrain", [0], "hang"))[0] == 0
    runs_of = {results: runs.place.run(method, 0, "online", results) for results in ("hang", "hang-step", "hang-reset")}
    arguments = {results: runs.place.arguments(method, "online", [0], results) for results in runs_of}
    for results in ("hang-step", "hang-reset"):
        shutil.copytree(runs_of["hang"].parents[1], runs_of[results].parents[1])
    assert call(arguments["hang"], short_episodes)[0] == 0
    for results, moment, step in (("hang-step", STEP, 14), ("hang-reset", RESET, 10)):

        def disturb(moment: Moment = moment) -> None:
            short_episodes()
            before(moment, hang(signal.SIGTERM))()

        status, said = call(arguments[results], disturb)
        assert status == EXIT_CONTINUE, said
        assert "has not ended after 1 seconds" in said
        assert Checkpoints(runs_of[results] / "checkpoint").steps() == [step]
        assert not half_written(runs_of[results].parent)
        status, said = call(arguments[results], short_episodes)
        assert status == 0, said
        assert_equal_runs(runs_of["hang"], runs_of[results])
