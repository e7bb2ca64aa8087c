"""`mfql status`: the runs of a configuration or a folder, by where they stand; it may be asked while they go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from itertools import groupby

from mfql.errors import counted, in_one_line
from mfql.operations.run_status import RunStatus, State

# More lines of runs that wait or are finished, of which there is little to say, are summed up.
_MOST_LINES = 12
_SUMMED_UP = (State.WAITING, State.FINISHED)


def overview(statuses: Iterable[RunStatus], in_full: bool) -> str:
    """The runs by state, seeds of one job that stand alike in one line.

    Args:
        statuses: of every run.
        in_full: a line for all of them, however many wait or are finished.
    """
    by_state: dict[State, list[RunStatus]] = {state: [] for state in State}
    for one in statuses:
        by_state[one.state].append(one)
    lines = [headline([one.state for found in by_state.values() for one in found])]
    for state, found in by_state.items():
        if found:
            lines += ["", state, *_lines(state, found, in_full)]
    return "\n".join(lines)


def headline(states: Iterable[State]) -> str:
    """How many runs there are, and how many of them in each state."""
    counts = Counter(states)
    named = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return f"{counted(counts.total(), 'run')}: {named or 'none'}"


def _lines(state: State, found: list[RunStatus], in_full: bool) -> list[str]:
    jobs = jobs_of(found)
    if len(jobs) <= _MOST_LINES or state not in _SUMMED_UP or in_full:
        return [in_one_line(f"  {_line(job)}") for job in jobs]
    stages = grouped(found, lambda one: (one.run.method, one.run.stage))
    return [
        in_one_line(f"  {own.method} {own.stage}: {counted(len(same), 'run')}")
        + f" on {counted(len({one.run.task for one in same}), 'task')}"
        for same in stages
        for own in [same[0].run]
    ]


def jobs_of(found: Iterable[RunStatus]) -> list[list[RunStatus]]:
    """Runs of a state, those of one job that stand alike together."""
    return grouped(found, lambda one: (one.run.method, one.run.task, one.run.stage, one.steps, note_of(one), one.log))


def grouped(found: Iterable[RunStatus], key: Callable[[RunStatus], Hashable]) -> list[list[RunStatus]]:
    """Items of the same key together, in the order of each key's first."""
    groups: dict[Hashable, list[RunStatus]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _line(job: list[RunStatus]) -> str:
    first, name = job[0], job_name(job)
    said = ", ".join(filter(None, [_place(job), _pace(job), _score(job), note_of(first)]))
    return "  ".join(filter(None, [f"{name}: {said}" if said else name, str(first.log or "")]))


def job_name(job: list[RunStatus]) -> str:
    """`METHOD TASK STAGE seeds 0-7`."""
    run, seeds = job[0].run, ranges([one.run.seed for one in job])
    return f"{run.method} {run.task} {run.stage} seed{'s' if len(job) > 1 else ''} {seeds}"


def _place(job: list[RunStatus]) -> str:
    """How far runs that have begun and are not finished have come; seeds of a job are a moment apart."""
    state, steps = job[0].state, job[0].steps
    if state in (*_SUMMED_UP, State.DIVERGED) or steps is None:
        return ""
    return f"step {step_of(job):,} of {steps:,}"


def step_of(job: list[RunStatus]) -> int:
    """The step that all seeds of a job have reached."""
    return min(one.step or 0 for one in job)


def note_of(one: RunStatus) -> str:
    """What there is to know of a run, and of one that was interrupted what continues it."""
    if one.state is State.INTERRUPTED:
        return f"{one.note}; the same command continues it"
    return one.note


def _pace(job: list[RunStatus]) -> str:
    """Rate and expected end of a job that runs."""
    if job[0].state is not State.RUNNING:
        return ""
    rate, end = rate_of(job), end_of(job)
    if end is None:
        return "rate not known yet"
    return end if rate is None else f"{rate:.3g} a second, ends about {end}"


def rate_of(job: list[RunStatus]) -> float | None:
    """Steps a second of a job that gets on; None where nothing says, or where it made none for long."""
    rates = [one.rate for one in job if one.rate]
    return None if not rates or _quiet_since(job) is not None else sum(rates) / len(rates)


def end_of(job: list[RunStatus]) -> str | None:
    """When a job that gets on is expected to end, or since when it made no step; None where nothing says."""
    if (quiet := _quiet_since(job)) is not None:
        return f"no step since {_date(quiet)}"
    rate, steps = rate_of(job), job[0].steps
    return None if rate is None or steps is None else _date(time.time() + (steps - step_of(job)) / rate)


def _quiet_since(job: list[RunStatus]) -> float | None:
    return max((one.quiet_since for one in job if one.quiet_since is not None), default=None)


def _score(job: list[RunStatus]) -> str:
    """What the last evaluation of a job that runs gave."""
    return score_of(job) if job[0].state is State.RUNNING else ""


def score_of(found: Iterable[RunStatus]) -> str:
    """The mean score of runs that have one, results and last evaluations so far; empty where none has, or they differ
    in what is scored."""
    scores = [(one.metric, one.score) for one in found if one.score is not None]
    if len({metric for metric, _ in scores}) != 1:
        return ""
    mean = sum(score for _, score in scores) / len(scores)
    return f"success {mean:.0f} %" if scores[0][0] == "success" else f"{scores[0][0]} {mean:.3g}"


def _date(moment: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.localtime(moment))


def ranges(seeds: list[int]) -> str:
    """`0-3,7` for the seeds 0, 1, 2, 3 and 7."""
    ordered = sorted(seeds)
    runs = [[number for _, number in group] for _, group in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
