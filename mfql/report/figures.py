"""Figures of the scores, drawn from the tables of `mfql.report.aggregate`.

Each takes its table or some of its rows, the methods' styles (those of the table's methods if not given), and whether
to draw it bare: without titles and legend, for a page that names panels and methods itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mfql.errors import counted
from mfql.report.drawing import (
    INK,
    WIDTH,
    Style,
    drawing,
    fold,
    grid,
    intervals,
    label_scores,
    legend,
    line,
    logarithmic,
    offset,
    rows,
    save,
    styles,
    unit_label,
)
from mfql.report.tasks import RETURN, SUCCESS, split
from mfql.settings import STAGES

Styles = Mapping[str, Style]


def curves(table: pd.DataFrame, style: Styles | None = None, bare: bool = False) -> Figure:
    """Learning curves with intervals, one panel a task and curve; a dotted line marks where online training begins."""
    if table.empty:
        return _nothing("no run came to an evaluation")
    style = style or styles(table["method"])

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for method, own in split(part, "method").items():
            _name(line(axes, own["step"], own, style[method]), method, style)
        for switch in part["switch"].dropna().unique():
            axes.axvline(switch, color=INK, linewidth=1, linestyle=":")
            axes.annotate(
                "online", (switch, 1), (4, -3), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
            )
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("step")
        label_scores(axes, part["unit"].iloc[0], "y")

    return _panels(table.assign(panel=table["task"].map(fold) + "\n" + table["curve"]), draw, style, bare)


# What aggregates say where no method shares a task with another, as while a study runs.
_NO_TASK = "no task that all methods have"


def tasks(table: pd.DataFrame, style: Styles | None = None) -> Figure:
    """Mean and interval of each method on each task, with the seeds as dots; one panel a stage and metric."""
    style = style or styles(table["method"])
    table = _with_panels(table)
    panels = list(dict.fromkeys(table["panel"]))
    names = {panel: sorted(table.loc[table["panel"] == panel, "task"].unique()) for panel in panels}
    # A panel has its own tasks alone, and is as high as they need: the whole paper still is one picture.
    heights = [0.7 + len(names[panel]) * (0.25 + 0.13 * len(style)) for panel in panels]
    with drawing():
        figure, grid = plt.subplots(
            len(panels),
            1,
            squeeze=False,
            figsize=(7.5, 0.6 + sum(heights)),
            height_ratios=heights,
            layout="constrained",
        )
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            part = table[table["panel"] == panel]
            rows(axes, [fold(name) for name in names[panel]])
            _draw_intervals(axes, part, part["task"].map(names[panel].index), style)
            for method, own in split(part, "method").items():
                seeds = [[float(pair.split(":")[1]) for pair in told.split()] for told in own["by_seed"]]
                height = own["task"].map(names[panel].index) + _offset(method, style) + 0.1
                at = np.repeat(height, [len(values) for values in seeds])
                look = {"facecolors": "none", "edgecolors": style[method].colour, "alpha": 0.7}
                axes.scatter(np.concatenate(seeds), at, s=12, **look)
            axes.set_title(panel, loc="left")
            label_scores(axes, part["unit"].iloc[0], "x", part["metric"].iloc[0])
        legend(figure, style)
        return figure


def aggregate(table: pd.DataFrame, style: Styles | None = None, bare: bool = False) -> Figure:
    """Mean and interquartile mean over tasks with their intervals; one row of panels a stage and metric."""
    style = style or styles(table["method"])
    if table.empty:
        return _nothing(_NO_TASK)
    table = _with_panels(table)
    names = {"mean": "mean", "iqm": "interquartile mean"}
    table["panel"] += ": " + table["statistic"].map(names) + " over " + table["tasks"].map(_count_tasks)

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        rows(axes, [""])
        _draw_intervals(axes, part, pd.Series(0, part.index), style)
        axes.set_yticks([])
        label_scores(axes, part["unit"].iloc[0], "x", part["metric"].iloc[0])

    return _panels(table, draw, style, bare, columns=2, height=1.0 + 0.3 * len(style), width=WIDTH if bare else 5.6)


def profiles(table: pd.DataFrame, style: Styles | None = None, bare: bool = False) -> Figure:
    """Performance profiles with intervals: the share of runs above each score; one panel a stage and unit."""
    style = style or styles(table["method"])
    if table.empty:
        return _nothing(_NO_TASK)
    table = _with_panels(table.assign(metric="score"))
    table["panel"] += ", " + table["tasks"].map(_count_tasks)

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for method, own in split(part, "method").items():
            _name(line(axes, own["threshold"], own, style[method], marker=False), method, style)
        axes.set(ylim=(-0.02, 1.02), xlabel=unit_label(part["unit"].iloc[0]), ylabel="share of runs above")

    return _panels(table, draw, style, bare)


def improvement(table: pd.DataFrame, style: Styles | None = None, bare: bool = False) -> Figure:
    """The probability that a run of the leading method scores above one of each other; one panel a stage and unit."""
    style = style or styles([*table["method"], *table["baseline"]])
    table = of_leaders(_with_panels(table.assign(metric="score")))
    if table.empty:
        return _nothing("no two methods to compare")
    table["panel"] += ": " + table["method"] + " over " + table["tasks"].map(_count_tasks)
    ends = {"value": "probability", "low": "probability_low", "high": "probability_high"}
    shown = table.assign(**{end: table[column] for end, column in ends.items()}, method=table["baseline"])

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        rows(axes, [""])
        _draw_intervals(axes, part, pd.Series(0, part.index), style)
        axes.axvline(0.5, color=INK, linewidth=1)
        axes.set_yticks([_offset(method, style) for method in part["method"]], part["method"])
        axes.set(xlim=(-0.03, 1.03), xlabel="probability of a higher score than")

    size = {"height": 1.0 + 0.3 * len(style), "width": WIDTH if bare else 5.6}
    return _panels(shown, draw, {}, bare, columns=2, **size)


def of_leaders(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of compared methods in which the leading one of the stage and unit takes part.

    Args:
        pairs: with columns stage, unit, method (the better one over its tasks) and baseline.
    """
    leaders = {
        key: set(part["method"]) - set(part["baseline"]) for key, part in pairs.groupby(["stage", "unit"], sort=False)
    }
    leading = [row["method"] in leaders[row["stage"], row["unit"]] for row in pairs.to_dict("records")]
    return pairs[np.array(leading, dtype=bool)]


def cost(table: pd.DataFrame, style: Styles | None = None, bare: bool = False) -> Figure:
    """Mean score against the hours that a run takes; one panel a stage, unit and device."""
    style = style or styles(table["method"])
    units = [SUCCESS, RETURN]
    long = table.melt([name for name in table if name not in units], units, "unit", "value").dropna(subset=["value"])
    if long.empty:
        return _nothing("no manifest says what its run cost")
    long = _with_panels(long.assign(metric="score"))
    long["panel"] += "\n" + long["device"]

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for row in part.to_dict("records"):
            own = style[row["method"]]
            mark = axes.scatter(row["hours_a_run"], row["value"], color=own.colour, marker=own.marker, s=60)
            _name([mark], row["method"], style)
        logarithmic(axes, "x")
        axes.set_xlabel("hours of the device, a run (logarithmic)")
        label_scores(axes, part["unit"].iloc[0], "y")

    return _panels(long, draw, style, bare)


FIGURES = {
    "curves": curves,
    "tasks": tasks,
    "aggregate": aggregate,
    "profiles": profiles,
    "improvement": improvement,
    "cost": cost,
}


def drawings(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> list[Callable[[], None]]:
    """What draws the figures of `FIGURES`, each from the table of its name: NAME.svg and NAME.png beside NAME.csv."""
    return [partial(_write, name, tables[name], folder) for name in FIGURES]


def _write(name: str, table: pd.DataFrame, folder: str | Path) -> None:
    figure = FIGURES[name](table)
    save(figure, folder, name)
    plt.close(figure)


def _panels(
    table: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame], None],
    style: Styles,
    bare: bool,
    columns: int = 3,
    height: float = 2.9,
    width: float = WIDTH,
) -> Figure:
    """A figure with axes for each value of `panel`, in the order of the table's rows, and these methods' legend."""
    parts = {panel: table[table["panel"] == panel] for panel in dict.fromkeys(table["panel"])}
    with drawing():
        figure, places = grid(len(parts), columns, height, width)
        for axes, (panel, part) in zip(places, parts.items(), strict=True):
            draw(axes, part)
            axes.set_title("" if bare else panel, loc="left")
        legend(figure, {} if bare else style)
        return figure


def _name(artists: Iterable[Artist], method: str, style: Styles) -> None:
    """Give what is drawn of a method ids by which `inlined` finds it."""
    for number, artist in enumerate(artists):
        figure = artist.get_figure(root=True)
        panel = [id(axes) for axes in figure.axes].index(id(artist.axes)) if figure and artist.axes else 0
        artist.set_gid(f"method{list(style).index(method)}-{panel}-{number}")


def _draw_intervals(axes: Axes, part: pd.DataFrame, at: pd.Series, style: Styles) -> None:
    """Values and intervals as horizontal bars, each in its row `at`, methods one below another."""
    for method, own in split(part, "method").items():
        places = at[own.index] + _offset(method, style)
        _name(intervals(axes, places, own, style[method]), method, style)


def _offset(method: str, style: Styles) -> float:
    """Where a method's mark lies within its row."""
    return offset(list(style).index(method), len(style))


def _with_panels(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the title of the panel that a row belongs to, in the order of the stages.

    Title: the stage, `rise` where it is one, and the unit if there are two.
    """
    title = table["stage"] + table["metric"].map({"score": "", "rise": ", rise"})
    if table["unit"].nunique() > 1:
        title += ", " + table["unit"].map(unit_label)
    order = table["stage"].map(STAGES.index) + table["metric"].map({"score": 0, "rise": len(STAGES)})
    return table.assign(panel=title, order=order).sort_values("order", kind="stable")


def _count_tasks(count: int) -> str:
    return counted(count, "task")


def _nothing(why: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    with drawing():
        figure, axes = plt.subplots(figsize=(WIDTH, 1.0), layout="constrained")
        axes.set_axis_off()
        axes.text(0, 0.5, f"Nothing to draw: {why}.")
        return figure
