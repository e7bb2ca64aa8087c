"""What a suite of tasks is: where its environments, files, scores and sizes come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfql.errors import UserError
from mfql.tasks import Task

# A suite is asked on machines that have neither Gymnasium nor MuJoCo: its methods import what they need.
if TYPE_CHECKING:
    from mfql.data.layouts import Layout
    from mfql.data.replay import Recording
    from mfql.data.summary import Described
    from mfql.data.transitions import Dataset, Transitions
    from mfql.envs.isolated import Isolated
    from mfql.envs.scores import ScoreRange


@dataclass(frozen=True)
class Row:
    """Numbers in a row of a dataset.

    Args:
        observation: of the state, D.
        action: A.
        state: of the simulator's state that is recorded beside it.
        buttons: of the states of buttons.
        image: the shape of an observation of a pixel task, [H, W, C]; None of a state task.
    """

    observation: int
    action: int
    state: int
    buttons: int = 0
    image: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an observation as networks see it."""
        return self.image or (self.observation,)


class Suite(ABC):
    """A family of tasks whose environments are made, and whose datasets are read, in one way.

    Attributes:
        name: the suite's name in the description of a policy.
        replayable: whether its files record states of the simulator, so that `recording` is there.
    """

    name: str
    replayable = False

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a task or a dataset of that name is the suite's."""

    @abstractmethod
    def make(self, task: str, render: bool = False) -> Isolated:
        """The environment of a task with its time limit; actions are in its own units.

        Args:
            render: whether it will be asked for frames, which those of Gymnasium want to know.

        Raises:
            UserError: there is no such task, or its environment cannot be made here.
        """

    def make_many(self, task: str, count: int) -> list[Isolated]:
        """`count` environments of a task for one thread, which may share a compiled model.

        Raises:
            UserError: as of `make`.
        """
        return [self.make(task) for _ in range(count)]

    def in_maze(self, task: str) -> bool:
        """Whether the task is in a maze over which `mfql trajectories` draws where a policy goes."""
        return False

    def try_out(self, task: str, folder: str | Path) -> None:
        """Try the environment of a task before anything rests on it. A suite's own have nothing to be tried.

        Args:
            task: its name.
            folder: of its dataset's description; data without one are held against what the environment does.

        Raises:
            UserError: it is not what training and evaluation need; see `mfql.envs.trial`.
        """
        return

    @abstractmethod
    def paths(self, folder: str | Path, dataset: str) -> dict[str, Path]:
        """The files of a dataset by split: `train`, and `val` where it has one."""

    def address(self, dataset: str, path: Path) -> str:
        """Where a file of a dataset is published.

        Raises:
            UserError: it is not.
        """
        raise UserError(
            f"{dataset} is published nowhere that this project knows",
            "Put its file where its suite or its row says, and call `mfql data describe`.",
        )

    @abstractmethod
    def load(self, task: Task, folder: str | Path) -> Dataset:
        """The dataset of a task, checked against its environment and its description.

        Args:
            folder: where the dataset's description is, and its files if they are not elsewhere.

        Raises:
            UserError: a file is absent, damaged, changed, or belongs to another environment.
        """

    def layout(self) -> Layout | None:
        """How the suite's files are read without their environment; None where `load` alone reads them."""
        return None

    def describe(self, task: Task, folder: str | Path) -> Described:
        """Check a dataset and write its description anew, by which it is known from then on.

        Raises:
            UserError: as of `load`; or, of published files, nothing says where they come from.
        """
        from mfql.data.description import describe_anew, describe_rows
        from mfql.data.summary import Described

        dataset, paths, layout = self.load(task, folder), self.paths(folder, task.dataset), self.layout()
        splits: dict[str, Transitions] = {"train": dataset, "val": dataset.val}
        rows = {split: splits[split] for split in paths}
        if layout:
            describe_anew(folder, task.dataset, paths, layout)
        else:
            describe_rows(folder, task.dataset, paths, rows)
        return Described(rows)

    def recorded(self, task: Task, folder: str | Path) -> tuple[Mapping[str, Transitions], str]:
        """The transitions of each file of a dataset as they are exported, checked as of `load`.

        Returns:
            Of a suite's own what training sees; of files of one's own the files' numbers, actions in the environment's
            units. And the dataset's source.

        Raises:
            UserError: as of `load`.
        """
        dataset = self.load(task, folder)
        splits: dict[str, Transitions] = {"train": dataset, "val": dataset.val}
        return {split: splits[split] for split in self.paths(folder, task.dataset)}, dataset.source

    def fetch(self, dataset: str, folder: str | Path, **options: Any) -> Path:
        """Bring the files of a dataset from where they are published, a mirror or a folder.

        Args:
            folder: where to write them.
            options: of `mfql.data.fetch.fetch`.

        Returns:
            The training file's path.

        Raises:
            UserError: it is published nowhere; or as of `mfql.data.fetch.fetch`.
        """
        from mfql.data.fetch import fetch

        paths = self.paths(folder, dataset)
        files = {path: self.address(dataset, path) for path in paths.values()}
        fetch(dataset, folder, files, layout=self.layout(), **options)
        return paths["train"]

    def replay(self, task: Task, folder: str | Path, rows: int) -> dict[str, Any]:
        """How far steps of today's simulator are from those that a task's dataset recorded.

        Args:
            folder: where the dataset is.
            rows: how many; see `mfql.data.replay.replay`, which has what is returned.

        Raises:
            UserError: the suite's files have no states, or this one is absent, damaged, or without them.
        """
        from mfql.data.replay import replay

        path = self.paths(folder, task.dataset)["train"]
        return replay(task, path, self.recording(task.name, path), rows)

    @abstractmethod
    def score_range(self, task: str) -> ScoreRange | None:
        """The returns that stand for a normalised return of 0 and 100; None for a task that is scored otherwise.

        Raises:
            UserError: what knows them is not installed.
        """

    def episode_steps(self, task: str) -> int:
        """About how many steps an episode has, at most."""
        return 500

    @abstractmethod
    def row(self, dataset: str) -> Row:
        """What a row of a dataset holds, before its files are there."""

    def rows(self, dataset: str, episodes: int | None) -> float:
        """An estimate of a dataset's rows, those of a validation split among them.

        Args:
            episodes: of one that is generated; None is the published number.
        """
        return 1_100_550.0

    def recording(self, task: str, path: Path) -> Recording:
        """What a dataset's training file recorded of its simulator, and today's simulator.

        Raises:
            UserError: the suite's files have no states, or this one is absent, damaged, or without them.
        """
        raise UserError(
            f"the files of {task} have no states to put its simulator into",
            "OGBench's and D4RL's tasks can be replayed.",
        )
