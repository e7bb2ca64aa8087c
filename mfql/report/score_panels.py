"""The figures of the scores as panels of the page: curves by task, what is over tasks, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mfql.report import figures
from mfql.report.drawing import styles, unit_label
from mfql.report.panels import Text, remove_panels, write_panel
from mfql.report.tasks import RETURN, SUCCESS, split

Made = tuple[str, pd.DataFrame, Callable[..., Figure], Text]  # folder, data, what draws it, what it says of itself
COMMAND = "mfql aggregate"


@dataclass(frozen=True)
class _OverTasks:
    """A figure of each stage and unit that has several tasks; `name` is its table's, and that of the whole picture."""

    name: str
    title: str
    question: str
    caption: str
    draw: Callable[..., Figure]


_OVER_TASKS = (
    _OverTasks(
        "aggregate",
        "Interquartile mean",
        "How much does each method score over tasks?",
        "Mean of all runs but a quarter, rounded down, at either end.",
        figures.aggregate,
    ),
    _OverTasks(
        "profiles",
        "Performance profile",
        "How are the scores of each method's runs spread?",
        "Share of runs that score above a threshold.",
        figures.profiles,
    ),
    _OverTasks(
        "improvement",
        "Probability of improvement",
        "How surely is the leading method above each other?",
        "That, on a task drawn at random, a run of {leader} scores above one of each other method.",
        figures.improvement,
    ),
)


def drawings(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> list[Callable[[], None]]:
    """What draws the panels of each section in `folder/SECTION/`; those of earlier scores are removed at once.

    Args:
        tables: the frames of `mfql.report.aggregate.TABLES` by name.
        folder: that of the tables and of the whole pictures of `mfql.report.figures.drawings`.
    """
    remove_panels(Path(folder), COMMAND)
    style = styles(tables["tasks"]["method"])
    made = [*_curves(tables["curves"]), *_over_tasks(tables), *_cost(tables["cost"])]
    return [partial(_write, Path(folder) / name, style, data, draw, text) for name, data, draw, text in made]


def write(tables: Mapping[str, pd.DataFrame], folder: str | Path) -> None:
    """Draw the panels one after the other: see `drawings`."""
    for draw in drawings(tables, folder):
        draw()


def _write(folder: Path, style: figures.Styles, data: pd.DataFrame, draw: Callable[..., Figure], text: Text) -> None:
    write_panel(folder, draw(data, style, bare=True), data, text)


def _curves(table: pd.DataFrame) -> Iterator[Made]:
    """Learning curves, a figure a task and curve."""
    question = "How does the score of each method grow in training?"
    for (task, curve), part in table.groupby(["task", "curve"]):
        stages = {method: own["stage"].iloc[-1] for method, own in split(part, "method").items()}
        name = f"{task}/{str(curve).replace(' ', '-')}"
        text = Text(f"{task}, {curve}", question, "", COMMAND, stages, str(task), "curves")
        yield f"curves/{name}", part, figures.curves, text


def _over_tasks(tables: Mapping[str, pd.DataFrame]) -> Iterator[Made]:
    """Interquartile means, performance profiles and probabilities of improvement, where there are several tasks."""
    place = 0
    for kind in _OVER_TASKS:
        table = tables[kind.name]
        if kind.name == "aggregate":
            table = table[(table["statistic"] == "iqm") & (table["metric"] == "score")]
        for (stage, unit), part in table[table["tasks"] > 1].groupby(["stage", "unit"], sort=False):
            place += 1
            baselines = {*part.get("baseline", [])}
            leaders = ", ".join(sorted({*part["method"]} - baselines))
            title = f"{kind.title}, {stage}, {part['tasks'].iloc[0]} tasks"
            question = f"{kind.question} In {unit_label(str(unit))}."
            text = _of_methods(
                title, question, kind.caption.format(leader=leaders), kind.name, {*part["method"]} | baselines
            )
            yield f"over_tasks/{place:02d}-{kind.name}", part, kind.draw, text


def _cost(table: pd.DataFrame) -> Iterator[Made]:
    """Score against hours, a figure a stage, device and unit that has several methods."""
    place = 0
    for (stage, device), own in table.groupby(["stage", "device"], sort=False):
        for unit, other in ((SUCCESS, RETURN), (RETURN, SUCCESS)):
            part = own.dropna(subset=[unit])
            place += 1
            if len(part) > 1:
                label = unit_label(unit)
                text = _of_methods(
                    f"Score beside cost, {stage}, {device}",
                    "Is a higher score paid for with more time?",
                    f"Mean {label} over a method’s tasks against the device’s hours that a run takes.",
                    "cost",
                    part["method"],
                )
                yield f"cost/{place:02d}-cost", part.assign(**{other: float("nan")}), figures.cost, text


def _of_methods(title: str, question: str, caption: str, name: str, methods: Any) -> Text:
    return Text(title, question, caption, COMMAND, dict.fromkeys(sorted(set(methods)), ""), whole=name)
