"""Runs that are killed, and runs that are asked to end: what they have is kept, and the same command continues."""

from __future__ import annotations

import signal

import pytest

from mfql.cli import EXIT_CONTINUE
from mfql.training.checkpoint import Checkpoints
from tests.support.faults import (
    EPISODE,
    EVALUATION,
    FINISHING,
    LATER,
    LOADING,
    Moment,
    Runs,
    before,
    call,
    half_written,
    receive,
)


def test_asked_to_end_anywhere_a_run_saves_goes_and_continues_bit_equal(runs: Runs) -> None:
    arguments = runs.begin_online("asked")
    arguments[arguments.index("--checkpoint-seconds") + 1] = "300"
    saved = Checkpoints(runs.trained("online", "asked") / "checkpoint")
    for moment, number, steps in (
        (LOADING, signal.SIGTERM, []),
        (EPISODE, signal.SIGTERM, [14]),
        (LATER, signal.SIGINT, [14, 24]),
        (EVALUATION, signal.SIGTERM, [24, 30]),
        (FINISHING, signal.SIGHUP, [30, 40]),
    ):
        status, said = call(arguments, before(moment, receive(number)))
        assert status == EXIT_CONTINUE, said
        assert "the same command continues" in said
        assert saved.steps() == steps
        assert not half_written(runs.trained("online", "asked").parent)
    runs.assert_continues(arguments, "asked")


def test_asked_to_end_while_compiling_a_run_goes_at_once(runs: Runs) -> None:
    from torch._inductor import compile_fx

    compiling: Moment = (compile_fx, "compile_fx", 1)
    arguments = runs.arguments("pretrain", "compiling")
    status, said = call([*arguments, "--compile", "on"], before(compiling, receive(signal.SIGTERM)))
    assert status == EXIT_CONTINUE, said
    assert not half_written(runs.trained("pretrain", "compiling").parent)
    runs.assert_continues(arguments, "compiling", "pretrain")


def test_an_evaluation_that_was_broken_off_is_made_when_the_run_continues(runs: Runs) -> None:
    """Also the last one, after which no step follows."""
    arguments = runs.arguments("pretrain", "last")
    status, said = call(arguments, before(EVALUATION, receive(signal.SIGTERM)))
    assert status == EXIT_CONTINUE, said
    assert Checkpoints(runs.trained("pretrain", "last") / "checkpoint").steps() == [30]
    assert not (runs.trained("pretrain", "last") / "evaluation.json").exists()
    runs.assert_continues(arguments, "last", "pretrain")


@pytest.mark.parametrize("moment", [LOADING, FINISHING], ids=["loading", "finishing"])
def test_killed_before_and_after_training_a_run_continues_bit_equal(runs: Runs, moment: Moment) -> None:
    """In a step, a checkpoint and an evaluation: tests/test_training.py."""
    results = f"killed-{moment[1]}"
    arguments = runs.begin_online(results)
    status, _ = call(arguments, before(moment, receive(signal.SIGKILL)))
    assert status == -signal.SIGKILL
    assert not (runs.trained("online", results) / "evaluation.json").exists()
    runs.assert_continues(arguments, results)
