"""Where a run stands: from what its folder and its job's log say, without torch and without taking a lock."""

from __future__ import annotations

import os
import re
import time
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
from mfql.tasks import ESTIMATE

# Seconds, and times as long as it takes from one row of a run's log to the next, after which it is said that none came.
_QUIET, _QUIET_ROWS = 600.0, 5.0
_TAIL = 16_384  # bytes of a log in which its last error is looked for
_ERROR = re.compile(r"^mfql\b.*: |\b\w*(Error|Exception)\b|\berror:|command not found|^Killed")
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
        quiet_since: when it was last seen to get on, if that is long ago for a run of its rate; seconds of the epoch.
        note: what there is to know: the error, when it diverged, who holds it.
        log: of the job that trained it last; None for a run that Snakemake did not start.
    """

    run: RunFolder
    state: State
    step: int | None = None
    steps: int | None = None
    rate: float | None = None
    quiet_since: float | None = None
    note: str = ""
    log: Path | None = None


def status_of(run: RunFolder, logs: Path) -> RunStatus:
    """Where a run stands now.

    Args:
        run: its folder, which may be absent.
        logs: the folder of the workflow's logs.
    """
    try:
        return _status_of(run, logs)
    except UserError as error:
        return RunStatus(run, State.UNREADABLE, note=unreadable(error))


def _status_of(run: RunFolder, logs: Path) -> RunStatus:
    log = log_of(run, logs)
    result, manifest = run.result(), run.manifest()
    lock, failure = holder(run.lock), run.failure()
    if failure is not None and lock is None:  # Also of a finished run, which the trainer refuses on other data.
        return RunStatus(run, State.FAILED, _last_mark(run)[0], _steps(manifest), note=failure["error"], log=log)
    if result is not None:
        return _ended(run, result, log)
    if lock is not None:
        return _running(run, manifest, lock, log)
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
    for path in listed(logs / run.stage / run.method / run.task):
        match = re.fullmatch(r"seed(\d+)(?:-(\d+))?\.log", path.name)
        if match and int(match[1]) <= run.seed <= int(match[2] or match[1]):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


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
    try:
        lines = _end_of(log).decode(errors="replace").splitlines()
    except OSError:  # Removed just now.
        return []
    errors = (at for at, line in enumerate(lines) if _ERROR.search(line) and _ASKED_TO_END not in line)
    last = max(errors, default=None)
    if last is None:
        return []
    remedy = takewhile(lambda line: line.startswith("  ") and line.strip(), lines[last + 1 :])
    return [line.strip() for line in (lines[last], *remedy)]


def _ended(run: RunFolder, result: dict[str, Any], log: Path | None) -> RunStatus:
    if result["status"] == "diverged":
        note = f"at step {result['diverged_at']:,}"
        return RunStatus(run, State.DIVERGED, result["diverged_at"], result["steps"], note=note, log=log)
    note = "scored by an estimate, no episode was played" if result["metric"] == ESTIMATE else ""
    return RunStatus(run, State.FINISHED, result["steps"], result["steps"], note=note, log=log)


def _running(run: RunFolder, manifest: dict[str, Any] | None, lock: OwnerRecord, log: Path | None) -> RunStatus:
    step, moment = _last_mark(run)
    began, first = _session(manifest)
    rate = _rate(step, moment, first, began)
    quiet = _quiet_since(run, rate, max((one for one in (moment, began) if one is not None), default=None))
    return RunStatus(run, State.RUNNING, step or 0, _steps(manifest), rate, quiet, note=f"by {named(lock)}", log=log)


def _rate(step: int | None, moment: float | None, first: int | None, began: float | None) -> float | None:
    """Steps a second from the first step and its moment to the last."""
    if step is None or moment is None or first is None or began is None or step <= first:
        return None
    return (step - first) / (moment - began) if moment > began else None  # A clock was set.


def _quiet_since(run: RunFolder, rate: float | None, moment: float | None) -> float | None:
    """The moment, if it is so long ago that nobody should be told when the run ends."""
    steps = _logged_steps(run)
    between = (steps[-1] - steps[-2]) / rate if rate and len(steps) > 1 else 0.0
    long_ago = moment is not None and time.time() - moment > max(_QUIET, _QUIET_ROWS * between)
    return moment if long_ago else None


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


def _end_of(path: Path) -> bytes:
    """The last bytes of a file.

    Raises:
        FileNotFoundError, NotADirectoryError: it is absent.
        CannotRead: it is there and cannot be read.
    """
    with open_file(path) as file, reading(path):
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return file.read(_TAIL)
