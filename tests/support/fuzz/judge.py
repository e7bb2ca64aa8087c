"""A command on a mutated file, in a process of its own, and what is wrong with how it ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from mfql.cli import main
from mfql.errors import UserError
from mfql.extensions import VARIABLE
from tests.support.training_runs import ROOT

# Of the processor's time for what computes, of a clock's for what waits: other work may share the machine.
SECONDS, SECONDS_ASLEEP = 60, 240
# Of the server of datasets: what was fetched in part says from where.
PORT = 18491
# Above what the process has when it begins.
MEMORY = 3 << 30
# Nothing of a file may move a terminal's cursor or colour it.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Command:
    """Words of `mfql`, and what it may do.

    Args:
        words: the arguments; the folder `out` is its own.
        every: it is called in each so many cases alone, since it is dear.
        of: a pattern of the files for which it is called, where it does not read all of a kind.
        exits: the documented statuses.
        vouched: a hash vouches for the file, so that a status of 0 is right only where the file is named.
        keys: of a document, the entries that it takes; without any those of the kind.
        writes: patterns of files that it may change beside those that it changes in the healthy place.
        same: patterns of files that it must leave, where it ends with 0, as it does in the healthy place.
    """

    words: str
    every: int = 1
    of: str = "*"
    exits: tuple[int, ...] = (0, 2)
    vouched: bool = False
    keys: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


@dataclass
class Ended:
    """How a command ended.

    Args:
        seconds, processor: on a clock, and of the processor.
        changed: files and folders that are not as before.
        content: of the files that must be as in the healthy place.
    """

    status: int
    text: str
    seconds: float
    processor: float
    changed: set[str] = field(default_factory=set)
    content: dict[str, bytes] = field(default_factory=dict)


Seen = dict[str, tuple[int, ...]]


def seen(folder: Path) -> Seen:
    """What lies below a folder, but for `out`, and by what a change is noticed: inode, size, date."""
    found: Seen = {}
    for place, folders, names in os.walk(folder):
        if place == str(folder):
            folders[:] = [name for name in folders if name != "out"]
        for name in [*names, *folders]:
            path = os.path.join(place, name)
            about = os.lstat(path)
            known = (
                (about.st_ino, about.st_mode) if name in folders else (about.st_ino, about.st_size, about.st_mtime_ns)
            )
            found[os.path.relpath(path, folder)] = known
    return found


def differences(before: Seen, after: Seen) -> set[str]:
    """The files and folders that are not as before."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def call(words: list[str], folder: Path) -> Ended:
    """Run `mfql` in a folder."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            _be(words, folder, output.fileno())
        status, processor = _wait(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # What it started and left.
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return Ended(status, text, time.monotonic() - began, processor)


def _be(words: list[str], folder: Path, output: int) -> None:
    """The process of the command; never returns."""
    os.setsid()
    status = 1
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - for the life of the process
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        has = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
        if (folder / "miniature").is_dir():
            os.environ[VARIABLE] = str(folder / "miniature")
        try:
            status = FUNCTIONS[words[0]](*words[1:]) if words[0] in FUNCTIONS else main(words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def _for_people(function: Callable[..., Any]) -> Callable[..., int]:
    """What is called from Python and not by a command, with its errors as the command line shows them."""

    def called(*arguments: str) -> int:
        try:
            function(*arguments)
        except UserError as error:
            print(f"mfql: {error}", file=sys.stderr)
            return 2
        return 0

    return called


@cache
def goal_env(task: str) -> Any:
    """The environment of a state task, begun; made once for all processes that are forked later."""
    from mfql.envs.isolated import reset_env
    from mfql.envs.ogbench import make_task

    env = make_task(task)
    reset_env(env, 0)
    return env


def _load(task: str, data: str) -> None:
    from mfql.data import ogbench
    from mfql.suites import load
    from mfql.tasks import find_task

    if task.startswith("visual-"):  # Its goal counts alone: to render, and to build the scene, takes seconds.
        made = goal_env(task.removeprefix("visual-"))
        space = Box(0, 255, (64, 64, 3), np.uint8)
        type(made.unwrapped).observation_space = property(lambda _: space)
        ogbench.make_task = lambda _: made
    rows = load(find_task(task, Path("config")), Path(data))
    for part in (rows.observations, rows.next_observations):
        if not np.isfinite(np.asarray(part[np.arange(len(rows.rewards))], np.float32)).all():
            raise AssertionError("numbers that are not finite are trained on")


def _load_released(file: str) -> None:
    from mfql.agents.flax import load_checkpoint
    from mfql.parity import Fixture, load_fixture

    load_checkpoint(Fixture(load_fixture(ROOT / "tests/data/reference.npz")).agent, Path(file))


def _act(folder: str) -> None:
    from mfql import load_policy

    policy = load_policy(folder)
    action = policy(np.zeros(policy.make_env().observation_space.shape, np.float32))
    if not np.isfinite(action).all():
        raise AssertionError(f"the policy acts with {action}")


def _find_speed(file: str) -> None:
    from mfql.plan.cost import find_speed

    print(find_speed(Path(file), 0))


def _search(file: str) -> None:
    from mfql.experiment.search import studies
    from mfql.studies.tuning.study import opened
    from tests.support.fuzz.places import SEARCH

    with opened(Path(file), studies(SEARCH, "config"), "config") as (optimiser,):
        print(optimiser.methods("COMPLETE"), optimiser.methods("PRUNED"))
        for trial in optimiser.batch():
            print(trial.number, trial.method)
            trial.report(1.0, 10)
            trial.complete(1.0)


def _read_pause(file: str) -> None:
    from mfql.experiment.records import read_pause

    print(read_pause(Path(file))["evaluations"])


def _fetch(dataset: str, *more: str) -> int:
    """`mfql data fetch` from a server that has the files of the folder `source`."""
    from tests.support.dataset_server import Site

    site = Site({file.name: file.read_bytes() for file in Path("source").iterdir()}, tags=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    os.environ["NO_PROXY"] = "127.0.0.1"
    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            return main(["data", "fetch", dataset, "--mirror", f"http://127.0.0.1:{PORT}", *more])
        finally:
            server.shutdown()


# What is called from Python, or would need a working copy of the whole project.
FUNCTIONS: dict[str, Callable[..., int]] = {
    "mfql.suites.load": _for_people(_load),
    "mfql.agents.flax.load_checkpoint": _for_people(_load_released),
    "mfql.load_policy": _for_people(_act),
    "mfql.plan.cost.find_speed": _for_people(_find_speed),
    "tune search": _for_people(_search),
    "mfql.experiment.records.read_pause": _for_people(_read_pause),
    "data fetch from a server": _fetch,
}


def _wait(pid: int) -> tuple[int, float]:
    """The exit status, negative for a signal, -99 for asleep too long; and the processor's seconds."""
    deadline = time.monotonic() + SECONDS_ASLEEP
    pause = 0.002
    while time.monotonic() < deadline:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        time.sleep(pause)
        pause = min(0.05, pause * 1.3)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -99, 0.0


def faults(command: Command, ended: Ended, healthy: Ended, mutated: str, same: bool = False) -> list[str]:
    """What is wrong with how a command ended, in words; nothing where nothing is.

    Args:
        same: the file says the same in other characters, or is gone and made again, so that to end with 0 is right
            where the results are those of the healthy place.
    """
    found = []
    if "Traceback (most recent" in ended.text:
        found.append("a traceback")
    elif ended.status == -99 or -ended.status in (signal.SIGXCPU, signal.SIGKILL):
        found.append(f"it does not end ({ended.seconds:.0f} s)")
    elif ended.status not in command.exits:
        found.append(f"the exit status {ended.status}")
    elif ended.status and not ended.text.strip():
        found.append("an error without a word")
    if match := _CONTROL.search(ended.text.replace("\x1b[A", "")):
        found.append(f"the control character {match[0]!r} is printed")
    may = healthy.changed | {name for name in ended.changed if any(fnmatch(name, one) for one in command.writes)}
    if more := sorted(ended.changed - may):
        found.append(f"files changed: {', '.join(more[:4])}{' ...' if len(more) > 4 else ''}")
    if command.vouched and not same and ended.status == 0 and Path(mutated).name not in ended.text:
        found.append("accepted without a word")
    if ended.status == 0:
        other = [name for name, content in healthy.content.items() if ended.content.get(name) != content]
        found += [f"another result: {', '.join(other)}"] if other else []
    return found
