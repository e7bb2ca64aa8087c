"""Learning curves: the mean over seeds at each evaluation, offline and then online on one axis of steps."""

from __future__ import annotations

import pandas as pd

from mfql.report.intervals import Group, weighted
from mfql.report.scores import DIVERGED_SCORE
from mfql.report.tasks import PLAIN_RETURN, SUCCESS, bounded, parts, runs

OFFLINE_CURVE, ONLINE_CURVE = "offline", "offline to online"
COLUMNS = ["curve", "task", "method", "stage", "step", "switch", "unit", "value", "low", "high", "seeds", "diverged"]


def curves(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean score over seeds at each evaluation, with intervals.

    So that a curve cannot rise or fall by losing seeds, a run that diverged counts 0 from that step on, and one that
    was stopped early counts with its last evaluation.

    Returns:
        curve (offline | offline to online), task, method, stage, step (an online step counts on from the end of the
        offline part), switch (the step at which online training begins; NaN where it has not), unit, value, low, high,
        seeds, diverged (how many of them by that step).
    """
    frames = []
    of_runs = dict(iter(scores.groupby(["method", "task", "stage"])))
    for (method, task), part in parts(runs(scores), ["method", "task"]):
        online = part[part["stage"] == "online"].dropna(subset=["start_steps"])
        switch = online["start_steps"].max()  # NaN if there is none
        first_stages = {run.rsplit("/", 1)[-1] for run in online["start_run"]} | {"pretrain"}
        for stage, own in part.groupby("stage"):
            points = _mean_at_steps(of_runs[method, task, str(stage)], own).assign(
                method=method, task=task, stage=stage
            )
            if stage == "offline":
                frames.append(points.assign(curve=OFFLINE_CURVE, switch=float("nan")))
            if stage in first_stages:
                frames.append(points.assign(curve=ONLINE_CURVE, switch=switch))
            if stage == "online":
                shifted = points["step"] + (0 if pd.isna(switch) else int(switch))
                frames.append(points.assign(curve=ONLINE_CURVE, switch=switch, step=shifted))
    frames = [frame for frame in frames if len(frame)]  # Of runs that diverged before their first evaluation: none.
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    return table[COLUMNS].sort_values(["curve", "task", "method", "step"], ignore_index=True)


def _mean_at_steps(scores: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The mean at each step over the runs `own` of one method, task and stage, which `scores` are of.

    Returns:
        step, unit, value, low, high, seeds, diverged.
    """
    unit = own["unit"].iloc[0]
    rows = scores[scores["run"].isin(own["run"])]
    values, episodes = (
        rows[rows["metric"] == metric].pivot(index="step", columns="seed", values="value")
        for metric in (unit, "episodes")
    )
    values = values.reindex(columns=own["seed"])
    for seed in rows.loc[rows["metric"] == "stopped", "seed"]:
        values[seed] = values[seed].ffill()
    ended = rows[rows["metric"] == "diverged"].set_index("seed")["step"]
    for seed, step in ended.items():
        lost = float(own.loc[own["seed"] == seed, "score"].iloc[0]) if unit == PLAIN_RETURN else DIVERGED_SCORE
        values.loc[values.index >= step, seed] = lost
    points = []
    for step in values.index:
        present = values.loc[step].dropna()
        # A run that ended before counts with as many episodes as the others had.
        counts = episodes.loc[step].reindex(present.index).fillna(episodes.loc[step].max())
        group = Group.of_scores(present, counts if unit == SUCCESS else None)
        interval = bounded(weighted([group], [1]), unit, "score")
        ends = (interval.value, interval.low, interval.high)
        points.append((step, unit, *ends, len(present), int((ended <= step).sum())))
    return pd.DataFrame(points, columns=["step", "unit", "value", "low", "high", "seeds", "diverged"])
