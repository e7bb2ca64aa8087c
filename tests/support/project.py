"""Working copies of the project, driven as a user drives them: `snakemake` and `mfql` themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mfql.extensions import VARIABLE
from tests.support.processes import run
from tests.support.training_runs import ROOT, TASK

NOTHING_TO_DO = "Nothing to be done"


@dataclass(frozen=True)
class Project:
    """A working copy of the project, without its results."""

    folder: Path
    python: Path = Path(sys.executable)

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """Run snakemake in the project; returns all that it prints."""
        return self._run("snakemake", "--cores", "2", *arguments, fails=fails)

    def miniature(self, *arguments: str, config: tuple[str, ...] = (), fails: bool = False) -> str:
        """Run snakemake with the miniature configuration and these changes to it."""
        changes = ("--config", *config) if config else ()
        return self.snakemake(*arguments, "--configfile", "tests/miniature.yaml", *changes, fails=fails)

    def mfql(self, *arguments: str, fails: bool = False) -> str:
        """Run mfql in the project; returns all that it prints."""
        return self._run("mfql.cli", *arguments, fails=fails)

    def _run(self, *command: str, fails: bool) -> str:
        # A user's environment names no extension; a configuration does.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", VARIABLE: ""}
        done = run(
            [self.python, "-m", *command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def trained(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """For each run the files that its trainer owns, with their dates: a run that trains or goes on changes them."""
        runs = {}
        for folder in sorted(self.folder.glob("results/runs/*/*/seed*/*/run*")):
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            name = folder.relative_to(self.folder / "results/runs").as_posix()
            runs[name] = tuple((path.name, path.stat().st_mtime_ns) for path in files)
        return runs

    def copy(self, folder: Path) -> Project:
        """All of the project with its results and Snakemake's records, dates kept."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def clone(folder: Path) -> Project:
    """What a user has before the first run."""
    for name in ("workflow", "profiles", "config", "published", "tests/miniature"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "tests/miniature.yaml", folder / "tests")
    return Project(folder)


def jobs(printed: str) -> dict[str, int]:
    """The jobs by rule, and their total, of the table that a dry run prints."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE)}


def evaluation(seed: int, stage: str = "offline", method: str = "mfql-miniature") -> str:
    """The target of one run."""
    return f"results/runs/{method}/{TASK}/seed{seed}/{stage}/evaluation.json"
