"""The suites, and which of them a task or a dataset is of. A new one is a module here and an entry in `suites`."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from mfql.errors import UserError, naming_extras
from mfql.suites.d4rl import D4RL
from mfql.suites.ogbench import OGBench
from mfql.suites.own import Own
from mfql.suites.suite import Suite
from mfql.tasks import Task, registered_tasks

if TYPE_CHECKING:
    from mfql.data.transitions import Dataset
    from mfql.envs.isolated import Isolated
    from mfql.envs.scores import ScoreRange


def suites() -> list[Suite]:
    """Every suite, first whose tasks have names of their own; what none of them has is taken for the last one's."""
    return [Own(registered_tasks()), D4RL(), OGBench()]


def suite_of(name: str) -> Suite:
    """The suite of a task or a dataset."""
    known = suites()
    return next((suite for suite in known if suite.has(name)), known[-1])


@naming_extras()
def make_env(task: str, render: bool = False) -> Isolated:
    """The environment of a task with its time limit: OGBench's single tasks, D4RL's, or one of an extension.

    Pixel tasks show stacked frames. Actions are in the environment's own units.

    Args:
        task: with its dataset type, for example `pointmaze-medium-navigate-singletask-task1-v0` or `pen-human-v1`.
        render: whether it will be asked for frames, which those of Gymnasium want to know.

    Raises:
        UserError: there is no such task, its environment cannot be made, or D4RL's files are not installed.
    """
    return suite_of(task).make(task, render)


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a task, as its suite reads it; see `Suite.load`."""
    from mfql.data.description import warn_of_other_dimensions

    found = suite_of(task.name).load(task, folder)
    warn_of_other_dimensions(folder, task.dataset, found.constant_dimensions)
    return found


def score_range(task: Task) -> ScoreRange | None:
    """The returns that stand for a normalised return of 0 and 100; None for a task that is scored otherwise.

    Raises:
        UserError: what knows them is not installed, or nothing knows them and the task's row says `normalized_return`.
    """
    found = suite_of(task.name).score_range(task.name)
    if found is None and task.metric == "normalized_return":
        raise UserError(
            f"{task.name} is scored by normalized_return, and its suite has no returns that stand for 0 and 100",
            "Correct the metric in its task table.",
        )
    return found


def split_paths(folder: str | Path, dataset: str) -> dict[str, Path]:
    """The files of a dataset by split: `train`, and `val` where it has one.

    A dataset of one's own lies where its task table says, not in the folder.
    """
    return suite_of(dataset).paths(folder, dataset)


def replayed(tasks: Iterable[Task]) -> list[str]:
    """One task a dataset, the first by name, since a replay of recorded steps asks nothing of rewards; sorted.

    Those of suites whose files record no states are left out.
    """
    by_dataset = {task.dataset: task.name for task in sorted(tasks, key=attrgetter("name"), reverse=True)}
    return sorted(name for name in by_dataset.values() if suite_of(name).replayable)
