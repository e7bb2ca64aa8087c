"""What tuning trains: the points of a grid, on the task of each environment that its settings are chosen on.

This module needs no pandas and no torch, so that a launcher can list the runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from mfql.methods import method_name
from mfql.tasks import SOURCED, Task, default_task, known_tasks, select_tasks

# The columns of the task table that tuning chooses; a grid has values for each.
COLUMNS = SOURCED
# Seeds from here on are tuning's and are never reported, those below are never tuned on.
FIRST_SEED = 100
# What a row's settings_source begins with where its settings are not published: as they come, and as chosen by tuning.
UNTUNED, TUNED = "untuned", "tuned on "
_NUMBER = re.compile(r"-singletask-task\d+(?=-v\d+$)")

Point = dict[str, Any]


def tuning_task(task: str, tasks: Mapping[str, Task]) -> str:
    """The task that settings are chosen on for a task: OGBench's default of its environment, on which the field tunes.

    Args:
        task: such as `scene-play-singletask-task1-v0`; any other is its own, as one whose default `tasks` lacks.
    """
    default = default_task(_NUMBER.sub("-singletask", task))
    return task if default is None or default not in tasks else default


def published_columns(source: str) -> set[str]:
    """The columns among `COLUMNS` whose cells tuning never changes, from a row's settings_source.

    All of them, unless the source begins with `untuned` or `tuned on`; then those that it names after a semicolon.
    """
    head, _, rest = source.partition(";")
    if head.startswith((UNTUNED, TUNED)):
        return {column for column in COLUMNS if re.search(rf"\b{column}\b", rest)}
    return set(COLUMNS)


def carried_to(name: str, tasks: Mapping[str, Task]) -> list[str]:
    """The tasks that take the choice made on a task: those without settings of their own that are tuned on it."""
    return [
        task.name
        for task in tasks.values()
        if published_columns(task.settings_source) < set(COLUMNS) and tuning_task(task.name, tasks) == name
    ]


def points_of(name: str, grid: Mapping[str, list[Any]], tasks: Mapping[str, Task]) -> list[Point]:
    """The points to train on a task: the grid's product, and the task's own settings where they are published.

    A column that is published for every task that takes the choice is not searched: it keeps the task's cell.

    Args:
        grid: values of each of `COLUMNS`.
    """
    own = {column: plain_number(tasks[name].settings[column]) for column in COLUMNS}
    takers = [published_columns(tasks[taker].settings_source) for taker in carried_to(name, tasks)]
    fixed = set.intersection(*takers)
    axes = [[own[column]] if column in fixed else map(plain_number, grid[column]) for column in COLUMNS]
    points = [dict(zip(COLUMNS, values, strict=True)) for values in product(*axes)]
    is_published = published_columns(tasks[name].settings_source) == set(COLUMNS)
    return [*points, own] if is_published and own not in points else points


def tuning_runs(section: Mapping[str, Any], config_dir: str | Path = "config") -> dict[str, list[str]]:
    """The methods to train on each task that settings are chosen on; empty where every task has its settings.

    Args:
        section: `tuning` of a configuration: method, grid, seeds, tasks.

    Raises:
        UserError: a name that the task table lacks.
    """
    tasks = known_tasks(config_dir)
    chosen_on = {tuning_task(task, tasks): None for task in select_tasks(section["tasks"], config_dir)}
    return {
        task: [method_name(section["method"], point) for point in points_of(task, section["grid"], tasks)]
        for task in chosen_on
        if carried_to(task, tasks)
    }


def plain_number(value: Any) -> float | int:
    """The number without a fraction of zero, as names and tables write it; text of a number is one."""
    number = float(value)
    return int(number) if number.is_integer() else number
