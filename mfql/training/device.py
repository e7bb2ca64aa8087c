"""Which device a job trains on, and with how many threads: with several GPUs, jobs of a machine take one each."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from mfql.cores import usable_cores
from mfql.documents import note_once
from mfql.errors import UserError, is_out_of_memory
from mfql.gpus import devices_here
from mfql.training.compiled import compiles

# Updates of a run from which most of a minute of compilation is repaid at the smallest sizes, too.
_LONG_RUN = 3_000

# Open files hold the locks until the process ends, however it ends.
_held: list[IO[str]] = []


def choose_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    With `auto` a GPU that torch cannot use is spoken of before the processor is taken.

    Raises:
        UserError: `cuda` where torch can use no GPU; it says why, and what to do.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", free_index(torch.cuda.device_count()))
        # Streams and captured graphs that name no device belong to the one that is set, which else is the first.
        torch.cuda.set_device(device)
        return device
    gpus = len(devices_here().gpus)
    if name == "cuda":
        raise why_no_gpu(gpus)
    if gpus:
        print(f"mfql: goes on on the processor: {why_no_gpu(gpus)}", file=sys.stderr, flush=True)
    return torch.device("cpu")


def why_no_gpu(gpus: int) -> UserError:
    """Why torch can use no GPU of a machine that has so many, and what to do."""
    build = f"torch {torch.__version__}"
    if not gpus:
        return UserError(
            f"--device cuda, but {build} sees no GPU, and the driver lists none",
            "Run it on a machine with one of NVIDIA's GPUs, or use --device cpu. `nvidia-smi -L` lists what the driver "
            "has; CUDA_VISIBLE_DEVICES, a container without --nv or --gpus, and a job without a GPU hide them.",
        )
    if torch.version.cuda is None:
        return UserError(
            f"the machine has a GPU, but {build} is built without CUDA",
            "Install a build for CUDA: `make TORCH=auto install` takes the one that fits the driver (README.md).",
        )
    try:
        torch.cuda.init()
        said = "it does not say why"
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
    built = f"{build}, which is built for CUDA {torch.version.cuda}"
    if too_old := re.search(r"driver on your system is too old \(found version (\d+)\)", said):
        known = int(too_old[1])  # As 12040, of a driver that knows CUDA up to 12.4.
        return UserError(
            f"NVIDIA's driver is too old for {built}: it knows CUDA up to {known // 1000}.{known % 1000 // 10}",
            "Install the build that fits the driver, `make TORCH=auto install` (README.md), or a newer driver.",
        )
    return UserError(
        f"the machine has a GPU, but {built}, cannot use it: {said}",
        "`nvidia-smi` says whether the driver works and who else uses the GPU.",
    )


def use_threads(asked: int, began: Collection[int] = ()) -> None:
    """Have torch use as many threads as are asked for, where so many cores may be used; it is said, once, if not.

    Threads that share a core wait for each other in each of an update's thousand small operations. A run that was
    interrupted goes on with as many as it began with, since their number can change rounding, unless fewer are asked
    for.

    Args:
        asked: threads, one or more.
        began: threads of the runs that go on, if they do.
    """
    usable = usable_cores()
    threads = min(asked, usable)
    if len(set(began)) == 1 and (same := min(began)) <= asked:
        threads = same
    if threads < asked:
        why = f"{usable} of the cores may be used" if threads == usable else "the run began so"
        note_once(f"threads: {threads}, not {asked}: {why}")
    torch.set_num_threads(threads)


def repays_compiling(device: torch.device, updates: int) -> bool:
    """Whether compiling the update, which takes a minute, repays itself: on a GPU, or in a long run.

    It follows from the run and the machine alone, not from what is compiled already. Without a C++ compiler a
    processor's update stays as it is.
    """
    return can_compile(device) and (device.type == "cuda" or updates >= _LONG_RUN)


def can_compile(device: torch.device) -> bool:
    """Whether an update on a device can be compiled: on a processor where a C++ compiler works."""
    return device.type == "cuda" or compiles()


def set_precision(precision: str, device: torch.device) -> None:
    """Let matrix products and convolutions on CUDA round to TF32, or not; the processor has none."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def memory_errors_for_people() -> Iterator[None]:
    """Say what to do where memory runs out, of the GPU or of the machine.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0].rpartition("DefaultCPUAllocator: ")[2] if str(error) else type(error).__name__
        raise UserError(
            f"out of memory: {said}",
            "Run the same command with more memory, or fewer seeds a job (seeds_per_job) or workers; it continues.",
        ) from error


def free_index(count: int) -> int:
    """An index below `count` that no process of this user holds, held until this one ends; any if all are held."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "_")
    for index in range(count):
        path = Path(tempfile.gettempdir()) / f"mfql-{os.getuid()}-gpu-{visible}-{index}.lock"
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - held for the life of the process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        return index
    return os.getpid() % count
