"""Memory in bytes: what a seed's training holds on its device, and what a process may still take of its machine's."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mfql.errors import UserError

# Bytes of a number and of an image's number, and the images of an observation.
NUMBER, _INDEX, _STACKED = 4, 8, 3
# What is smaller is not worth asking the system for.
_SMALL = 1 << 24
_CGROUPS, _OF_THIS_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Where the two versions of control groups say their limit, what is taken, and which of it are files that may go.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_VERSION_2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))


@dataclass(frozen=True)
class Footprint:
    """Bytes of one seed, by what holds them.

    Args:
        parameters: numbers, targets not counted.
        state: all that training carries from one update to the next: weights, targets, both moments of Adam, the
            method's own; without the sums for the log, which are a few numbers.
        draws: random arrays of a block of steps with one update each.
        update: the most that an update holds beside state, draws and rows: batch, activations, gradients, Adam's.
        acting: the most that an evaluation's acting and diagnostics hold.
        updates_per_step: of the online part.
        fields: of a transition that are kept beside the usual.
        known: False of an assumption.
    """

    parameters: int
    state: int
    draws: int
    update: int
    acting: int
    updates_per_step: int
    fields: tuple[str, ...]
    known: bool = True


def row_bytes(observation: int, action: int, fields: Iterable[str], *, images: bool = False) -> int:
    """Bytes of a transition on the device: observation, the next, action, reward and mask, and a method's own fields.

    Args:
        observation, action: D and A.
        fields: `next_actions`, `mc_returns` and, of chunks, `ends`, where they are kept.
        images: observations are numbers of images, three each.
    """
    # With the end of a trajectory goes the number of the row that begins a chunk, of eight bytes.
    own = {"next_actions": action, "mc_returns": 1, "ends": 3}
    seen = 2 * _STACKED * _INDEX if images else 2 * observation * NUMBER
    return seen + NUMBER * (action + 2 + sum(own[name] for name in fields))


def require_memory(what: str, needed: int, remedy: str) -> None:
    """Refuse what asks for more memory than there is, before it is taken.

    Args:
        what: the file and its array, or whatever asks.
        needed: bytes.
        remedy: what to do about it.

    Raises:
        UserError: names the bytes that are asked for, and those that are free.
    """
    if needed > _SMALL and needed > (free := free_memory()):
        raise UserError(f"{what} asks for {needed:,} bytes of memory, and {free:,} are free here", remedy)


def free_memory() -> int:
    """What this process may still take: of the machine's memory, of its control groups', and of its own limit."""
    free = [psutil.virtual_memory().available, *_free_of_groups()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(free))


def _free_of_groups() -> Iterator[int]:
    """What is free of the control groups with a limit that this process is in, those above them among them."""
    try:
        lines = _OF_THIS_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        limit, taken, files = _VERSION_1 if controllers else _VERSION_2
        group = root / path.lstrip("/")
        for folder in (group, *(above for above in group.parents if above.is_relative_to(root))):
            # A container may not see its own group; a group without a limit says so in words.
            with suppress(OSError, ValueError):
                most, held = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, taken))
                entries = map(str.split, (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
                yield most - held + sum(int(value) for name, value in entries if name in files)
