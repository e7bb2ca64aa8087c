"""`mfql plan`: what a launch would run, what it takes on this machine, and what it trains anew and why.

Jobs are Snakemake's own (`graph.py`), runs are judged as the trainer judges them (`outlook.py`); hours and bytes are
estimates. This package needs no torch, so that a login node can plan.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from mfql.cores import usable_cores
from mfql.errors import counted
from mfql.experiment.configuration import LOCK, find_run, note_unrun, planned_runs, read_configuration
from mfql.experiment.run import Fate
from mfql.extensions import extend, project_path, reading_once
from mfql.files import require_file
from mfql.gpus import devices_here
from mfql.plan.cost import Hours, find_speed, hours_of
from mfql.plan.graph import Graph, ask
from mfql.plan.launch import Launch, TrainingJob
from mfql.plan.memory import GIGABYTE, card_lines
from mfql.plan.outlook import Outlooks
from mfql.plan.sizes import data_of, result_bytes
from mfql.plan.text import job_lines, queue_lines, run_lines, size_lines, time_lines

__all__ = [
    "EXIT_CARD_TOO_SMALL",
    "EXIT_WANTS_GPU",
    "Request",
    "graph_asked",
    "plan",
    "planned_runs",
    "read_configuration",
    "tell",
    "training_wants_gpu",
]

EXIT_WANTS_GPU, EXIT_CARD_TOO_SMALL = 3, 4
# Hours without a GPU from which a launch or a training is refused, unless one insists.
_MOST_CPU_HOURS = 48.0
_SMALLER = "config/quickstart.yaml takes minutes, config/laptop.yaml half an hour."
_RESULTS, _SPEED = Path("results"), Path("speed.json")


@dataclass(frozen=True)
class Request:
    """What to plan, in Snakemake's words.

    Args:
        targets: rules or files; none stands for `all`.
        configfile: laid over `config/config.yaml` and over each other, in this order.
        config: changes to it, as `KEY=VALUE`.
        until: rules or files to stop at; omit_from: to leave out with all that rests on them.
        profile, workflow_profile: folders with Snakemake's options.
        snakemake: further options, handed on as they are.
        speed: file of measured speed, if there; None for `results/speed.json`.
        gpus: to plan for; None counts those of this machine, or what a cluster's queue holds at once.
        gpu_memory: gigabytes of one of them; None is the memory of this machine's, or what a cluster's profile says.
        allow_cpu: go on without a GPU however long it takes.
        verbose: name each run.
    """

    targets: Sequence[str] = ()
    configfile: Sequence[Path] = ()
    config: Sequence[str] = ()
    until: Sequence[str] = ()
    omit_from: Sequence[str] = ()
    profile: Path | None = None
    workflow_profile: Path | None = None
    snakemake: Sequence[str] = ()
    speed: Path | None = None
    gpus: int | None = None
    gpu_memory: float | None = None
    allow_cpu: bool = False
    verbose: bool = False

    @property
    def arguments(self) -> list[str]:
        """The arguments of `snakemake` that make the request."""
        several = {
            "--configfile": [str(path) for path in self.configfile],
            "--config": self.config,
            "--until": self.until,
            "--omit-from": self.omit_from,
            "--profile": [str(self.profile)] if self.profile else [],
            "--workflow-profile": [str(self.workflow_profile)] if self.workflow_profile else [],
        }
        given = [word for option, values in several.items() if values for word in (option, *values)]
        return [*self.targets, *given, *self.snakemake]


@reading_once()
def plan(request: Request) -> int:
    """Ask Snakemake what a launch would run, and print what that takes.

    Returns:
        As of `tell`.

    Raises:
        CannotRead: the system does not let a profile's file be read, or it is no file.
        UserError: a file is no configuration; Snakemake refuses the targets or the configuration; or as of `tell`.
    """
    graph = graph_asked(request)
    speed = None if request.speed is None else request.speed.absolute()
    with chdir(graph.folder):
        extend(graph.config["extensions"])  # `ask` leaves nothing of what the Snakefile sets.
        return tell(graph, speed, request.gpus, request.gpu_memory, request.allow_cpu, request.verbose)


def graph_asked(request: Request) -> Graph:
    """What Snakemake finds to do.

    Raises:
        CannotRead: the system does not let a profile's file be read, or it is no file.
        UserError: a file is no configuration; or Snakemake refuses the targets or the configuration.
    """
    for folder in filter(None, (request.profile, request.workflow_profile)):
        for path in project_path(folder).glob("config*.yaml"):  # One of them, by Snakemake's version.
            require_file(path)  # Snakemake waits for a pipe.
    return ask(request.arguments)


def tell(
    graph: Graph,
    speed: Path | None = None,
    gpus: int | None = None,
    gpu_memory: float | None = None,
    allow_cpu: bool = False,
    verbose: bool = False,
) -> int:
    """Print what a launch takes; the arguments are those of `Request`.

    Returns:
        0; `EXIT_WANTS_GPU` where work of GPU size meets a machine without a GPU, or with a torch that cannot use it;
        `EXIT_CARD_TOO_SMALL` where a job's rows and weights alone are more than a card holds.

    Raises:
        UserError: a task table, method, lock file or file of measured speed that is faulty.
    """
    config = graph.config
    if graph.storage is not None:  # What is finished there, Snakemake alone has looked at.
        print(
            f"{config['name']}, {graph.asked}: {counted(len(graph.needed), 'job')}, whose files lie in {graph.storage}"
        )
        return 0
    launch = Launch(graph, graph.config_dir, Outlooks(config, _RESULTS, LOCK))
    note_unrun(job.run for job in launch.jobs)
    # On a cluster, and where a number is given, the GPUs are not those of this machine.
    here = devices_here() if gpus is None and graph.queue is None else None
    gpus = here.usable if here else _at_once(graph) if gpus is None else gpus
    card = gpu_memory or (graph.queue.gpu_memory if graph.queue else None)
    memory = card * GIGABYTE if card else here and here.memory
    on_card, too_small = card_lines(launch.jobs, config, memory) if memory else ([], False)
    cores = usable_cores()
    known = find_speed(speed or _RESULTS / _SPEED, gpus, config["threads"], cores)
    hours = hours_of([*launch.jobs, *launch.toys], launch.beside, known, config["threads"], gpus, cores)
    results = sum(
        result_bytes(job.run, sum(seen.fate is not Fate.FINISHED for seen in job.outlooks)) for job in launch.jobs
    )
    runs = sum(len(job.outlooks) for job in launch.training)
    finished = sum(seen.fate is Fate.FINISHED for job in launch.training for seen in job.outlooks)
    print(f"{config['name']}, {graph.asked}: {counted(runs, 'run')}, {finished} of them finished")
    for line in (
        *job_lines(launch),
        *queue_lines(graph),
        *size_lines(data_of(launch.datasets, config, LOCK), results, config, _RESULTS),
        *time_lines(hours, known.source, gpus, cores),
        *([f"  THE GPU IS NOT USED: {here.problem}"] if here and here.problem else []),
        *on_card,
        *run_lines(launch, verbose),
    ):
        print(line)
    sys.stdout.flush()
    if _wants_gpu(hours, gpus, allow_cpu or config["allow_cpu"], "--config allow_cpu=true", bool(here and here.gpus)):
        return EXIT_WANTS_GPU
    if too_small:
        said = "A job's rows and weights alone are more than the card holds: it would end before its first step."
        print(said, flush=True)
        return EXIT_CARD_TOO_SMALL
    return 0


def _at_once(graph: Graph) -> int:
    """GPUs to count with on a cluster: one for each training job that its queue holds at once."""
    if graph.queue is None:
        return 0
    return min((graph.queue.at_once(job) for job in graph.needed), default=graph.queue.jobs)


def _wants_gpu(hours: Hours, gpus: int, allowed: bool, option: str, has_one: bool = False) -> bool:
    """Whether something is too long for a machine without a GPU; says so, and how to insist."""
    if gpus or allowed or hours.elapsed <= _MOST_CPU_HOURS:
        return False
    has = "cannot use its own" if has_one else "has none"
    print(f"This configuration wants a GPU, and this machine {has}. {_SMALLER}")
    print(f"To go on all the same: {option}", flush=True)
    return True


def training_wants_gpu(
    method: str, task: str, stage: str, seeds: Sequence[int], data: Path, results: Path, config_dir: Path
) -> bool:
    """Whether `mfql train` without a GPU is of the size that a launch refuses; says so, with the hours.

    Raises:
        UserError: an unknown method, task or setting, or a file of measured speed that is faulty.
    """
    config = {"seeds": seeds, "pixel_seeds": seeds, "datasets": {}, "data_dir": str(data)}
    run = find_run(config, config_dir, method, task, stage)
    outlooks = Outlooks(config, results, LOCK)
    job = TrainingJob(run, tuple(outlooks.of(run, seed) for seed in seeds), needed=True)
    cores = usable_cores()
    speed = find_speed(results / _SPEED, 0, cores, cores)
    hours = hours_of([job], 0.0, speed, cores, 0, cores)
    if hours.elapsed > _MOST_CPU_HOURS:
        print("\n".join(time_lines(hours, speed.source, 0, cores)))
    return _wants_gpu(hours, 0, False, "--allow-cpu")
