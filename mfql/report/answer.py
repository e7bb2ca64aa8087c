"""The answer in words: which task, which score, how sure."""

from __future__ import annotations

from math import isnan
from typing import Any

import pandas as pd
from markupsafe import Markup

from mfql.errors import counted
from mfql.report.tasks import ESTIMATED, RETURN, SUCCESS, is_estimate
from mfql.settings import STAGES

FEW_TASKS = 3  # up to here each task has its sentences; above, the answer is over tasks and the table has each
_EXPECTED = "is expected, from its dataset alone, to reach"  # of a task without an environment
_REACHES = {"offline": "reaches", "pretrain": "reaches before going online", "online": "ends online at"}

Row = dict[Any, Any]


def number(value: float, unit: str = "") -> str:
    """A score to one decimal, with its percent sign where it is a success rate."""
    return f"{value:.1f}\u202f%" if unit == SUCCESS else f"{value:.1f}"


def ends(low: float, high: float) -> str:
    """An interval's ends in brackets; in words where a single seed gives none."""
    return "(one seed: no interval)" if isnan(low) else f"[{low:.1f}, {high:.1f}]"


def answer(tables: dict[str, pd.DataFrame]) -> list[Markup]:
    """The findings in sentences, as escaped HTML with the numbers marked as strong.

    Args:
        tables: the frames of `mfql.report.aggregate.TABLES` by name.
    """
    tasks = tables["tasks"]["task"].unique()
    sentences = _over_tasks(tables["aggregate"], tables["comparisons"]) if len(tasks) > 1 else []
    if len(tasks) <= FEW_TASKS:
        for task in tasks:
            sentences += _on_task(task, tables["tasks"], tables["comparisons"])
    return sentences + _broken(tables["tasks"])


def _broken(tasks: pd.DataFrame) -> list[Markup]:
    """A sentence for each method, task and stage with episodes that broke: what they score is no policy's doing."""
    if "broken" not in tasks:  # Of tables of an earlier version.
        return []
    sentences = []
    for row in _rows(tasks[(tasks["metric"] == "score") & (tasks["broken"] > 0)]):
        where = Markup("{} on <b>{}</b>, {}").format(row["method"], row["task"], row["stage"])
        said = f"{row['broken']} episodes broke, and count as failed"
        if row["all_broken"]:
            said = f"every episode of the evaluations of {row['all_broken']} of {_seeds(row['seeds'])} broke"
            said += ": its environment failed, and the score says nothing of a policy"
        sentences.append(Markup("{}: {}.").format(where, said))
    return sentences


def _on_task(task: str, tasks: pd.DataFrame, comparisons: pd.DataFrame) -> list[Markup]:
    """The sentences on one task; a pretrain stage speaks through the rise that follows it, if one does."""
    on_task = tasks[tasks["task"] == task]
    stages = [stage for stage in STAGES if (on_task["stage"] == stage).any()]
    sentences = []
    for stage in [stage for stage in stages if stage != "pretrain"] or stages:
        scores = on_task[(on_task["stage"] == stage) & (on_task["metric"] == "score")]
        rises = on_task[(on_task["stage"] == stage) & (on_task["metric"] == "rise")]
        if len(rises):
            sentences.append(_rises(task, scores, rises))
        if rises.empty or len(scores) > 1:
            pairs = comparisons[(comparisons["task"] == task) & (comparisons["stage"] == stage)]
            sentences.append(_scores(task, stage, scores, pairs))
    return sentences


def _scores(task: str, stage: str, scores: pd.DataFrame, pairs: pd.DataFrame) -> Markup:
    """One sentence: each method's score, best first, and whose intervals the best one's is apart from."""
    best, *others = _ranked(scores)
    sentence = Markup("On <b>{}</b>, {} {} {} over {}").format(
        task,
        best["method"],
        _EXPECTED if is_estimate(best["unit"]) else _REACHES[stage],
        _score(best),
        _seeds(best["seeds"]),
    )
    for row in others:
        sentence += Markup("; {} {}").format(row["method"], _score(row))
        sentence += "" if row["seeds"] == best["seeds"] else f" over {_seeds(row['seeds'])}"
    return sentence + _apart(best["method"], pairs) + "."


def _score(row: Row) -> Markup:
    named = {SUCCESS: "success", RETURN: "normalised return"}
    what = ESTIMATED if is_estimate(row["unit"]) else named.get(row["unit"], row["unit"])
    text = Markup("<strong>{}</strong> {} {}").format(
        number(row["value"], row["unit"]), what, ends(row["low"], row["high"])
    )
    return text + (f", {row['diverged']} of {row['seeds']} diverged" if row["diverged"] else "")


def _apart(best: str, pairs: pd.DataFrame) -> str:
    """Whether the best method's interval is apart from the others', in words."""
    compared = pairs[(pairs["method"] == best) | (pairs["baseline"] == best)]
    overlapping = [
        row["baseline"] if row["method"] == best else row["method"] for row in _rows(compared[~compared["apart"]])
    ]
    if compared.empty:
        return ""
    if len(compared) == 1:
        return ": intervals overlap" if overlapping else ": intervals apart"
    if not overlapping:
        return f": {best}’s interval is apart from all others"
    return f": {best}’s interval overlaps that of {', '.join(overlapping)}"


def _rises(task: str, scores: pd.DataFrame, rises: pd.DataFrame) -> Markup:
    """One sentence: from where to where online training took each method."""
    parts = []
    for row in _ranked(rises):
        end = float(scores.loc[scores["method"] == row["method"], "value"].iloc[0])
        parts.append(
            Markup("{} goes from {} to <strong>{}</strong>: {}").format(
                row["method"], number(end - row["value"], row["unit"]), number(end, row["unit"]), _rise(row)
            )
        )
    return Markup("Online on <b>{}</b>, {}.").format(task, Markup("; ").join(parts))


def _rise(row: Row) -> Markup:
    if isnan(row["low"]):
        verdict = ""
    elif row["low"] > 0:
        verdict = ", above zero"
    else:
        verdict = ", below zero" if row["high"] < 0 else ", zero not ruled out"
    text = Markup("a rise of <strong>{:.1f}</strong> points {} over {}{}")
    return text.format(row["value"], ends(row["low"], row["high"]), _seeds(row["seeds"]), verdict)


def _over_tasks(aggregate: pd.DataFrame, comparisons: pd.DataFrame) -> list[Markup]:
    """The means over tasks, a sentence each: offline scores, and the rise online, or the scores where it has none."""
    means = aggregate[(aggregate["statistic"] == "mean") & (aggregate["tasks"] > 1)]
    rising = set(means.loc[means["metric"] == "rise", "unit"])
    sentences = []
    for (stage, unit, metric), part in means.groupby(["stage", "unit", "metric"], sort=False):
        best, *others = ranked = _ranked(part)
        where = Markup("Over <b>{} tasks</b>, {}").format(best["tasks"], "online" if metric == "rise" else stage)
        if metric == "rise":
            parts = [Markup("{}: {}").format(row["method"], _rise(row)) for row in ranked]
            sentences.append(where + ", " + Markup("; ").join(parts) + ".")
        elif stage == "offline" or unit not in rising:
            parts = [Markup("{} {}").format(row["method"], _score(row | {"diverged": 0})) for row in ranked]
            pairs = comparisons[(comparisons["stage"] == stage) & (comparisons["unit"] == unit)]
            counts = [_count_apart(best["method"], row["method"], pairs) for row in others]
            end = f". By task, {best['method']} is above, intervals apart: {', '.join(counts)}" if counts else ""
            sentences.append(where + ", mean: " + Markup("; ").join(parts) + end + ".")
    return sentences


def _count_apart(best: str, other: str, pairs: pd.DataFrame) -> str:
    """The number of tasks on which the best method's interval lies above another's."""
    forward = pairs[(pairs["method"] == best) & (pairs["baseline"] == other)]
    backward = pairs[(pairs["method"] == other) & (pairs["baseline"] == best)]
    above = (forward["apart"] & (forward["difference"] > 0)).sum() + (
        backward["apart"] & (backward["difference"] < 0)
    ).sum()
    return f"{other} on {above} of {len(forward) + len(backward)}"


def _ranked(table: pd.DataFrame) -> list[Row]:
    return _rows(table.sort_values(["value", "method"], ascending=[False, True]))


def _rows(table: pd.DataFrame) -> list[Row]:
    return list(table.to_dict("records"))


def _seeds(count: int) -> str:
    return counted(count, "seed")
