"""Tasks of one's own: environments that Gymnasium knows by id, with a dataset in one of several layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from mfql.data.paths import description_path, own_paths
from mfql.envs.scores import ScoreRange
from mfql.errors import UserError
from mfql.files import there
from mfql.suites.ogbench import UNKNOWN_ROW
from mfql.suites.suite import Row, Suite
from mfql.tasks import Registered, Task

if TYPE_CHECKING:
    from mfql.data.summary import Described
    from mfql.data.transitions import Dataset, Transitions
    from mfql.envs.isolated import Isolated


def without_environment(task: str) -> UserError:
    """What is said to whoever asks for the environment of a task that has none."""
    return UserError(
        f"{task} has no environment: there is a dataset of it alone",
        "`mfql evaluate --off-policy` estimates what a policy reaches; docs/off_policy.md says how far to trust it.",
    )


class Own(Suite):
    """The tasks of extensions' tables, or one that a policy describes; a task's dataset has the task's name.

    Args:
        tasks: by name; each has an environment, or a dataset alone.
    """

    name = "gymnasium"

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks

    @override
    def has(self, name: str) -> bool:
        return name in self.tasks

    def registered(self, task: str) -> Registered:
        """What a task's row says of its environment and data."""
        registered = self.tasks[task].registered
        assert registered is not None  # The suite has no other tasks.
        return registered

    @override
    def make(self, task: str, render: bool = False) -> Isolated:
        from mfql.envs.isolated import Isolated
        from mfql.envs.registered import make_registered

        if not self.tasks[task].has_environment:
            raise without_environment(task)
        return Isolated(make_registered(self.tasks[task], render))

    @override
    def try_out(self, task: str, folder: str | Path) -> None:
        from mfql.data.own import read_own
        from mfql.envs.trial import try_out

        if not self.tasks[task].has_environment:
            return
        if not there(description_path(folder, task)):
            read_own(self.tasks[task], tried=True)
            return
        env = self.make(task)
        try:
            try_out(env)
        finally:
            env.close()

    @override
    def paths(self, folder: str | Path, dataset: str) -> dict[str, Path]:
        return own_paths(self.tasks[dataset])

    @override
    def load(self, task: Task, folder: str | Path) -> Dataset:
        from mfql.data.own import load

        return load(task, folder)

    @override
    def describe(self, task: Task, folder: str | Path) -> Described:
        from mfql.data.own import describe

        return describe(task, folder)

    @override
    def recorded(self, task: Task, folder: str | Path) -> tuple[Mapping[str, Transitions], str]:
        from mfql.data.own import load, note_what_is_left, read_own

        source = load(task, folder).source
        note_what_is_left(task)
        return read_own(task, fitting=False), source

    @override
    def score_range(self, task: str) -> ScoreRange | None:
        row = self.registered(task)
        low, high = row.score_low, row.score_high
        return None if low is None or high is None else ScoreRange(low, high, reward_shift=0.0)

    @override
    def row(self, dataset: str) -> Row:
        return UNKNOWN_ROW
