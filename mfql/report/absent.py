"""Seeds that a table of scores should have a score of and has none: a mean over the others is another number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.documents import read_text
from mfql.errors import warn
from mfql.experiment.find import run_of
from mfql.files import there

# Beside a table of scores: the `evaluation.json` of every run that was asked for, a line each.
PLANNED = "runs.txt"
# A warning names no more averages.
_MOST = 8

# Method, task and stage of a mean over seeds.
Average = tuple[str, str, str]


def planned_beside(scores_file: Path) -> dict[Average, set[int]]:
    """The seeds that a study asked for, by what they are averaged in; empty where no list lies beside its scores.

    Raises:
        UserError: the list cannot be read.
    """
    path = scores_file.with_name(PLANNED)
    found: dict[Average, set[int]] = {}
    for line in read_text(path, "Launch again.").splitlines() if there(path) else []:
        if (run := run_of(Path(line))) is not None:
            found.setdefault((run.method, run.task, run.stage), set()).add(run.seed)
    return found


def absent_seeds(
    scores: pd.DataFrame, planned: dict[Average, set[int]], *, as_others: bool = False
) -> dict[Average, list[int]]:
    """The seeds without a score, by what they would be averaged in.

    Where nobody says what was planned, these are the seeds between others.

    Args:
        scores: a table of `mfql.report.scores`.
        planned: as of `planned_beside`.
        as_others: count the seeds of other methods on the same task and stage, too, where nothing was planned.
    """
    scored = scores[scores["metric"] == "score"]
    seeds = {_average(key): set(own["seed"]) for key, own in scored.groupby(["method", "task", "stage"])}
    of_others = {key: set(own["seed"]) for key, own in scored.groupby(["task", "stage"])} if as_others else {}
    found = {}
    for average in sorted(seeds | planned):
        own, expected = seeds.get(average, set()), planned.get(average)
        if expected is None:
            expected = set(range(min(own), max(own))) | of_others.get(average[1:], set())
        if lacking := expected - own:
            found[average] = sorted(map(int, lacking))
    return found


def say_absent(scores: pd.DataFrame, scores_file: Path) -> None:
    """Warn of the seeds that a table of scores has no score of, before a mean is made of the others."""
    found = absent_seeds(scores, planned_beside(scores_file), as_others=True)
    if not found:
        return
    named = [said(*entry) for entry in found.items()]
    more = f"; and of {len(named) - _MOST} more" if len(named) > _MOST else ""
    warn(
        f"{scores_file} has no score of {'; '.join(named[:_MOST])}{more}: means are of the other seeds",
        "`mfql scores` collects what is finished; `mfql verify` tells whether the table was altered.",
    )


def said(average: Average, seeds: Iterable[int]) -> str:
    """`seed 3 of METHOD TASK STAGE`."""
    listed = ", ".join(map(str, seeds))
    return f"seed{'s' if ',' in listed else ''} {listed} of {' '.join(average)}"


def _average(key: Any) -> Average:
    method, task, stage = map(str, key)
    return method, task, stage
