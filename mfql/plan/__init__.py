"""`mfql plan`: what a launch would run, what it takes on this machine, and what it trains anew and why.

Hours and bytes are estimates; jobs and runs are counted by the rules that the workflow and the trainer follow. This
package needs no torch, so that a login node can plan.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfql.plan.configuration import planned_runs, read_configuration
from mfql.plan.cost import find_speed, hours_of, visible_gpus
from mfql.plan.launch import Launch
from mfql.plan.outlook import Outlooks
from mfql.plan.sizes import data_of, result_bytes
from mfql.plan.text import job_lines, run_lines, size_lines, time_lines
from mfql.training.run import Fate

__all__ = ["EXIT_WANTS_GPU", "Request", "plan", "planned_runs", "read_configuration"]

EXIT_WANTS_GPU = 3
# Hours without a GPU from which a configuration is refused, unless one insists.
_MOST_CPU_HOURS = 48.0
_SMALLER = "config/quickstart.yaml takes minutes, config/laptop.yaml half an hour."


@dataclass(frozen=True)
class Request:
    """What to plan.

    Args:
        configfile: laid over `config_dir/config.yaml`; None for that one alone.
        targets: of Snakemake: `all`, `offline`, `online`, `replay`, `ablations`, `ablation_NAME`, or files; none stands
            for `all`.
        results: folder that has `runs/`.
        speed: file of measured speed, if there.
        gpus: to plan for; None counts those of this machine.
        allow_cpu: go on without a GPU however long it takes.
        verbose: name each run.
    """

    configfile: Path | None = None
    targets: Sequence[str] = ()
    config_dir: Path = Path("config")
    results: Path = Path("results")
    speed: Path = Path("results/speed.json")
    gpus: int | None = None
    allow_cpu: bool = False
    verbose: bool = False


def plan(request: Request) -> int:
    """Print what a launch takes.

    Returns:
        0, or `EXIT_WANTS_GPU` where a full-size configuration meets a machine without a GPU.

    Raises:
        UserError: a configuration, task table, method, lock file or file of measured speed that is faulty.
    """
    config = read_configuration(request.configfile, request.config_dir)
    lock = request.config_dir / "datasets.lock.json"
    launch = Launch(config, request.config_dir, request.targets, Outlooks(config, request.results, lock))
    gpus = visible_gpus() if request.gpus is None else request.gpus
    cores = os.cpu_count() or 1
    speed = find_speed(request.speed, gpus)
    hours = hours_of(launch.jobs, launch.beside, speed, config["threads"], gpus, cores)
    results = sum(
        result_bytes(job.run, sum(seen.fate is not Fate.FINISHED for seen in job.outlooks)) for job in launch.jobs
    )
    runs = sum(len(job.outlooks) for job in launch.training.values())
    finished = sum(seen.fate is Fate.FINISHED for job in launch.training.values() for seen in job.outlooks)
    print(f"{config['name']}, {' '.join(request.targets) or 'all'}: {runs} runs, {finished} of them finished")
    for line in (
        *job_lines(launch),
        *size_lines(data_of(launch.datasets, config, lock), results, config, request.results),
        *time_lines(hours, speed.source, gpus, cores),
        *run_lines(launch, request.verbose),
    ):
        print(line)
    if not gpus and hours.elapsed > _MOST_CPU_HOURS and not request.allow_cpu:
        print(f"This configuration wants a GPU, and this machine has none. {_SMALLER}")
        print("To go on all the same: --config allow_cpu=true")
        return EXIT_WANTS_GPU
    return 0
