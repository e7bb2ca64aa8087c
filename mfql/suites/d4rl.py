"""D4RL: Adroit and AntMaze."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from mfql.data.paths import d4rl_paths
from mfql.envs.d4rl import TASKS, find_d4rl_task
from mfql.suites.suite import Row, Suite
from mfql.tasks import Task

if TYPE_CHECKING:
    from mfql.data.layouts import Layout
    from mfql.data.replay import Recording
    from mfql.data.transitions import Dataset
    from mfql.envs.isolated import Isolated
    from mfql.envs.scores import ScoreRange

# Rows of datasets that have not a million.
_ROWS = {
    "pen-human": 5_000,
    "hammer-human": 11_310,
    "door-human": 6_729,
    "relocate-human": 9_942,
    "pen-cloned": 500_000,
    "pen-expert": 499_206,
}


class D4RL(Suite):
    """The tasks of D4RL 1.1 that this project has on today's MuJoCo; a task's dataset has the task's name."""

    name = "d4rl"
    replayable = True

    @override
    def has(self, name: str) -> bool:
        return name in TASKS

    @override
    def make(self, task: str, render: bool = False) -> Isolated:
        return self.make_many(task, 1)[0]

    @override
    def make_many(self, task: str, count: int) -> list[Isolated]:
        from mfql.envs.d4rl_make import make_simulations
        from mfql.envs.isolated import Isolated

        return [Isolated(env) for env in make_simulations(task, count)]

    @override
    def paths(self, folder: str | Path, dataset: str) -> dict[str, Path]:
        return d4rl_paths(folder, dataset)

    @override
    def address(self, dataset: str, path: Path) -> str:
        from mfql.envs.d4rl_package import dataset_url

        return dataset_url(dataset)

    @override
    def layout(self) -> Layout:
        from mfql.data import layouts

        return layouts.D4RL

    @override
    def load(self, task: Task, folder: str | Path) -> Dataset:
        from mfql.data.d4rl import load

        return load(task, folder)

    @override
    def score_range(self, task: str) -> ScoreRange:
        from mfql.envs.d4rl_package import score_range

        return score_range(task)

    @override
    def episode_steps(self, task: str) -> int:
        return find_d4rl_task(task).limit

    @override
    def row(self, dataset: str) -> Row:
        task = find_d4rl_task(dataset)
        return Row(task.observation_dim, task.action_dim, task.observation_dim)

    @override
    def rows(self, dataset: str, episodes: int | None) -> float:
        return _ROWS.get(dataset.rpartition("-")[0], 1_000_000)

    @override
    def recording(self, task: str, path: Path) -> Recording:
        from mfql.data.replay_d4rl import recording

        return recording(path, task)
