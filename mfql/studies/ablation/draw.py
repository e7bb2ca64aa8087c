"""`mfql ablation draw`: an ablation's panel, and beside it that of the flow loss as a proxy where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfql.report.answer import ends
from mfql.report.drawing import (
    WIDTH,
    drawing,
    grid,
    intervals,
    label_scores,
    legend,
    logarithmic,
    offset,
    rows,
    styles,
)
from mfql.report.intervals import Group, weighted
from mfql.report.panels import Text, write_panel
from mfql.studies.ablation.measure import (
    BEHIND,
    LABELS,
    SCORE,
    UPDATE,
    Runs,
    by_point,
    proxy,
    rank_correlation,
    read_plan,
)

PROXY = "proxy"
# Inches of a panel of lines, of a row of a panel of intervals, and of the legend; panels beside each other.
_HEIGHT, _ROW, _AROUND, _COLUMNS = 2.7, 0.34, 0.4, 3
# Between the lines of two series, as a share of the distance of two places on the axis.
_DODGE = 0.06


def draw(plan: Path, results: Path, out: Path) -> None:
    """Write the panel of an ablation into a folder, and where the plan says so that of the proxy into its `proxy/`.

    Args:
        plan: the file of `mfql.experiment.ablation.plan_of`.
        results: folder that has `runs/`.
        out: such as `results/NAME/ablations/alpha`.

    Raises:
        UserError: the plan is faulty, or one of its runs is not finished.
    """
    found = Runs(read_plan(plan), results)
    data = by_point(found, _update_ms(found) if found.plan["cost"] else {})
    text = Text(found.plan["title"], found.plan["asks"], _caption(found), found.plan["command"])
    with drawing():
        figure = _lines(data, found.plan) if found.plan["x"] else _side_by_side(data)
        write_panel(out, figure, data, text, printable(data, found.plan))
        if found.plan["proxy"]:
            _draw_proxy(found, out / PROXY)


def _update_ms(found: Runs) -> dict[str, list[float]]:
    """The time of an update of each method of the first task."""
    from mfql.studies.ablation.cost import update_ms
    from mfql.training.device import choose_device

    own = [point for point in found.points if point["task"] == found.tasks[0]]
    seeds = len(own[0]["seeds"])
    return update_ms(
        {point["method"]: found.folder(point, point["seeds"][0]) for point in own}, seeds, choose_device("auto")
    )


def _caption(found: Runs) -> str:
    """What is drawn, and of how many runs."""
    seeds = {len(point["seeds"]) for point in found.points}
    said = f"{found.plan['shows']} Means over {' or '.join(map(str, sorted(seeds)))} seeds with 95 % intervals"
    said += "; other quantities at the end of training." if found.plan["measures"] else "."
    if found.plan["cost"]:
        said += " Time of an update: median and range of five rounds in turns, all seeds together, not compiled."
    origins = sorted(found.table["origin"].unique())
    return said + (f" The runs are of {len(origins)} versions of code or packages." if len(origins) > 1 else "")


def printable(data: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers as text: one row a place in the grid, a column for each task's score and each quantity.

    Quantities beside the score are means over the tasks.
    """
    found = []
    for (series, x), part in data.groupby(["series", "x"], sort=False, dropna=False):
        row = {"": series} if data["series"].nunique() > 1 or not plan["x"] else {}
        if plan["x"]:
            row[plan["x"]["label"]] = f"{x:g}" if isinstance(x, int | float) else str(x)
        for own in part[part["measure"] == SCORE].to_dict("records"):
            row[own["task"]] = f"{own['value']:.1f} {ends(own['low'], own['high'])}"
        for measure in part.loc[part["measure"] != SCORE, "measure"].unique():
            row[LABELS.get(measure, measure)] = f"{part.loc[part['measure'] == measure, 'value'].mean():.3g}"
        diverged = int(part.loc[part["measure"] == SCORE, "diverged"].sum())
        found.append({**row, "diverged runs": str(diverged)})
    return pd.DataFrame(found).fillna("-")


def _lines(data: pd.DataFrame, plan: Mapping[str, Any]) -> Figure:
    """Each quantity over the axis, lines are series: of several tasks a row for each quantity and a column a task."""
    tasks = list(dict.fromkeys(data["task"]))
    shown = [(measure, task) for measure in _measures(data) for task in tasks]
    style = styles(data["series"])
    figure, places = grid(len(shown), len(tasks) if len(tasks) > 1 else _COLUMNS, _HEIGHT, around=_AROUND)
    values = list(dict.fromkeys(data["x"]))
    for axes, (measure, task) in zip(places, shown, strict=True):
        part = data[(data["measure"] == measure) & (data["task"] == task)]
        if part.empty:
            axes.set_visible(False)
            continue
        for series, own in part.groupby("series", sort=False):
            beside = _DODGE * (list(style).index(str(series)) - (len(style) - 1) / 2)  # Intervals hide none.
            at = [values.index(x) + beside for x in own["x"]]
            intervals(axes, at, own, style[str(series)], "y", joined=True)
        axes.set_xticks(range(len(values)), [f"{x:g}" if isinstance(x, int | float) else x for x in values])
        axes.set_xlabel(plan["x"]["label"])
        _label(axes, part, "y")
        if measure == SCORE:
            axes.set_title(_folded(task), loc="left")
    legend(figure, {name: own for name, own in style.items() if name}, _COLUMNS - 1)
    return figure


def _side_by_side(data: pd.DataFrame) -> Figure:
    """Each quantity in a panel, a row for each series, tasks one below another."""
    measures, names = _measures(data), list(dict.fromkeys(data["series"]))
    tasks = list(dict.fromkeys(data["task"]))
    style = styles(tasks)
    height = 0.6 + _ROW * len(names) * (1 + 0.35 * (len(tasks) - 1))
    figure, places = grid(len(measures), _COLUMNS, height, around=_AROUND)
    for place, (axes, measure) in enumerate(zip(places, measures, strict=True)):
        part = data[data["measure"] == measure]
        rows(axes, names, shown=place % _COLUMNS == 0)
        for task, own in part.groupby("task", sort=False):
            beside = offset(tasks.index(str(task)), len(tasks))
            intervals(axes, [names.index(name) + beside for name in own["series"]], own, style[str(task)])
        _label(axes, part, "x")
    legend(figure, style if len(tasks) > 1 else {}, _COLUMNS - 1)
    return figure


def _measures(data: pd.DataFrame) -> list[str]:
    """The score first, the time of an update last."""
    order = {SCORE: -2, BEHIND: -1, UPDATE: 1}
    return sorted(dict.fromkeys(data["measure"]), key=lambda name: order.get(name, 0))


def _label(axes: Axes, part: pd.DataFrame, axis: str) -> None:
    measure = part["measure"].iloc[0]
    if measure == SCORE:
        label_scores(axes, part["unit"].iloc[0], axis)
    else:
        axes.set(**{f"{axis}label": LABELS.get(measure, measure)})


def _folded(name: str) -> str:
    """A task's name on two lines, broken before `singletask`."""
    return name.replace("-singletask", "-\nsingletask")


def _draw_proxy(found: Runs, out: Path) -> None:
    """Each run's flow loss against the distance of its policy's actions from the data, and their rank correlations."""
    data = proxy(found)
    style = styles(data["series"])
    figure, (axes,) = grid(1, 1, _HEIGHT + 1.0, WIDTH + 1.0)
    for series, own in data.groupby("series", sort=False):
        drawn = style[str(series)]
        axes.scatter(own["flow_loss"], own["neighbour_distance"], color=drawn.colour, marker=drawn.marker, alpha=0.8)
    logarithmic(axes, "x")
    axes.set(xlabel=LABELS["flow_loss"], ylabel=LABELS["neighbour_distance"])
    legend(figure, {name: own for name, own in style.items() if name}, _COLUMNS - 1)
    text = Text(
        f"{found.plan['title']}: the flow loss as a proxy",
        "Does the flow loss tell how far the policy's actions are from the data?",
        "Each run at its end: flow loss, and the mean distance of the policy's actions to the nearest of the actions "
        "that the data has in the 16 nearest states. The table has their rank correlation (Spearman) over runs, and "
        "over the evaluations of each run.",
        found.plan["command"],
    )
    write_panel(out, figure, data, text, correlations(data))


def correlations(data: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of flow loss and distance as text: over the runs of each task, and in training.

    The latter is the mean over seeds of the mean over a seed's runs, which share its draws.

    Args:
        data: of `mfql.studies.ablation.measure.proxy`.
    """
    rows = []
    for task, own in data.groupby("task", sort=False):
        over_runs = rank_correlation(own["flow_loss"], own["neighbour_distance"])
        rows.append({"task": task, "over": "runs", "rank correlation": f"{over_runs:.2f}", "runs": str(len(own))})
        within = own.dropna(subset=["over_training"])
        if len(within):
            interval = weighted([Group.of_scores(within.groupby("seed")["over_training"].mean())], [1])
            told = f"{interval.value:.2f} [{max(interval.low, -1):.2f}, {min(interval.high, 1):.2f}]"
            rows.append({"task": task, "over": "training", "rank correlation": told, "runs": str(len(within))})
    return pd.DataFrame(rows, columns=["task", "over", "rank correlation", "runs"])
