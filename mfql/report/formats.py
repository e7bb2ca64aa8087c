"""Tables for papers and pages: Markdown and LaTeX of the aggregates, by pandas.

Names and notes in their cells may be anybody's: in Markdown they make no cell, markup or link, in LaTeX no command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.errors import in_one_line
from mfql.files import write_whole
from mfql.report.answer import ends
from mfql.report.tasks import in_order, is_estimate


def printable(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables that people read, their numbers as text: tasks, comparisons, aggregate, improvement.

    Args:
        tables: the frames of `mfql.report.aggregate.TABLES` by name.
    """
    tasks = _with_interval(tables["tasks"], "value", "mean [95 % interval]")
    wide = tasks.pivot(index=["stage", "metric", "task"], columns="method", values="mean [95 % interval]").fillna("")
    comparisons = _with_interval(tables["comparisons"], "difference", "difference [95 % interval]")
    comparisons["intervals"] = comparisons["apart"].map({True: "apart", False: "overlap"})
    aggregate = _with_interval(tables["aggregate"], "value", "value [95 % interval]")
    improvement = _with_interval(tables["improvement"], "difference", "difference [95 % interval]")
    improvement["probability"] = improvement["probability"].map("{:.2f}".format)
    pair = ["stage", "task", "method", "baseline"]
    return {
        "tasks": in_order(wide.reset_index().rename_axis(columns=None)),
        "comparisons": comparisons[[*pair, "difference [95 % interval]", "intervals"]],
        "aggregate": aggregate[
            ["stage", "metric", "method", "statistic", "value [95 % interval]", "tasks", "runs", "diverged", "origins"]
        ],
        "improvement": improvement[
            ["stage", "method", "baseline", "tasks", "difference [95 % interval]", "probability"]
        ],
    }


def write(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> None:
    """Write each table of `printable` as NAME.md and NAME.tex (needs the LaTeX package booktabs) into the folder."""
    for name, table in printable(tables).items():
        _write_for_people(table, Path(folder), name)


def write_table(table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write a table whose cells are text as NAME.csv, NAME.md and NAME.tex."""
    with write_whole(Path(folder) / f"{name}.csv") as file:
        table.to_csv(file, index=False)
    _write_for_people(table, Path(folder), name)


def markdown(table: pd.DataFrame, numbers: bool = False) -> str:
    """The table in Markdown, escaped.

    Args:
        numbers: whether texts that look like numbers are aligned as such.
    """
    escaped = _each_text(table, markdown_cell)
    return str(escaped.to_markdown(index=False, disable_numparse=not numbers))


def markdown_cell(text: str) -> str:
    """A text as a cell of a Markdown table: no end of the cell, code, element or link in it."""
    plain = re.sub(r"([\\|`])", r"\\\1", in_one_line(text))
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", plain).replace("](", "]\\(").replace("][", "]\\[")


def _each_text(table: pd.DataFrame, form: Callable[[str], str]) -> pd.DataFrame:
    """The table with every text, those of its head too, in another form."""

    def formed(value: object) -> object:
        return form(value) if isinstance(value, str) else value

    return table.map(formed).rename(columns=formed)


def latex(table: pd.DataFrame) -> str:
    """The table in LaTeX, escaped (needs the package booktabs)."""
    styled = (
        _each_text(table, in_one_line)
        .style.hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
    )
    return styled.to_latex(hrules=True)


def _write_for_people(table: pd.DataFrame, folder: Path, name: str) -> None:
    with write_whole(folder / f"{name}.tex") as file:
        file.write(latex(table))
    with write_whole(folder / f"{name}.md") as file:
        file.write(f"{markdown(table, numbers=True)}\n")


def _mark(row: Mapping[Any, Any]) -> str:
    return " (estimate)" if is_estimate(row["unit"]) else ""


def _with_interval(table: pd.DataFrame, value: str, name: str) -> pd.DataFrame:
    """The table with a column `name` of the value and its interval as text."""
    text = [f"{row[value]:.1f} {ends(row['low'], row['high'])}{_mark(row)}" for row in table.to_dict("records")]
    return table.assign(**{name: pd.Series(text, index=table.index, dtype=str)})
