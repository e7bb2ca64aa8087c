"""What memory a job takes: of a process on the processor, and of the largest online job on a GPU."""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.job import FULL, Context, Job
from benchmarks.results import Found, LeftOut, Measurement
from mfql.agents.mfql import MFQL

# Observation and action of humanoidmaze, whose rows are the largest of the paper's online tasks.
_HUMANOID = ((69,), 21)
_STEPS = 5


def memory(context: Context) -> Found:
    """All that this file measures."""
    return _of_the_process(context) + _of_the_largest_job(context)


def _of_the_process(context: Context) -> Found:
    """The largest resident size of a process that trains on the processor, in a process of its own."""
    found: Found = []
    for seeds in sorted({1, context.effort.packed}):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(_peak_of_updates, replace(context, device=torch.device("cpu")), seeds).result()
        found.append(Measurement.of("memory", "peak of the process", "GB", peak, seeds=seeds, mode="eager"))
    return found


def _peak_of_updates(context: Context, seeds: int) -> float:
    warnings.simplefilter("ignore")
    Job(context.agent(), seeds, context.effort.rows, context.device).case(2)
    # Not getrusage: what it gives a child process begins at its parent's peak.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def _of_the_largest_job(context: Context) -> Found:
    """An online job of packed seeds at humanoidmaze's size: what its tensors take, and on a GPU its peak."""
    rows, capacity = context.effort.largest
    on_gpu, seeds = context.device.type == "cuda", context.effort.packed
    if not on_gpu and context.effort.largest == FULL.largest:
        return [LeftOut("memory of the largest online job", "a GPU")]
    agent = MFQL(context.agent(precision="tf32").settings, *_HUMANOID)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(context.device)
        before = torch.cuda.memory_allocated(context.device)
    job = Job(agent, seeds, rows, context.device, compiled=on_gpu, capacity=capacity)
    job.case(_STEPS)
    case = {"environment": "humanoidmaze", "seeds": seeds, "rows": rows, "rows of a tail": capacity}
    of_rows = sum(_bytes(one) for one in (*job.memory.rows.values(), *job.memory.tail.values())) / 1e9
    of_state = sum(_bytes(one) for one in job.state.tensors()) / 1e9
    found: Found = [
        Measurement.of("memory", "rows", "GB", of_rows, **case),
        Measurement.of("memory", "state", "GB", of_state, **case),
    ]
    if on_gpu:
        peak = (torch.cuda.max_memory_allocated(context.device) - before) / 1e9
        # What others cannot have: with the allocator's free blocks and the graph's, and CUDA's own.
        free, total = torch.cuda.mem_get_info(context.device)
        found += [
            Measurement.of("memory", "peak of the GPU's tensors", "GB", peak, **case),
            Measurement.of("memory", "in use on the GPU", "GB", (total - free) / 1e9, **case),
        ]
    return found


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
