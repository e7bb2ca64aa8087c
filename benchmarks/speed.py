"""The file of measured speed that `mfql plan` reads: jobs of reduced and of the paper's size, as they would train."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.environments import ONLINE, OnlineRun, small_online
from benchmarks.job import Context, Job
from benchmarks.results import Found, Measurement, command, describe_machine
from benchmarks.timing import take_turns
from mfql.agents.interface import Agent
from mfql.documents import write_json
from mfql.plan.cost import operations
from mfql.training.device import repays_compiling

SMALL, PAPER = "mfql-quickstart", "mfql"


def measure(context: Context, paper: Job | None) -> Found:
    """Seconds of a step by stage and size.

    Args:
        paper: a job of one seed at the paper's size and the method's precision whose updates are compiled already.
    """
    small_agent, small_task = small_online(context, SMALL)
    jobs = {
        (SMALL, 1): _job(context, small_agent, 1),
        (SMALL, context.effort.packed): _job(context, small_agent, context.effort.packed),
        (PAPER, 1): paper or _job(context, context.agent(), 1),
    }
    if context.device.type == "cuda":
        jobs[PAPER, context.effort.packed] = _job(context, context.agent(), context.effort.packed)
    found = _measured("offline", jobs, {name: job.case for name, job in jobs.items()}, context)
    runs: dict[tuple[str, int], OnlineRun] = {}
    try:
        for name, job in jobs.items():
            task = small_task if name[0] == SMALL else ONLINE["antmaze"]
            runs[name] = OnlineRun(job, task, context.effort.rows, context.effort.rows)
        return found + _measured("online", jobs, {name: run.case for name, run in runs.items()}, context)
    finally:
        for run in runs.values():
            run.pool.close()


def _job(context: Context, agent: Agent, seeds: int) -> Job:
    """A job that is compiled where the trainer would compile it; on a processor only if this effort compiles."""
    compiled = repays_compiling(context.device, agent.settings.offline_steps)
    compiled &= context.effort.compiled or context.device.type == "cuda"
    return Job(agent, seeds, context.effort.rows, context.device, compiled=compiled)


def _measured(stage: str, jobs: dict[tuple[str, int], Job], cases: dict[Any, Any], context: Context) -> Found:
    times = take_turns(
        {f"{method}/{seeds}": case for (method, seeds), case in cases.items()}, context.effort.long_budget
    )
    return [
        Measurement.of(
            "plan",
            "a step",
            "s",
            times[f"{method}/{seeds}"],
            stage=stage,
            method=method,
            seeds=seeds,
            precision=job.agent.settings.precision,
            operations=operations(job.agent.settings.as_dict()),
        )
        for (method, seeds), job in jobs.items()
    ]


def write_speed(path: Path, found: Found, context: Context) -> None:
    """Write what was measured as `mfql plan` reads it."""
    steps = [one for one in found if isinstance(one, Measurement) and one.part == "plan"]
    machine = describe_machine(context.device)
    write_json(
        path,
        {
            "machine": {"gpu": machine["gpu"], "cpu": machine["cpu"]},
            "date": time.strftime("%Y-%m-%d"),
            "command": command(),
            "threads": torch.get_num_threads(),
            "measurements": [
                {
                    "device": context.device.type,
                    "stage": step.case["stage"],
                    "seeds": step.case["seeds"],
                    "operations": step.case["operations"],
                    "seconds": step.value,
                }
                for step in steps
            ],
        },
    )
