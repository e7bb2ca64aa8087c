"""All parts in one run; what a machine lacks is left out with a line that says so."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import acting, many, processes, shared, update
from benchmarks.job import Context, Job
from benchmarks.memory import memory
from benchmarks.reference import Reference, ReferenceUpdates
from benchmarks.results import Found, LeftOut, Measurement, document
from mfql.errors import UserError

Jobs = dict[tuple[str, str], Job]
Part = Callable[[Context], Found]
# How the reason of a part that failed begins.
FAILED = "failed"
# What a part imports beside torch and numpy.
_SIMULATOR = ("gymnasium", "mujoco", "ogbench")
_NEEDED = {"online": _SIMULATOR, "evaluation": _SIMULATOR, "data": _SIMULATOR, "plan": (*_SIMULATOR, "jsonschema")}
PARTS = (
    "update",
    "plan",
    "seeds",
    "acting",
    "methods",
    "online",
    "evaluation",
    "data",
    "start",
    "memory",
    "scheduler",
    "many",
    "quickstart",
)
# These take minutes of their own, the first of the two half an hour.
DEFAULT_PARTS = PARTS[:-2]


def measure(
    context: Context,
    parts: Sequence[str],
    quick: bool,
    reference: Reference | None = None,
    compiled_code: Path | None = None,
) -> tuple[dict[str, Any], Found]:
    """Measure parts.

    Args:
        parts: of `PARTS`.
        quick: mark the results as a smoke run.
        reference: the released code to measure beside the updates.
        compiled_code: torch keeps compiled code there; None takes an empty folder, so that a first step shows what
            compiling costs.

    Returns:
        the content of a results file, and what was found. A part that fails is left out, with the error as its reason.
    """
    found: Found = []
    wanted = [part for part in PARTS if part in parts]
    absent = {part: [name for name in _NEEDED.get(part, ()) if not importlib.util.find_spec(name)] for part in wanted}
    found += [LeftOut(part, f"not installed: {', '.join(names)}") for part, names in absent.items() if names]
    present = [part for part in wanted if not absent[part]]
    with compiled_code_in(compiled_code):
        jobs: Jobs = {}
        every: dict[str, Part] = {**_APART, "update": partial(_update, jobs, reference), "plan": partial(_plan, jobs)}
        for part in present:
            found += _kept_going(part, every[part], context)
    return document(found, context.device, quick), found


def _kept_going(name: str, part: Part, context: Context) -> Found:
    """What a part finds; one that fails is told and left out, since the others took their time."""
    print(f"benchmarks: {name}", flush=True)
    try:
        return part(context)
    except Exception as error:
        if isinstance(error, UserError):  # Which says all that there is to say.
            print(f"benchmarks: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return [LeftOut(name, f"{FAILED}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")]


@contextmanager
def compiled_code_in(folder: Path | None) -> Iterator[None]:
    """Within the block compiled code is kept in a folder; None is a new one, which goes with the block."""
    with tempfile.TemporaryDirectory() as new:
        place = folder.resolve() if folder else Path(new)
        # torch sets the second one itself at the first kernel that Triton compiles, and then keeps it.
        named = {"TORCHINDUCTOR_CACHE_DIR": place, "TRITON_CACHE_DIR": place / "triton", "XDG_CACHE_HOME": place}
        before = {name: os.environ.get(name) for name in named}
        os.environ.update({name: str(path) for name, path in named.items()})
        try:
            yield
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def _update(jobs: Jobs, reference: Reference | None, context: Context) -> Found:
    """Measure the updates; their jobs stay in `jobs`, so that each is compiled once."""
    with ExitStack() as stack:
        theirs = None
        if reference is not None:
            theirs = ReferenceUpdates(reference, context.agent().settings.batch_size)
            stack.callback(theirs.close)
        made, found = update.jobs_by_kind(context)
        jobs.update(made)
        found += update.by_precision(context, jobs, theirs)
        if (ours := jobs.get(("float32", "compiled"))) is not None:
            found += shared.under_load(context.device, ours.case, theirs, context.effort.budget)
    return found + update.at_quickstart_size(context) + update.host_synchronisations(context)


def _plan(jobs: Jobs, context: Context) -> Found:
    from benchmarks import speed

    mode = "captured" if context.device.type == "cuda" else "compiled"
    return speed.measure(context, jobs.get((context.agent().settings.precision, mode)))


def _of_environments(name: str) -> Part:
    """A part that imports the simulator, which not every machine has."""

    def run(context: Context) -> Found:
        from benchmarks import environments

        part: Part = getattr(environments, name)
        return part(context)

    return run


_APART: Mapping[str, Part] = {
    "seeds": update.by_seeds,
    "acting": acting.acting,
    "methods": acting.methods,
    "online": _of_environments("online"),
    "evaluation": _of_environments("evaluation"),
    "data": _of_environments("collecting"),
    "start": processes.start_up,
    "memory": memory,
    "scheduler": processes.scheduler,
    "many": many.commands,
    "quickstart": processes.quickstart,
}


def paper_hours(context: Context, speed: Path) -> list[dict[str, Any]]:
    """On a GPU: the hours that `mfql plan` finds for the paper's state-based runs with a file of measured speed."""
    if context.device.type != "cuda":
        return []
    from mfql.cores import usable_cores
    from mfql.experiment.configuration import packs_of_task, planned_runs, read_configuration
    from mfql.plan.cost import find_speed, hours_of
    from mfql.plan.launch import TrainingJob
    from mfql.plan.outlook import Outlooks

    config = read_configuration(None, context.config_dir)
    config["offline"]["tasks"].remove("ogbench-visual")
    with tempfile.TemporaryDirectory() as results:
        outlooks = Outlooks(config, Path(results), context.config_dir / "datasets.lock.json")
        jobs = [
            TrainingJob(run, tuple(outlooks.of(run, seed) for seed in pack), needed=True)
            for run in planned_runs(config, context.config_dir)
            for pack in packs_of_task(config, run.task)
        ]
        hours = hours_of(jobs, 0.0, find_speed(speed, 1), config["threads"], 1, usable_cores())
    one = Measurement.of("plan", "the paper's state-based runs", "GPU-hours", hours.gpu, gpu=1)
    return [asdict(one)]
