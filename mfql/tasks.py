"""The task table: one row a task, from `config/tasks.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mfql.errors import UserError, unknown


@dataclass(frozen=True)
class Task:
    """One row of the task table.

    Args:
        name: the task, as in the published tables, for example `cube-double-play-singletask-task2-v0`.
        suite: the benchmark that it belongs to.
        environment: the environment's name without dataset and task number.
        dataset: the dataset that its offline part is trained on.
        metric: what is scored, `success` or `normalized_return`.
        score_rule: `last_three` (mean of the last three evaluations) or `last`.
        online: whether the paper trains it online too.
        settings: values by task, as written in the table, for method files that say `task`.
        settings_source: where alpha, num_candidates and time_steps come from.
    """

    name: str
    suite: str
    environment: str
    dataset: str
    metric: str
    score_rule: str
    online: bool
    settings: dict[str, float | int]
    settings_source: str


_TEXT = ("suite", "environment", "dataset", "metric", "score_rule", "settings_source")
_NUMBERS = {
    "discount": float,
    "alpha": float,
    "num_candidates": int,
    "time_steps": int,
    "offline_steps": int,
    "pretrain_steps": int,
    "online_steps": int,
}
# The settings that may differ by task: a method's file says `task` for them.
SETTINGS = tuple(_NUMBERS)


def is_visual(name: str) -> bool:
    """Whether a task, dataset or environment shows pixels, by OGBench's naming."""
    return name.startswith("visual-")


def seeds_of_task(config: Mapping[str, Any], task: str) -> list[int]:
    """The seeds that a configuration trains a task with: pixel tasks have their own."""
    return [int(seed) for seed in config["pixel_seeds" if is_visual(task) else "seeds"]]


def seeds_in_job(config: Mapping[str, Any], task: str) -> int:
    """How many seeds of a task one training job takes: of a pixel task one."""
    return 1 if is_visual(task) else int(config["seeds_per_job"])


@cache
def load_tasks(path: str | Path) -> dict[str, Task]:
    """The tasks of a table by name.

    Raises:
        UserError: the table is absent, lacks a column, names a task twice, or has a cell that is no number.
    """
    path = Path(path)
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(
            f"cannot read the task table {path}: {error.strerror}",
            "Run from the project's folder, or give --config-dir.",
        ) from error
    missing = {"task", "online", *_TEXT, *_NUMBERS} - set(rows[0] if rows else ())
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(sorted(missing))}", "See config/README.md for the columns."
        )
    tasks: dict[str, Task] = {}
    for row in rows:
        if row["task"] in tasks:
            raise UserError(f"{path} names the task {row['task']} twice", "Keep one of the rows.")
        tasks[row["task"]] = _task(row, path)
    return tasks


def find_task(name: str, config_dir: str | Path = "config") -> Task:
    """The task of that name.

    Raises:
        UserError: the table has no such task; the message names the nearest ones.
    """
    path = Path(config_dir) / "tasks.csv"
    tasks = load_tasks(path)
    if name not in tasks:
        raise unknown("task", name, list(tasks), str(path))
    return tasks[name]


def select_tasks(entries: list[str], config_dir: str | Path = "config") -> list[str]:
    """The tasks that the entries name: each is a task, or an environment or a suite, which stands for all of its tasks.

    Raises:
        UserError: an entry names nothing in the table.
    """
    path = Path(config_dir) / "tasks.csv"
    tasks = load_tasks(path).values()
    selected: dict[str, None] = {}
    for entry in entries:
        named = [task.name for task in tasks if entry in (task.name, task.environment, task.suite)]
        if not named:
            known = {name for task in tasks for name in (task.name, task.environment, task.suite)}
            raise unknown("task, environment or suite", entry, sorted(known), str(path))
        selected |= dict.fromkeys(named)
    return list(selected)


def _task(row: dict[str, str], path: Path) -> Task:
    settings: dict[str, float | int] = {}
    for column, kind in _NUMBERS.items():
        try:
            settings[column] = kind(row[column])
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise UserError(
                f"{path}: {column} of {row['task']} is {row[column]!r}, not {expected}",
                "Correct the cell.",
            ) from None
    if row["online"] not in ("yes", "no"):
        raise UserError(f"{path}: online of {row['task']} is {row['online']!r}", "Write yes or no.")
    return Task(name=row["task"], online=row["online"] == "yes", settings=settings, **{key: row[key] for key in _TEXT})
