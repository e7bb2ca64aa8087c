"""The machine: driver, torch, memory, and whether the compiler works."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from benchmarks.check.part import Check, Outcome
from benchmarks.results import LeftOut, Measurement
from benchmarks.timing import repeated


def machine(check: Check) -> Outcome:
    """What there is, and what is missing with what to do about it."""
    outcome = Outcome()
    facts = {"torch": torch.__version__, "CUDA of torch": torch.version.cuda or "none"}
    if check.on_gpu:
        properties = torch.cuda.get_device_properties(check.device)
        capability = f"sm_{properties.major}{properties.minor}"
        facts |= {"GPU": properties.name, "capability": capability, "driver": _driver()}
        facts["Triton"] = _version("triton")
        if capability not in torch.cuda.get_arch_list():
            known = ", ".join(torch.cuda.get_arch_list())
            facts["kernels"] = f"built for {known}; for {capability} by compatibility"
        free, total = torch.cuda.mem_get_info(check.device)
        outcome.found.append(Measurement.of("machine", "memory of the GPU", "GB", total / 1e9))
        outcome.found.append(Measurement.of("machine", "of which free", "GB", free / 1e9))
    else:
        facts["C++ compiler"] = shutil.which(os.environ.get("CXX", "g++")) or "none"
    outcome.found.append(Measurement.of("machine", "memory", "GB", psutil.virtual_memory().total / 1e9))
    for name, fact in facts.items():
        print(f"  {name}: {fact}")
    _compiler(check, outcome)
    return outcome


def _compiler(check: Check, outcome: Outcome) -> None:
    """Compile a small function; on a GPU Triton makes its kernel, on a processor the C++ compiler."""
    if not check.on_gpu and shutil.which(os.environ.get("CXX", "g++")) is None:
        outcome.found.append(LeftOut("compiled updates", "a C++ compiler (Debian: apt install g++)"))
        return
    values = torch.linspace(0.0, 1.0, 1_000, device=check.device)
    try:
        compiled = torch.compile(_arithmetic, dynamic=False)
        seconds = repeated(lambda: compiled(values), check.device)(1)
        error = float((compiled(values) - _arithmetic(values)).abs().max())
    except Exception as error_of_compiler:
        said = str(error_of_compiler).strip().splitlines() or [type(error_of_compiler).__name__]
        outcome.failures.append(
            f"torch.compile fails on {check.device.type}: {said[0]}. It needs a C compiler, Python's headers "
            "(Debian: apt install gcc python3-dev) and, on a GPU, Triton, which comes with torch's build for CUDA."
        )
        return
    outcome.found.append(Measurement.of("machine", "compiling a small function", "s", seconds))
    if not error < 1e-5:
        outcome.failures.append(f"a compiled function is off by {error:.1e}")


def _arithmetic(values: torch.Tensor) -> torch.Tensor:
    return (values.sin() * 2.0 + values.square()).softmax(0)


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, encoding="utf-8", timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown: nvidia-smi is not there"
    return said.splitlines()[0].strip() if said.strip() else "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
