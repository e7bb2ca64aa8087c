"""Figures of the report, drawn with seaborn from the tables of `mfql.report.aggregate`.

Every method has one colour, line style and marker in all figures. The colours are seaborn's colour-blind-safe ones, the
faint ones darkened: each stands out from white and from the dark page by a contrast of 3 to 1 or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from mfql.files import write_whole
from mfql.report.scores import STAGES
from mfql.report.tasks import RETURN, SUCCESS, split

COLOURS = ["#1f7fbf", "#d55e00", "#029e73", "#c86fb6", "#b87d0a", "#8c8c8c", "#8270d6", "#a0785a"]
DASHES: list[tuple[int, ...]] = [(), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2)]  # type: ignore[list-item]
MARKERS = ["o", "s", "D", "^", "v", "P"]
INK = "#303438"  # text and axes; a page replaces it by its own text colour
LABELS = {SUCCESS: "success, %", RETURN: "normalised return"}

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
    with drawing():
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
            _draw_intervals(axes, part, part["task"].map(names[panel].index), style)
            for row in part.to_dict("records"):
                seeds = [float(pair.split(":")[1]) for pair in row["by_seed"].split()]
                at = [names[panel].index(row["task"]) + _offset(row["method"], style) + 0.1] * len(seeds)
                axes.scatter(seeds, at, s=12, facecolors="none", edgecolors=style[row["method"]].colour, alpha=0.7)
            axes.set_yticks(range(len(names[panel])), [_fold(name) for name in names[panel]])
            axes.set_ylim(len(names[panel]) - 0.5, -0.5)
            axes.set_title(panel, loc="left")
            _label_scores(axes, part["unit"].iloc[0], part["metric"].iloc[0], "x")
        return _finished(figure, style)


def aggregate(table: pd.DataFrame, style: Mapping[str, Style] | None = None, bare: bool = False) -> Figure:
    """Mean and interquartile mean over tasks with their intervals; one row of panels a stage and metric.

    Args:
        table: the frame of `mfql.report.aggregate.over_tasks`, or some of its rows.
        style: by method; that of the table's methods if not given.
        bare: without titles and legend, for a page that names panels and methods itself.
    """
    style = style or styles(table["method"])
    table = _with_panels(table)
    with drawing():
        height = 1.0 + 0.3 * len(style)
        names = {"mean": "mean", "iqm": "interquartile mean"}
        table["panel"] += ": " + table["statistic"].map(names) + " over " + table["tasks"].map(_count_tasks)
        grid = _panels(table, columns=2, height=height, width=4.2 if bare else 5.6)
        for panel, axes in grid.axes_dict.items():
            part = table[table["panel"] == panel]
            _draw_intervals(axes, part, pd.Series(0, part.index), style)
            axes.set_yticks([])
            axes.set_ylim(0.5, -0.5)
            axes.set_title("" if bare else panel, loc="left")
            _label_scores(axes, part["unit"].iloc[0], part["metric"].iloc[0], "x")
        return _finished(grid.figure, {} if bare else style)


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
    with drawing():
        grid = _panels(table)
        for panel, axes in grid.axes_dict.items():
            part = table[table["panel"] == panel]
            for method, own in split(part, "method").items():
                _line(axes, own["threshold"], own, method, style, marker="")
            axes.set(ylim=(-0.02, 1.02), xlabel=unit_label(part["unit"].iloc[0]), ylabel="share of runs above")
            axes.set_title("" if bare else panel, loc="left")
        return _finished(grid.figure, {} if bare else style)


def improvement(table: pd.DataFrame, style: Mapping[str, Style] | None = None, bare: bool = False) -> Figure:
    """The probability that a run of the leading method scores above one of each other; one panel a stage and unit.

    Args:
        table: the frame of `mfql.report.aggregate.improvement`, or some of its rows.
        style: by method; that of the table's methods if not given.
        bare: without titles, for a page that names panels itself.
    """
    style = style or styles([*table["method"], *table["baseline"]])
    table = of_leaders(_with_panels(table.assign(metric="score")))
    if table.empty:
        return _nothing("no two methods to compare")
    table["panel"] += ": " + table["method"] + " over " + table["tasks"].map(_count_tasks)
    ends = {"value": "probability", "low": "probability_low", "high": "probability_high"}
    shown = table.assign(**{end: table[column] for end, column in ends.items()}, method=table["baseline"])
    with drawing():
        grid = _panels(shown, columns=2, height=1.0 + 0.3 * len(style), width=4.2 if bare else 5.6)
        for panel, axes in grid.axes_dict.items():
            part = shown[shown["panel"] == panel]
            _draw_intervals(axes, part, pd.Series(0, part.index), style)
            axes.axvline(0.5, color=INK, linewidth=1)
            places = [_offset(method, style) for method in part["method"]]
            axes.set_yticks(places, part["method"])
            axes.set(xlim=(-0.03, 1.03), ylim=(0.5, -0.5), xlabel="probability of a higher score than")
            axes.set_title("" if bare else panel, loc="left")
        return _finished(grid.figure, {})


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


def cost(table: pd.DataFrame, style: Mapping[str, Style] | None = None, bare: bool = False) -> Figure:
    """Mean score against the hours that a run takes; one panel a stage, unit and device.

    Args:
        table: the frame of `mfql.report.cost.cost`, or some of its rows.
        style: by method; that of the table's methods if not given.
        bare: without titles and legend, for a page that names panels and methods itself.
    """
    style = style or styles(table["method"])
    units = [SUCCESS, RETURN]
    long = table.melt([name for name in table if name not in units], units, "unit", "value").dropna(subset=["value"])
    if long.empty:
        return _nothing("no manifest says what its run cost")
    long = _with_panels(long.assign(metric="score"))
    long["panel"] += "\n" + long["device"]
    with drawing():
        grid = _panels(long)
        for panel, axes in grid.axes_dict.items():
            part = long[long["panel"] == panel]
            for row in part.to_dict("records"):
                own = style[row["method"]]
                mark = axes.scatter(row["hours_a_run"], row["value"], color=own.colour, marker=own.marker, s=60)
                _name([mark], row["method"], style)
            axes.set_xscale("log")
            axes.set_xlabel("hours of the device, a run")
            axes.set_title("" if bare else panel, loc="left")
            _label_scores(axes, part["unit"].iloc[0], "score", "y")
        return _finished(grid.figure, {} if bare else style)


FIGURES = {
    "curves": curves,
    "tasks": tasks,
    "aggregate": aggregate,
    "profiles": profiles,
    "improvement": improvement,
    "cost": cost,
}


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


def inlined(svg: str, name: str, label: str) -> str:
    """A file that `save` wrote, as an element for a page: text in the page's colour and font, no background.

    What is drawn of a method has the attribute `data-methods`, the method's number in the figure's style.

    Args:
        svg: the file's text.
        name: letters, digits and hyphens, unlike any other figure's on the page: the prefix of the element's ids.
        label: what the figure shows, for those who cannot see it; escaped by the caller where it may hold markup.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(rf'id="{name}-method(\d+)-', r'data-methods="\1" \g<0>', svg)
    svg = re.sub(r'\b(?:d|x|y|points)="[^"]*"', _rounded, svg)
    svg = svg.replace(INK, "currentColor").replace('style="fill: #ffffff"', 'style="fill: none"')
    svg = re.sub(r'\A<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _rounded(attribute: re.Match[str]) -> str:
    """An attribute with its lengths cut to hundredths of a point, which nobody sees and which halve a page."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])


def _draw_curves(axes: Axes, part: pd.DataFrame, style: Mapping[str, Style]) -> None:
    for method, own in split(part, "method").items():
        _line(axes, own["step"], own, method, style, marker=style[method].marker)
    for switch in part["switch"].dropna().unique():
        axes.axvline(switch, color=INK, linewidth=1, linestyle=":")
        axes.annotate(
            "online", (switch, 1), (4, -3), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
        )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step")
    _label_scores(axes, part["unit"].iloc[0], "score", "y")


def _line(axes: Axes, x: pd.Series, own: pd.DataFrame, method: str, style: Mapping[str, Style], marker: str) -> None:
    """One method's line with its interval as a band; `own` has value, low and high."""
    colour, dashes = style[method].colour, style[method].dashes
    (line,) = axes.plot(x, own["value"], color=colour, dashes=dashes, marker=marker, markersize=4, linewidth=1.8)
    band = axes.fill_between(x, own["low"], own["high"], color=colour, alpha=0.16, linewidth=0)
    _name([line, band], method, style)


def _name(artists: Iterable[Artist], method: str, style: Mapping[str, Style]) -> None:
    """Give what is drawn of a method ids by which `inlined` finds it."""
    for number, artist in enumerate(artists):
        figure = artist.get_figure(root=True)
        panel = [id(axes) for axes in figure.axes].index(id(artist.axes)) if figure and artist.axes else 0
        artist.set_gid(f"method{list(style).index(method)}-{panel}-{number}")


def _draw_intervals(axes: Axes, part: pd.DataFrame, rows: pd.Series, style: Mapping[str, Style]) -> None:
    """Each row's value and interval as a horizontal bar at its place in `rows`, methods one below another."""
    for at, row in zip(rows, part.to_dict("records"), strict=True):
        own = style[row["method"]]
        reach = np.nan_to_num([[row["value"] - row["low"]], [row["high"] - row["value"]]])
        y = at + _offset(row["method"], style)
        mark, ends, bars = axes.errorbar(
            row["value"], y, xerr=reach, color=own.colour, marker=own.marker, markersize=6, linewidth=2, capsize=3
        )
        _name([mark, *ends, *bars], row["method"], style)
    axes.grid(visible=False, axis="y")


def _offset(method: str, style: Mapping[str, Style]) -> float:
    """Where a method's mark lies within its row of height 1."""
    return 0.7 * ((list(style).index(method) + 0.5) / len(style) - 0.5)


def unit_label(unit: str) -> str:
    """What an axis of scores says; a unit of its own, such as the return of a task, is its name."""
    return LABELS.get(unit, unit)


def _label_scores(axes: Axes, unit: str, metric: str, axis: str) -> None:
    """Name the axis of scores; a success rate's shows its whole range, a rise's its zero."""
    label = unit_label(unit)
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
        title += ", " + table["unit"].map(unit_label)
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


def _nothing(why: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    with drawing():
        figure, axes = plt.subplots(figsize=(4.2, 1.0), layout="constrained")
        axes.set_axis_off()
        axes.text(0, 0.5, f"Nothing to draw: {why}.")
        return figure


def _finished(figure: Figure, style: Mapping[str, Style]) -> Figure:
    """The figure with a legend of these methods below it."""
    if style:
        lines = [
            Line2D([], [], color=own.colour, dashes=own.dashes, marker=own.marker, markersize=5, label=method)
            for method, own in style.items()
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False, handlelength=3.5)
    return figure
