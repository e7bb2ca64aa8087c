"""What is measured from outside, as processes: start-up, the scheduler's share, the quickstart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.job import Context
from benchmarks.results import ROOT, Found, LeftOut, Measurement
from benchmarks.timing import Budget, Case, Values, take_turns
from mfql.cores import usable_cores
from mfql.errors import UserError

_STARTS = {
    "command line (mfql --help)": ["-m", "mfql.cli", "--help"],
    "training code": ["-c", "import mfql.training.step, mfql.evaluation.policy"],
    "torch alone": ["-c", "import torch"],
}
# A job at the quickstart's size, from nothing to the end of its first update.
_FIRST_UPDATE = """
import torch
from benchmarks.job import Job
from benchmarks.update import quickstart_agent
Job(quickstart_agent(), 1, 1_000, torch.device("cpu"), compiled={compiled}).case(1)
"""
_NOTHING = """
rule all:
    input: expand("done/{{job}}", job=range({jobs}))

rule one:
    output: "done/{{job}}"
    shell: "touch {{output}}"
"""


def _run(command: Sequence[str], folder: Path = ROOT) -> None:
    """Run a command in a folder.

    Raises:
        UserError: it failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, encoding="utf-8")
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise UserError(f"`{' '.join(command)}` failed in {folder} with status {done.returncode}:\n{last}")


def _case(command: Sequence[str]) -> Case:
    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            _run(command)
        return time.perf_counter() - began

    return run


def start_up(context: Context) -> Found:
    """Seconds of processes that do nothing but begin, and of a job that is the second of its shapes."""
    cases = {name: _case([sys.executable, *arguments]) for name, arguments in _STARTS.items()}
    times = take_turns(cases, context.effort.long_budget)
    found: Found = [Measurement.of("start", "process", "s", seconds, process=name) for name, seconds in times.items()]
    compiled = context.effort.compiled and context.device.type == "cpu"
    return found + (_second_job(context.effort.long_budget) if compiled else [])


def _second_job(budget: Budget) -> Found:
    """Seconds of a process to the end of its first update: eager, and compiled by a job before, on a processor.

    The turns' warm-up is the job before.
    """
    updates = {"eager": False, "compiled by a job before": True}
    cases = {name: _case([sys.executable, "-c", _FIRST_UPDATE.format(compiled=one)]) for name, one in updates.items()}
    eager, kept = (times := take_turns(cases, budget)).values()
    return [
        *(Measurement.of("start", "to its first update", "s", seconds, update=name) for name, seconds in times.items()),
        Measurement.of("start", "a second job beyond an eager one", "s", kept.less(eager), cores=usable_cores()),
    ]


def scheduler(context: Context) -> Found:
    """Snakemake's share: reading the rules and building the default configuration's graph, and an empty job."""
    snakemake = shutil.which("snakemake", path=str(Path(sys.executable).parent)) or shutil.which("snakemake")
    if snakemake is None:
        return [LeftOut("the scheduler's share", "snakemake is not installed")]
    graph = _case([snakemake, "--dry-run", "--quiet", "all", "--config", "allow_cpu=True"])
    jobs = context.effort.scheduled
    empty = _empty_job(snakemake, jobs, context.effort.long_budget)
    return [
        Measurement.of("scheduler", "rules read and graph built", "s", graph(1), configuration="config/config.yaml"),
        Measurement.of("scheduler", "an empty job", "s", empty, jobs=jobs),
    ]


def _empty_job(snakemake: str, jobs: int, budget: Budget) -> Values:
    """Seconds of one job of many that do nothing, one after the other, the scheduler's own start taken off."""
    times = take_turns({str(count): _empty_jobs(snakemake, count) for count in (1, 1 + jobs)}, budget)
    return times[str(1 + jobs)].less(times["1"]).times(1 / jobs)


def _empty_jobs(snakemake: str, count: int) -> Case:
    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "Snakefile").write_text(_NOTHING.format(jobs=count), encoding="utf-8")
                _run([snakemake, "--cores", "1", "--quiet", "all"], Path(folder))
        return time.perf_counter() - began

    return run


def quickstart(context: Context) -> Found:
    """Minutes of the quickstart, in a folder without data and results: with no updates kept, then with the first's."""
    found: Found = []
    for kept in ("none", "of the first"):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("workflow", "config", "profiles", "published"):
                shutil.copytree(ROOT / name, Path(folder, name))
            began = time.perf_counter()
            _run(["snakemake", "--configfile", "config/quickstart.yaml", "--cores", "all"], Path(folder))
            minutes = (time.perf_counter() - began) / 60
        case = {"cores": usable_cores(), "compiled updates": kept}
        found.append(Measurement.of("quickstart", "whole workflow", "min", minutes, **case))
    return found
