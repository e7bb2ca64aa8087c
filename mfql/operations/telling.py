"""What a launch prints of its jobs: a line when one starts, one when it ends, and of one that fails why."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mfql.errors import UserError, in_one_line
from mfql.experiment.find import run_of
from mfql.experiment.records import read_final
from mfql.experiment.run import RunFolder
from mfql.operations.run_status import RunStatus, State, end_of_log, error_and_remedy, status_of
from mfql.operations.status import ranges, score_of
from mfql.plan.graph import StartedJob

# Rules whose jobs take long: where they run here, a line says that they began.
_LONG = re.compile("train|evaluate|generate|fetch|describe|replay_dataset")
# What a separate evaluation writes into a run's folder.
_SEPARATE = "final.json"
# How a job ends that was asked to: a trainer with 75, another command by Ctrl-C with 130 or of the signal.
_ASKED = re.compile(r"exit status (75|130)\.$|<Signals\.(SIGINT|SIGTERM)\b")
# Lines of a log that are shown where it tells no error.
_LAST = 8


class Lines:
    """The lines of a launch.

    Args:
        logs: the folder of the workflow's logs.
        config_dir: folder of the task table.
        clock: seconds, from any moment on.
    """

    def __init__(self, logs: Path, config_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs, self._config_dir, self._clock = logs, config_dir, clock
        self._begun: dict[int, tuple[StartedJob, float]] = {}

    def started(self, job: StartedJob) -> list[str]:
        """A job's line as it starts."""
        self._begun[job.number] = job, self._clock()
        if job.here and not _LONG.match(job.rule):  # Soon done, and told then.
            return []
        return [self._line("started" if job.here else "submitted", job_named(job))]

    def finished(self, numbers: Sequence[int], done: int, total: int) -> list[str]:
        """The lines of jobs that finished, the last with how many have."""
        lines = []
        for number in numbers:
            if number not in self._begun:  # It began before this was read.
                continue
            job, since = self._begun.pop(number)
            said = ", ".join(filter(None, [duration(self._clock() - since), self._found(job)]))
            lines.append(self._line("finished", f"{job_named(job)}  {said}"))
        progress = f"{done} of {total} jobs"
        return [*lines[:-1], f"{lines[-1]}  [{progress}]"] if lines else [self._line(progress)]

    def failed(self, number: int, logs: Sequence[str], said: Sequence[str]) -> list[str]:
        """What failed, after how long, its log, and what the log ends with; of a job that was asked to end, that."""
        job, since = self._begun.get(number, (None, self._clock()))
        name = job_named(job) if job else f"job {number}"
        named = f"{name}  {duration(self._clock() - since)}"
        if any(map(_ASKED.search, said)):
            return [self._line("stopped", f"{named}  asked to end; the same command goes on")]
        lines = [self._line("FAILED", f"{named}  {' '.join(logs)}".rstrip())]
        lines += [f"    {one}" for one in said]
        for log in logs:
            with suppress(UserError):
                told = error_and_remedy(Path(log)) or _last_lines(Path(log))
                lines += [f"    {in_one_line(line)}" for line in told]
        return lines

    def _line(self, *words: str) -> str:
        what, *more = words
        return in_one_line("  ".join([time.strftime("%H:%M:%S"), f"{what:<9}", *more]).rstrip())

    def _found(self, job: StartedJob) -> str:
        """The scores that a job brought, and how many of its runs diverged."""
        runs = [run for file in job.output if (run := _trained(file))]
        statuses = [status_of(run, self._logs, self._config_dir) for run in runs]
        diverged = sum(one.state is State.DIVERGED for one in statuses)
        said = [score_of(statuses), f"{diverged} of {len(runs)} diverged" if diverged else ""]
        said.append(score_of([found for file in job.output if (run := _scored(file)) for found in self._separate(run)]))
        return ", ".join(filter(None, said))

    def _separate(self, run: RunFolder) -> list[RunStatus]:
        """The run with what its separate evaluation found, in the metric that it is scored by, as its score."""
        with suppress(UserError):
            status, final = status_of(run, self._logs, self._config_dir), read_final(run.folder / _SEPARATE)
            return [replace(status, score=final.get(status.metric or ""))]
        return []


def _last_lines(log: Path) -> list[str]:
    """The last lines of a log, of a bar its last state."""
    lines = [line.rpartition("\r")[2].rstrip() for line in end_of_log(log).split("\n")]
    return [line for line in lines if line][-_LAST:]


def _trained(file: str) -> RunFolder | None:
    """The run whose result a file is."""
    return run_of(Path(file)) if Path(file).name == "evaluation.json" else None


def _scored(file: str) -> RunFolder | None:
    """The run of whose separate evaluation a file is."""
    return run_of(Path(file)) if Path(file).name == _SEPARATE else None


def job_named(job: StartedJob) -> str:
    """A job in words: what it trains or scores, or its rule and what that is of."""
    trained = [run for file in job.output if (run := _trained(file))]
    runs = trained or [run for file in job.output if (run := _scored(file))]
    if runs:
        seeds = ranges([run.seed for run in runs])
        named = f"{runs[0].stage} {runs[0].method} {runs[0].task} seed{'s' if len(runs) > 1 else ''} {seeds}"
        return named if trained else f"evaluation {named}"
    values = [value for value in job.wildcards.values() if value]
    return " ".join([job.rule, *values])


def duration(seconds: float) -> str:
    """A time in words: `47 s`, `3 min 20 s`, `5 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
