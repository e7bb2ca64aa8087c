"""Environments that hang: whoever trains or waits is told, asked to end it ends soon, and nothing is lost of a run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mfql.cli import EXIT_CONTINUE
from mfql.envs import patience
from mfql.envs.isolated import Isolated
from mfql.envs.patience import VARIABLE
from mfql.evaluation.vector import EnvPool
from mfql.training.checkpoint import Checkpoints
from mfql.training.online import Environments
from tests.support.equal_runs import assert_equal_runs
from tests.support.faults import LONGEST, Moment, Runs, before, call, half_written, hear_signals, refused, wait_for
from tests.support.inputs.lab import TINY
from tests.support.processes import run, started, until
from tests.support.training_runs import DATASET, METHOD, ROOT

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


# --- every place in which an environment is waited for ----------------------------------------------------------------

STUCK = """
import os, time, pathlib, gymnasium
from point import Point


class Stuck(Point):
    \"\"\"Hangs in the resets of a trial, whose seeds are small, or in those of episodes, whose seeds are large.\"\"\"

    def reset(self, *, seed=None, options=None):
        where, mark = os.environ["STUCK"].split(":")
        if seed is not None and {"trial": seed < 1000, "episode": seed >= 1000}.get(where):
            pathlib.Path(mark).touch()
            time.sleep(10**6)
        return super().reset(seed=seed)


gymnasium.register('stuck/Stuck-v0', entry_point='stuck:Stuck', max_episode_steps=40)
"""
TASKS = """task,env_id,data,metric
stuck,stuck:stuck/Stuck-v0,data/point.npz,success
"""


@dataclass
class Lab:
    """An extension with a task that hangs where the variable STUCK says, and runs of it that did not."""

    folder: Path

    def arguments(self, stage: str, results: str) -> list[str]:
        where = ("--data", self.folder / "data", "--results", self.folder / results, "--workers", "1", "--threads", "1")
        run = ("--method", "tiny", "--task", "stuck", "--stage", stage, "--seeds", "0", "--device", "cpu")
        return ["--extension", str(self.folder / "mylab"), "train", *run, *map(str, where), "--no-progress"]

    def command(self, place: str) -> list[str]:
        """The command that hangs in a place, in a folder of results of its own; without workers where that says so."""
        place, _, without = place.partition(" ")
        command = self._command(place)
        if without:
            command[command.index("--workers") + 1] = "0"
        return command

    def _command(self, place: str) -> list[str]:
        results = f"results-{place}"
        shutil.rmtree(self.folder / results, ignore_errors=True)
        if place == "online":
            shutil.copytree(self.folder / "results", self.folder / results)
        if place == "evaluate":
            run = self.folder / "results" / "runs" / "tiny" / "stuck" / "seed0" / "offline"
            out = str(self.folder / "out.json")
            return ["--extension", str(self.folder / "mylab"), "evaluate", str(run), "--workers", "1", "--out", out]
        return self.arguments("online" if place == "online" else "offline", results)

    @contextmanager
    def hanging(self, place: str, seconds: str) -> Iterator[tuple[subprocess.Popen, Path]]:
        """The command in its own process, once it hangs, and what it prints."""
        mark, said = self.folder / "mark", self.folder / "said.txt"
        mark.unlink(missing_ok=True)
        variables = {"STUCK": f"{'trial' if place == 'trial' else 'episode'}:{mark}", VARIABLE: seconds}
        command = [sys.executable, "-m", "mfql.cli", *self.command(place)]
        with (
            open(said, "w", encoding="utf-8") as output,
            started(command, env=os.environ | variables, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                    preexec_fn=hear_signals) as process,
        ):  # fmt: skip
            until(mark.exists, process, lambda: said.read_text(encoding="utf-8"))
            yield process, said


@pytest.fixture(scope="module")
def hung_lab(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    found = Lab(tmp_path_factory.mktemp("hung"))
    shutil.copytree(lab / "mylab", found.folder / "mylab")
    (found.folder / "mylab" / "methods" / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (found.folder / "mylab" / "stuck.py").write_text(STUCK, encoding="utf-8")
    (found.folder / "mylab" / "tasks.csv").write_text(TASKS, encoding="utf-8")
    os.environ["STUCK"] = "nowhere:"
    try:
        done = run([sys.executable, "-m", "mfql.cli", *found.arguments("offline", "results")], cwd=ROOT)
    finally:
        del os.environ["STUCK"]
    assert done.returncode == 0, done.stderr
    return found


def living(session: int) -> list[int]:
    """The processes of a session that are no more than a number."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


ALONE = " without workers"
PLACES = ("trial", "offline", "online", "evaluate", f"offline{ALONE}", f"online{ALONE}", f"evaluate{ALONE}")


@pytest.mark.parametrize("place", PLACES)
def test_wherever_an_environment_hangs_the_command_ends_with_a_message(place: str, hung_lab: Lab) -> None:
    with hung_lab.hanging(place, "2") as (process, said):
        assert process.wait(LONGEST) == 2
        assert not living(process.pid)
    text = said.read_text(encoding="utf-8")
    assert "reset(seed=" in text
    assert "has not ended after 2 seconds" in text
    assert "stuck.py" in text
    assert VARIABLE in text
    assert "Traceback" not in text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["asked", "killed", "interrupted twice"])
def test_wherever_an_environment_hangs_the_command_can_be_ended_and_leaves_no_process(
    place: str, how: str, hung_lab: Lab
) -> None:
    with hung_lab.hanging(place, "inf") as (process, said):
        if how == "killed":
            process.kill()
        elif how == "asked":
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        status = process.wait(LONGEST)
        assert time.monotonic() - began < 30.0
        wait_for(lambda: not living(process.pid), "the end of the workers")
    trains = not place.startswith("evaluate")
    asked = {EXIT_CONTINUE} if trains else {-signal.SIGTERM}
    expected = {"killed": {-signal.SIGKILL}, "asked": asked, "interrupted twice": {130, EXIT_CONTINUE, -signal.SIGINT}}[
        how
    ]
    assert status in expected, said.read_text(encoding="utf-8")


def test_data_generation_that_hangs_ends_with_a_message(tmp_path: Path) -> None:
    arguments = ["data", "generate", DATASET, "--out", str(tmp_path), "--episodes", "3", "--workers", "1"]

    def hang_in_a_step() -> None:
        os.environ[VARIABLE] = "1"
        before((Isolated, "step", 1500), lambda: time.sleep(10**6))()

    said = refused(arguments, hang_in_a_step)
    assert f"{DATASET}: episode 1 of train has not ended after 1 seconds" in said
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]
