"""Small real training runs for tests: a few episodes of data, tiny networks, the real environment and command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mfql.data.generate import generate
from tests.support.processes import run

ROOT = Path(__file__).parents[2]
# The extension that has the methods of tests: `NAME-miniature`, a few seconds of training.
MINIATURE = ROOT / "tests" / "miniature"
METHOD_FILES = sorted(path for folder in (ROOT / "config", MINIATURE) for path in folder.glob("methods/*.yaml"))
TASK = "pointmaze-medium-navigate-singletask-task1-v0"
DATASET = "pointmaze-medium-navigate-v0"
METHOD = "mfql-miniature"

# The least that trains offline and online: nothing is learnt.
SHORT = """
inherits: flow_bc-miniature
offline_steps: 10
pretrain: {offline_steps: 10}
online_steps: 10
eval_interval: 5
eval_episodes: 1
"""


@dataclass(frozen=True)
class Workplace:
    """A folder with `data`, `config` and any number of results folders."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Workplace:
        """Generate the dataset and copy the configuration."""
        generate(DATASET, folder / "data", episodes=3, seed=1, progress=False)
        shutil.copytree(ROOT / "config", folder / "config")
        return cls(folder)

    def method(self, name: str, text: str) -> None:
        """Add a method file."""
        (self.folder / "config" / "methods" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def arguments(
        self, method: str, stage: str, seeds: list[int], results: str = "results", *more: str, task: str = TASK
    ) -> list[str]:
        """Arguments of `mfql train`."""
        return [
            "train", "--method", method, "--task", task, "--stage", stage, "--seeds", *map(str, seeds),
            "--data", str(self.folder / "data"), "--results", str(self.folder / results),
            "--config-dir", str(self.folder / "config"), "--device", "cpu", "--threads", "1", "--workers", "1",
            "--no-progress", *more,
        ]  # fmt: skip

    def call(self, arguments: list[str], program: tuple[str, ...] = ("-m", "mfql.cli")) -> subprocess.CompletedProcess:
        """Run a command of `mfql` in a process of its own."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return run([sys.executable, *program, *arguments], env=environment, cwd=ROOT)

    def train(self, *args, **kwargs) -> subprocess.CompletedProcess:
        """Run `mfql train`; it must succeed."""
        done = self.call(self.arguments(*args, **kwargs))
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def train_here(
        self,
        method: str,
        stage: str,
        seeds: tuple[int, ...],
        results: str = "results",
        data: str = "data",
        task: str = TASK,
        threads: int | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        """Train in this process, which costs no start of another; with one thread, or those that are asked for."""
        import torch

        from mfql.training.loop import Execution
        from mfql.training.train import Job, train

        job = Job(method, task, stage, seeds, self.folder / data, self.folder / results, self.folder / "config")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            execution = Execution(torch.device("cpu"), workers=0, compiled=compiled, progress=False, threads=threads)
            train(job, execution)
        finally:
            torch.set_num_threads(before)

    def run(self, method: str, seed: int, stage: str, results: str = "results", task: str = TASK) -> Path:
        """The folder that the trainer owns of a run."""
        return self.folder / results / "runs" / method / task / f"seed{seed}" / stage / "run"
