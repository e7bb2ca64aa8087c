"""Files that appear whole or not at all, hashes, and locks on folders in use."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any, ClassVar

import psutil

from mfql.errors import UserError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file where the block cannot write it.

    Raises:
        UserError: for an OSError, such as that of a full disk.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "Check the folder's permissions and free space."
        ) from error


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    Raises:
        UserError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `json_text(value)`, whole or not at all."""
    with write_whole(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented JSON. NaN becomes null: JSON has no NaN."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_json(path: str | Path) -> Any:
    """Read JSON written by this package.

    Raises:
        UserError: the file is absent or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Run the stage that writes it first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "Delete it and run the stage that writes it.") from error


def sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(value: Any) -> str:
    """A 16-digit hexadecimal hash of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class InUse(UserError):
    """Another process holds a lock."""


# Seconds between two signs of life of a lock's holder, and without one until a holder that cannot be looked up counts
# as dead: longer than a network file system shows old dates.
_BEAT, _LEASE = 20.0, 120.0
# The clocks of two machines may differ: what only asks for a holder allows for more.
_SILENCE = 600.0
# Between two looks at a lock: at first, and at most, since it may lie on a network file system and be held for days.
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# A process that lost its lock ends as one that was asked to end (sysexits' EX_TEMPFAIL).
_EXIT_LOST = 75


@contextmanager
def locked(path: str | Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, so that no second process writes in its folder.

    The holder renews the file's date every 20 seconds. A holder on this host can be looked up: the lock of one that no
    longer lives is taken over at once. One on another host, or in another container, is watched: its lock is taken over
    if two minutes pass, by the clock here, in which it renews nothing. A process that stood still for so long and finds
    its lock taken ends at once and writes nothing more.

    Args:
        path: the lock file, absent before and after.
        wait: seconds to wait for another process to release it.

    Raises:
        InUse: another process holds the folder.
        UserError: it cannot be written.
    """
    path, mine, watch = Path(path), json.dumps(_this_process()), _Watch()
    deadline, pause, told = time.monotonic() + wait, _PAUSE, wait == 0.0
    while not _take(path, mine, watch):
        if watch.lives and time.monotonic() >= deadline:
            raise _in_use(path, watch.holder)
        if watch.lives and not told:
            print(f"mfql: {path.parent} is in use by {watch.holder}; waiting for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)
    released = Event()
    beat = Thread(target=_keep, args=(path, mine, released), name=f"lock {path}", daemon=True)
    beat.start()
    try:
        yield
    finally:
        released.set()
        beat.join()
        if _text(path) == mine:
            path.unlink(missing_ok=True)


def holder(path: str | Path) -> dict[str, Any] | None:
    """`host` and `pid` of the process that holds a lock; None where none does.

    One on another host counts as holding it unless the lock was not renewed for ten minutes.
    """
    path = Path(path)
    text = _text(path)
    if text is None:
        return None
    found = _parse(text)
    lives = _lives(found)
    if lives is None:
        with suppress(FileNotFoundError):
            lives = time.time() - path.stat().st_mtime < _SILENCE
    return found if lives else None


class _Watch:
    """What the holder of a lock does while it is waited for.

    Attributes:
        lives: None while that is not known.
        holder: who it is, in words.
    """

    # Holders that were found dead, by what their locks say: a job holds a lock for each of its seeds.
    _dead: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.lives: bool | None = None
        self.holder = "another process"
        self._seen: tuple[str, int] | None = None
        self._since = 0.0

    def look(self, text: str, renewed: int) -> None:
        """Judge by the lock's content and date."""
        found = _parse(text)
        self.holder = f"process {found['pid']} on {found['host']}" if found["pid"] else "another process"
        self.lives = False if text in self._dead else _lives(found)
        if self.lives is not None:
            return
        if self._seen is None:
            self._since = time.monotonic()
        elif self._seen != (text, renewed):
            self.lives = True
        elif time.monotonic() - self._since > _LEASE:
            self.lives = False
            if found["pid"]:  # A lock that is just being written names nobody, like one that was cut off.
                self._dead.add(text)
        self._seen = self._seen or (text, renewed)


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "processes": _process_namespace(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _process_namespace() -> str:
    """Names the set of processes that this one's numbers are of; containers may have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _take(path: Path, mine: str, watch: _Watch) -> bool:
    """Whether the lock is now this process's; else `watch` tells of its holder, and a dead one's is gone."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x") as file:
            _write_or_remove(file, path, mine)
            return True
    try:
        with open(path) as file:  # Opened, since a network file system then asks its server for the date.
            text, renewed = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return False
    watch.look(text, renewed)
    if watch.lives is False:
        _remove(path, text)
    return False


def _write_or_remove(file: IO[str], path: Path, text: str) -> None:
    """Write a new lock; on a full disk an empty one would name nobody, and hold for two minutes."""
    try:
        file.write(text)
        file.flush()
    except OSError:
        path.unlink()
        raise


def _remove(path: Path, text: str) -> None:
    """Remove a dead process's lock, but not one that a third process has taken since."""
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.dead")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if aside.read_text() != text:
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def _keep(path: Path, mine: str, released: Event) -> None:
    """Renew a lock until it is released; end the process if another one has it."""
    while not released.wait(_BEAT):
        try:
            if _text(path) == mine:
                os.utime(path)
                continue
        except OSError:
            continue  # The file system does not answer now; the lock may be as it was.
        if not released.is_set():
            message = f"mfql: this process stood still, and {path} is another's now; it ends and writes nothing more"
            print(message, file=sys.stderr, flush=True)
            os._exit(_EXIT_LOST)


def _in_use(path: Path, holder: str) -> InUse:
    return InUse(f"{path.parent} is in use by {holder}", "Wait for it, or end it.")


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _parse(text: str) -> dict[str, Any]:
    """The holder that a lock names; one that is being written, or was cut off in the middle, names nobody."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"host": "unknown", "pid": 0, "started": 0.0}


def _lives(holder: dict[str, Any]) -> bool | None:
    """Whether a lock's holder lives; None where that cannot be looked up from here."""
    here = (socket.gethostname(), _process_namespace())
    if (holder["host"], holder.get("processes", here[1])) != here:
        return None
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False
