"""Figures of the report, drawn with seaborn from the tables of `mfql.report.aggregate`.

Every method has one colour, line style and marker in all figures. The colours are seaborn's colour-blind-safe ones, the
faint ones darkened: each stands out from white and from the dark page by a contrast of 3 to 1 or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from mfql.files import write_whole
from mfql.report.scores import STAGES
from mfql.report.tasks import SUCCESS, split

COLOURS = ["#1f7fbf", "#d55e00", "#029e73", "#c86fb6", "#b87d0a", "#8c8c8c", "#8270d6", "#a0785a"]
DASHES: list[tuple[int, ...]] = [(), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2)]  # type: ignore[list-item]
MARKERS = ["o", "s", "D", "^", "v", "P"]
INK = "#303438"  # text and axes; a page replaces it by its own text colour
LABELS = {SUCCESS: "success, %", "normalized_return": "normalised return"}

_RC: Any = {  # matplotlib 3.11 types every key, 3.10 none
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and restyled
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.hashsalt": "mfql",  # the same figure is the same file
}


@dataclass(frozen=True)
class Style:
    """How a method is drawn: colour, dashes (on, off, ...; empty for a solid line) and marker."""

    colour: str
    dashes: tuple[float, ...]
    marker: str


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """The style of each method, in alphabetical order, so that figures of the same methods agree."""
    names = sorted(set(methods))
    return {
        name: Style(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(names)
    }


def curves(table: pd.DataFrame, style: Mapping[str, Style] | None = None, bare: bool = False) -> Figure:
    """Learning curves with intervals, one panel a task and curve; a dotted line marks where online training begins.

    Args:
        table: the frame of `mfql.report.curves`, or some of its rows.
        style: by method; that of the table's methods if not given.
        bare: without titles and legend, for a page that names panels and methods itself.
    """
    style = style or styles(table["method"])
    table = table.assign(panel=table["task"].map(_fold) + "\n" + table["curve"])
    with mpl.rc_context(_RC):
        grid = _panels(table)
        for panel, axes in grid.axes_dict.items():
            _draw_curves(axes, table[table["panel"] == panel], style)
            axes.set_title("" if bare else panel, loc="left")
        return _finished(grid.figure, {} if bare else style)


def tasks(table: pd.DataFrame, style: Mapping[str, Style] | None = None) -> Figure:
    """Mean and interval of each method on each task, with the seeds as dots; one panel a stage and metric.

    Args:
        table: the frame of `mfql.report.tasks.by_task`.
        style: by method; that of the table's methods if not given.
    """
    style = style or styles(table["method"])
    table = _with_panels(table)
    names = sorted(table["task"].unique())
    with mpl.rc_context(_RC):
        height = 0.8 + len(names) * (0.35 + 0.16 * len(style))
        grid = _panels(table, columns=2, height=height, width=5.6)
        for panel, axes in grid.axes_dict.items():
            part = table[table["panel"] == panel]
            _draw_intervals(axes, part, part["task"].map(names.index), style)
            for row in part.to_dict("records"):
                seeds = [float(pair.split(":")[1]) for pair in row["by_seed"].split()]
                at = [names.index(row["task"]) + _offset(row["method"], style) + 0.1] * len(seeds)
                axes.scatter(seeds, at, s=12, facecolors="none", edgecolors=style[row["method"]].colour, alpha=0.7)
            axes.set_yticks(range(len(names)), [_fold(name) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_title(panel, loc="left")
            _label_scores(axes, part["unit"].iloc[0], part["metric"].iloc[0], "x")
        return _finished(grid.figure, style)


def aggregate(table: pd.DataFrame, style: Mapping[str, Style] | None = None) -> Figure:
    """Mean and interquartile mean over tasks with their intervals; one row of panels a stage and metric.

    Args:
        table: the frame of `mfql.report.aggregate.over_tasks`.
        style: by method; that of the table's methods if not given.
    """
    style = style or styles(table["method"])
    table = _with_panels(table)
    with mpl.rc_context(_RC):
        height = 1.0 + 0.3 * len(style)
        names = {"mean": "mean", "iqm": "interquartile mean"}
        table["panel"] += ": " + table["statistic"].map(names) + " over " + table["tasks"].map(_count_tasks)
        grid = _panels(table, columns=2, height=height, width=5.6)
        for panel, axes in grid.axes_dict.items():
            part = table[table["panel"] == panel]
            _draw_intervals(axes, part, pd.Series(0, part.index), style)
            axes.set_yticks([])
            axes.set_ylim(0.5, -0.5)
            axes.set_title(panel, loc="left")
            _label_scores(axes, part["unit"].iloc[0], part["metric"].iloc[0], "x")
        return _finished(grid.figure, style)


def profiles(table: pd.DataFrame, style: Mapping[str, Style] | None = None, bare: bool = False) -> Figure:
    """Performance profiles with intervals: the share of runs above each score; one panel a stage and unit.

    Args:
        table: the frame of `mfql.report.aggregate.profiles`, or some of its rows.
        style: by method; that of the table's methods if not given.
        bare: without titles and legend, for a page that names panels and methods itself.
    """
    style = style or styles(table["method"])
    table = _with_panels(table.assign(metric="score"))
    table["panel"] += ", " + table["tasks"].map(_count_tasks)
    with mpl.rc_context(_RC):
        grid = _panels(table)
        for panel, axes in grid.axes_dict.items():
            part = table[table["panel"] == panel]
            for method, own in split(part, "method").items():
                _line(axes, own["threshold"], own, style[method], marker="")
            axes.set(ylim=(-0.02, 1.02), xlabel=part["unit"].map(LABELS).iloc[0], ylabel="share of runs above")
            axes.set_title("" if bare else panel, loc="left")
        return _finished(grid.figure, {} if bare else style)


FIGURES = {"curves": curves, "tasks": tasks, "aggregate": aggregate, "profiles": profiles}


def write(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> None:
    """Draw every figure of `FIGURES` from the table of its name; write NAME.svg and NAME.png beside NAME.csv."""
    for name, draw in FIGURES.items():
        figure = draw(tables[name])
        save(figure, folder, name)
        plt.close(figure)


def drawing() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as the report's figures are drawn: sizes, ink, grid, no upper frame."""
    return mpl.rc_context(_RC)


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write a figure as NAME.svg and NAME.png; the same figure is the same file."""
    for suffix in ("svg", "png"):
        with write_whole(Path(folder) / f"{name}.{suffix}", "wb") as file, drawing():
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(file, format=suffix, dpi=160, metadata=metadata)


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element for a page: text in the page's colour and font, no background; closes the figure.

    Args:
        name: letters, digits and hyphens, unlike any other figure's on the page: the prefix of the element's ids.
        label: what the figure shows, for those who cannot see it; escaped by the caller where it may hold markup.
    """
    file = StringIO()
    with mpl.rc_context(_RC):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'\A<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _draw_curves(axes: Axes, part: pd.DataFrame, style: Mapping[str, Style]) -> None:
    for method, own in split(part, "method").items():
        _line(axes, own["step"], own, style[method], marker=style[method].marker)
    for switch in part["switch"].dropna().unique():
        axes.axvline(switch, color=INK, linewidth=1, linestyle=":")
        axes.annotate(
            "online", (switch, 1), (4, -3), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
        )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step")
    _label_scores(axes, part["unit"].iloc[0], "score", "y")


def _line(axes: Axes, x: pd.Series, own: pd.DataFrame, style: Style, marker: str) -> None:
    """One method's line with its interval as a band; `own` has value, low and high."""
    axes.plot(x, own["value"], color=style.colour, dashes=style.dashes, marker=marker, markersize=4, linewidth=1.8)
    axes.fill_between(x, own["low"], own["high"], color=style.colour, alpha=0.16, linewidth=0)


def _draw_intervals(axes: Axes, part: pd.DataFrame, rows: pd.Series, style: Mapping[str, Style]) -> None:
    """Each row's value and interval as a horizontal bar at its place in `rows`, methods one below another."""
    for at, row in zip(rows, part.to_dict("records"), strict=True):
        own = style[row["method"]]
        reach = np.nan_to_num([[row["value"] - row["low"]], [row["high"] - row["value"]]])
        y = at + _offset(row["method"], style)
        axes.errorbar(
            row["value"], y, xerr=reach, color=own.colour, marker=own.marker, markersize=6, linewidth=2, capsize=3
        )
    axes.grid(visible=False, axis="y")


def _offset(method: str, style: Mapping[str, Style]) -> float:
    """Where a method's mark lies within its row of height 1."""
    return 0.7 * ((list(style).index(method) + 0.5) / len(style) - 0.5)


def _label_scores(axes: Axes, unit: str, metric: str, axis: str) -> None:
    """Name the axis of scores; a success rate's shows its whole range, a rise's its zero."""
    label = LABELS[unit]
    if metric == "rise":
        axes.axvline(0, color=INK, linewidth=1)
        label = f"rise of {label.replace(', %', ', points')}"
    elif unit == SUCCESS:
        axes.set(**{f"{axis}lim": (-3, 103)})
    axes.set(**{f"{axis}label": label})


def _with_panels(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the title of the panel that a row belongs to, in the order of the stages.

    Title: the stage, `rise` where it is one, and the unit if there are two.
    """
    title = table["stage"] + table["metric"].map({"score": "", "rise": ", rise"})
    if table["unit"].nunique() > 1:
        title += ", " + table["unit"].map(LABELS)
    order = table["stage"].map(STAGES.index) + table["metric"].map({"score": 0, "rise": len(STAGES)})
    return table.assign(panel=title, order=order).sort_values("order", kind="stable")


def _panels(table: pd.DataFrame, columns: int = 3, height: float = 2.9, width: float = 4.2) -> sns.FacetGrid:
    """Panels of this size in inches, one for each value of `panel`, in the order of the table's rows."""
    wrap = min(columns, table["panel"].nunique())
    grid = sns.FacetGrid(
        table, col="panel", col_wrap=wrap, height=height, aspect=width / height, sharex=False, sharey=False
    )
    grid.figure.set_layout_engine("constrained", hspace=0.05, wspace=0.03)
    return grid.set_titles("")


def _count_tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _fold(name: str, width: int = 36) -> str:
    """A long task name on two lines, broken at a hyphen."""
    lines = name.split("\n")
    head = lines[0]
    if len(head) > width:
        cut = head.rfind("-", 0, width) + 1 or width
        lines[0] = head[:cut] + "\n" + head[cut:]
    return "\n".join(lines)


def _finished(figure: Figure, style: Mapping[str, Style]) -> Figure:
    """The figure with a legend of these methods below it."""
    if style:
        lines = [
            Line2D([], [], color=own.colour, dashes=own.dashes, marker=own.marker, markersize=5, label=method)
            for method, own in style.items()
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False, handlelength=3.5)
    return figure
