"""How many processor cores this process may use, and how its threads wait for each other; told without torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

# How long a thread of GCC's OpenMP, which torch is built with on Linux, spins for the others before it sleeps. By
# default it is 300,000 turns, some milliseconds: longer than the time slice that the thread it waits for would run in.
_SPIN_COUNT = "10000"
_SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_SLURM = "SLURM_CPUS_PER_TASK"


def usable_cores(proc: Path = Path("/proc")) -> int:
    """Cores that this process may keep busy at once, one or more.

    The least of what its affinity allows (`taskset`, a cpuset), of the quotas of its control group and of those around
    it (a container's `--cpus`), a broken number rounded up, and of what SLURM gave the task. A machine that has none
    of these has all its cores.

    Args:
        proc: where the system tells of processes.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = os.environ.get(_SLURM, "")
    given = [int(slurm)] if re.fullmatch("[1-9][0-9]*", slurm) else []
    return min([allowed, *given, *(math.ceil(quota) for quota in _quotas(proc))])


def sleep_while_waiting() -> None:
    """Let torch's threads sleep soon while they wait for each other, so that what else the machine does costs less.

    It counts where torch is not imported yet, for this process and those that it starts. What the environment says
    stays.
    """
    if not any(name in os.environ for name in _SPIN_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def _quotas(proc: Path) -> Iterator[float]:
    """Cores by the quota of each control group that this process is in, from the innermost out, of either version."""
    try:
        groups = [line.split(":", 2) for line in _text(proc / "self/cgroup").splitlines()]
        mounts = [line.split(" ") for line in _text(proc / "self/mountinfo").splitlines()]
    except OSError:
        return
    for _, controllers, path in (group for group in groups if len(group) == 3):
        kind, wanted = ("cgroup", "cpu") if controllers else ("cgroup2", "")
        if wanted and wanted not in controllers.split(","):
            continue
        for mount in mounts:
            # Root and mount point; after a dash the file system, its source and its options.
            system = mount[mount.index("-") + 1 :] if "-" in mount else []
            if len(system) == 3 and system[0] == kind and (not wanted or wanted in system[2].split(",")):
                yield from _quotas_up(Path(_unescaped(mount[4])), _inside(path, _unescaped(mount[3])))


def _inside(path: str, root: str) -> str:
    """A control group's path below a mount of the group `root`; the mount itself where it does not lie below it."""
    if root != "/" and path != root and not path.startswith(f"{root}/"):
        return ""
    inside = path.removeprefix(root).strip("/")
    return "" if ".." in inside.split("/") else inside


def _quotas_up(mount: Path, inside: str) -> Iterator[float]:
    folder = mount / inside
    for group in (folder, *list(folder.parents)[: len(Path(inside).parts)]):
        for quota, period in _limits(group):
            if quota > 0 and period > 0:
                yield quota / period


def _limits(group: Path) -> Iterator[tuple[int, int]]:
    """Microseconds of processor time and of the period that has them, if the group has a limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join(_text(group / name) for name in names).split()
            yield int(quota), int(period)
        except (OSError, ValueError):  # No such file, or "max" and -1: no limit.
            continue


def _text(path: Path) -> str:
    """What the system says; names of folders in it are bytes of any encoding."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _unescaped(text: str) -> str:
    """A path of mountinfo, which writes spaces as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
