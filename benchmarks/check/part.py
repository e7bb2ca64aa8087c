"""What a check is made of: parts, what each is given, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.job import FULL, MINIATURE, Context, Effort
from benchmarks.results import ROOT, Found

# What the simulator's parts import.
SIMULATOR = ("gymnasium", "mujoco", "ogbench")


@dataclass(frozen=True)
class Size:
    """How large a check is.

    Args:
        effort: of what is measured.
        methods: the ending of the methods' names whose steps are compared.
        updates: that they are compared over.
        killed_steps: of the run that is killed.
        method, episodes, seeds: of the task that is trained; None are the dataset's official number. Products in tf32
            bring a run of a million steps near to half an hour.
        extensions: folders that have these methods beside the configuration's.
    """

    name: str
    effort: Effort
    methods: str
    updates: int
    killed_steps: int
    method: str
    episodes: int | None
    seeds: int
    extensions: tuple[Path, ...] = ()


SIZES = {
    "full": Size("full", FULL, "", 200, 4_000, "mfql+precision=tf32", None, 8),
    "small": Size("small", MINIATURE, "-miniature", 20, 40, "mfql-miniature", 2, 2, (ROOT / "tests" / "miniature",)),
}


@dataclass(frozen=True)
class Check:
    """What every part is given.

    Args:
        out: folder of the results, and of what a part goes on from.
        deadline: of `time.monotonic`, at which this call is to end; None has none.
    """

    device: torch.device
    size: Size
    out: Path
    deadline: float | None = None

    @property
    def context(self) -> Context:
        """What the benchmarks' own parts are given."""
        return Context(self.size.effort, self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is checked."""
        return self.device.type == "cuda"

    @property
    def compiled_code(self) -> Path:
        """Where torch keeps compiled code, so that what goes on need not compile again."""
        return self.out / "compiled"

    def seconds_left(self) -> float:
        """Until the deadline."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


@dataclass
class Outcome:
    """What came of a part.

    Args:
        found: measurements, and what was left out.
        failures: what is not as it must be, a line each.
        left: what is still to do, where time ran out within the part; the next call goes on.
        documents: other files to be written, by name.
    """

    found: Found = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left: str = ""
    documents: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        minutes: that it is expected to take at the full size on an H100; nobody has measured them. Where less time is
            left, it is not begun.
        needs: packages that it imports and a machine may lack.
    """

    name: str
    run: Callable[[Check], Outcome]
    minutes: float
    needs: tuple[str, ...] = ()
