"""Runs of `mfql` in processes of their own, disturbed at a named moment, and what must come out of them.

A process is forked from this one, which has torch and the simulator loaded, so that a run takes a second.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from mfql import cli
from mfql.evaluation import rollout
from mfql.suites import load
from mfql.tasks import find_task
from mfql.training import online, train
from tests.support.equal_runs import assert_equal_runs
from tests.support.training_runs import METHOD, TASK, Workplace

LONGEST = 3600  # seconds; the machine may be busy
# Processes that were started and not waited for: they end with their test.
RUNNING: set[int] = set()
_PRINTED = tempfile.TemporaryDirectory()

# A function of mfql, and the number of its call, before which something happens.
Moment = tuple[Any, str, int]
LOADING: Moment = (train, "load", 1)
EPISODE: Moment = (online.Environments, "finish", 14)
LATER: Moment = (online.Environments, "finish", 10)
EVALUATION: Moment = (rollout.DrawStream, "at", 40)
FINISHING: Moment = (train, "save_policy", 1)


def before(moment: Moment, act: Callable[[], None]) -> Callable[[], None]:
    """What disturbs a run: `act`, before the call that `moment` names. Of evaluations' draws no others count."""
    owner, name, count = moment

    def disturb() -> None:
        original, calls = getattr(owner, name), 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += moment is not EVALUATION or "evaluate" in args[0].purpose
            if calls == count:
                calls += 1
                act()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return disturb


def receive(number: signal.Signals) -> Callable[[], None]:
    """The process gets a signal."""
    return lambda: os.kill(os.getpid(), number)


@dataclass
class Running:
    """A process of `mfql`."""

    process: psutil.Process
    output: Path

    def said(self) -> str:
        """All that it has printed."""
        return self.output.read_text(encoding="utf-8")

    def wait(self) -> int:
        """Its exit status; negative for a signal."""
        _, status = os.waitpid(self.process.pid, 0)
        RUNNING.discard(self.process.pid)
        return os.waitstatus_to_exitcode(status)


def hear_signals() -> None:
    """Undo what a process in the background of a script inherits: it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(arguments: list[str], disturb: Callable[[], None] = lambda: None) -> Running:
    """Run `mfql` with arguments in a process of its own, disturbed."""
    torch.set_num_threads(1)
    descriptor, path = tempfile.mkstemp(dir=_PRINTED.name)
    with open(descriptor, "w", encoding="utf-8") as output:
        pid = os.fork()
        if pid == 0:
            os.setsid()  # What it starts ends with it.
            sys.stdout = sys.stderr = output
            status = 1
            try:
                for stream in (1, 2):
                    os.dup2(descriptor, stream)
                hear_signals()
                disturb()
                status = cli.main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                output.flush()
                os._exit(status)
    RUNNING.add(pid)
    return Running(psutil.Process(pid), Path(path))


def end_all() -> None:
    """End what is left of a test that failed, with all that it started."""
    for pid in list(RUNNING):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        RUNNING.discard(pid)


def call(arguments: list[str], disturb: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Exit status and output of a run."""
    running = start(arguments, disturb)
    return running.wait(), running.said()


def refused(arguments: list[str], disturb: Callable[[], None] = lambda: None) -> str:
    """The message of a run that must end with one, and not with a traceback."""
    status, said = call(arguments, disturb)
    assert status == 2, said
    assert "Traceback" not in said.partition("mfql: ")[2], said
    return said[said.rindex("mfql: ") :]


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The condition's value, as soon as it is true."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {LONGEST} s for {what}")


@dataclass
class Runs:
    """Undisturbed runs, and copies of what they start from."""

    place: Workplace

    @classmethod
    def make(cls, folder: Path) -> Runs:
        """Data, and seed 0 undisturbed, pretrained and online."""
        place = Workplace.make(folder)
        runs = cls(place)
        for stage in ("pretrain", "online"):
            status, said = call(runs.arguments(stage, "results"))
            assert status == 0, said
        # What every child would load for itself.
        load(find_task(TASK, place.folder / "config"), place.folder / "data")
        return runs

    def arguments(self, stage: str, results: str, *more: str) -> list[str]:
        """Arguments of `mfql train`, without processes of environments."""
        return self.place.arguments(METHOD, stage, [0], results, "--workers", "0", *more)

    def begin_online(self, results: str) -> list[str]:
        """A results folder with the pretrained run; arguments of the online one, which saves at every step."""
        target = self.trained("pretrain", results).parent
        shutil.copytree(self.trained("pretrain").parent, target)
        return self.arguments("online", results, "--checkpoint-seconds", "0")

    def trained(self, stage: str, results: str = "results") -> Path:
        """The folder that a run's trainer owns."""
        return self.place.run(METHOD, 0, stage, results)

    def assert_continues(self, arguments: list[str], results: str, stage: str = "online") -> str:
        """The same command ends as the undisturbed run did; returns what it prints."""
        status, said = call(arguments)
        assert status == 0, said
        self.assert_undisturbed(results, stage)
        return said

    def assert_undisturbed(self, results: str, stage: str = "online") -> None:
        """Weights, optimiser, replay, scores and metrics of a run, byte for byte; nothing half-written lies about."""
        run = self.trained(stage, results)
        assert_equal_runs(self.trained(stage), run)
        assert (run.parent / "evaluation.json").read_bytes() == (run / "evaluation.json").read_bytes()
        assert not half_written(run.parent)


def with_a_worker(arguments: list[str]) -> list[str]:
    """The same command with a worker process."""
    place = arguments.index("--workers", arguments.index("--workers") + 1)
    return [*arguments[:place], "--workers", "1", *arguments[place + 2 :]]


def half_written(folder: Path) -> list[Path]:
    """Locks and passing names of files; the files under final names are compared byte for byte."""
    return [path for path in folder.rglob("*") if path.name.endswith(".part") or path.name == "lock"]


def sessions(run: Path) -> list[int]:
    """The steps from which the attempts at a run began."""
    return [
        session["from_step"] for session in json.loads((run / "manifest.json").read_text(encoding="utf-8"))["sessions"]
    ]


@contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[Path]:
    """A file system of its own in memory; mounting needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a small disk up to some bytes; returns the file that does."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    with open(filler, "wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return filler
