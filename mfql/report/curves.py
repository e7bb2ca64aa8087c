"""Learning curves: the mean over seeds at each evaluation, offline and then online on one axis of steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mfql.report.intervals import Group, weighted
from mfql.report.scores import DIVERGED_SCORE
from mfql.report.tasks import UNSCALED, are_rates, bounded, parts, runs

OFFLINE_CURVE, ONLINE_CURVE = "offline", "offline to online"
COLUMNS = ["curve", "task", "method", "stage", "step", "switch", "unit", "value", "low", "high", "seeds", "diverged"]

Points = dict[str, Any]  # columns of a curve by name: a number or a text for all points, or an array of one a point


def curves(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean score over seeds at each evaluation, with intervals.

    So that a curve cannot rise or fall by losing seeds, a run that diverged counts 0 from that step on, and one that
    was stopped early counts with its last evaluation.

    Returns:
        curve (offline | offline to online), task, method, stage, step (an online step counts on from the end of the
        offline part), switch (the step at which online training begins; NaN where it has not), unit, value, low, high,
        seeds, diverged (how many of them by that step).
    """
    found: list[Points] = []
    of_runs = dict(iter(scores.groupby(["method", "task", "stage"])))
    for (method, task), part in parts(runs(scores), ["method", "task"]):
        online = part[(part["stage"] == "online") & part["start_steps"].notna()]
        switch = online["start_steps"].max()  # NaN if there is none
        first_stages = {run.rsplit("/", 1)[-1] for run in online["start_run"]} | {"pretrain"}
        for stage, own in part.groupby("stage"):
            points = _mean_at_steps(of_runs[method, task, str(stage)], own)
            about = {"method": method, "task": task, "stage": str(stage)}
            if stage == "offline":
                found.append(points | about | {"curve": OFFLINE_CURVE, "switch": nan})
            if stage in first_stages:
                found.append(points | about | {"curve": ONLINE_CURVE, "switch": switch})
            if stage == "online":
                shifted = points["step"] + (0 if pd.isna(switch) else int(switch))
                found.append(points | about | {"curve": ONLINE_CURVE, "switch": switch, "step": shifted})
    return _tidy(found).sort_values(["curve", "task", "method", "step"], ignore_index=True)


def _tidy(found: Sequence[Points]) -> pd.DataFrame:
    """The points of all curves as one table, one row a point."""
    counts = [len(points["step"]) for points in found]
    if not sum(counts):  # All runs diverged before their first evaluation.
        return pd.DataFrame(columns=COLUMNS)
    columns = {}
    for name in COLUMNS:
        values = [points[name] for points in found]
        each = isinstance(values[0], np.ndarray)
        columns[name] = np.concatenate(values) if each else np.repeat(np.array(values), counts)
    return pd.DataFrame(columns)


def _mean_at_steps(scores: pd.DataFrame, own: pd.DataFrame) -> Points:
    """The mean at each step over the runs `own` of one method, task and stage, which `scores` are of.

    Returns:
        unit, and of each point step, value, low, high, seeds, diverged.
    """
    unit, rates, seeds = str(own["unit"].iloc[0]), are_rates(own), own["seed"].to_numpy()
    rows = scores[scores["run"].isin(own["run"])]
    metric, seed, step, value = (rows[name].to_numpy() for name in ("metric", "seed", "step", "value"))
    steps = np.unique(step[metric == unit])
    column = np.searchsorted(seeds, seed)

    def at_steps(name: str) -> NDArray[np.float64]:
        """[steps, seeds], NaN where a run has none."""
        these = (metric == name) & np.isin(step, steps)
        table = np.full((len(steps), len(seeds)), nan)
        table[np.searchsorted(steps, step[these]), column[these]] = value[these]
        return table

    values, episodes = at_steps(unit), at_steps("episodes")
    for place in column[metric == "stopped"]:
        _fill_on(values[:, place])
    ended = metric == "diverged"
    for place, end in zip(column[ended], step[ended], strict=True):
        lost = float(own["score"].iloc[place]) if unit in UNSCALED else DIVERGED_SCORE
        values[steps >= end, place] = lost
    points = []
    for of_runs, counts in zip(values, episodes, strict=True):
        present = ~np.isnan(of_runs)
        # A run that ended before counts with as many episodes as the others had.
        counts = np.where(np.isnan(counts), np.nanmax(counts), counts) if rates else counts
        group = Group.of_scores(of_runs[present], counts[present] if rates else None)
        interval = bounded(weighted([group], [1]), unit, "score")
        points.append((interval.value, interval.low, interval.high, int(present.sum())))
    diverged = (step[ended][None] <= steps[:, None]).sum(axis=1)
    ends = zip(*points, strict=True) if points else ((),) * 4
    table = dict(zip(("value", "low", "high", "seeds"), map(np.array, ends), strict=True))
    return {"unit": unit, "step": steps, "diverged": diverged} | table


def _fill_on(values: NDArray[np.float64]) -> None:
    """Put the last number that was seen in the place of each NaN after it."""
    for place in range(1, len(values)):
        if np.isnan(values[place]):
            values[place] = values[place - 1]
