"""Where the time of a step goes, by operation: eager, and compiled."""

from __future__ import annotations

import time
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.job import Context, Job
from benchmarks.results import command, describe_machine

_STEPS, _WARM_UP, _ROWS = 10, 2, 15


def profiled(context: Context, compiled: bool, precision: str, seeds: int = 1) -> dict[str, Any]:
    """The largest operations of a step, eager and, if asked for, compiled, as a results file holds them."""
    return {
        "kind": "profile",
        "date": time.strftime("%Y-%m-%d"),
        "command": command(),
        "machine": describe_machine(context.device),
        "precision": precision,
        "seeds": seeds,
        "steps": {
            mode: operations_of(
                Job(context.agent(precision=precision), seeds, context.effort.rows, context.device, compiled=on)
            )
            for mode, on in (("eager", False), ("compiled", True))
            if compiled or not on
        },
    }


def operations_of(job: Job) -> dict[str, Any]:
    """Milliseconds of a step and the share that each operation has of the device's time, the largest first."""
    # A graph's replay is one operation to the profiler on the host, but its kernels are seen on the device.
    on_gpu = job.device.type == "cuda"
    job.case(_WARM_UP)
    seconds = job.case(_STEPS) / _STEPS
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        job.case(_STEPS)
    spent = {event.key: (_self_time(event, on_gpu), event.count) for event in recorded.key_averages()}
    total = sum(microseconds for microseconds, _ in spent.values())
    largest = sorted(spent.items(), key=lambda item: -item[1][0])[:_ROWS]
    return {
        "milliseconds": 1e3 * seconds,
        "operations": [
            {
                "operation": name,
                "calls": count / _STEPS,
                "milliseconds": microseconds / 1e3 / _STEPS,
                "percent": 100.0 * microseconds / max(total, 1e-9),
            }
            for name, (microseconds, count) in largest
            if microseconds > 0
        ],
    }


def _self_time(event: Any, on_gpu: bool) -> float:
    """Microseconds of an operation itself: on a GPU of its kernels alone, whose time what launched them has too."""
    if not on_gpu:
        return float(event.self_cpu_time_total)
    kernel = event.device_type == DeviceType.CUDA and not event.is_user_annotation
    return float(event.self_device_time_total) if kernel else 0.0
