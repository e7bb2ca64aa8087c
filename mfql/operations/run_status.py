"""Where a run stands: from what its folder and its job's log say, without torch and without taking a lock."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

from mfql.errors import UserError
from mfql.experiment.records import unreadable
from mfql.experiment.run import RunFolder
from mfql.files import listed, open_file, reading, there
from mfql.locks import OwnerRecord, holder, named
from mfql.settings import steps_of
from mfql.tasks import ESTIMATE, find_task

# Seconds, and times as long as it takes from one row of a run's log to the next, after which it is said that none came.
_QUIET, _QUIET_ROWS = 600.0, 5.0
_TAIL = 16_384  # bytes of a log in which its last error is looked for
_LOG_TAIL = 1 << 20  # and of a training log in which its last evaluation is
_EVALUATION = "evaluation/"  # what names of its rows begin with
_ERROR = re.compile(r"^mfql\b.*: |\b\w*(Error|Exception)\b|\berror:|command not found|^Killed")
# Of a bar, which begins with a method's name.
_BAR = re.compile(r"\d%\|")
_ASKED_TO_END = "mfql: asked to end"


class State(StrEnum):
    """Where a run stands, in the order in which people want to know."""

    UNREADABLE = "unreadable"
    FAILED = "failed"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Args:
        run: its folder.
        state: see `State`.
        step, steps: what is done, and of how many; None where nothing says.
        rate: steps a second since the present trainer took the run up; None where nothing says.
        moved: when a running one was last seen to get on, in seconds of the epoch; None where nothing says.
        patience: seconds from then on after which that is long ago for a run of its rate.
        metric, score: of the result, or else of the last evaluation so far, such as `success` and percent; None where
            there is none.
        note: what there is to know: the error, when it diverged, who holds it.
        log: of the job that trained it last; None for a run that Snakemake did not start.
    """

    run: RunFolder
    state: State
    step: int | None = None
    steps: int | None = None
    rate: float | None = None
    moved: float | None = None
    patience: float = _QUIET
    metric: str | None = None
    score: float | None = None
    note: str = ""
    log: Path | None = None

    @property
    def quiet_since(self) -> float | None:
        """When it was last seen to get on, if that is so long ago that nobody should be told when it ends."""
        return self.moved if self.moved is not None and time.time() - self.moved > self.patience else None


def status_of(run: RunFolder, logs: Path, config_dir: Path = Path("config")) -> RunStatus:
    """Where a run stands now.

    Args:
        run: its folder, which may be absent.
        logs: the folder of the workflow's logs.
        config_dir: folder of the task table, which says what a task is scored by.
    """
    try:
        return _status_of(run, logs, config_dir)
    except UserError as error:
        return RunStatus(run, State.UNREADABLE, note=unreadable(error))


class Looks:
    """Where runs stand, look after look: what did not change since the last one is not read again.

    Args:
        logs, config_dir: as of `status_of`.
    """

    def __init__(self, logs: Path, config_dir: Path = Path("config")) -> None:
        self._logs, self._config_dir = logs, config_dir
        self._seen: dict[RunFolder, tuple[list[str], _Dates, RunStatus]] = {}

    def at(self, runs: Iterable[RunFolder]) -> list[RunStatus]:
        """Where each of them stands now."""
        return [self._at(run) for run in runs]

    def _at(self, run: RunFolder) -> RunStatus:
        seen = self._seen.get(run)
        if seen is not None:
            files, dates, status = seen
            if _dates(files) == dates and _stays(status):
                return status
        files = _telling(run, self._logs)
        dates = _dates(files)  # Before they are read: what changes then is read again.
        status = status_of(run, self._logs, self._config_dir)
        self._seen[run] = files, dates, status
        return status


_Dates = list[tuple[int, int, int] | None]


def _telling(run: RunFolder, logs: Path) -> list[str]:
    """The files and folders that tell where a run stands."""
    files = [run.trained / name for name in ("evaluation.json", "manifest.json", "metrics.csv", "checkpoint")]
    files += [run.folder / "failure.json", run.lock, _log_folder(run, logs)]
    with suppress(UserError):  # `status_of` tells it.
        files += filter(None, [log_of(run, logs)])
    return list(map(str, files))


def _dates(files: Iterable[str]) -> _Dates:
    """When each was last changed, its rights among it; None of what is absent."""
    return [_changed(file) for file in files]


def _changed(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino


def _stays(status: RunStatus) -> bool:
    """Whether a run stands where it stood, if no file of it changed: a trainer may end without a sign."""
    if status.state is State.RUNNING:
        with suppress(UserError):
            return holder(status.run.lock) is not None
    return status.state not in (State.RUNNING, State.UNREADABLE)


def _status_of(run: RunFolder, logs: Path, config_dir: Path) -> RunStatus:
    log = log_of(run, logs)
    result, manifest = run.result(), run.manifest()
    lock, failure = holder(run.lock), run.failure()
    if failure is not None and lock is None:  # Also of a finished run, which the trainer refuses on other data.
        return RunStatus(run, State.FAILED, _last_mark(run)[0], _steps(manifest), note=failure["error"], log=log)
    if result is not None:
        return _ended(run, result, log)
    if lock is not None:
        return _running(run, manifest, lock, log, config_dir)
    if manifest is not None or there(run.lock):
        # The lock of a process that no longer lives is there still if it was killed; one that ended released it.
        how = "killed" if there(run.lock) else "asked to end"
        return RunStatus(run, State.INTERRUPTED, _last_mark(run)[0], _steps(manifest), note=how, log=log)
    error = last_error(log) if log is not None else None
    if error is not None:
        return RunStatus(run, State.FAILED, note=error, log=log)
    return RunStatus(run, State.WAITING)


def log_of(run: RunFolder, logs: Path) -> Path | None:
    """The latest log of a job that trained the run: `logs/STAGE/METHOD/TASK/seed0-7.log` for the seeds 0 to 7."""
    found = []
    for path in listed(_log_folder(run, logs)):
        match = re.fullmatch(r"seed(\d+)(?:-(\d+))?\.log", path.name)
        if match and int(match[1]) <= run.seed <= int(match[2] or match[1]):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def _log_folder(run: RunFolder, logs: Path) -> Path:
    return logs / run.stage / run.method / run.task


def last_error(log: Path) -> str | None:
    """The last line of a log that tells an error; None if there is none.

    Raises:
        CannotRead: the log is there and cannot be read.
    """
    return next(iter(error_and_remedy(log)), None)


def error_and_remedy(log: Path) -> list[str]:
    """The last line of a log that tells an error, and the indented ones below it, which say what to do; or nothing.

    Raises:
        CannotRead: the log is there and cannot be read.
    """
    lines = end_of_log(log).splitlines()
    errors = (at for at, line in enumerate(lines) if _is_error(line))
    last = max(errors, default=None)
    if last is None:
        return []
    remedy = takewhile(lambda line: line.startswith("  ") and line.strip(), lines[last + 1 :])
    return [line.strip() for line in (lines[last], *remedy)]


def _is_error(line: str) -> bool:
    return bool(_ERROR.search(line)) and _ASKED_TO_END not in line and not _BAR.search(line)


def end_of_log(log: Path) -> str:
    """The end of a log; empty where it is absent.

    Raises:
        CannotRead: it is there and cannot be read.
    """
    try:
        return _end_of(log).decode(errors="replace")
    except OSError:  # Removed just now.
        return ""


def _ended(run: RunFolder, result: dict[str, Any], log: Path | None) -> RunStatus:
    if result["status"] == "diverged":
        note = f"at step {result['diverged_at']:,}"
        return RunStatus(run, State.DIVERGED, result["diverged_at"], result["steps"], note=note, log=log)
    said = {"metric": result["metric"], "score": result["score"]}
    note = "scored by an estimate, no episode was played" if result["metric"] == ESTIMATE else ""
    return RunStatus(run, State.FINISHED, result["steps"], result["steps"], note=note, log=log, **said)


def _running(
    run: RunFolder, manifest: dict[str, Any] | None, lock: OwnerRecord, log: Path | None, config_dir: Path
) -> RunStatus:
    step, moment = _last_mark(run)
    began, first = _session(manifest)
    rate = _rate(step, moment, first, began)
    metric, score = _last_evaluation(run, config_dir)
    return RunStatus(
        run,
        State.RUNNING,
        step or 0,
        _steps(manifest),
        rate,
        moved=max((one for one in (moment, began) if one is not None), default=None),
        patience=_patience(run, rate),
        metric=metric,
        score=score,
        note=f"by {named(lock)}",
        log=log,
    )


def _rate(step: int | None, moment: float | None, first: int | None, began: float | None) -> float | None:
    """Steps a second from the first step and its moment to the last."""
    if step is None or moment is None or first is None or began is None or step <= first:
        return None
    return (step - first) / (moment - began) if moment > began else None  # A clock was set.


def _patience(run: RunFolder, rate: float | None) -> float:
    """Seconds without a step after which nobody should be told when a run of this rate ends."""
    steps = _logged_steps(run)
    between = (steps[-1] - steps[-2]) / rate if rate and len(steps) > 1 else 0.0
    return max(_QUIET, _QUIET_ROWS * between)


def _last_mark(run: RunFolder) -> tuple[int | None, float | None]:
    """The last step that the folder knows of, and when it was reached."""
    marks: list[tuple[int, float]] = []
    with suppress(OSError):  # A checkpoint that was removed just now.
        marks = [(step, run.checkpoints.path(step).stat().st_mtime) for step in run.checkpoints.steps()[-1:]]
    with suppress(OSError, IndexError):
        marks.append((_logged_steps(run)[-1], (run.trained / "metrics.csv").stat().st_mtime))
    return max(marks) if marks else (None, None)


def _logged_steps(run: RunFolder) -> list[int]:
    """The last steps that the training log has rows of, in their order; none where it is absent."""
    metrics = run.trained / "metrics.csv"
    with suppress(OSError, ValueError):
        whole = _end_of(metrics).split(b"\n")[1:-1]  # The first may be cut, and the last be written just now.
        return list(dict.fromkeys(int(line.split(b",")[0]) for line in whole))
    return []


def _last_evaluation(run: RunFolder, config_dir: Path) -> tuple[str | None, float | None]:
    """The metric that the run's task is scored by, and its value at the last evaluation that the training log has."""
    values: dict[str, float] = {}
    with suppress(OSError, ValueError):
        for line in _end_of(run.trained / "metrics.csv", _LOG_TAIL).split(b"\n")[1:-1]:
            _, name, value = line.decode().split(",")
            if name.startswith(_EVALUATION):
                values[name.removeprefix(_EVALUATION)] = float(value)
    metric = _metric_of(run.task, config_dir) if values else None
    return (metric, values[metric]) if metric in values else (None, None)


def _metric_of(task: str, config_dir: Path) -> str | None:
    with suppress(UserError):  # A task of an extension that is not named here.
        return find_task(task, config_dir).metric
    return None


def _session(manifest: dict[str, Any] | None) -> tuple[float | None, int | None]:
    """When the present trainer began, and at which step."""
    if not manifest or not manifest.get("sessions"):
        return None, None
    last = manifest["sessions"][-1]
    with suppress(KeyError, ValueError, OverflowError):  # No moment, as of another program.
        return datetime.fromisoformat(last["started"]).timestamp(), last.get("from_step")
    return None, None


def _steps(manifest: dict[str, Any] | None) -> int | None:
    with suppress(KeyError):  # Of a manifest that lacks them, which `mfql verify` tells.
        return None if manifest is None else steps_of(manifest["settings"], manifest["stage"])
    return None


def _end_of(path: Path, most: int = _TAIL) -> bytes:
    """The last bytes of a file.

    Args:
        most: how many.

    Raises:
        FileNotFoundError, NotADirectoryError: it is absent.
        CannotRead: it is there and cannot be read.
    """
    with open_file(path) as file, reading(path):
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)
