"""`mfql status --watch`: where runs stand, again and again: one table on a terminal, elsewhere lines each time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mfql.errors import counted, in_one_line, naming_extras, terminal_of
from mfql.gpus import Use, use_here
from mfql.operations.run_status import RunStatus, State
from mfql.operations.status import (
    end_of,
    grouped,
    headline,
    job_name,
    jobs_of,
    note_of,
    overview,
    ranges,
    rate_of,
    score_of,
    step_of,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_LEFT = (State.RUNNING, State.WAITING, State.INTERRUPTED)
_TROUBLE = (State.UNREADABLE, State.FAILED, State.DIVERGED, State.INTERRUPTED)
# Lines that a part of the picture has at least.
_FEW = 3
# Characters that are left of a task's name at least, and between two columns.
_SHORTEST, _GAP = 12, 2
_GIGABYTE = 1e9
# More GPUs are summed up.
_MOST_GPUS = 4

Look = Callable[[], Sequence[RunStatus]]


def watch_runs(look: Look, seconds: float, until_done: bool, in_full: bool) -> None:
    """Show where runs stand until Ctrl-C, which is how it is meant to end.

    Args:
        look: where each run stands now.
        seconds: from the end of one look to the next.
        until_done: end by itself where no run goes on, waits, or was interrupted.
        in_full: without a terminal, a line for every job.

    Raises:
        UserError: rich is not installed, or as of `look`.
    """
    try:
        _watch(look, seconds, until_done, in_full)
    except KeyboardInterrupt:
        return


@naming_extras("workflow")
def _watch(look: Look, seconds: float, until_done: bool, in_full: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=terminal_of(sys.stdout), highlight=False)
    if not console.is_terminal:
        while True:
            statuses = look()
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {overview(statuses, in_full)}\n", flush=True)
            if until_done and _is_done(statuses):
                return
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            statuses = look()
            live.update(picture(statuses, use_here(), console.width, console.height - 1), refresh=True)
            if until_done and _is_done(statuses):
                return
            time.sleep(seconds)


def _is_done(statuses: Sequence[RunStatus]) -> bool:
    return not any(one.state in _LEFT for one in statuses)


def picture(statuses: Sequence[RunStatus], gpus: Sequence[Use], width: int, height: int) -> RenderableType:
    """Where runs stand, within some lines: how many in each state, those that run, the others by method, and last by
    name what failed, diverged or was interrupted.

    Args:
        gpus: how busy this machine's are.
        width, height: characters of a line, and lines, that it has at most; less than 80 and a dozen cut what matters.
    """
    from rich.console import Group
    from rich.text import Text

    running = jobs_of(one for one in statuses if one.state is State.RUNNING)
    trouble = [job for state in _TROUBLE for job in jobs_of(one for one in statuses if one.state is state)]
    head = [f"{time.strftime('%H:%M:%S')}  {headline(one.state for one in statuses)}", *_gpu_lines(gpus)]
    room = height - len(head)
    # Each part has a line before it and one above its rows.
    of_trouble = min(len(trouble), max(_FEW, room // 4)) if trouble else 0
    room -= of_trouble + 1 if trouble else 0
    of_running = min(len(running), max(_FEW, room // 2)) if running else 0
    room -= of_running + 2 if running else 0
    parts: list[RenderableType] = [Text(in_one_line(line), no_wrap=True, overflow="ellipsis") for line in head]
    if running:
        parts += [Text(), _running(running, width, of_running)]
    if room > 2:
        parts += [Text(), _summary(statuses, width, room - 2)]
    if trouble:
        parts += [Text(), *(_named(line) for line in _fitting([_trouble(job) for job in trouble], of_trouble))]
    return Group(*parts)


def _gpu_lines(gpus: Sequence[Use]) -> list[str]:
    if len(gpus) > _MOST_GPUS:
        busy = sorted(one.percent for one in gpus if one.percent is not None)
        return [f"{len(gpus)} GPUs: {busy[0]:.0f} to {busy[-1]:.0f} % busy"] if busy else []
    return [f"GPU {number}: {_used(one)}" for number, one in enumerate(gpus)]


def _used(gpu: Use) -> str:
    percent = "" if gpu.percent is None else f", {gpu.percent:.0f} % busy"
    return gpu.name + percent + ("" if gpu.memory is None else f", {gpu.memory / _GIGABYTE:.1f} GB taken")


def _running(jobs: Sequence[list[RunStatus]], width: int, most: int) -> Table:
    names = ["running", "task", "stage", "seeds", "step", "/s", "ends", "score"]
    today, rows = time.strftime("%a %d %b "), []
    for job in jobs:
        run, steps, rate = job[0].run, job[0].steps, rate_of(job)
        place = f"{step_of(job):,}" + (f" of {steps:,}" if steps is not None else "")
        seeds = ranges([one.run.seed for one in job])
        pace = "" if rate is None else f"{rate:.3g}"
        end = (end_of(job) or "").replace(today, "")
        rows.append([run.method, run.task, run.stage, seeds, place, pace, end, score_of(job)])
    return _table(names, rows, width, most)


def _summary(statuses: Sequence[RunStatus], width: int, most: int) -> Table:
    """Runs by method, task and stage; where that is too much for the picture, by method and stage."""
    of = grouped(statuses, lambda one: (one.run.method, one.run.task, one.run.stage))
    tasks = len(of) <= most
    if not tasks:
        of = grouped(statuses, lambda one: (one.run.method, one.run.stage))
    names, rows = ["runs of", "task", "stage", "finished", "running", "waiting", "other", "score"], []
    for same in of:
        run, states = same[0].run, [one.state for one in same]
        counts = [states.count(state) for state in (State.FINISHED, State.RUNNING, State.WAITING)]
        several = counted(len({one.run.task for one in same}), "task")
        # A mean over tasks is for the report.
        score = score_of(one for one in same if one.state is State.FINISHED) if tasks else ""
        numbers = [str(number) if number else "" for number in (*counts, len(same) - sum(counts))]
        rows.append([run.method, run.task if tasks else several, run.stage, *numbers, score])
    return _table(names, rows, width, most)


def _trouble(job: list[RunStatus]) -> str:
    first = job[0]
    return "  ".join(filter(None, [f"{first.state}: {job_name(job)}: {note_of(first)}", str(first.log or "")]))


def _named(line: str) -> RenderableType:
    from rich.text import Text

    return Text(in_one_line(line), style="red", no_wrap=True, overflow="ellipsis")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], width: int, most: int) -> Table:
    """Rows under their columns' names; of a narrow terminal the tasks' names give way in their middle."""
    from rich.table import Table
    from rich.text import Text

    shown = rows if len(rows) <= most else rows[: most - 1]
    cells = [[in_one_line(cell) for cell in row] for row in shown]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    task = names.index("task")
    left = max(_SHORTEST, width - sum(widths) + widths[task] - _GAP * len(names))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in cells:
        row[task] = _shortened(row[task], left)
        table.add_row(*map(Text, row))
    if len(shown) < len(rows):
        table.add_row(Text("..."), Text(f"{len(rows) - len(shown):,} more"))
    return table


def _shortened(name: str, most: int) -> str:
    """A name within some characters: what tells tasks of an environment apart stands at its end."""
    if len(name) <= most:
        return name
    end = 2 * most // 3
    return f"{name[: most - end - 1]}…{name[-end:]}"


def _fitting(lines: Sequence[str], most: int) -> list[str]:
    """Some lines, the last of them saying how many more there are, where there are more."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"and {len(lines) - most + 1:,} more: mfql status"]
