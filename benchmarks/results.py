"""What was measured, and on what, as one JSON file a machine; `schema.json` says its form."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Values
from mfql.cores import usable_cores
from mfql.training.provenance import machine

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mfql", "torch", "numpy", "mujoco", "ogbench", "snakemake")


@dataclass(frozen=True)
class Measurement:
    """One quantity.

    Args:
        part: the part of the benchmarks that it belongs to.
        quantity: what was measured, with its unit in `unit`.
        value: the median of the rounds; low, high: the least and the largest.
        rounds: how many there were.
        case: what it was measured of, such as `{"seeds": 8, "precision": "tf32"}`.
    """

    part: str
    quantity: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    case: Mapping[str, Any]

    @classmethod
    def of(cls, part: str, quantity: str, unit: str, values: Values | float, **case: Any) -> Measurement:
        """From one value a round, or from a single one."""
        rounds = values.rounds if isinstance(values, Values) else (float(values),)
        middle = values.median if isinstance(values, Values) else float(values)
        return cls(part, quantity, unit, middle, min(rounds), max(rounds), len(rounds), case)


@dataclass(frozen=True)
class LeftOut:
    """Something that was not measured, and what it needs."""

    what: str
    needs: str


Found = list[Measurement | LeftOut]


def document(found: Found, device: torch.device, quick: bool) -> dict[str, Any]:
    """The content of a results file."""
    return {
        "kind": "bench",
        "date": time.strftime("%Y-%m-%d"),
        "command": command(),
        "quick": quick,
        "machine": describe_machine(device),
        "measurements": [asdict(one) for one in found if isinstance(one, Measurement)],
        "left_out": [asdict(one) for one in found if isinstance(one, LeftOut)],
    }


def command() -> str:
    """This program's command line, to be run in the repository."""
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    return {
        "device": device.type,
        "cpu": machine(torch.device("cpu"), False)["cpu"],
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load_at_start": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()}
        | {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def number(value: float) -> str:
    """A value for people: whole, or with three significant digits; never with an exponent."""
    if value == 0 or not math.isfinite(value) or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
