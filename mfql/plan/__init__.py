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
from mfql.plan.cost import find_speed, hours_of
from mfql.plan.devices import devices_here
from mfql.plan.launch import Launch
from mfql.plan.memory import GIGABYTE, card_lines
from mfql.plan.outlook import Outlooks
from mfql.plan.sizes import data_of, result_bytes
from mfql.plan.text import job_lines, run_lines, size_lines, time_lines
from mfql.training.run import Fate

__all__ = ["EXIT_CARD_TOO_SMALL", "EXIT_WANTS_GPU", "Request", "plan", "planned_runs", "read_configuration"]

EXIT_WANTS_GPU, EXIT_CARD_TOO_SMALL = 3, 4
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
        gpus: to plan for, elsewhere; None counts those of this machine that its torch can use.
        gpu_memory: gigabytes of one of them; None is the memory of this machine's, where they are planned for.
        allow_cpu: go on without a GPU however long it takes.
        verbose: name each run.
    """

    configfile: Path | None = None
    targets: Sequence[str] = ()
    config_dir: Path = Path("config")
    results: Path = Path("results")
    speed: Path = Path("results/speed.json")
    gpus: int | None = None
    gpu_memory: float | None = None
    allow_cpu: bool = False
    verbose: bool = False


def plan(request: Request) -> int:
    """Print what a launch takes.

    Returns:
        0; `EXIT_WANTS_GPU` where a full-size configuration meets a machine without a GPU, or with a torch that cannot
        use it; `EXIT_CARD_TOO_SMALL` where a job's rows and weights alone are more than a card holds.

    Raises:
        UserError: a configuration, task table, method, lock file or file of measured speed that is faulty.
    """
    config = read_configuration(request.configfile, request.config_dir)
    lock = request.config_dir / "datasets.lock.json"
    launch = Launch(config, request.config_dir, request.targets, Outlooks(config, request.results, lock))
    here = devices_here() if request.gpus is None else None
    gpus = here.usable if here else request.gpus or 0
    memory = request.gpu_memory * GIGABYTE if request.gpu_memory else here and here.memory
    on_card, too_small = card_lines(launch.jobs, config, memory) if memory else ([], False)
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
        *([f"  THE GPU IS NOT USED: {here.problem}"] if here and here.problem else []),
        *on_card,
        *run_lines(launch, request.verbose),
    ):
        print(line)
    if not gpus and hours.elapsed > _MOST_CPU_HOURS and not request.allow_cpu:
        has = "cannot use its own" if here and here.gpus else "has none"
        print(f"This configuration wants a GPU, and this machine {has}. {_SMALLER}")
        print("To go on all the same: --config allow_cpu=true")
        return EXIT_WANTS_GPU
    if too_small:
        print("A job's rows and weights alone are more than the card holds: it would end before its first step.")
        return EXIT_CARD_TOO_SMALL
    return 0
