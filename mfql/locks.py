"""Locks on folders in use: a file of filelock's that names its holder, who renews its date.

A lease rather than a lock of the operating system, which network file systems lack or keep for a client that is gone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from filelock import LeaseCompromise, LeaseSettingsMismatch, OwnerRecord, SoftFileLease, Timeout

from mfql.errors import UserError
from mfql.files import open_file, writing

__all__ = ["InUse", "OwnerRecord", "holder", "locked", "named"]

# Seconds between two signs of life of a lock's holder, and without one until its lock may be taken over: longer than a
# network file system shows old dates.
_BEAT, _LEASE = 20.0, 120.0
# The clocks of two machines may differ: what only asks for a holder takes its last sign of life for recent so long.
_SILENCE = 600.0
# Between two looks at a lock that is held: at first, and at most, since it may be held for days on a network.
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# A process that lost its lock ends as one that was asked to end (sysexits' EX_TEMPFAIL).
_EXIT_LOST = 75
# Of filelock's record of a process: the bits of its start, and which field behind the name in /proc/PID/stat that is.
_START_BITS, _START_FIELD = 64, 19


class InUse(UserError):
    """Another process holds a lock."""


@contextmanager
def locked(*paths: str | Path, wait: float = 0.0) -> Iterator[None]:
    """Hold lock files while the block runs, so that no second process writes in their folders.

    The holder renews their dates every 20 seconds. The lock of one on this machine that no longer lives is taken over
    at once. One on another machine, in another container, or from before this machine's last start, is watched: its
    locks are taken over, all at once, if two minutes pass here in which it renews nothing; machines of one name are
    told apart by their last start. A process that stood still for so long and finds a lock taken ends at once and
    writes nothing more.

    Args:
        paths: the lock files, absent before and after.
        wait: seconds to wait for another process to release each.

    Raises:
        InUse: another process holds a folder.
        UserError: one cannot be written.
    """
    leases = [_lease(Path(path)) for path in paths]
    with ExitStack() as held:
        for later in range(len(leases)):
            if not _take(leases[later]):
                for other in leases[later + 1 :]:
                    _look(other)  # From now on it counts for how long that one's holder is silent.
                _wait_for(leases[later], wait)
            held.callback(leases[later].release)
        yield


def holder(path: str | Path) -> OwnerRecord | None:
    """The process (`hostname` and `pid`) that holds a lock; None where none does.

    One that cannot be looked up from here holds it if the lock's date is of the last ten minutes. Another date tells
    nothing, since a clock may have been set: then it is watched for a sign of life, for half a minute from the first
    look of this process at it.

    Raises:
        CannotRead: the lock is there and cannot be read, so that nobody knows.
    """
    owner = SoftFileLease(path, lease_duration=_LEASE).owner
    if owner is None:  # filelock takes a lock that it may not read for nobody's.
        with suppress(FileNotFoundError, NotADirectoryError), open_file(path):
            return None
        return None
    if _is_here(owner):
        return owner if _lives(owner) else None
    return owner if _gives_signs(Path(path)) else None


def watch(paths: Iterable[str | Path]) -> None:
    """Look at locks of which holders will be asked, so that watching all takes no longer than watching one."""
    for path in map(Path, paths):
        with suppress(UserError):  # Whoever asks for its holder is told.
            _changed(path, _renewed(path))


# The date of a lock as this process saw it last, and when it saw that first, by a clock that is never set.
_looks: dict[Path, tuple[int | None, float]] = {}


def _changed(path: Path, renewed: int | None) -> bool:
    """Whether a lock's date has changed within half a minute before this look."""
    now = time.monotonic()
    seen, since = _looks.setdefault(path, (renewed, now))
    _looks[path] = renewed, since if seen == renewed else now
    return seen not in (renewed, None) and now - since < 1.5 * _BEAT


def _gives_signs(path: Path) -> bool:
    """Whether a holder that cannot be looked up lives, as far as its lock tells."""
    while (renewed := _renewed(path)) is not None:
        if 0.0 <= time.time() - renewed / 1e9 < _SILENCE or _changed(path, renewed):
            return True
        if time.monotonic() - _looks[path][1] > 1.5 * _BEAT:
            return False
        time.sleep(min(1.0, 0.1 * _BEAT))
    return False


@cache
def _here() -> OwnerRecord | None:
    """How filelock records this process: its machine and set of processes, which in a container are others."""
    with TemporaryDirectory() as folder, SoftFileLease(Path(folder, "lock")) as lease:
        return lease.owner


def _is_here(owner: OwnerRecord) -> bool:
    """Whether the processes that are seen here are those of a lock's holder."""
    here = _here()
    return here is not None and owner.hostname == here.hostname and not _is_namesake(owner)


def _is_namesake(owner: OwnerRecord | None) -> bool:
    """Whether a lock is from a machine of this one's name that was started at another time, perhaps this one before.

    filelock records the machine's start, as a random number, above the 64 bits of the process's.
    """
    here = _here()
    if owner is None or here is None or owner.hostname != here.hostname:
        return False
    starts = {(record.start or 0) >> _START_BITS for record in (owner, here)}
    return 0 not in starts and len(starts) == 2


def _lives(owner: OwnerRecord) -> bool:
    """Whether a holder on this machine lives: no clock is asked, which may have been set."""
    if not psutil.pid_exists(owner.pid):
        return False
    try:
        after_name = Path(f"/proc/{owner.pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # Ended by now, or a system without such a folder.
        return psutil.pid_exists(owner.pid)
    return owner.start is None or int(after_name[_START_FIELD]) == owner.start % 2**_START_BITS


def _lease(path: Path) -> SoftFileLease:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(path, lease_duration=_LEASE, heartbeat_interval=_BEAT, on_compromise=_end)


def _take(lease: SoftFileLease, silence: float = 0.0) -> bool:
    """Whether the lock is now this process's.

    Args:
        silence: seconds in which its holder was seen to renew nothing.
    """
    # filelock would look for the holder among this machine's processes, and take its lock at once.
    if silence < _LEASE and _is_namesake(lease.owner):
        return False
    with writing(lease.lock_file):
        try:
            lease.acquire(blocking=False)
        except Timeout:
            return False
        except LeaseSettingsMismatch as error:
            raise _in_use(lease) from error
    return True


def _look(lease: SoftFileLease) -> None:
    if _take(lease):
        lease.release()


def _wait_for(lease: SoftFileLease, wait: float) -> None:
    """Take a lock that another process holds when that releases it, or turns out to be dead."""
    path, began, told = Path(lease.lock_file), time.monotonic(), wait == 0.0
    first, pause = _renewed(path), _PAUSE
    seen, since = first, began
    while not _take(lease, time.monotonic() - since):
        owner, renewed, waited = lease.owner, _renewed(path), time.monotonic() - began
        if renewed != seen:
            seen, since = renewed, time.monotonic()
        lives = (owner is not None and _is_here(owner)) or renewed not in (first, None)
        if not lives and owner is None and waited >= _LEASE:
            # Empty: its holder was killed before it wrote its name, or could not on a full disk. filelock keeps it.
            lease.force_break()
        if lives and waited >= wait:
            raise _in_use(lease)
        if lives and not told:
            print(f"mfql: {path.parent} is in use by {named(owner)}; waiting for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)


def _renewed(path: Path) -> int | None:
    # Opened, since a network file system then asks its server.
    with suppress(FileNotFoundError, NotADirectoryError), open_file(path) as file:
        return os.fstat(file.fileno()).st_mtime_ns
    return None


def _end(lost: LeaseCompromise) -> None:
    said = f"this process stood still, and {lost.lock_file} is another's now ({lost.reason})"
    print(f"mfql: {said}; it ends and writes nothing more", file=sys.stderr, flush=True)
    os._exit(_EXIT_LOST)


def _in_use(lease: SoftFileLease) -> InUse:
    return InUse(f"{Path(lease.lock_file).parent} is in use by {named(lease.owner)}", "Wait for it, or end it.")


def named(owner: OwnerRecord | None) -> str:
    """A lock's holder in words; None stands for one that is just writing its name."""
    return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
