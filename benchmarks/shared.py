"""Updates a second on a processor that others keep busy, of ours and of the released code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from benchmarks.results import Found, Measurement
from benchmarks.timing import Budget, Case, Values, take_turns
from mfql.cores import usable_cores

OURS, THEIRS = "compiled float32", "released code"
# Each on a core of its own: none, on one core, on all of them.
NONE, ONE, ALL = "none", "one", "one a core"
# Ends with the process that started it, however that ends.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def under_load(device: torch.device, ours: Case, reference: Case | None, budget: Budget) -> Found:
    """Updates a second of one seed at the paper's size beside busy processes, and what is left of the quiet rate.

    Args:
        ours: the compiled float32 update.
        reference: the released code's update, if there is one to measure; it takes turns with ours.

    Returns:
        nothing on a GPU, whose updates do not share the processor.
    """
    if device.type == "cuda":
        return []
    cases = {OURS: ours, **({} if reference is None else {THEIRS: reference})}
    times = {name: _beside(count, cases, budget) for name, count in ((NONE, 0), (ONE, 1), (ALL, usable_cores()))}
    found: Found = []
    for busy, of_load in times.items():
        for name, seconds in of_load.items():
            case = {"busy processes": busy, "update": name}
            kept = times[NONE][name].median / seconds.median
            found += [
                Measurement.of("shared", "updates", "1/s", seconds.rate(), **case),
                Measurement.of("shared", "of the own quiet rate", "%", 100.0 * kept, **case),
            ]
        if reference is not None:
            ratio = of_load[THEIRS].over(of_load[OURS])
            found.append(Measurement.of("shared", "times the reference", "x", ratio, **{"busy processes": busy}))
    return found


def _beside(processes: int, cases: Mapping[str, Case], budget: Budget) -> dict[str, Values]:
    with _busy(processes):
        return take_turns(cases, budget)


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Within the block so many processes use a core each, as far as they get one.

    They are of this process's session, so that each takes as much of a core as one of its threads. Linux shares a core
    among sessions alike by default, which leaves a job of two threads a third of it beside another session's.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            running.append(subprocess.Popen([sys.executable, "-c", BUSY]))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
