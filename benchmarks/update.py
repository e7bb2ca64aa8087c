"""Updates a second: by precision beside the machine's rate for the same products, and by number of seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.acting import agent_of
from benchmarks.job import Context, Job
from benchmarks.products import ProductsAlone, record
from benchmarks.results import ROOT, Found, Measurement
from benchmarks.timing import Case, repeated, take_turns
from mfql.agents.interface import Agent
from mfql.training.device import set_precision

_WARM_UP_STEPS, _CHECKED_STEPS = 5, 1_000
# Of the quickstart: its method and task, with the task's observations and actions, and numbers of seeds in one job.
_QUICKSTART = ("mfql-quickstart", "pointmaze-medium-navigate-singletask-task2-v0", 4, 2)
_QUICKSTART_SEEDS = (1, 3, 8)


def kinds(context: Context) -> list[tuple[str, str]]:
    """Precisions and how the update runs: `eager`, `compiled`, or `captured` (compiled, one CUDA graph a step)."""
    if context.device.type == "cuda":
        return [("float32", "eager"), *((precision, "captured") for precision in ("float32", "tf32", "bf16"))]
    return [("float32", "eager"), *([("float32", "compiled"), ("bf16", "compiled")] if context.effort.compiled else [])]


def jobs_by_kind(context: Context) -> tuple[dict[tuple[str, str], Job], Found]:
    """A job of one seed at the paper's size for each kind, and what its first step took, compilation included."""
    jobs: dict[tuple[str, str], Job] = {}
    found: Found = []
    for precision, mode in kinds(context):
        job = Job(context.agent(precision=precision), 1, context.effort.rows, context.device, compiled=mode != "eager")
        jobs[precision, mode] = job
        took = job.case(1)
        found.append(Measurement.of("start", "first step", "s", took, precision=precision, mode=mode, seeds=1))
    return jobs, found


def by_precision(context: Context, jobs: dict[tuple[str, str], Job], reference: Case | None) -> Found:
    """Updates a second of one seed at the paper's size, and the rate of just its matrix products, in turns.

    Args:
        reference: the released code's update, if there is one to measure.
    """
    cases: dict[str, Case] = {f"{precision} {mode}": job.case for (precision, mode), job in jobs.items()}
    operations = 0
    for precision in dict.fromkeys(precision for precision, _ in jobs):
        products, operations = record(Job(context.agent(precision=precision), 1, 1_000, context.device).once)
        cases[f"{precision} products"] = _products(ProductsAlone(products, context.device), precision, context.device)
    if reference is not None:
        cases["reference"] = reference
    times = take_turns(cases, context.effort.budget)
    found: Found = [Measurement.of("update", "operations of an update", "GFLOP", operations / 1e9)]
    for precision, mode in jobs:
        ours, products_alone = times[f"{precision} {mode}"], times[f"{precision} products"]
        case = {"precision": precision, "mode": mode, "seeds": 1}
        found += [
            Measurement.of("update", "updates", "1/s", ours.rate(), **case),
            Measurement.of("update", "rate", "GFLOP/s", ours.rate(operations / 1e9), **case),
            Measurement.of("update", "of the products' rate", "%", products_alone.over(ours).times(100.0), **case),
        ]
        if reference is not None:
            found.append(Measurement.of("reference", "times the reference", "x", times["reference"].over(ours), **case))
    for precision in dict.fromkeys(precision for precision, _ in jobs):
        rate = times[f"{precision} products"].rate(operations / 1e9)
        found.append(Measurement.of("update", "products alone", "GFLOP/s", rate, precision=precision, seeds=1))
    if reference is not None:
        found.append(Measurement.of("reference", "updates", "1/s", times["reference"].rate(), seeds=1))
    return found


def _products(alone: ProductsAlone, precision: str, device: torch.device) -> Case:
    run = repeated(alone, device)

    def case(calls: int) -> float:
        set_precision(precision, device)
        return run(calls)

    return case


def quickstart_agent(config_dir: Path = ROOT / "config") -> Agent:
    """The agent of `mfql-quickstart`, for the observations and actions of its task.

    Args:
        config_dir: folder with `methods/` and the task table.
    """
    method, task, observation_dim, action_dim = _QUICKSTART
    return agent_of(method, config_dir, task, observation_dim, action_dim)


def at_quickstart_size(context: Context) -> Found:
    """On a processor: milliseconds of an update at the quickstart's size, and of its products alone, in turns.

    One thread, and the time that the processor spent: so short an update would mostly tell what else the machine does.
    """
    if context.device.type == "cuda":
        return []
    agent = quickstart_agent(context.config_dir)
    modes = ["eager", *(["compiled"] if context.effort.compiled else [])]
    found: Found = []
    with _one_thread():
        for seeds in _QUICKSTART_SEEDS:
            jobs = {mode: Job(agent, seeds, 1_000, context.device, compiled=mode != "eager") for mode in modes}
            products, operations = record(Job(agent, seeds, 1_000, context.device).once)
            cases = {mode: _processor_time(job.once) for mode, job in jobs.items()}
            cases["products"] = _processor_time(ProductsAlone(products, context.device))
            times = take_turns(cases, context.effort.budget)
            alone = times["products"]
            for mode in modes:
                case = {"mode": mode, "seeds": seeds}
                found += [
                    Measurement.of("small", "update", "ms", times[mode].times(1e3), **case),
                    Measurement.of("small", "products alone", "ms", alone.times(1e3), **case),
                    Measurement.of("small", "products alone", "GFLOP/s", alone.rate(operations / 1e9), **case),
                    Measurement.of("small", "of the products' rate", "%", alone.over(times[mode]).times(100.0), **case),
                    Measurement.of("small", "times eager", "x", times["eager"].over(times[mode]), **case),
                ]
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _processor_time(call: Callable[[], object]) -> Case:
    """A case of calls on the processor, in seconds that this process had of it."""

    def run(calls: int) -> float:
        began = time.process_time()
        for _ in range(calls):
            call()
        return time.process_time() - began

    return run


def by_seeds(context: Context) -> Found:
    """Updates a second of several seeds in one job: eager float32 on a processor, captured tf32 on a GPU."""
    on_gpu = context.device.type == "cuda"
    kind = ("tf32", "captured") if on_gpu else ("float32", "eager")
    agent = context.agent(precision=kind[0])
    jobs: dict[int, Job] = {}
    found: Found = []
    for seeds in context.effort.seeds:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(context.device)
            before = torch.cuda.memory_allocated(context.device)
        jobs[seeds] = Job(agent, seeds, context.effort.rows, context.device, compiled=on_gpu)
        jobs[seeds].case(_WARM_UP_STEPS if on_gpu else 1)
        if on_gpu:
            peak = (torch.cuda.max_memory_allocated(context.device) - before) / 1e9
            found.append(Measurement.of("memory", "peak of the GPU", "GB", peak, seeds=seeds, precision=kind[0]))
    budget = context.effort.budget if on_gpu else context.effort.long_budget
    times = take_turns({str(seeds): job.case for seeds, job in jobs.items()}, budget)
    for seeds in jobs:
        case = {"precision": kind[0], "mode": kind[1], "seeds": seeds}
        rates = times[str(seeds)].rate()
        found += [
            Measurement.of("seeds", "updates", "1/s", rates, **case),
            Measurement.of("seeds", "seed-updates", "1/s", rates.times(seeds), **case),
        ]
    return found


def host_synchronisations(context: Context) -> Found:
    """On CUDA: how many of 1,000 captured steps run before one waits for the device."""
    if context.device.type != "cuda":
        return []
    job = Job(context.agent(precision="tf32"), 1, context.effort.rows, context.device, compiled=True)
    job.case(_WARM_UP_STEPS)
    done, cause = 0, "none"
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(_CHECKED_STEPS):
            job.once()
            done += 1
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    case = {"of": _CHECKED_STEPS, "synchronisation": cause}
    return [Measurement.of("update", "steps without a host synchronisation", "steps", done, **case)]
