"""OGBench: mazes and manipulation, with states or pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from mfql.data.paths import ogbench_paths
from mfql.data.recipes import VAL_SHARE, recipes
from mfql.errors import UserError
from mfql.suites.suite import Row, Suite
from mfql.tasks import Task

if TYPE_CHECKING:
    from mfql.data.layouts import Layout
    from mfql.data.replay import Recording
    from mfql.data.transitions import Dataset
    from mfql.envs.isolated import Isolated

_PIXELS = "visual-"
# Three stacked images.
_IMAGE = (64, 64, 9)
_ROWS = {
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
# Of a dataset of which nothing is known: what the largest of the usual holds.
UNKNOWN_ROW = _ROWS["puzzle-4x4"]
# Rows of the training files of datasets that are published alone, and of all others.
_PUBLISHED = {"humanoidmaze-medium": 2_001_000, "humanoidmaze-large": 2_001_000}
_USUAL = 1_000_500


class OGBench(Suite):
    """The single tasks of OGBench 1."""

    name = "ogbench"
    replayable = True

    @override
    def has(self, name: str) -> bool:
        return "singletask" in name.split("-")

    @override
    def in_maze(self, task: str) -> bool:
        # Those of pixels act a hundred times slower, and in antsoccer it is the ball that has a goal.
        return task.startswith(("pointmaze-", "antmaze-", "humanoidmaze-"))

    @override
    def make(self, task: str, render: bool = False) -> Isolated:
        from mfql.envs.ogbench import make_task

        self._require(task)
        return make_task(task)

    @override
    def make_many(self, task: str, count: int) -> list[Isolated]:
        from mfql.envs.ogbench import make_tasks

        self._require(task)
        return make_tasks(task, count)

    def _require(self, task: str) -> None:
        if not self.has(task):
            raise UserError(
                f"{task!r} is not a single-task OGBench name, nor one of the D4RL tasks, nor one of an extension",
                "Such as cube-single-play-singletask-task1-v0 or pen-human-v1; docs/extend.md adds others.",
            )

    @override
    def paths(self, folder: str | Path, dataset: str) -> dict[str, Path]:
        return ogbench_paths(folder, dataset)

    @override
    def address(self, dataset: str, path: Path) -> str:
        from ogbench.utils import DATASET_URL

        return f"{DATASET_URL}/{path.name}"

    @override
    def layout(self) -> Layout:
        from mfql.data import layouts

        return layouts.OGBENCH

    @override
    def load(self, task: Task, folder: str | Path) -> Dataset:
        from mfql.data.ogbench import load

        images = self.row(task.dataset).image is not None
        if task.pixels != images:
            raise UserError(
                f"observations of {task.name} are {task.observations!r} in its task table, and {task.dataset} has"
                f" {'images' if images else 'vectors of numbers'}",
                f"Write {'pixels' if images else 'state'} there.",
            )
        return load(task, folder)

    @override
    def score_range(self, task: str) -> None:
        return None

    @override
    def row(self, dataset: str) -> Row:
        body = dataset.removeprefix(_PIXELS)
        found = next((row for name, row in _ROWS.items() if body.startswith(name)), UNKNOWN_ROW)
        return replace(found, image=_IMAGE) if dataset.startswith(_PIXELS) else found

    @override
    def rows(self, dataset: str, episodes: int | None) -> float:
        recipe = recipes().get(dataset)
        if recipe is not None:
            train = (episodes or recipe.episodes) * recipe.steps
        else:
            train = next((rows for name, rows in _PUBLISHED.items() if dataset.startswith(name)), _USUAL)
        return train * (1 + 1 / VAL_SHARE)

    @override
    def recording(self, task: str, path: Path) -> Recording:
        from mfql.data.replay_ogbench import recording

        # Images play no part in what the simulator does, and rendering them takes long.
        return recording(path, task.removeprefix(_PIXELS))
