"""What follows runs while they train and hands their logs to trackers, in a process of its own for each tracker.

Training writes its log as without trackers, and says in memory that both share how many bytes of it a checkpoint
vouches for. So much is handed on and no more: what a killed session wrote after its last checkpoint no tracker has
seen, and the continued run writes it once. A tracker that hangs, fails or dies takes nothing from training but a
warning, and what it missed lies in the log.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from mfql.errors import counted, printing, warn
from mfql.experiment.records import if_there, read_evaluation, read_manifest
from mfql.extensions import end_with_parent, start_module
from mfql.files import open_file
from mfql.training.trackers import TRACKERS, Ending, Row, Tracker

# Seconds: between two looks; until what failed is tried again; and how long the end of a session waits for a tracker,
# that of one that was asked to end less, since whoever asked may not wait for long.
_LOOK, _AGAIN, _PATIENCE, _HURRY = 0.1, 60.0, 120.0, 10.0
# What of a finished run is one value, for what a tracker calls summary.
_SUMMARY = ("score", "metric", "status", "diverged_at", "stopped_at")

Tell = Callable[[Sequence[int]], None]


@contextmanager
def tracked(names: Iterable[str], folders: Sequence[Path]) -> Iterator[Tell]:
    """Within it, runs are followed by trackers.

    Args:
        names: of trackers.
        folders: that the trainer owns, one a run, which have their manifests.

    Yields:
        a function that takes how many bytes of each run's log a checkpoint vouches for; their last step is whole.
    """
    with ExitStack() as stack:
        followers = []
        for name in names:
            for some in [folders] if TRACKERS[name].together else [[folder] for folder in folders]:
                place = folders.index(some[0])
                try:
                    followers.append((_Follower(name, some), place))
                except OSError as error:
                    warn(f"{name} does not follow {some[0]}: {error.strerror or error}")
                    continue
                stack.callback(followers[-1][0].close)

        def tell(sizes: Sequence[int]) -> None:
            for follower, place in followers:
                follower.tell(sizes[place : place + len(follower.folders)])

        ending = Ending.FAILED
        try:
            yield tell
            ending = Ending.FINISHED
        except Exception:
            raise
        except BaseException:
            ending = Ending.INTERRUPTED
            raise
        finally:
            for follower, _ in followers:
                follower.end(ending)
            until = time.monotonic() + (_PATIENCE if ending == Ending.FINISHED else _HURRY)
            for follower, _ in followers:
                follower.wait(until)


class _Shared:
    """Numbers that trainer and follower share: how the session ended, 0 until then, and bytes of each run's log.

    Args:
        file: a descriptor of them.
        runs: how many there are.
    """

    def __init__(self, file: int, runs: int) -> None:
        self._memory = mmap.mmap(file, 8 * (1 + runs))
        self.numbers = memoryview(self._memory).cast("q")  # Each is written in one piece.


class _Follower:
    """The process of one tracker, as the trainer sees it."""

    def __init__(self, name: str, folders: Sequence[Path]) -> None:
        self.folders, self._name = folders, name
        with tempfile.TemporaryFile() as file:
            os.truncate(file.fileno(), 8 * (1 + len(folders)))
            self._shared = _Shared(file.fileno(), len(folders))
            arguments = [name, json.dumps(list(map(str, folders)))]
            self._process, self._lives = start_module(__name__, arguments, [file.fileno()])

    def tell(self, sizes: Sequence[int]) -> None:
        """Say how many bytes of each log may be handed on."""
        for place, size in enumerate(sizes, start=1):
            self._shared.numbers[place] = size

    def end(self, ending: Ending) -> None:
        """Say that the session has ended, and how."""
        self._shared.numbers[0] = ending

    def wait(self, until: float) -> None:
        """Wait until it has handed all on, but not for ever; what it could not is said."""
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            how = "took too long and was ended" if code is None else f"ended by itself ({code})"
            warn(
                f"{self._name}: what follows {counted(len(self.folders), 'run')} {how}; it may lack the end of a curve",
                f"{self.folders[0] / 'metrics.csv'} has all of it.",
            )

    def close(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lives)


class _Feed:
    """One run's log on its way to a tracker.

    Args:
        name: of the tracker.
        folder: that the trainer owns of the run.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._tracker: Tracker | None = None
        self._at, self._started = 0, False
        self._next = 0.0

    def go_on(self, size: int, ending: int) -> Exception | None:
        """Hand on what is new; what failed is tried again after a while and at the end.

        Returns:
            what failed now.
        """
        if not ending and time.monotonic() < self._next:
            return None
        try:
            self._hand_on(size, ending)
        except Exception as error:  # A library's: it may be of any kind.
            self._started, self._next = False, time.monotonic() + _AGAIN
            return error
        return None

    def _hand_on(self, size: int, ending: int) -> None:
        if self._tracker is None:
            self._tracker = TRACKERS[self._name](self._folder, read_manifest(self._folder / "manifest.json"))
        if not self._started:
            self._tracker.start()
            self._at, self._started = 0, True
        if size > self._at:
            self._tracker.log(list(_rows(self._folder / "metrics.csv", self._at, size)))
            self._at = size
        if not ending:
            return
        found = if_there(read_evaluation, self._folder / "evaluation.json") if ending == Ending.FINISHED else None
        if ending == Ending.FINISHED and found is None:
            ending = Ending.INTERRUPTED  # It paused, and goes on some day.
        self._tracker.finish(Ending(ending), _summary(found or {}))


def _summary(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in _SUMMARY if result.get(key) is not None}


def _rows(log: Path, start: int, end: int) -> Iterator[Row]:
    """The rows of a part of a log, one a step."""
    with open_file(log) as file:
        file.seek(start)
        lines = file.read(end - start).decode().splitlines()
    cells = [line.split(",") for line in lines if line and not line.startswith("step,")]
    for step, some in groupby(cells, key=lambda row: int(row[0])):
        yield step, {name: float(value) for _, name, value in some}


def _follow(name: str, folders: Sequence[Path], numbers: Sequence[int]) -> None:
    """The process's life: hand on what training vouches for, until it ends."""
    feeds = [_Feed(name, folder) for folder in folders]
    said = False
    while True:
        ending, *sizes = numbers
        failed = [feed.go_on(size, ending) for feed, size in zip(feeds, sizes, strict=True)]
        errors = [(error, folder) for error, folder in zip(failed, folders, strict=True) if error is not None]
        if errors and not said:
            said = True
            _warn(name, *errors[0])
        if ending:
            if errors:
                _warn_of_end(name, [folder for _, folder in errors])
            return
        time.sleep(_LOOK)


def _warn(name: str, error: Exception, folder: Path) -> None:
    first = next(iter(str(error).splitlines()), "")
    warn(
        f"{name} fails for {folder}: {type(error).__name__}: {first}",
        "Training goes on, as without it; this is tried again on the way and at the end.",
    )


def _warn_of_end(name: str, folders: Sequence[Path]) -> None:
    warn(
        f"{name} lacks the end of {counted(len(folders), 'run')}, such as {folders[0]}",
        "metrics.csv in the run's folder has all of it.",
    )


def _say_nothing_else() -> None:
    """What libraries print goes nowhere; warnings go where they go in the trainer."""
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)


def _set_defaults(variables: Mapping[str, str]) -> None:
    for variable, value in variables.items():
        os.environ.setdefault(variable, value)


if __name__ == "__main__":
    _tracker, _folders, _numbers, _lives = sys.argv[1:]
    end_with_parent(int(_lives))
    _say_nothing_else()
    _set_defaults(TRACKERS[_tracker].defaults)
    _paths = [Path(path) for path in json.loads(_folders)]
    with printing():
        _follow(_tracker, _paths, _Shared(int(_numbers), len(_paths)).numbers)
