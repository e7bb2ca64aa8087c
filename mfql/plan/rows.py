"""Rows of datasets and what is in one, before they are there."""

from __future__ import annotations

from dataclasses import dataclass

from mfql.data.generate import VAL_SHARE, recipes
from mfql.envs import d4rl

# Observations of a pixel task: three stacked images.
IMAGE_SHAPE = (64, 64, 9)
# Rows of published datasets that cannot be generated here, where they are not a million.
_ROWS = {
    "humanoidmaze-medium": 2_001_000,
    "humanoidmaze-large": 2_001_000,
    "pen-human": 5_000,
    "hammer-human": 11_310,
    "door-human": 6_729,
    "relocate-human": 9_942,
    "pen-cloned": 500_000,
    "pen-expert": 499_206,
}
_MILLION = 1_000_500


def dataset_rows(dataset: str, episodes: int | None) -> float:
    """An estimate of its rows, the validation split's among them; `episodes` of one that is generated."""
    if dataset in d4rl.TASKS:
        return _ROWS.get(dataset.rpartition("-")[0], 1_000_000)
    recipe = recipes().get(dataset)
    if recipe is not None:
        rows = (episodes or recipe.episodes) * recipe.steps
    else:
        rows = next((rows for name, rows in _ROWS.items() if dataset.startswith(name)), _MILLION)
    return rows * (1 + 1 / VAL_SHARE)


@dataclass(frozen=True)
class Row:
    """Numbers in a row of a dataset: observation, action, state of the simulator, and buttons."""

    observation: int
    action: int
    state: int
    buttons: int = 0


_OGBENCH = {
    "antmaze": Row(29, 8, 29, 0),
    "humanoidmaze": Row(69, 21, 55, 0),
    "antsoccer": Row(42, 8, 42, 0),
    "pointmaze": Row(2, 2, 4, 0),
    "cube-single": Row(28, 5, 41, 0),
    "cube-double": Row(37, 5, 54, 0),
    "cube-triple": Row(46, 5, 67, 0),
    "cube-quadruple": Row(55, 5, 80, 0),
    "scene": Row(40, 5, 49, 2),
    "puzzle-3x3": Row(55, 5, 46, 9),
    "puzzle-4x4": Row(83, 5, 60, 16),
    "puzzle-4x5": Row(99, 5, 68, 20),
    "puzzle-4x6": Row(115, 5, 76, 24),
}


def row_of(dataset: str) -> Row:
    """What a row of a dataset holds; of one that is not known, what the largest of the usual holds."""
    if dataset in d4rl.TASKS:
        task = d4rl.TASKS[dataset]
        return Row(task.observation_dim, task.action_dim, task.observation_dim)
    body = dataset.removeprefix("visual-")
    return next((row for name, row in _OGBENCH.items() if body.startswith(name)), _OGBENCH["puzzle-4x4"])


def row_sizes(dataset: str) -> tuple[int, int]:
    """Numbers of an observation and of an action."""
    row = row_of(dataset)
    return row.observation, row.action
