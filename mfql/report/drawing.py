"""How every figure looks and is written: style, grids of axes, intervals, legends, files.

Every method has one colour, line style and marker in all figures. The colours are colour-blind-safe, the faint ones of
them darkened: each stands out from white and from the dark page by a contrast of 3 to 1 or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mfql.files import write_whole
from mfql.report.tasks import ESTIMATED, RETURN, SUCCESS, is_estimate

COLOURS = ["#1f7fbf", "#d55e00", "#029e73", "#c86fb6", "#b87d0a", "#8c8c8c", "#8270d6", "#a0785a"]
DASHES: list[tuple[int, ...]] = [(), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2)]  # type: ignore[list-item]
MARKERS = ["o", "s", "D", "^", "v", "P"]
INK = "#303438"  # text and axes; a page replaces it by its own text colour
KINDS = ("svg", "png")  # of files that a figure is written as
WIDTH = 4.2  # inches of axes beside others
_LABELS = {SUCCESS: "success, %", RETURN: "normalised return"}

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

Places = Sequence[Any] | pd.Series


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


def drawing() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as the report's figures are drawn: sizes, ink, grid, no upper frame."""
    return mpl.rc_context(_RC)


def grid(
    count: int, columns: int, height: float, width: float = WIDTH, around: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, at most `columns` beside each other.

    Args:
        height, width: of each, in inches.
        around: inches of the figure's height that are for its legend.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns, around + height * rows)
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=size)
    figure.set_layout_engine("constrained", hspace=0.05, wspace=0.03)
    for empty in axes.flat[count:]:
        empty.remove()
    return figure, list(axes.flat[:count])


def line(axes: Axes, x: Places, rows: pd.DataFrame, style: Style, marker: bool = True) -> list[Artist]:
    """A line with its interval as a band; `rows` has value, low and high, in the order of `x`."""
    look: dict[str, Any] = {"color": style.colour, "dashes": style.dashes, "marker": style.marker if marker else ""}
    (drawn,) = axes.plot(x, rows["value"], markersize=4, linewidth=1.8, **look)
    return [drawn, axes.fill_between(x, rows["low"], rows["high"], color=style.colour, alpha=0.16, linewidth=0)]


def intervals(
    axes: Axes, at: Places, rows: pd.DataFrame, style: Style, axis: str = "x", joined: bool = False
) -> list[Artist]:
    """Marks with their intervals as bars; one without an interval has none.

    Args:
        at: their places on the other axis.
        rows: with value, low and high, in the order of `at`.
        axis: along which the values lie, `x` or `y`.
        joined: by a line.
    """
    reach = np.nan_to_num(np.abs([rows["value"] - rows["low"], rows["high"] - rows["value"]]))
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, f"{axis}err": reach}
    look |= {"dashes": style.dashes or (None, None)} if joined else {"linestyle": ""}
    x, y = (rows["value"], at) if axis == "x" else (at, rows["value"])
    mark, ends, bars = axes.errorbar(x, y, linewidth=1.6 if joined else 2, capsize=3, **look)
    return [mark, *ends, *bars]


def offset(place: int, count: int) -> float:
    """Where the mark of one of so many lies within their row of height 1, from its middle."""
    return 0.7 * ((place + 0.5) / count - 0.5)


def rows(axes: Axes, names: Sequence[str], shown: bool = True) -> None:
    """Name the rows of height 1 of horizontal intervals, from above."""
    axes.set_yticks(range(len(names)), names if shown else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def unit_label(unit: str) -> str:
    """What an axis of scores says; a unit of its own, such as the return of a task, is its name."""
    return ESTIMATED if is_estimate(unit) else _LABELS.get(unit, unit)


def label_scores(axes: Axes, unit: str, axis: str, metric: str = "score") -> None:
    """Name the axis of scores; a success rate's shows its whole range, a rise's its zero."""
    label = unit_label(unit)
    if metric == "rise":
        axes.axvline(0, color=INK, linewidth=1)
        label = f"rise of {label.replace(', %', ', points')}"
    elif unit == SUCCESS:
        axes.set(**{f"{axis}lim": (-3, 103)})
    axes.set(**{f"{axis}label": label})


def logarithmic(axes: Axes, axis: str) -> None:
    """A logarithmic axis with plain numbers: matplotlib's own are formulas, which no figure here has drawn."""
    axes.set(**{f"{axis}scale": "log"})
    own = axes.xaxis if axis == "x" else axes.yaxis
    own.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
    own.set_major_formatter(StrMethodFormatter("{x:g}"))


def legend(figure: Figure, style: Mapping[str, Style], columns: int = 4) -> None:
    """Put the key of these names below the figure; none without names."""
    lines = [
        Line2D([], [], color=own.colour, dashes=own.dashes, marker=own.marker, markersize=5, label=name)
        for name, own in style.items()
    ]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5)


def fold(name: str, width: int = 36) -> str:
    """A long task name on two lines, broken at a hyphen."""
    lines = name.split("\n")
    head = lines[0]
    if len(head) > width:
        cut = head.rfind("-", 0, width) + 1 or width
        lines[0] = head[:cut] + "\n" + head[cut:]
    return "\n".join(lines)


def save(figure: Figure, folder: str | Path, name: str, kinds: Sequence[str] = KINDS) -> None:
    """Write a figure as NAME.svg and NAME.png, or one of them; the same figure is the same file."""
    # Laid out once: matplotlib would do so twice for each file.
    with drawing():
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
        figure.set_layout_engine(None)
    for suffix in kinds:
        with write_whole(Path(folder) / f"{name}.{suffix}", "wb") as file, drawing():
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
