"""Where a line of docs/inputs.md is tried: the extension of docs/extend.md, and a method that learns nothing."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mfql.cli import main
from mfql.errors import UserError
from mfql.extensions import extend
from tests.support.processes import run

HEADER = "task,env_id,data,metric"
TINY = """
inherits: mfql
offline_steps: 60
online_steps: 20
batch_size: 32
time_steps: 5
policy_hidden: 16
policy_blocks: 1
critic_hidden: [16, 16]
eval_interval: 30
eval_episodes: 2
log_interval: 20
"""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed on stdout and stderr together."""

    status: int
    text: str


def said_by(function: Callable[[], object]) -> Said:
    """What a function says, and that it ended with an error for people."""

    def status() -> int:
        try:
            function()
        except UserError as error:
            print(error)
            return 2
        return 0

    return _said_by(status)


def _said_by(function: Callable[[], int]) -> Said:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            status = function()
        except SystemExit as ended:  # argparse ends so.
            status = int(ended.code or 0)
    return Said(status, text.getvalue())


@dataclass(frozen=True)
class Lab:
    """A copy of `mylab` that a case may change; commands run from the project's folder and write below `folder` alone.

    Args:
        folder: has `point.py`, `tasks.csv`, `methods/tiny.yaml` and `data/point.npz`, `point.hdf5` of docs/extend.md.
    """

    folder: Path

    def mfql(self, *arguments: str | Path) -> Said:
        """What `mfql --extension . ARGUMENTS` says, called in this process."""
        return _said_by(lambda: main(["--extension", str(self.folder), *map(str, arguments)]))

    def called(self, function: Callable[[], object]) -> Said:
        """What a function says that knows of the lab, as `mfql` would; what it returns does not count."""
        extend([self.folder])
        return said_by(function)

    def apart(self, *arguments: str | Path, **variables: str) -> Said:
        """The same in a process of its own, with these variables in its environment."""
        command = [sys.executable, "-m", "mfql.cli", "--extension", str(self.folder), *map(str, arguments)]
        done = run(command, env=os.environ | variables)
        return Said(done.returncode, done.stdout + done.stderr)

    def row(self, row: str, header: str = HEADER) -> None:
        """Make this the one row of the task table."""
        (self.folder / "tasks.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")

    def point(self) -> dict[str, np.ndarray]:
        """The arrays of `data/point.npz`."""
        with np.load(self.folder / "data" / "point.npz") as file:
            return dict(file)

    def describe(self, data: str, said: Callable[..., Said] | None = None, **variables: str) -> Said:
        """What `mfql data describe` says of a file in the lab's folder as the dataset of the point."""
        self.row(f"case,point:mylab/Point-v0,{data},success")
        return (said or self.mfql)("data", "describe", "case", "--out", self.folder / "described", **variables)

    def describe_npz(self, arrays: Mapping[str, np.ndarray]) -> Said:
        """What `mfql data describe` says of these arrays as the dataset of the point."""
        np.savez(self.folder / "data" / "case.npz", **arrays)  # type: ignore[arg-type]
        return self.describe("data/case.npz")

    def describe_hdf5(self, arrays: Mapping[str, np.ndarray], **storage: object) -> Said:
        """The same of an HDF5 file."""
        self.write_hdf5(arrays, **storage)
        return self.describe("data/case.hdf5")

    def write_hdf5(self, arrays: Mapping[str, np.ndarray], **storage: object) -> None:
        """Write `data/case.hdf5`; `/` in a name makes groups, and the rest is how h5py stores them."""
        with h5py.File(self.folder / "data" / "case.hdf5", "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, **(storage if np.ndim(values) else {}))

    def point_hdf5(self) -> dict[str, np.ndarray]:
        """The arrays of `data/point.hdf5`."""
        with h5py.File(self.folder / "data" / "point.hdf5") as file:
            return {name: values[()] for name, values in file.items()}


Case = Callable[[Lab], Said]
CASES: dict[str, Case] = {}


def given(line: str) -> Callable[[Case], Case]:
    """Register what tries a line of docs/inputs.md, by the words of its first column."""

    def register(case: Case) -> Case:
        assert line not in CASES, line
        CASES[line] = case
        return case

    return register
